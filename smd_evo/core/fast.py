"""Which code makes the noise: tensor operations, or the kernels of :mod:`smd_evo.core.compiled`, to the same bits.

Every function here answers None, or False, where the caller's tensor operations are to do the work: off the CPU, in
a process that asks for little, and where Numba is missing or can't compile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from smd_evo.core.keys import Key, key_to_int64

__all__ = ["add_fields", "gaussian", "kernel", "permutation"]

_log = logging.getLogger(__name__)

# Importing Numba and loading a kernel from its cache takes 0.44 s of CPU time and 120 MB, others 4 ms; in that time
# tensor operations make 15 million values. (The first process on a machine compiles, up to 2 s a kernel.) A process
# that has asked for half as many will ask for more.
_PAYS = 2**23
# Tensor operations on few values take as long as on this many.
_CALL = 2**13

_EQUAL = 16  # positions of one key in a row, below which a permutation's kernel is no faster


class _State:
    """Of this process: a forked one has its parent's kernels."""

    def __init__(self) -> None:
        self.kernels: dict[str, Callable[..., Any]] = {}
        self.asked = 0
        self.off = False
        self.loading = Lock()


_state = _State()


def kernel(name: str, count: int) -> Callable[..., Any] | None:
    """A kernel for ``count`` values, once it pays; one thread loads it, the others don't wait.

    Nor does a process that is forked meanwhile: as nobody there frees the lock, it goes on with tensor operations.
    """
    state = _state
    if state.off:
        return None
    if name in state.kernels:
        return state.kernels[name]
    state.asked += count + _CALL  # threads may lose a few of each other's
    if state.asked < _PAYS or not state.loading.acquire(blocking=False):
        return None
    try:
        if name not in state.kernels:
            from smd_evo.core import compiled

            state.kernels[name] = compiled.build(name)
        return state.kernels[name]
    except Exception as error:  # whatever it is: results don't depend on it
        state.off = True
        _log.info("no compiled noise, tensor operations make the same: %s: %s", type(error).__name__, error)
        return None
    finally:
        state.loading.release()


def gaussian(key: Key | Tensor, coordinates: Tensor, dtype: torch.dtype) -> Tensor | None:
    """:func:`smd_evo.core.noise.gaussian` of a key, or of keys that broadcast to the shape of ``coordinates``."""
    if coordinates.device.type != "cpu":
        return None
    keyed, made = isinstance(key, Tensor), torch.float32 if dtype is torch.float32 else torch.float64
    fill = kernel(f"gaussian{'_keyed' * keyed}{8 * made.itemsize}", coordinates.numel())
    if fill is None:
        return None
    values = torch.empty(coordinates.shape, dtype=made, device="cpu")
    fill(_words(key, coordinates), _array(coordinates), _array(values))
    return values if dtype is made else values.to(dtype)


def permutation(key: Key | Tensor, positions: Tensor, size: int, rounds: int) -> Tensor | None:
    """:func:`smd_evo.core.noise.permutation` of a key, or of keys that broadcast, each to many positions in a row.

    None also if a position is out of range.
    """
    if positions.device.type != "cpu":
        return None
    if isinstance(key, Tensor) and (key.shape[-1] != 1 or positions.shape[-1] < _EQUAL):
        return None
    move = kernel("permutation_keyed" if isinstance(key, Tensor) else "permutation", positions.numel())
    if move is None:
        return None
    images = torch.empty(positions.shape, dtype=torch.int64, device="cpu")
    bits = (size - 1).bit_length() // 2
    inside = move(_words(key, positions), rounds, _array(positions), size, bits, _array(images))
    return images if inside else None


def add_fields(
    keys: Sequence[Key],
    shares: Sequence[float],
    total: Tensor,
    coordinates: Tensor | None = None,
    within: bool = True,
) -> bool:
    """Adds the Gaussian fields of keys, times their shares, one after the other; whether it did.

    Args:
        keys: of the fields.
        shares: one for each, rounded to float32 as PyTorch does with a number beside such a tensor.
        total: float32, contiguous, what is added to.
        coordinates: where; None for 0, 1, ... as far as ``total`` goes.
        within: whether ``coordinates`` are places of ``total``, or each belongs to the element at its own place.
    """
    if total.device.type != "cpu":
        return False
    length = len(total) if coordinates is None else len(coordinates)
    add = kernel("add_run" if coordinates is None else "add_within" if within else "add_at", length * len(keys))
    if add is None:
        return False
    words = torch.tensor([key_to_int64(key) for key in keys], dtype=torch.int64, device="cpu").numpy()
    weights = torch.tensor(shares, dtype=torch.float64, device="cpu").float().numpy()
    places = () if coordinates is None else (_array(coordinates),)
    return add(words, weights, *places, total.numpy()) is not False


def _words(key: Key | Tensor, places: Tensor) -> Any:
    return _array(key.expand(places.shape)) if isinstance(key, Tensor) else key_to_int64(key)


def _array(tensor: Tensor) -> Any:
    """The elements in a row, as kernels take them: no copy if they lie so."""
    if tensor.dim() != 1 or not tensor.is_contiguous():
        tensor = tensor.reshape(-1).contiguous()
    array = tensor.numpy()
    return array if array.flags.aligned else array.copy()
