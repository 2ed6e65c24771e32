"""Random-access noise: a Gaussian field and a keyed permutation, both defined by (key, position) alone.

Everything random in this package is one of the two. Neither has state: any part of either can be had in
any order, in any process and on any device, in time and memory proportional to the part.

The integers come from Philox4x32-10 (the field) and from a Feistel network with MurmurHash3's finalizer
as its round function (the permutation), in wrapping integer arithmetic, which is the same everywhere. The
field's transform to normal values is made of float64 additions, multiplications, divisions and square
roots only, one rounding each, which IEEE 754 fixes to the last bit; ``log`` and ``cos`` of a library, and
PyTorch's square root on a CPU, differ between devices and even between vector widths. So the same bits come from
the tensor operations here, which are the reference, from the kernels of :mod:`smd_evo.core.compiled` and
:mod:`smd_evo.core.compiled_cuda`, and from Python's own numbers in :mod:`smd_evo.core.few`.

References:
    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox).
    Luby, Rackoff, "How to construct pseudorandom permutations ...", SIAM J. Comput. 17, 1988 (Feistel).
    Black, Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002 (modular halves, cycle walking).
    Appleby, MurmurHash3, 2011 (fmix32). Box, Muller, Ann. Math. Stat. 29, 1958.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from smd_evo.core import fast
from smd_evo.core.exact import sqrt_
from smd_evo.core.keys import Key, check_key, derive, derive_tensor
from smd_evo.errors import InvalidType, InvalidValue, check_count

__all__ = ["MAX_SIZE", "gaussian", "permutation"]

MAX_SIZE = 2**40
"""Largest number of positions of a permutation."""

_MASK32 = 0xFFFFFFFF

# On a CPU the work goes through the cache in pieces: 32,768 int64 are 256 KiB, a share of an L2.
_CHUNK = 32768

# The fewer positions, the more rounds a Feistel network needs. At 400,000 keys, chi-square tests of ordered
# pairs and of whole permutations fail up to size 8 with 16 rounds and pass at every size with 20. Just above
# 2**10 positions 5 rounds fail at 1,000,000 keys and 6 pass, and the flaw shrinks with the size.
_FEW, _ROUNDS_FEW, _ROUNDS = 2**10, 24, 7


def gaussian(key: Key | Tensor, coordinates: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values of an endless field of independent standard normal numbers.

    With Philox words x0, x1, x2 of the block ``coordinate // 2`` under ``key``, ``u`` the 53-bit fraction
    in (0, 1] made of (x0, x1), ``v`` the 32-bit fraction in [0, 1) made of x2, plus a quarter for an odd
    coordinate: ``sqrt(-2 ln u) * cos(2 pi v)``.

    Args:
        key: a key, or an int64 tensor of keys that broadcasts against ``coordinates``.
        coordinates: int64, any shape, any values.
        dtype: floating type of the result, rounded once from float64.

    Returns:
        Tensor of the broadcast shape on the device of ``coordinates``; absolute values are below 8.6.

    Raises:
        InvalidType: ``coordinates`` is not an int64 tensor.

    Example:
        >>> gaussian(7, torch.tensor([3, 4, 5_000_000_000]))
        tensor([-1.1823,  1.1322, -0.2158])
        >>> gaussian(7, torch.tensor([4]))
        tensor([1.1322])
    """
    _check_int64("coordinates", coordinates)
    if not isinstance(key, Tensor):
        made = fast.gaussian(check_key(key), coordinates, dtype)
        if made is not None:
            return made

    def normal(key: Key | Tensor, piece: Tensor) -> Tensor:
        if isinstance(key, Tensor):
            made = fast.gaussian(key, piece, dtype)
            if made is not None:
                return made
        block = piece >> 1
        words = philox4x32((block & _MASK32, (block >> 32) & _MASK32, 0, 0), (key & _MASK32, key >> 32 & _MASK32))
        u = (words[0] << 21).bitwise_or_(words[1] >> 11).add_(1).double().mul_(2.0**-53)
        turn = ((piece & 1) << 30).add_(words[2]).bitwise_and_(_MASK32).double().mul_(2.0**-32)
        radius = sqrt_(_log(u).mul_(-2.0))
        return radius.mul_(_cos_of_turn(turn)).to(dtype)

    return _in_pieces(normal, key, coordinates, dtype)


