"""How many images each class has, and what is to be said of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["remarks"]

UNEVEN = 10
"""Times as many images as the smallest class that the largest may have without a remark."""


def remarks(classes: Sequence[str], targets: NDArray[np.int64], splits: Mapping[str, NDArray[np.int64]]) -> list[str]:
    """What should be known of a data set's classes before its numbers are believed, a line each.

    Args:
        classes: their names.
        targets: class numbers of all samples.
        splits: class numbers of each split's samples.

    Example:
        >>> for line in remarks("abc", np.array([0, 0, 1]), {"fitness": np.array([0]), "test": np.array([0, 1])}):
        ...     print(line)
        data: expected images of all 3 classes, got none of 1 (c); the outputs for such classes are never right
        data: expected images of each class in every split, got none of 1 (b) in fitness; give more samples
    """
    counts = np.bincount(targets, minlength=len(classes))
    there = counts > 0
    lines = []
    if not there.all():
        lines.append(
            f"data: expected images of all {len(classes)} classes, got none of {_named(classes, ~there)}; the "
            "outputs for such classes are never right"
        )
    lacking = {name: there & (np.bincount(own, minlength=len(classes)) == 0) for name, own in splits.items()}
    if found := [f"{_named(classes, missing)} in {name}" for name, missing in lacking.items() if missing.any()]:
        lines.append(
            f"data: expected images of each class in every split, got none of {', none of '.join(found)}; give more "
            "samples"
        )
    smallest, largest = int(np.where(there, counts, counts.max() + 1).argmin()), int(counts.argmax())
    if counts[largest] > UNEVEN * counts[smallest]:
        lines.append(
            f"data: classes have from {counts[smallest]} images ({classes[smallest]}) to {counts[largest]} "
            f"({classes[largest]}), so accuracy and cross-entropy hardly see the small ones; the fitnesses "
            "balanced_accuracy and macro_f1 count all classes alike"
        )
    return lines


def _named(classes: Sequence[str], chosen: NDArray[np.bool_]) -> str:
    names = [classes[number] for number in chosen.nonzero()[0].tolist()]
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} ({', '.join(names[:3])}{more})"
