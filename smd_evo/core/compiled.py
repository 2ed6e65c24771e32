"""The noise in machine code: Numba's kernels, to the same bits as the tensor operations in :mod:`smd_evo.core.noise`.

Loaded by :mod:`smd_evo.core.fast` when it pays; nothing else imports this module. Neither ``fastmath`` nor a fused
multiply-add anywhere: each operation on floats is rounded by itself, as IEEE 754 says and the eager code does.

Loops go through blocks that stay in the L1 cache, and are such that LLVM makes vector instructions of them, which
are ten times as fast: ``inline="always"`` and ``error_model="numpy"`` keep out the checks of what is called and of
divisors, and integers become floats by writing them into the mantissa of 2**52, as AVX2 has no instruction that
converts 64-bit ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config, njit, types

from smd_evo.core import compiled_patches
from smd_evo.core.compiled_tools import bitcast, inner

__all__ = ["build"]

_U, _BLOCK = np.uint64, 1024
_MASK, _ONE, _QUARTER = _U(0xFFFFFFFF), _U(1), _U(2**30)
_MAGIC_BITS, _MAGIC = _U(0x4330000000000000), 2.0**52
_MANTISSA, _SQRT_HALF_BITS = _U(2**52 - 1), _U(0x3FE6A09E667F3BCD)
_OFFSET = _U(0x3FF0000000000000 - 0x3FE6A09E667F3BCD)
_LOG_TWO, _UNIT32, _UNIT53 = 0.6931471805599453, 2.0**-32, 2.0**-53
_LOG_1, _LOG_2, _LOG_3, _LOG_4, _LOG_5 = (2.0 / (2 * j + 1) for j in range(1, 6))


_bits_of = bitcast(types.float64, types.uint64)
_float_of = bitcast(types.uint64, types.float64)


@inner
def _double(word: Any) -> Any:
    """Exact for words below 2**52."""
    return _float_of(word | _MAGIC_BITS) - _MAGIC


@inner
def _radius_and_turn(block: Any, k0: Any, k1: Any) -> Any:
    """Philox4x32-10 and the logarithm: what the two coordinates of a block share."""
    c0, c1, c2, c3 = block & _MASK, block >> _U(32), _U(0), _U(0)
    for _ in range(10):
        first, second = c0 * _U(0xD2511F53), c2 * _U(0xCD9E8D57)
        c0, c1 = (second >> _U(32)) ^ c1 ^ k0, second & _MASK
        c2, c3 = (first >> _U(32)) ^ c3 ^ k1, first & _MASK
        k0, k1 = (k0 + _U(0x9E3779B9)) & _MASK, (k1 + _U(0xBB67AE85)) & _MASK
    # Both terms and their sum are exact: it is a whole number up to 2**53, times 2**-53.
    u = _double(c0) * _UNIT32 + _double((c1 >> _U(11)) + _ONE) * _UNIT53
    shifted = _bits_of(u) + _OFFSET
    exponent = _double(shifted >> _U(52)) - 1023.0
    mantissa = _float_of((shifted & _MANTISSA) + _SQRT_HALF_BITS)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    x = s * s
    series = ((((_LOG_5 * x + _LOG_4) * x + _LOG_3) * x + _LOG_2) * x + _LOG_1) * x + 2.0
    return math.sqrt((series * s + exponent * _LOG_TWO) * -2.0), c2


@inner
def _cosine(turn: Any) -> Any:
    w = abs(_double(turn & _MASK) * _UNIT32 - 0.5) - 0.25
    x = w * w
    series = (-0.7181223017785001 * x + 3.8199525848482803) * x - 15.094642576822984
    series = ((series * x + 42.058693944897634) * x - 76.70585975306136) * x + 81.60524927607504
    return ((series * x - 41.341702240399755) * x + 6.283185307179586) * w


@inner
def _normal(coordinate: Any, k0: Any, k1: Any) -> Any:
    radius, turn = _radius_and_turn(_U(coordinate >> np.int64(1)), k0, k1)
    return radius * _cosine(turn + ((_U(coordinate) & _ONE) * _QUARTER))


@inner
def _fill_run(key: Any, first: Any, out: Any) -> None:
    """The field from coordinate ``first`` on: neighbours share a block."""
    k0, k1 = _U(key) & _MASK, _U(key) >> _U(32)
    head = np.int64(first) & np.int64(1) if out.size else np.int64(0)
    if head:
        out[0] = _normal(first, k0, k1)
    block, pairs = _U((first + head) >> np.int64(1)), (out.size - head) // 2
    for i in range(pairs):
        radius, turn = _radius_and_turn(block + _U(i), k0, k1)
        out[head + 2 * i] = radius * _cosine(turn)
        out[head + 2 * i + 1] = radius * _cosine(turn + _QUARTER)
    if head + 2 * pairs < out.size:
        out[out.size - 1] = _normal(first + (out.size - 1), k0, k1)


@inner
def _fill(key: Any, coordinates: Any, out: Any) -> None:
    """The field at a block's coordinates; a run of them is recognised."""
    first, last, differences = coordinates[0], coordinates[-1], np.int64(0)
    if last >= first and _U(last) - _U(first) == _U(coordinates.size - 1):
        for i in range(coordinates.size):
            differences |= (coordinates[i] - first) ^ i
        if differences == 0:
            _fill_run(key, first, out)
            return
    k0, k1 = _U(key) & _MASK, _U(key) >> _U(32)
    for i in range(coordinates.size):
        out[i] = _normal(coordinates[i], k0, k1)


