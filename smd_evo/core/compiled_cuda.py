"""The noise on a GPU: Triton's kernels, to the same bits as the tensor operations in :mod:`smd_evo.core.noise`.

Loaded by :mod:`smd_evo.core.fast` when it pays; nothing else imports this module. Each kernel is called as its
namesake in :mod:`smd_evo.core.compiled`, with tensors instead of arrays.

No multiplication is fused with an addition: ``enable_fp_fusion=False`` tells it both to LLVM and to ptxas. Of
float64, division and square root have no other form than the one that IEEE 754 fixes; no kernel divides float32.
Nor is a kernel compiled anew for other alignments or numbers, so what the tests read is what runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["OPTIONS", "SIGNATURES", "build"]

OPTIONS = {"enable_fp_fusion": False, "sanitize_overflow": False, "num_warps": 4}
"""Of the compiler: no fused multiply-add, and under TRITON_DEBUG no complaint of integers that are meant to wrap."""

_BLOCK = 512

_SQRT_HALF_BITS = tl.constexpr(0x3FE6A09E667F3BCD)
_OFFSET = tl.constexpr(0x3FF0000000000000 - 0x3FE6A09E667F3BCD)
_MANTISSA = tl.constexpr(2**52 - 1)
_LOG_TWO, _UNIT32, _UNIT53 = tl.constexpr(0.6931471805599453), tl.constexpr(2.0**-32), tl.constexpr(2.0**-53)
_LOG_1, _LOG_2, _LOG_3, _LOG_4, _LOG_5 = (tl.constexpr(2.0 / (2 * j + 1)) for j in range(1, 6))


@triton.jit
def _radius_and_turn(block, k0, k1):  # type: ignore[no-untyped-def]
    """Philox4x32-10 and the logarithm: what the two coordinates of a block share."""
    c0, c1 = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    c2, c3 = c0 ^ c0, c0 ^ c0
    for _ in tl.static_range(10):
        first, second = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
        c0, c1 = (second >> 32).to(tl.uint32) ^ c1 ^ k0, second.to(tl.uint32)
        c2, c3 = (first >> 32).to(tl.uint32) ^ c3 ^ k1, first.to(tl.uint32)
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    u = ((c0.to(tl.int64) << 21) + (c1 >> 11).to(tl.int64) + 1).to(tl.float64) * _UNIT53
    shifted = u.to(tl.int64, bitcast=True) + _OFFSET
    exponent = ((shifted >> 52) - 1023).to(tl.float64)
    mantissa = ((shifted & _MANTISSA) + _SQRT_HALF_BITS).to(tl.float64, bitcast=True)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    x = s * s
    series = ((((x * _LOG_5 + _LOG_4) * x + _LOG_3) * x + _LOG_2) * x + _LOG_1) * x + 2.0
    return tl.sqrt((series * s + exponent * _LOG_TWO) * -2.0), c2


@triton.jit
def _cosine(turn):  # type: ignore[no-untyped-def]
    w = tl.abs(turn.to(tl.float64) * _UNIT32 - 0.5) - 0.25
    x = w * w
    series = (x * -0.7181223017785001 + 3.8199525848482803) * x - 15.094642576822984
    series = ((series * x + 42.058693944897634) * x - 76.70585975306136) * x + 81.60524927607504
    return ((series * x - 41.341702240399755) * x + 6.283185307179586) * w


@triton.jit
def _normal(coordinate, key):  # type: ignore[no-untyped-def]
    radius, turn = _radius_and_turn(coordinate >> 1, key.to(tl.uint32), (key >> 32).to(tl.uint32))
    return radius * _cosine(turn + ((coordinate & 1) << 30).to(tl.uint32))


@triton.jit
def _zero():  # type: ignore[no-untyped-def]
    """Added to an argument: of one below 2**32 Triton's interpreter makes a narrower one, which shifts otherwise."""
    return tl.full((), 0, tl.int64)


@triton.jit
def _fmix32(word):  # type: ignore[no-untyped-def]
    word = (word ^ (word >> 16)) * 0x85EBCA6B
    word = (word ^ (word >> 13)) * 0xC2B2AE35
    return word ^ (word >> 16)


@triton.jit
def _derived(key, number):  # type: ignore[no-untyped-def]
    """SplitMix64's low 32 bits, as :func:`smd_evo.core.keys.derive` makes them of a key and a number."""
    state = key.to(tl.uint64) + 0x9E3779B97F4A7C15 * (number + 1) % 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB
    return (state ^ (state >> 31)).to(tl.uint32)