def permutation(key: Key | Tensor, positions: Tensor, size: int) -> Tensor:
    """A keyed random bijection of range(size), evaluated only at ``positions``.

    A position is ``high * 2**b + low``, where b is half the bits of ``size``. An unbalanced Feistel network
    changes ``high`` and ``low`` in turn, each by a keyed function of the other: ``high`` by addition modulo
    ``ceil(size / 2**b)``, ``low`` by exclusive or. The few results outside range(size), about one in
    sqrt(size), walk the cycle: they are sent through again.

    Args:
        key: a key, or an int64 tensor of keys that broadcasts against ``positions``.
        positions: int64, any shape, values in range(size).
        size: from 1 to 2**40.

    Returns:
        int64 tensor of the broadcast shape: distinct values for distinct positions under one key.

    Raises:
        InvalidType: ``positions`` is not an int64 tensor.
        InvalidValue: ``size`` or a position is out of range.

    Example:
        >>> permutation(7, torch.arange(5), 5)
        tensor([4, 2, 0, 3, 1])
        >>> permutation(7, torch.tensor([0, 1]), 10**12)
        tensor([376035420251, 988277130599])
    """
    _check_int64("positions", positions)
    size = check_count("size", size)
    if size > MAX_SIZE:
        raise InvalidValue(f"size: expected at most 2**40, got {size}")
    rounds = rounds_of(size)
    if not isinstance(key, Tensor):
        made = fast.permutation(check_key(key), positions, size, rounds)
        if made is not None:
            return made
    if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < size:
        raise InvalidValue(
            f"positions: expected values in [0, {size}), got [{int(positions.min())}, {int(positions.max())}]"
        )

    def shuffled(key: Key | Tensor, piece: Tensor) -> Tensor:
        if isinstance(key, Tensor):
            made = fast.permutation(key, piece, size, rounds)
            if made is not None:
                return made
        return _feistel(_round_keys(key, rounds), piece, size)

    whole = _in_pieces(shuffled, key, positions, torch.int64)
    result = whole if whole.dim() else whole.view(1)
    outside = (result >= size).nonzero(as_tuple=True)
    if isinstance(key, Tensor) and outside[0].numel():
        key = key.to(result.device).expand(result.shape)[outside]
    while outside[0].numel():
        walked = _in_pieces(shuffled, key, result[outside], torch.int64)
        result[outside] = walked
        still = walked >= size
        outside = tuple(index[still] for index in outside)
        if isinstance(key, Tensor):
            key = key[still]
    return whole


