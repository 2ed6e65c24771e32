"""Layout: how named tensors lie in one flat vector of coordinates, without the tensors themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor

from smd_evo.errors import InvalidValue, check_count, kept

__all__ = ["Layout", "Slot", "named"]


@dataclass(frozen=True)
class Slot:
    """One tensor of a layout: its name, its shape, and the standard deviation of its values in the parent."""

    name: str
    shape: tuple[int, ...]
    scale: float = 1.0

    def __post_init__(self) -> None:
        kept(self, shape=tuple(check_count("shape", length, low=0) for length in self.shape), scale=float(self.scale))

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def layer(self) -> str:
        """Name of the module that owns the tensor: ``conv1`` of ``conv1.weight``."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Layout:
    """The selected tensors of a network, row-major, one behind the other: D coordinates in all.

    Args:
        slots: the tensors in order; their names differ, and at least one holds an element.

    Example:
        >>> layout = Layout((Slot("fc.weight", (2, 3)), Slot("fc.bias", (2,))))
        >>> layout.size, layout.offsets
        (8, (0, 6, 8))
    """

    slots: tuple[Slot, ...]

    def __post_init__(self) -> None:
        if len({slot.name for slot in self.slots}) != len(self.slots):
            raise InvalidValue("slots: expected a different name for each tensor, got a name twice")
        if self.size < 1:
            raise InvalidValue("slots: expected tensors with at least one element in all, got none")

    @classmethod
    def flat(cls, size: int) -> Layout:
        """The layout of a plain vector of ``size`` coordinates."""
        return cls((Slot("vector", (check_count("size", size),)),))

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First coordinate of each slot, and the end."""
        return tuple(accumulate((slot.size for slot in self.slots), initial=0))

    @property
    def size(self) -> int:
        """D, the number of coordinates."""
        return self.offsets[-1]

    @cached_property
    def parts(self) -> dict[tuple[str, ...], Any]:
        """Where rules within some of the tensors keep these, by the names that they call them."""
        return {}

    @cached_property
    def digest(self) -> str:
        """Names and shapes as 16 hexadecimal digits: coordinates mean the same where this is the same."""
        text = repr([(slot.name, slot.shape) for slot in self.slots])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def bounds(self, indices: Tensor) -> list[int]:
        """Where each slot's run begins in sorted ``indices``, and the end: one more entry than slots."""
        ends = torch.tensor(self.offsets, dtype=torch.int64, device=indices.device)
        return torch.searchsorted(indices, ends).tolist()

    def scales(self, indices: Tensor) -> Tensor:
        """Scale of the tensor that each of the sorted ``indices`` lies in, float64."""
        bounds = torch.tensor(self.bounds(indices), dtype=torch.int64, device="cpu")
        scales = torch.tensor([slot.scale for slot in self.slots], dtype=torch.float64, device="cpu")
        return scales.repeat_interleave(bounds.diff()).to(indices.device)


def named(names: Iterable[str], term: str) -> set[str]:
    """Those of some tensors' names that a term names: itself, what is below a module of that name, a pattern's.

    >>> sorted(named(["conv.weight", "conv.bias", "head.weight"], "conv"))
    ['conv.bias', 'conv.weight']
    """
    return {name for name in names if name == term or name.startswith(f"{term}.") or fnmatchcase(name, term)}
