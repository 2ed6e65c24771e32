"""Which code makes the noise: tensor operations, or compiled kernels, to the same bits.

The kernels are those of :mod:`smd_evo.core.compiled` on a CPU, of :mod:`smd_evo.core.compiled_cuda` on CUDA. Every
function here answers None, or False, where the caller's tensor operations are to do the work: on other devices, in
a process that asks for little, and where Numba, or Triton, is missing or can't compile.
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

# The same for CUDA, by estimate: Triton and a kernel from its cache take a second; in that time tensor operations,
# over a hundred of them to a value, make 1e9 values, or as few as you like a thousand times.
_PAYS_CUDA, _CALL_CUDA = 2**29, 2**20

_EQUAL = 16  # positions of one key in a row, below which a permutation's kernel is no faster on a CPU


class _State:
    """Of this process: a forked one has its parent's kernels."""

    def __init__(self, cuda: bool = False) -> None:
        self.cuda = cuda
        self.kernels: dict[str, Callable[..., Any]] = {}
        self.asked = 0
        self.off = False
        self.loading = Lock()


_state, _on_cuda = _State(), _State(cuda=True)


def kernel(name: str, count: int, device: torch.device | None = None) -> Callable[..., Any] | None:
    """A kernel for ``count`` values, once it pays; one thread loads it, the others don't wait.

    Nor does a process that is forked meanwhile: as nobody there frees the lock, it goes on with tensor operations.
    """
    state = _state if device is None else _state_of(device)
    if state is None or state.off:
        return None
    if name in state.kernels:
        return state.kernels[name]
    pays, call = (_PAYS_CUDA, _CALL_CUDA) if state.cuda else (_PAYS, _CALL)
    state.asked += count + call  # threads may lose a few of each other's
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
    fill = kernel(f"gaussian{'_keyed' * keyed}{8 * made.itemsize}", coordinates.numel(), coordinates.device)
    if fill is None:
        return None
    values = torch.empty(coordinates.shape, dtype=made, device=coordinates.device)
    if fill(_words(key, coordinates), _array(coordinates), _array(values)) is False:
        return None
    return values if dtype is made else values.to(dtype)


def permutation(key: Key | Tensor, positions: Tensor, size: int, rounds: int) -> Tensor | None:
    """:func:`smd_evo.core.noise.permutation` of a key, or of keys that broadcast, on a CPU each to many in a row.

    None also if a position is out of range.
    """
    scattered = isinstance(key, Tensor) and (key.shape[-1] != 1 or positions.shape[-1] < _EQUAL)
    if scattered and not positions.is_cuda:
        return None
    name = "permutation_keyed" if isinstance(key, Tensor) else "permutation"
    move = kernel(name, positions.numel(), positions.device)
    if move is None:
        return None
    images = torch.empty(positions.shape, dtype=torch.int64, device=positions.device)
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