def _gaussian(key: Any, coordinates: Any, out: Any) -> None:
    for start in range(0, coordinates.size, _BLOCK):
        _fill(key, coordinates[start : start + _BLOCK], out[start : start + _BLOCK])


def _gaussian_keyed(keys: Any, coordinates: Any, out: Any) -> None:
    """A key for each coordinate."""
    for i in range(coordinates.size):
        out[i] = _normal(coordinates[i], _U(keys[i]) & _MASK, _U(keys[i]) >> _U(32))


@inner
def _fmix32(word: Any) -> Any:
    word = np.uint32((word ^ (word >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    word = np.uint32((word ^ (word >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(word ^ (word >> np.uint32(16)))


@inner
def _added(high: Any, low: Any, round_key: Any, rows: Any) -> Any:
    fraction = _U(_fmix32(np.uint32(low ^ round_key)) & np.uint32(2**31 - 1))
    total = np.uint32(high + np.uint32((fraction * _U(rows)) >> _U(31)))
    return min(total, np.uint32(total - rows))  # unsigned: of a total below rows the difference wraps


@inner
def _derive(key: Any, round_keys: Any) -> None:
    """SplitMix64's low 32 bits, as :func:`smd_evo.core.keys.derive` makes them of a key and 0, 1, ..."""
    for number in range(round_keys.size):
        state = _U(key) + _U(0x9E3779B97F4A7C15) * _U(number + 1)
        state = (state ^ (state >> _U(30))) * _U(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> _U(27))) * _U(0x94D049BB133111EB)
        round_keys[number] = np.uint32((state ^ (state >> _U(31))) & _MASK)


@inner
def _permute(round_keys: Any, positions: Any, size: Any, bits: Any, out: Any, low: Any, high: Any) -> Any:
    """A block's images; False if a position is out of range."""
    mask, rows = np.uint32((1 << bits) - 1), np.uint32((size + (1 << bits) - 1) >> bits)
    count, rounds, highest = positions.size, round_keys.size, _U(0)
    for i in range(count):
        highest = max(highest, _U(positions[i]))
        low[i], high[i] = np.uint32(positions[i]) & mask, np.uint32(positions[i] >> bits)
    if highest >= _U(size):
        return False
    for number in range(0, rounds - 1, 2):
        even, odd = round_keys[number], round_keys[number + 1]
        for i in range(count):
            high[i] = _added(high[i], low[i], even, rows)
            low[i] ^= _fmix32(np.uint32(high[i] ^ odd)) & mask
    if rounds % 2:
        for i in range(count):
            high[i] = _added(high[i], low[i], round_keys[rounds - 1], rows)
    for i in range(count):
        out[i] = (np.int64(high[i]) << bits) | np.int64(low[i])
    for i in range(count):
        while out[i] >= size:  # walks the cycle
            one, other = np.uint32(out[i] >> bits), np.uint32(out[i]) & mask
            for number in range(rounds):
                if number % 2:
                    other ^= _fmix32(np.uint32(one ^ round_keys[number])) & mask
                else:
                    one = _added(one, other, round_keys[number], rows)
            out[i] = (np.int64(one) << bits) | np.int64(other)
    return True


def _permutation(key: Any, rounds: Any, positions: Any, size: Any, bits: Any, out: Any) -> Any:
    round_keys = np.empty(rounds, np.uint32)
    _derive(key, round_keys)
    low, high = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.uint32)
    for start in range(0, positions.size, _BLOCK):
        end = start + _BLOCK
        if not _permute(round_keys, positions[start:end], size, bits, out[start:end], low, high):
            return False
    return True


def _permutation_keyed(keys: Any, rounds: Any, positions: Any, size: Any, bits: Any, out: Any) -> Any:
    """A key for each position; positions of equal keys in a row go together."""
    round_keys = np.empty(rounds, np.uint32)
    low, high = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.uint32)
    start = 0
    while start < positions.size:
        key, end = keys[start], start + 1
        while end < positions.size and end < start + _BLOCK and keys[end] == key:
            end += 1
        _derive(key, round_keys)
        if not _permute(round_keys, positions[start:end], size, bits, out[start:end], low, high):
            return False
        start = end
    return True


@inner
def _add(keys: Any, shares: Any, coordinates: Any, total: Any, noise: Any) -> None:
    """Of a block, one child after the other."""
    for child in range(keys.size):
        _fill(keys[child], coordinates, noise)
        for i in range(total.size):
            total[i] += noise[i] * shares[child]


def _add_run(keys: Any, shares: Any, total: Any) -> None:
    """Adds weighted fields at coordinates 0, 1, ...: all children of one block before the next."""
    even, odd = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    for start in range(0, total.size, 2 * _BLOCK):
        part = total[start : start + 2 * _BLOCK]
        pairs, rest = part.size // 2, part.size % 2
        for i in range(pairs):
            even[i], odd[i] = part[2 * i], part[2 * i + 1]
        for child in range(keys.size):
            k0, k1, share = _U(keys[child]) & _MASK, _U(keys[child]) >> _U(32), shares[child]
            for i in range(pairs):
                radius, turn = _radius_and_turn(_U(start // 2 + i), k0, k1)
                even[i] += np.float32(radius * _cosine(turn)) * share
                odd[i] += np.float32(radius * _cosine(turn + _QUARTER)) * share
            if rest:
                part[2 * pairs] += np.float32(_normal(start + 2 * pairs, k0, k1)) * share
        for i in range(pairs):
            part[2 * i], part[2 * i + 1] = even[i], odd[i]


def _add_at(keys: Any, shares: Any, coordinates: Any, total: Any) -> None:
    """Adds weighted fields at coordinates, to totals of these only."""
    noise = np.empty(_BLOCK, np.float32)
    for start in range(0, total.size, _BLOCK):
        part = total[start : start + _BLOCK]
        _add(keys, shares, coordinates[start : start + _BLOCK], part, noise[: part.size])


def _add_within(keys: Any, shares: Any, coordinates: Any, total: Any) -> Any:
    """Adds weighted fields at coordinates of the totals; False, and nothing, if these don't ascend in range."""
    k = coordinates.size
    wrong = k > 0 and (coordinates[0] < 0 or coordinates[-1] >= total.size)
    for i in range(1, k):
        wrong |= coordinates[i] <= coordinates[i - 1]
    if wrong:
        return False
    noise, part = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    for start in range(0, k, _BLOCK):
        own = coordinates[start : start + _BLOCK]
        for i in range(own.size):
            part[i] = total[own[i]]
        _add(keys, shares, own, part[: own.size], noise[: own.size])
        for i in range(own.size):
            total[own[i]] = part[i]
    return True


_SIGNATURES: dict[str, tuple[Callable[..., Any], str]] = {
    "gaussian32": (_gaussian, "void(i8, i8[::1], f4[::1])"),
    "gaussian64": (_gaussian, "void(i8, i8[::1], f8[::1])"),
    "gaussian_keyed32": (_gaussian_keyed, "void(i8[::1], i8[::1], f4[::1])"),
    "gaussian_keyed64": (_gaussian_keyed, "void(i8[::1], i8[::1], f8[::1])"),
    "permutation": (_permutation, "b1(i8, i8, i8[::1], i8, i8, i8[::1])"),
    "permutation_keyed": (_permutation_keyed, "b1(i8[::1], i8, i8[::1], i8, i8, i8[::1])"),
    "add_run": (_add_run, "void(i8[::1], f4[::1], f4[::1])"),
    "add_at": (_add_at, "void(i8[::1], f4[::1], i8[::1], f4[::1])"),
    "add_within": (_add_within, "b1(i8[::1], f4[::1], i8[::1], f4[::1])"),
}


def build(name: str, cache: bool = True) -> Any:
    """A kernel in machine code, from Numba's cache on the disk or compiled."""
    if config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT is set")
    function, signature = (_SIGNATURES | compiled_patches.SIGNATURES)[name]
    try:
        kernel = njit(error_model="numpy", nogil=True, cache=cache)(function)
        kernel.compile(signature)
    except Exception:  # no folder to write to, a full disk, a broken file: a cache is not needed
        if not cache:
            raise
        return build(name, cache=False)
    kernel.disable_compile()  # other types would be a mistake
    return kernel
