"""Where a network's parameters lie in a CPU's memory, for kernels that change all of them in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smd_evo.core.delta import SparseDelta, SparseValues
from smd_evo.core.fast import kernel

__all__ = ["Memory", "Written"]

_TENSOR = 700
"""A tensor that is patched and restored by itself takes as long as so many values of noise."""

_KINDS = {torch.float32: 4, torch.float64: 8, torch.bfloat16: 2}


@dataclass(frozen=True, eq=False)
class _Map:
    """Parameters as kernels find them.

    Attributes:
        arrays: addresses, kinds, first coordinates, where each one's lengths and strides begin, and these.
        width: bytes of the widest element.
        tensors: hold the memory, which addresses alone do not.
    """

    arrays: tuple[NDArray[np.int64], ...]
    width: int
    tensors: tuple[Tensor, ...]


class Written:
    """A patch that a kernel writes: nothing comes in between, so it is there as a whole or not at all."""

    def __init__(
        self, parameters: _Map, delta: SparseDelta | SparseValues, write: Callable[..., Any], back: Callable[..., Any]
    ) -> None:
        self._parameters, self._write, self._back = parameters, write, back
        self._indices, self._values = delta.indices.contiguous().numpy(), delta.values.contiguous().numpy()
        self._adding = isinstance(delta, SparseDelta)
        self._old = np.empty(len(delta), np.uint32 if parameters.width == 4 else np.uint64)
        self._there = np.zeros(1, np.uint8)

    def write(self) -> None:
        """Change the parameters."""
        self._write(*self._parameters.arrays, self._indices, self._values, self._adding, self._old, self._there)

    def back(self) -> None:
        """Put back what was there; once more does no harm."""
        if self._there[0]:
            self._back(*self._parameters.arrays, self._indices, self._old)


class Memory:
    """Of some parameters. Where they are is looked for at each patch, as modules move and are given other memory.

    Args:
        parameters: no two of them share memory.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._shapes = [parameter.shape for parameter in parameters]
        self._seen: tuple[list[Any], ...] | None = None
        self._map: _Map | None = None

    def __reduce__(self) -> tuple[type[Memory], tuple[Sequence[nn.Parameter]]]:
        """Copies lie elsewhere."""
        return Memory, (self._parameters,)

    def patch(self, delta: SparseDelta | SparseValues) -> Written | None:
        """What writes a delta; None where that is to be done tensor by tensor.

        So it is off the CPU, for few tensors in a short process, for float16, where there is no compiler, and for
        parameters that have another shape by now.
        """
        if delta.indices.device.type != "cpu" or not len(delta):
            return None
        count = _TENSOR * min(len(self._parameters), len(delta))
        width = self._map.width if self._map else 4
        kind = "write_double" if delta.values.dtype is torch.float64 else "write"
        if kernel(f"{kind}{width}", count) is None:
            return None
        parameters = self._now()
        if parameters is None:
            return None
        write, back = (kernel(f"{name}{parameters.width}", count) for name in (kind, "back"))
        return None if write is None or back is None else Written(parameters, delta, write, back)

    def _now(self) -> _Map | None:
        all_of_them = self._parameters  # and for each child, so it is to be quick
        seen = (
            [*map(Tensor.data_ptr, all_of_them)],
            [*map(Tensor.stride, all_of_them)],
            [*map(Tensor.numel, all_of_them)],
        )
        if seen != self._seen:
            self._seen, self._map = seen, self._mapped(*seen)
        return self._map

    def _mapped(self, addresses: list[int], strides: list[tuple[int, ...]], sizes: list[int]) -> _Map | None:
        tensors = tuple(parameter.data for parameter in self._parameters)
        if [tensor.shape for tensor in tensors] != self._shapes:
            return None
        kinds = [_KINDS.get(tensor.dtype, 0) for tensor in tensors]
        if not all(kinds) or not all(tensor.device.type == "cpu" and type(tensor) is Tensor for tensor in tensors):
            return None
        shapes = [
            []
            if tensor.is_contiguous()
            else [number for pair in zip(reversed(tensor.shape), reversed(stride), strict=True) for number in pair]
            for tensor, stride in zip(tensors, strides, strict=True)
        ]
        firsts, begins = ([*accumulate(counts, initial=0)] for counts in (sizes, map(len, shapes)))
        flat = [number for shape in shapes for number in shape]
        arrays = tuple(np.array(each, np.int64) for each in (addresses, kinds, firsts, begins, flat))
        return _Map(arrays, max(4, *kinds), tensors)
