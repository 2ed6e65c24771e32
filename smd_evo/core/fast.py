"""Which code makes the noise: tensor operations, compiled kernels or Python's own numbers, to the same bits.

The kernels are those of :mod:`smd_evo.core.compiled` on a CPU, of :mod:`smd_evo.core.compiled_cuda` on CUDA. Without
one, few values on a CPU are those of :mod:`smd_evo.core.few`. Every function here answers None, or False, where the
caller's tensor operations are to do the work: on other devices, in a process that asks for little, and where Numba,
or Triton, is missing or can't compile.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smd_evo.core import few
from smd_evo.core.keys import Key, key_to_int64

__all__ = ["add_fields", "field", "gaussian", "images", "kernel", "permutation"]

_log = logging.getLogger(__name__)

# Importing Numba and loading a kernel from its cache takes 0.44 s of CPU time and 120 MB, others 4 ms; in that time
# tensor operations make 15 million values. (The first process on a machine compiles, up to 2 s a kernel.) A process
# that has asked for half as many will ask for more.
_PAYS = 2**23
# Tensor operations on few values take as long as on this many; those of a permutation for each 4 of its rounds.
_CALL = 2**13
# As many values in Python's own numbers take as long as tensor operations on them; a permutation's a third of it.
_FEW = 64

# The same for CUDA, by estimate: Triton and a kernel from its cache take a second; in that time tensor operations,
# over a hundred of them to a value, make 1e9 values, or as few as you like a thousand times.
_PAYS_CUDA, _CALL_CUDA = 2**29, 2**20


class _State:
    """Of this process: a forked one has its parent's kernels."""

    def __init__(self, cuda: bool = False) -> None:
        self.cuda = cuda
        self.kernels: dict[str, Callable[..., Any]] = {}
        self.asked = 0
        self.off = False
        self.loading = Lock()


_state, _on_cuda = _State(), _State(cuda=True)


def kernel(
    name: str, count: int, device: torch.device | None = None, calls: float = 1, small: bool = False
) -> Callable[..., Any] | None:
    """A kernel for ``count`` values, once it pays; one thread loads it, the others don't wait.

    Nor does a process that is forked meanwhile: as nobody there frees the lock, it goes on with tensor operations.
    The work without it counts as ``calls`` times the field's tensor operations, or as a share of that if ``small``.
    """
    state = _state if device is None else _state_of(device)
    if state is None or state.off:
        return None
    if name in state.kernels:
        return state.kernels[name]
    pays, call = (_PAYS_CUDA, _CALL_CUDA) if state.cuda else (_PAYS, _CALL)
    # Threads may lose a few of each other's.
    state.asked += count + int(calls * call * (count / _FEW if small else 1))
    if state.asked < pays or not state.loading.acquire(blocking=False):
        return None
    try:
        if name not in state.kernels:
            state.kernels[name] = _build(name, state)
        return state.kernels[name]
    except Exception as error:  # whatever it is: results don't depend on it
        _give_up(state, error)
        return None
    finally:
        state.loading.release()


def _state_of(device: torch.device) -> _State | None:
    """The kernels that work there; none do on an AMD GPU, which PyTorch calls CUDA, too: nobody has compared bits."""
    if device.type == "cuda" and torch.version.hip is None:
        return _on_cuda
    return _state if device.type == "cpu" else None


def _build(name: str, state: _State) -> Callable[..., Any]:
    if not state.cuda:
        from smd_evo.core import compiled

        kernel: Callable[..., Any] = compiled.build(name)
        return kernel
    from smd_evo.core import compiled_cuda

    launch = compiled_cuda.build(name)

    def guarded(*arguments: Any) -> Any:
        """False if there is no launch: each device compiles at its first one, and may be too old."""
        try:
            return launch(*arguments)
        except torch.OutOfMemoryError:  # says nothing of the kernel
            raise
        except Exception as error:
            _give_up(state, error)
            return False

    return guarded


def _give_up(state: _State, error: Exception) -> None:
    if not state.off:
        where = " on CUDA" if state.cuda else ""
        _log.info("no compiled noise%s, tensor operations make the same: %s: %s", where, type(error).__name__, error)
    state.off = True