@triton.jit
def _shuffled(key, value, size, bits, rounds: tl.constexpr):  # type: ignore[no-untyped-def]
    """The Feistel network, once through."""
    one = _zero() + 1
    mask, rows = ((one << bits) - 1).to(tl.uint32), ((size + (one << bits) - 1) >> bits).to(tl.uint32)
    high, low = (value >> bits).to(tl.uint32), value.to(tl.uint32) & mask
    for number in tl.static_range(rounds):
        round_key = _derived(key, number)
        if number % 2:
            low = low ^ (_fmix32(high ^ round_key) & mask)
        else:
            fraction = (_fmix32(low ^ round_key) & 0x7FFFFFFF).to(tl.uint64)
            high = high + ((fraction * rows.to(tl.uint64)) >> 31).to(tl.uint32)
            high = tl.minimum(high, high - rows)  # unsigned: of one below rows the difference wraps
    return (high.to(tl.int64) << bits) | low.to(tl.int64)


def _kernel(code: Callable[..., Any]) -> Any:
    """One variant for all that it may be given."""
    given = inspect.signature(code).parameters.values()
    arguments = [argument.name for argument in given if argument.annotation != "tl.constexpr"]
    return triton.jit(code, do_not_specialize=arguments, do_not_specialize_on_alignment=arguments)


@_kernel
def _gaussian(  # type: ignore[no-untyped-def]
    keys, key: tl.int64, coordinates, out, count: tl.int64, keyed: tl.constexpr, width: tl.constexpr
):
    """The field of ``key``, or of a key for each coordinate."""
    i = tl.program_id(0).to(tl.int64) * width + tl.arange(0, width)
    coordinate = tl.load(coordinates + i, mask=i < count, other=0)
    own = tl.load(keys + i, mask=i < count, other=0) if keyed else key + _zero()
    tl.store(out + i, _normal(coordinate, own).to(out.dtype.element_ty), mask=i < count)


@_kernel
def _permutation(  # type: ignore[no-untyped-def]
    keys,
    key: tl.int64,
    positions,
    size: tl.int64,
    bits: tl.int64,
    out,
    wrong,
    count: tl.int64,
    rounds: tl.constexpr,
    keyed: tl.constexpr,
    width: tl.constexpr,
):
    """The images of positions under ``key``, or a key for each; ``wrong`` becomes 1 if a position is out of range."""
    i = tl.program_id(0).to(tl.int64) * width + tl.arange(0, width)
    value = tl.load(positions + i, mask=i < count, other=0)
    right = (value >= 0) & (value < size)
    tl.store(wrong + i * 0, i * 0 + 1, mask=(i < count) & (right == 0))
    own = tl.load(keys + i, mask=i < count, other=0) if keyed else key + _zero()
    left = right & (i < count)
    # All of a block go on until the last one's cycle has come back; one that is done keeps its place.
    while tl.max(left.to(tl.int32), 0) > 0:
        value = tl.where(left, _shuffled(own, value, size + _zero(), bits + _zero(), rounds), value)
        left = left & (value >= size)
    tl.store(out + i, value, mask=i < count)


