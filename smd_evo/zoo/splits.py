"""Which samples rank, choose and report: seeded, stratified by class where the classes allow it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from smd_evo.core.keys import derive
from smd_evo.errors import InvalidValue

__all__ = ["DEFAULT_SAMPLES", "split"]

DEFAULT_SAMPLES = 5000
"""Samples of a split if there are enough: at most a third of what is left by splits whose sizes are given."""


def split(
    targets: NDArray[np.int64], sizes: Mapping[str, int | None], rest: str | None = None, *, seed: int = 0
) -> dict[str, NDArray[np.int64]]:
    """Disjoint samples for each split, in an order drawn with the seed.

    Classes have the same shares in each split, but for rounding, where a split has a sample of each class at least
    and each class two samples; else samples are drawn whatever their class.

    Args:
        targets: class numbers of the whole set, int64 [n].
        sizes: samples of each split; None: see :data:`DEFAULT_SAMPLES`.
        rest: a split that gets what no other has.
        seed: of the draw.

    Raises:
        InvalidValue: more samples are asked for than there are.

    Example:
        >>> parts = split(np.array([0, 1] * 6), {"fitness": 4, "validation": 4}, "test")
        >>> {name: np.bincount(numbers % 2).tolist() for name, numbers in parts.items()}
        {'fitness': [2, 2], 'validation': [2, 2], 'test': [2, 2]}
    """
    unclaimed = max(0, len(targets) - sum(size or 0 for size in sizes.values()))
    default = min(DEFAULT_SAMPLES, unclaimed // 3)
    wanted = {name: default if size is None else size for name, size in sizes.items()}
    least = sum(wanted.values()) + (rest is not None)
    if least > len(targets) or min(wanted.values()) < 1:
        asked = ", ".join(f"{size} for {name}" for name, size in wanted.items())
        also = f" and at least 1 for {rest}" if rest else ""
        raise InvalidValue(f"data: expected enough of its {len(targets)} samples for all splits, got {asked}{also}")
    left: NDArray[np.int64] = np.arange(len(targets))
    found: dict[str, NDArray[np.int64]] = {}
    for name, size in wanted.items():
        found[name], left = _drawn(left, targets, size, derive(seed, "split", name) % 2**32)
    return found | ({rest: left} if rest else {})


def _drawn(
    pool: NDArray[np.int64], targets: NDArray[np.int64], size: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``size`` of the pool, and what is left of it."""
    if size == len(pool):
        return np.random.default_rng(seed).permutation(pool), pool[:0]
    counts = np.unique(targets[pool], return_counts=True)[1]
    stratified = counts.min() >= 2 and min(size, len(pool) - size) >= len(counts)
    taken, left = train_test_split(
        pool, train_size=size, stratify=targets[pool] if stratified else None, random_state=seed
    )
    return taken, left