def rounds_of(size: int) -> int:
    """Rounds of the Feistel network of a permutation of range(size)."""
    return _ROUNDS if size > _FEW else _ROUNDS_FEW


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor | int, Tensor | int], key: tuple[Tensor | int, Tensor | int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four 32-bit words (in int64) of a 128-bit counter under a 64-bit key.

    A product of two 32-bit words may pass int64's sign bit; its 64 bits are right all the same, and the
    mask after the arithmetic shift keeps the high word's.
    """
    c0: Tensor | int
    c1: Tensor | int
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for number in range(10):
        if number:
            k0, k1 = (k0 + 0x9E3779B9) & _MASK32, (k1 + 0xBB67AE85) & _MASK32
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        # c1 and c3 keep stray high bits until the masks of the next round take them off.
        high0, high1 = product0 >> 32, product1 >> 32
        high1 ^= c1
        high1 ^= k0
        high1 &= _MASK32
        high0 ^= c3
        high0 ^= k1
        high0 &= _MASK32
        c0, c1, c2, c3 = high1, product1, high0, product0
    return c0, c1 & _MASK32, c2, c3 & _MASK32  # type: ignore[return-value]


def _feistel(round_keys: Sequence[int | Tensor], values: Tensor, size: int) -> Tensor:
    """A keyed bijection of the multiple of 2**bits that is ``size`` or next above it."""
    bits = (size - 1).bit_length() // 2
    rows = -(-size // 2**bits)
    # Halves of at most 20 bits: int32 arithmetic is twice as fast as int64's.
    low, high = (values & (2**bits - 1)).int(), (values >> bits).int()
    for number, round_key in enumerate(round_keys):
        if number % 2:
            low ^= _fmix32(high ^ round_key).bitwise_and_(2**bits - 1)
        else:
            # Multiply and shift instead of a division: a fraction in [0, 1) of rows, uniform to 2**-11.
            fraction = _fmix32(low ^ round_key).bitwise_and_(2**31 - 1).long()
            high += fraction.mul_(rows).bitwise_right_shift_(31).int()
            high -= rows
            high += (high >> 31).bitwise_and_(rows)
    return (high.long() << bits).bitwise_or_(low)


def _round_keys(key: Key | Tensor, rounds: int) -> Sequence[int | Tensor]:
    """A 32-bit word for each round, as int32 holds it."""
    if isinstance(key, Tensor):
        return [derive_tensor(key, number).int() for number in range(rounds)]
    return [(derive(key, number) & _MASK32 ^ 2**31) - 2**31 for number in range(rounds)]


def _fmix32(word: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finalizer of int32, in place (multiplications wrap)."""
    word ^= (word >> 16).bitwise_and_(0xFFFF)
    word *= 0x85EBCA6B - 2**32
    word ^= (word >> 13).bitwise_and_(0x7FFFF)
    word *= 0xC2B2AE35 - 2**32
    word ^= (word >> 16).bitwise_and_(0xFFFF)
    return word


_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
_ONE_BITS = 0x3FF0000000000000
_LOG_TWO = 0.6931471805599453
_SINE = [
    *(6.283185307179586, -41.341702240399755, 81.60524927607504, -76.70585975306136),
    *(42.058693944897634, -15.094642576822984, 3.8199525848482803, -0.7181223017785001),
]
"""(-1)**j (2 pi)**(2 j + 1) / (2 j + 1)!, written out, as a library's power may differ in the last place."""


def _log(x: Tensor) -> Tensor:
    """Natural logarithm of normal positive float64, to about 1e-10, from exactly rounded operations.

    ``x = 2**e * m`` with m in [sqrt(1/2), sqrt(2)), ``ln m = 2 artanh((m - 1) / (m + 1))`` by its series.
    """
    shifted = x.view(torch.int64) + (_ONE_BITS - _SQRT_HALF_BITS)
    exponent = (shifted >> 52).sub_(1023).double()
    mantissa = (shifted & (2**52 - 1)).add_(_SQRT_HALF_BITS).view(torch.float64)
    s = (mantissa - 1.0).div_(mantissa + 1.0)
    series = _horner(s * s, [2.0 / (2 * j + 1) for j in range(6)])
    return series.mul_(s).add_(exponent.mul_(_LOG_TWO))


def _cos_of_turn(turn: Tensor) -> Tensor:
    """cos(2 pi turn) for turns in [0, 1), to about 1e-11: sin of an angle in [-pi/2, pi/2] by its series."""
    w = (turn - 0.5).abs_().sub_(0.25)
    return _horner(w * w, _SINE).mul_(w)


def _horner(x: Tensor, coefficients: list[float]) -> Tensor:
    """The polynomial with these coefficients, lowest power first; no fused multiply-add."""
    result = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result.mul_(x).add_(coefficient)
    return result


def _in_pieces(
    function: Callable[[Key | Tensor, Tensor], Tensor],
    key: Key | Tensor,
    positions: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """``function(key, positions)`` elementwise, in cache-sized pieces on a CPU."""
    if isinstance(key, Tensor):
        _check_int64("key", key)
        key = key.to(positions.device)
        whole = torch.broadcast_tensors(key, positions)[0].shape  # broadcast_shapes takes 20 us
        shape = whole or torch.Size((1,))
        key = key.reshape((1,) * (len(shape) - key.dim()) + key.shape)
        positions, rows = positions.expand(shape), max(1, _CHUNK // max(1, shape[1:].numel()))
    else:
        key = check_key(key)
        whole, positions, rows = positions.shape, positions.reshape(-1), _CHUNK
    if positions.device.type != "cpu" or len(positions) <= rows:
        return function(key, positions).view(whole)
    result = torch.empty(positions.shape, dtype=dtype, device=positions.device)
    for start in range(0, len(positions), rows):
        piece = slice(start, start + rows)
        own = key[piece] if isinstance(key, Tensor) and len(key) > 1 else key
        result[piece] = function(own, positions[piece])
    return result.view(whole)


def _check_int64(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.int64 or tensor.is_meta:
        got = f"a {tensor.device.type} tensor of {tensor.dtype}" if isinstance(tensor, Tensor) else repr(tensor)
        raise InvalidType(f"{name}: expected an int64 tensor with values, got {got}")
