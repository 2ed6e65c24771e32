"""The noise of a few values in Python's own numbers, to the same bits as the tensor operations.

Tensor operations cost microseconds each, on one value as on a thousand, and the noise takes hundreds of them.
Python's integers have no end and its floats round each operation by itself, so the steps of
:mod:`smd_evo.core.noise`, one value after the other, are the same integers and the same bits.
:mod:`smd_evo.core.fast` chooses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from smd_evo.core.keys import Key, mixed

__all__ = ["images", "normals"]

_MASK32 = 0xFFFFFFFF
_SQRT_HALF, _LOG_TWO = 0.7071067811865476, 0.6931471805599453
_LOG_0, _LOG_1, _LOG_2, _LOG_3, _LOG_4, _LOG_5 = (2.0 / (2 * j + 1) for j in range(6))


def normals(keys: Iterable[Key], coordinates: Iterable[int]) -> list[float]:
    """The field of each key at its coordinate; keys may be signed, as int64 holds them.

    >>> normals([7, 7], [3, 4])
    [-1.1822866276834527, 1.1322135032733687]
    """
    return [_normal(key, coordinate) for key, coordinate in zip(keys, coordinates, strict=False)]


def images(keys: Iterable[Key], positions: Iterable[int], size: int, rounds: int) -> list[int]:
    """The permutation of range(size) under each key at its position, which is in that range.

    >>> images([7] * 5, range(5), 5, 24)
    [4, 2, 0, 3, 1]
    """
    bits = (size - 1).bit_length() // 2
    rows = -(-size // 2**bits)
    found, last, round_keys = [], None, [0]
    for key, place in zip(keys, positions, strict=False):
        if key != last:
            last, round_keys = key, [mixed(key, number) & _MASK32 for number in range(rounds)]
        place = _shuffled(round_keys, place, bits, rows)
        while place >= size:  # walks the cycle
            place = _shuffled(round_keys, place, bits, rows)
        found.append(place)
    return found


def _normal(key: Key, coordinate: int) -> float:
    block, k0, k1 = coordinate >> 1, key & _MASK32, key >> 32 & _MASK32
    c0, c1, c2, c3 = block & _MASK32, block >> 32 & _MASK32, 0, 0
    for _ in range(10):
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = second >> 32 ^ c1 ^ k0, second & _MASK32
        c2, c3 = first >> 32 ^ c3 ^ k1, first & _MASK32
        k0, k1 = k0 + 0x9E3779B9 & _MASK32, k1 + 0xBB67AE85 & _MASK32
    mantissa, exponent = math.frexp(((c0 << 21 | c1 >> 11) + 1) * 2.0**-53)
    if mantissa < _SQRT_HALF:
        mantissa, exponent = 2.0 * mantissa, exponent - 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    x = s * s
    series = ((((_LOG_5 * x + _LOG_4) * x + _LOG_3) * x + _LOG_2) * x + _LOG_1) * x + _LOG_0
    radius = math.sqrt((series * s + exponent * _LOG_TWO) * -2.0)
    w = abs((c2 + ((coordinate & 1) << 30) & _MASK32) * 2.0**-32 - 0.5) - 0.25
    x = w * w
    series = (-0.7181223017785001 * x + 3.8199525848482803) * x - 15.094642576822984
    series = ((series * x + 42.058693944897634) * x - 76.70585975306136) * x + 81.60524927607504
    return radius * (((series * x - 41.341702240399755) * x + 6.283185307179586) * w)


def _shuffled(round_keys: list[int], place: int, bits: int, rows: int) -> int:
    """One pass of the Feistel network."""
    mask = (1 << bits) - 1
    low, high = place & mask, place >> bits
    for number, round_key in enumerate(round_keys):
        word = (high if number % 2 else low) ^ round_key
        word = (word ^ word >> 16) * 0x85EBCA6B & _MASK32
        word = (word ^ word >> 13) * 0xC2B2AE35 & _MASK32
        word ^= word >> 16
        if number % 2:
            low ^= word & mask
        else:
            high += (word & 0x7FFFFFFF) * rows >> 31
            if high >= rows:
                high -= rows
    return high << bits | low
