"""What a data set is to the experiments: disjoint splits with different duties."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from smd_evo.evaluation.stream import Stream

__all__ = ["SPLITS", "Data", "Samples"]

SPLITS = ("fitness", "validation", "test")

Samples = tuple[Tensor, Tensor] | Stream
"""Inputs [n, ...] and class numbers [n], or the same to be read again whenever they are needed."""


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in its splits.

    Attributes:
        name: its name.
        description: one line for reports.
        classes: names of the classes, in the order of their numbers.
        fitness: what children are ranked on.
        validation: what sizes, densities and strengths are chosen on.
        test: what is reported, once.
        indices: for each split, which samples of the whole set it holds; those of "test" count from 0 again where
            the test images are a set of their own.
        unreadable: samples that were left out because they cannot be decoded, by their names.
        also: samples of another data set with the same classes, to see what is forgotten of it; None without one.
    """

    name: str
    description: str
    classes: tuple[str, ...]
    fitness: Samples
    validation: Samples
    test: Samples
    indices: dict[str, NDArray[np.int64]]
    unreadable: list[str] = field(default_factory=list)
    also: Samples | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Samples of each split."""
        return {name: len(self.indices[name]) for name in SPLITS}
