"""Sparse changes of a parent, as coordinates and values: what is added, or what they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from smd_evo.core.blocks import Inference, within
from smd_evo.core.integers import rounded
from smd_evo.core.layout import Layout
from smd_evo.errors import InvalidType, InvalidValue, check_count

__all__ = ["SparseDelta", "SparseValues", "change", "everything", "placed", "union"]

_everything: WeakValueDictionary[tuple[int, torch.device], Tensor] = WeakValueDictionary()


def everything(size: int, device: torch.device | str) -> Tensor:
    """All coordinates below a size, int64: one tensor for all dense deltas, whose values take half as much.

    One that was written to is given to nobody else.
    """
    known = size, torch.device(device)
    found = _everything.get(known)
    if found is None or found._version:
        # Outside of inference mode, or writing to it would not be noticed.
        found = within(Inference(False), lambda: torch.arange(size, device=device))
        _everything[known] = found
    return found


def _is_everything(indices: Tensor) -> bool:
    found = _everything.get((len(indices), indices.device)) if indices.dim() == 1 else None
    return found is indices and not found._version


_Kind = TypeVar("_Kind", bound="_Sparse")


@dataclass(frozen=True, eq=False)
class _Sparse:
    """Some coordinates, and a number for each."""

    indices: Tensor
    values: Tensor

    _TYPES: ClassVar[tuple[torch.dtype, ...]] = (torch.float32,)

    def __post_init__(self) -> None:
        indices, values = self.indices, self.values
        if not (isinstance(indices, Tensor) and isinstance(values, Tensor)):
            kinds = f"{type(indices).__name__} and {type(values).__name__}"
            raise InvalidType(f"delta: expected indices and values as tensors, got {kinds}; use torch.tensor")
        if indices.dtype != torch.int64 or values.dtype not in self._TYPES:
            allowed = " or ".join(str(kind).removeprefix("torch.") for kind in self._TYPES)
            raise InvalidType(
                f"delta: expected int64 indices and {allowed} values, got {indices.dtype} and {values.dtype}"
            )
        if indices.dim() != 1 or indices.shape != values.shape or indices.device != values.device:
            raise InvalidValue(
                f"delta: expected indices and values of one length on one device, got shapes "
                f"{tuple(indices.shape)} on {indices.device} and {tuple(values.shape)} on {values.device}"
            )
        if len(indices) and not _is_everything(indices) and not _ascending(indices):
            raise InvalidValue("delta: expected strictly increasing indices >= 0; sort them and merge repeats")

    def __len__(self) -> int:
        """k, the number of coordinates."""
        return len(self.indices)

    def to(self: _Kind, device: torch.device | str) -> _Kind:
        """The same on a device; itself if it is there, without another look at its order."""
        indices, values = self.indices.to(device), self.values.to(device)
        return self if indices is self.indices and values is self.values else type(self)(indices, values)


def _ascending(indices: Tensor) -> bool:
    """Strictly, from 0 or more on; NumPy takes half of the time of PyTorch for a few."""
    numbers = indices.numpy() if indices.device.type == "cpu" else indices
    return int(numbers[0]) >= 0 and bool((numbers[1:] > numbers[:-1]).all())


class SparseValues(_Sparse):
    """What some coordinates of a parent become, whatever they are there.

    Args:
        indices: int64 [k], strictly increasing, not negative.
        values: float32 [k], or float64 for parameters of that type, on the same device.

    Raises:
        InvalidType, InvalidValue: the two are not as above.
    """

    _TYPES = (torch.float32, torch.float64)


class SparseDelta(_Sparse):
    """What is added to some coordinates of a parent.

    Args:
        indices: int64 [k], strictly increasing, not negative.
        values: float32 [k], on the same device.

    Raises:
        InvalidType, InvalidValue: the two are not as above.

    Example:
        >>> delta = SparseDelta(torch.tensor([1, 4]), torch.tensor([0.5, -2.0]))
        >>> delta.to_dense(6)
        tensor([ 0.0000,  0.5000,  0.0000,  0.0000, -2.0000,  0.0000])
        >>> (delta + SparseDelta(torch.tensor([0, 4]), torch.tensor([1.0, 1.0]))).values
        tensor([ 1.0000,  0.5000, -1.0000])
    """

    def __add__(self, other: SparseDelta) -> SparseDelta:
        """Union of the coordinates; where both have one, the float32 sum. Exact if they are disjoint."""
        both = torch.cat([self.indices, other.indices])
        indices, place = both.unique(return_inverse=True)
        values = torch.zeros(len(indices), dtype=torch.float32, device=both.device)
        values.index_add_(0, place[: len(self)], self.values)
        values.index_add_(0, place[len(self) :], other.values)
        return SparseDelta(indices, values)

    def __neg__(self) -> SparseDelta:
        return SparseDelta(self.indices, -self.values)

    def to_dense(self, size: int) -> Tensor:
        """The delta as a vector of ``size`` coordinates."""
        flat = torch.zeros(check_count("size", size), dtype=torch.float32, device=self.values.device)
        return flat.index_copy_(0, self.indices, self.values)


def change(vector: Tensor, delta: SparseDelta | SparseValues) -> None:
    """Turn a vector of parameters into its child, in place, to the bits of a patch of the network itself.

    A delta is added in the wider of float32 and the vector's type and rounded once; new values are rounded as they
    are.

    Args:
        vector: floating [D].
        delta: of coordinates below D, on the same device.

    Example:
        >>> vector = torch.zeros(3, dtype=torch.bfloat16)
        >>> change(vector, SparseDelta(torch.tensor([1]), torch.tensor([0.3])))
        >>> vector.tolist()
        [0.0, 0.30078125, 0.0]
    """
    values = delta.values
    if isinstance(delta, SparseDelta):
        old = vector.index_select(0, delta.indices)
        values = old.to(torch.promote_types(old.dtype, torch.float32)).add(values)
    vector.index_copy_(0, delta.indices, rounded(values, vector.dtype))


def union(indices: Sequence[Tensor], device: torch.device | str) -> Tensor:
    """All coordinates that are in any of some sorted lists, sorted, each once."""
    together = torch.cat([torch.zeros(0, dtype=torch.int64, device=device), *indices])
    distinct: Tensor = together.unique()
    return distinct


def placed(values: Tensor, coordinates: Tensor, layout: Layout, scale: str) -> SparseDelta:
    """A point of a subspace as a delta: values at its coordinates, times their tensors' scales if "relative"."""
    if scale == "relative":
        values = (values * layout.scales(coordinates)).float()
    return SparseDelta(coordinates, values)