@_kernel
def _add_run(keys, shares, children: tl.int64, total, count: tl.int64, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Adds weighted fields at coordinates 0, 1, ...: two neighbours share a block of the field."""
    pair = tl.program_id(0).to(tl.int64) * width + tl.arange(0, width)
    even = tl.load(total + 2 * pair, mask=2 * pair < count, other=0.0)
    odd = tl.load(total + 2 * pair + 1, mask=2 * pair + 1 < count, other=0.0)
    for child in range(children):
        key, share = tl.load(keys + child), tl.load(shares + child)
        radius, turn = _radius_and_turn(pair, key.to(tl.uint32), (key >> 32).to(tl.uint32))
        even = even + (radius * _cosine(turn)).to(tl.float32) * share
        odd = odd + (radius * _cosine(turn + 0x40000000)).to(tl.float32) * share
    tl.store(total + 2 * pair, even, mask=2 * pair < count)
    tl.store(total + 2 * pair + 1, odd, mask=2 * pair + 1 < count)


@_kernel
def _add_at(  # type: ignore[no-untyped-def]
    keys,
    shares,
    children: tl.int64,
    coordinates,
    total,
    count: tl.int64,
    within: tl.constexpr,
    width: tl.constexpr,
):
    """Adds weighted fields at coordinates, which are places of the totals, or theirs one by one."""
    i = tl.program_id(0).to(tl.int64) * width + tl.arange(0, width)
    coordinate = tl.load(coordinates + i, mask=i < count, other=0)
    places = total + (coordinate if within else i)
    own = tl.load(places, mask=i < count, other=0.0)
    for child in range(children):
        key, share = tl.load(keys + child), tl.load(shares + child)
        own = own + _normal(coordinate, key).to(tl.float32) * share
    tl.store(places, own, mask=i < count)


_F4, _F8, _I8 = torch.float32, torch.float64, torch.int64
_FIELD, _MOVES = (_I8, 0, _I8, _F4, 0), (_I8, 0, _I8, 0, 0, _I8, _I8, 0)
SIGNATURES: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "gaussian32": (_gaussian, _FIELD, {"keyed": False}),
    "gaussian64": (_gaussian, (_I8, 0, _I8, _F8, 0), {"keyed": False}),
    "gaussian_keyed32": (_gaussian, _FIELD, {"keyed": True}),
    "gaussian_keyed64": (_gaussian, (_I8, 0, _I8, _F8, 0), {"keyed": True}),
    "permutation": (_permutation, _MOVES, {"keyed": False}),
    "permutation_keyed": (_permutation, _MOVES, {"keyed": True}),
    "add_run": (_add_run, (_I8, _F4, 0, _F4, 0), {}),
    "add_at": (_add_at, (_I8, _F4, 0, _I8, _F4, 0), {"within": False}),
    "add_within": (_add_at, (_I8, _F4, 0, _I8, _F4, 0), {"within": True}),
}
"""Of each kernel: its code, the types of what it is given (an int64 for 0), and what is fixed when it is compiled."""


def build(name: str) -> Callable[..., Any]:
    """A function that launches a kernel: compiled, or loaded from Triton's cache on the disk, at the first call."""
    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET is set")
    return launcher(name)


def launcher(name: str) -> Callable[..., Any]:
    """The same without a look at Triton's settings: its interpreter takes tensors on a CPU."""
    code, _, fixed = SIGNATURES[name]

    def launch(count: int, *arguments: Any, **more: Any) -> None:
        if count:
            # Triton launches on the current device, whichever that of the tensors is.
            with torch.cuda.device_of(arguments[0]):
                code[(-(-count // _BLOCK),)](*arguments, **fixed, **more, width=_BLOCK, **OPTIONS)

    def gaussian(key: int | Tensor, coordinates: Tensor, out: Tensor) -> None:
        launch(len(out), *_keys(key, coordinates), coordinates, out, len(out))

    def permutation(key: int | Tensor, rounds: int, positions: Tensor, size: int, bits: int, out: Tensor) -> bool:
        wrong = torch.zeros(1, dtype=torch.int64, device=out.device)
        launch(len(out), *_keys(key, positions), positions, size, bits, out, wrong, len(out), rounds=rounds)
        return not wrong.item()

    def add_run(keys: Tensor, shares: Tensor, total: Tensor) -> None:
        launch((len(total) + 1) // 2, keys, shares, len(keys), total, len(total))

    def add_at(keys: Tensor, shares: Tensor, coordinates: Tensor, total: Tensor) -> None:
        launch(len(coordinates), keys, shares, len(keys), coordinates, total, len(coordinates))

    def add_within(keys: Tensor, shares: Tensor, coordinates: Tensor, total: Tensor) -> bool:
        """False, and nothing, if the coordinates don't ascend in range."""
        if len(coordinates):
            within = (coordinates[0] >= 0) & (coordinates[-1] < len(total))
            if not (within & (coordinates[1:] > coordinates[:-1]).all()).item():
                return False
        add_at(keys, shares, coordinates, total)
        return True

    launchers: dict[str, Callable[..., Any]] = {
        "gaussian": gaussian,
        "permutation": permutation,
        "add_run": add_run,
        "add_at": add_at,
        "add_within": add_within,
    }
    return launchers[name.rstrip("2346").removesuffix("_keyed")]


def _keys(key: int | Tensor, places: Tensor) -> tuple[Tensor, int]:
    """A key for each place and no other, or any tensor and the one key."""
    return (key, 0) if isinstance(key, Tensor) else (places, key)
