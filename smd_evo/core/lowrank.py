"""Low-rank noise: a dense mutation whose noise is, in each matrix, a product of two thin ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from smd_evo.core.keys import Key, derive
from smd_evo.core.layout import Layout
from smd_evo.core.noise import gaussian
from smd_evo.core.subspace import Subspace
from smd_evo.errors import InvalidValue, check_count, kept, shown

__all__ = ["LowRank"]

_MOST = 1024
"""Ranks beyond are no low ones, and as a word in a file they would ask for any amount of memory."""


@dataclass(frozen=True)
class LowRank(Subspace):
    """All coordinates, with noise of low rank: ``eps = A B^T / sqrt(rank)`` in each matrix.

    A tensor of two or more dimensions counts as the matrix [first dimension, all others] = [m, n]; A, [m, rank], and
    B, [n, rank], are Gaussian, so each element of eps has mean 0 and variance 1. Other tensors have Gaussian noise. A
    child is (m + n) * rank random numbers a matrix instead of m * n; it still touches every coordinate.

    Args:
        rank: 1 to 1024; that of a matrix of fewer rows or columns is at most as many.

    Example:
        >>> from smd_evo.core.layout import Slot
        >>> layout = Layout((Slot("fc.weight", (3, 4)), Slot("fc.bias", (3,))))
        >>> noise = LowRank(1).noise(5, torch.arange(15), layout)
        >>> int(torch.linalg.matrix_rank(noise[:12].view(3, 4)))
        1

    Reference: Sarkar et al., "Evolution strategies at the hyperscale" (EGGROLL), arXiv 2511.16652.
    """

    name: ClassVar[str] = "lowrank"
    plain: ClassVar[bool] = False
    ordered: ClassVar[bool] = True
    static: ClassVar[bool] = True  # type: ignore[misc]
    rank: int = 1

    def __post_init__(self) -> None:
        kept(self, rank=check_count("rank", self.rank))
        if self.rank > _MOST:
            raise InvalidValue(f"rank: expected at most {_MOST}, got {shown(self.rank)}; dense noise has full rank")

    @property
    def spec(self) -> str:
        """``lowrank:RANK``."""
        return f"{self.name}:{self.rank}"

    def draws(self, key: Key, generation: int, indices: Tensor) -> Tensor:
        """There is only one, 0."""
        return torch.zeros_like(indices)

    def mean_count(self, layout: Layout) -> float:
        """D."""
        return layout.size

    def _chosen(self, draw: int, layout: Layout, device: torch.device) -> Tensor:
        return torch.arange(layout.size, device=device)

    def noise(self, key: Key, coordinates: Tensor, layout: Layout, dtype: torch.dtype = torch.float32) -> Tensor:
        """See :meth:`Subspace.noise`; a draw's coordinates are all that there are, so nothing is looked up."""
        everything = torch.empty(layout.size, dtype=dtype, device=coordinates.device)
        places = everything.split([slot.size for slot in layout.slots])
        for place, values in zip(places, self._tensors(key, layout, coordinates.device), strict=True):
            place.copy_(values.view(-1))
        return everything if len(coordinates) == layout.size else everything[coordinates]

    def _tensors(self, key: Key, layout: Layout, device: torch.device) -> Iterator[Tensor]:
        left, right = derive(key, "left"), derive(key, "right")
        for slot, start in zip(layout.slots, layout.offsets, strict=False):
            if len(slot.shape) < 2 or not slot.size:
                yield gaussian(key, torch.arange(start, start + slot.size, device=device), torch.float64)
                continue
            rows = slot.shape[0]
            a, b = self._factor(left, start, rows, device), self._factor(right, start, slot.size // rows, device)
            product = torch.zeros(rows, slot.size // rows, dtype=torch.float64, device=device)
            for one, other in zip(a, b, strict=True):  # one after the other: the same sum on every device
                product += one[:, None] * other
            yield product.mul_(1 / math.sqrt(self.rank))  # which IEEE 754 fixes; a library's power it does not

    def _factor(self, key: Key, start: int, length: int, device: torch.device) -> Tensor:
        """A's or B's columns, [rank, length]; no tensor is longer than its own coordinates, so none share noise."""
        places = torch.arange(start * self.rank, (start + length) * self.rank, device=device)
        return gaussian(key, places, torch.float64).view(length, self.rank).T
