"""Patches in machine code: all parameters of a network changed in one call, however many tensors they are.

A kernel is given where each parameter lies, and reads and writes there. It works on the bits as integers, so that
what it keeps of the parent is put back exactly, NaN included. Additions are those of the tensor operations in
:mod:`smd_evo.core.applying`: in float32, or float64 for such a parameter, rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from smd_evo.core.compiled_tools import bitcast, inner

__all__ = ["SIGNATURES"]

_I = np.int64


def _pointer(kind: Any) -> Any:
    """An address as a pointer to elements of this type."""

    def typed(typing: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), code

    return intrinsic(typed)


_at16, _at32, _at64 = (_pointer(kind) for kind in (types.uint16, types.uint32, types.uint64))
_float, _float_bits = bitcast(types.uint32, types.float32), bitcast(types.float32, types.uint32)
_double, _double_bits = bitcast(types.uint64, types.float64), bitcast(types.float64, types.uint64)


@inner
def _place(local: Any, shape: Any) -> Any:
    """Where an element of a parameter lies, by its logical position; shape: lengths and strides, inner ones first."""
    if shape.size == 0:
        return local
    place = _I(0)
    for dim in range(0, shape.size, 2):
        place += local % shape[dim] * shape[dim + 1]
        local //= shape[dim]
    return place


@inner
def _rounded(value: Any) -> Any:
    """A float32 to the nearest bfloat16, ties to even, as bits."""
    bits = _float_bits(value)
    if value != value:
        return np.uint16(0x7FC0)
    return np.uint16((bits + (((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF))) >> np.uint32(16))


@inner
def _end(indices: Any, begin: Any, limit: Any) -> Any:
    """Where sorted indices reach a limit, by halves."""
    low, high = begin, indices.size
    while low < high:
        middle = (low + high) // 2
        if indices[middle] < limit:
            low = middle + 1
        else:
            high = middle
    return low


def _write(
    where: Any,
    kinds: Any,
    offsets: Any,
    dims: Any,
    shapes: Any,
    indices: Any,
    values: Any,
    adding: Any,
    old: Any,
    there: Any,
) -> None:
    """Adds values at coordinates, or puts them there, and keeps what was there."""
    begin = _I(0)
    for slot in range(where.size):
        end = _end(indices, begin, offsets[slot + 1])
        if begin == end:
            continue
        first, shape, size = offsets[slot], shapes[dims[slot] : dims[slot + 1]], offsets[slot + 1] - offsets[slot]
        if kinds[slot] == 4:
            singles = carray(_at32(where[slot]), size)
            for i in range(begin, end):
                place, value = _place(indices[i] - first, shape), np.float32(values[i])
                old[i] = singles[place]
                singles[place] = _float_bits(_float(singles[place]) + value if adding else value)
        elif kinds[slot] == 8:
            doubles = carray(_at64(where[slot]), size)
            for i in range(begin, end):
                place, wide = _place(indices[i] - first, shape), np.float64(values[i])
                old[i] = doubles[place]
                doubles[place] = _double_bits(_double(doubles[place]) + wide if adding else wide)
        else:
            halves = carray(_at16(where[slot]), size)
            for i in range(begin, end):
                place, value = _place(indices[i] - first, shape), np.float32(values[i])
                old[i] = halves[place]
                before = _float(np.uint32(halves[place]) << np.uint32(16))
                halves[place] = _rounded(before + value if adding else value)
        begin = end
    there[0] = 1


def _back(where: Any, kinds: Any, offsets: Any, dims: Any, shapes: Any, indices: Any, old: Any) -> None:
    """Writes back what was kept."""
    begin = _I(0)
    for slot in range(where.size):
        end = _end(indices, begin, offsets[slot + 1])
        if begin == end:
            continue
        first, shape, size = offsets[slot], shapes[dims[slot] : dims[slot + 1]], offsets[slot + 1] - offsets[slot]
        if kinds[slot] == 4:
            singles = carray(_at32(where[slot]), size)
            for i in range(begin, end):
                singles[_place(indices[i] - first, shape)] = np.uint32(old[i])
        elif kinds[slot] == 8:
            doubles = carray(_at64(where[slot]), size)
            for i in range(begin, end):
                doubles[_place(indices[i] - first, shape)] = np.uint64(old[i])
        else:
            halves = carray(_at16(where[slot]), size)
            for i in range(begin, end):
                halves[_place(indices[i] - first, shape)] = np.uint16(old[i])
        begin = end


_WHERE = ", ".join(["int64[::1]"] * 6)
SIGNATURES = {
    f"{name}{width}": (function, f"void({_WHERE}, {values}uint{8 * width}[::1]{flag})")
    for width in (4, 8)
    for name, function, values, flag in (
        ("write", _write, "float32[::1], boolean, ", ", uint8[::1]"),
        ("write_double", _write, "float64[::1], boolean, ", ", uint8[::1]"),
        ("back", _back, "", ""),
    )
}
"""Functions and types of the kernels, whose names end in the bytes of a kept element."""
