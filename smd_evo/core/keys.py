"""Keys: 64-bit integers from which all randomness follows, and how one key makes others.

A key is an ``int`` in [0, 2**64). :func:`derive` is SplitMix64 read at random positions:
``derive(key, n)`` is the (n + 1)-th output of that generator started at ``key``. For one key, two parts
never give the same result (the map is a bijection of 64-bit integers); over different keys a collision
has the probability 2**-64.

Reference: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import functools
import hashlib

from torch import Tensor

from smd_evo.errors import InvalidType, check_key, shown, whole

__all__ = ["Key", "check_key", "derive", "folded", "key_from_int64", "key_to_int64"]

Key = int

_MASK32, _MASK64 = 2**32 - 1, 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB


def folded(seed: Key) -> int:
    """A seed for a generator that takes 32 bits: the high half is mixed into the low one; below 2**32 it is the seed.

    Seeds of one high half never become the same, others with the probability 2**-32, which is all that 32 bits can.

    >>> folded(7), folded(7 + 2**32) == folded(7 + 2**33)
    (7, False)
    """
    low, high = seed & _MASK32, seed >> 32
    return low ^ (derive(high, "seed") & _MASK32 if high else 0)


def key_to_int64(key: Key) -> int:
    """The same 64 bits as a signed integer, as int64 tensors hold them.

    >>> key_to_int64(2**64 - 1)
    -1
    """
    return key - 2**64 if key >= 2**63 else key


def key_from_int64(value: int) -> Key:
    """Inverse of :func:`key_to_int64`.

    >>> key_from_int64(-1) == 2**64 - 1
    True
    """
    return value & _MASK64


def derive(key: Key, *parts: int | str) -> Key:
    """A new key for each different sequence of parts, statistically independent of the others.

    Args:
        key: the key to start from.
        *parts: what the new key is for: names (hashed by BLAKE2b) and integers (taken modulo 2**64).

    Returns:
        A key.

    Example:
        >>> derive(1234567, 0), derive(1234567, 1)  # the published outputs of SplitMix64
        (6457827717110365317, 3203168211198807973)
        >>> derive(0, "noise", 3, 1) == derive(0, "noise", 1, 3)
        False
    """
    key = check_key(key)
    for part in parts:
        number = _number(part) if isinstance(part, str) else whole(part)
        if number is None:
            raise InvalidType(f"parts: expected names and whole numbers, got {shown(part)}")
        key = mixed(key, number)
    return key


def mixed(key: Key, number: int) -> Key:
    """:func:`derive` of one number, unchecked."""
    state = (key + _GAMMA * (number + 1)) & _MASK64
    state = ((state ^ (state >> 30)) * _MIX1) & _MASK64
    state = ((state ^ (state >> 27)) * _MIX2) & _MASK64
    return state ^ (state >> 31)


@functools.lru_cache(256)  # a handful of names, millions of times
def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def derive_tensor(key: Key | Tensor, part: int | Tensor) -> Tensor:
    """:func:`derive` of an integer part for many keys, many parts or both: bit patterns, one at least a tensor."""
    scaled = part * key_to_int64(_GAMMA) if isinstance(part, Tensor) else _wrapped(part * _GAMMA)
    state = scaled + (key + key_to_int64(_GAMMA) if isinstance(key, Tensor) else _wrapped(key + _GAMMA))
    assert isinstance(state, Tensor)
    state = (state ^ _shift(state, 30)) * key_to_int64(_MIX1)
    state = (state ^ _shift(state, 27)) * key_to_int64(_MIX2)
    return state ^ _shift(state, 31)


def _wrapped(number: int) -> int:
    return key_to_int64(number & _MASK64)


def _shift(bits: Tensor, by: int) -> Tensor:
    """Logical right shift: int64's own one copies the sign."""
    return bits.bitwise_right_shift(by).bitwise_and(2 ** (64 - by) - 1)
