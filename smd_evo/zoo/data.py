"""What a data set is to the experiments: disjoint splits with different duties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Data", "Samples"]

Samples = tuple[Tensor, Tensor]
"""Inputs [n, ...] and class numbers [n]."""


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in its splits.

    Attributes:
        name: its name.
        description: one line for reports.
        classes: names of the classes, in the order of their numbers.
        source: what an embedded parent is trained on, before the shift.
        fitness: what children are ranked on.
        validation: what sizes, densities and strengths are chosen on.
        test: what is reported, once.
        indices: for each split, which samples of the whole set it holds.
    """

    name: str
    description: str
    classes: tuple[str, ...]
    source: Samples
    fitness: Samples
    validation: Samples
    test: Samples
    indices: dict[str, NDArray[np.int64]]