def gaussian(key: Key | Tensor, coordinates: Tensor, dtype: torch.dtype) -> Tensor | None:
    """:func:`smd_evo.core.noise.gaussian` of a key, or of keys that broadcast to the shape of ``coordinates``."""
    keyed, made = isinstance(key, Tensor), torch.float32 if dtype is torch.float32 else torch.float64
    name, count, device = f"gaussian{'_keyed' * keyed}{8 * made.itemsize}", coordinates.numel(), coordinates.device
    small = count <= _FEW and device.type == "cpu"
    fill = kernel(name, count, device, small=small)
    if fill is not None:
        values = torch.empty(coordinates.shape, dtype=made, device=device)
        if fill(_words(key, coordinates), _array(coordinates), _array(values)) is False:
            return None
        return values if dtype is made else values.to(dtype)
    if not small:
        return None
    found = few.normals(_numbers(key, coordinates), _array(coordinates).tolist())
    return torch.tensor(found, dtype=torch.float64, device="cpu").to(dtype).view(coordinates.shape)


def permutation(key: Key | Tensor, positions: Tensor, size: int, rounds: int) -> Tensor | None:
    """:func:`smd_evo.core.noise.permutation` of a key, or of keys that broadcast.

    None also if a position is out of range.
    """
    name, count, device = "permutation" + "_keyed" * isinstance(key, Tensor), positions.numel(), positions.device
    small = count <= _FEW and device.type == "cpu"
    move = kernel(name, count, device, _calls(rounds, small), small)
    if move is not None:
        moved = torch.empty(positions.shape, dtype=torch.int64, device=device)
        bits = (size - 1).bit_length() // 2
        inside = move(_words(key, positions), rounds, _array(positions), size, bits, _array(moved))
        return moved if inside else None
    if not small:
        return None
    places = _array(positions).tolist()
    if places and not 0 <= min(places) <= max(places) < size:
        return None
    found = few.images(_numbers(key, positions), places, size, rounds)
    return torch.tensor(found, dtype=torch.int64, device="cpu").view(positions.shape)


def field(key: Key, coordinates: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """:func:`gaussian` of an array in a row: for a vector of ten numbers, tensors cost more than the noise."""
    small = coordinates.size <= _FEW
    fill = kernel("gaussian32", coordinates.size, small=small)
    if fill is not None:
        values = np.empty(coordinates.size, np.float32)
        fill(key_to_int64(key), coordinates, values)
        return values
    if not small:
        return None
    return np.array(few.normals(itertools.repeat(key), coordinates.tolist()), np.float64).astype(np.float32)


def images(key: Key, positions: NDArray[np.int64], size: int, rounds: int) -> NDArray[np.int64] | None:
    """:func:`permutation` of an array in a row, of positions in range(size)."""
    small = positions.size <= _FEW
    move = kernel("permutation", positions.size, None, _calls(rounds, small), small)
    if move is not None:
        moved = np.empty(positions.size, np.int64)
        move(key_to_int64(key), rounds, positions, size, (size - 1).bit_length() // 2, moved)
        return moved
    if not small:
        return None
    return np.array(few.images(itertools.repeat(key), positions.tolist(), size, rounds), np.int64)


def _calls(rounds: int, small: bool) -> float:
    """The work of a permutation, beside that of the field."""
    return rounds / (12 if small else 4)


def _numbers(key: Key | Tensor, places: Tensor) -> Iterable[Key]:
    """A key for each place."""
    return _array(key.expand(places.shape)).tolist() if isinstance(key, Tensor) else itertools.repeat(key)


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
    length = len(total) if coordinates is None else len(coordinates)
    name = "add_run" if coordinates is None else "add_within" if within else "add_at"
    add = kernel(name, length * len(keys), total.device)
    if add is None:
        return False
    words = torch.tensor([key_to_int64(key) for key in keys], dtype=torch.int64, device=total.device)
    weights = torch.tensor(shares, dtype=torch.float64, device="cpu").float().to(total.device)
    places = () if coordinates is None else (_array(coordinates),)
    return add(_array(words), _array(weights), *places, _array(total)) is not False


def _words(key: Key | Tensor, places: Tensor) -> Any:
    return _array(key.expand(places.shape)) if isinstance(key, Tensor) else key_to_int64(key)


def _array(tensor: Tensor) -> Any:
    """The elements in a row, as kernels take them: no copy if they lie so."""
    if tensor.dim() != 1 or not tensor.is_contiguous():
        tensor = tensor.reshape(-1).contiguous()
    if tensor.device.type != "cpu":
        return tensor
    array = tensor.numpy()
    return array if array.flags.aligned else array.copy()
