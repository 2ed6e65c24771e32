"""Turns: several children on one batch after the other, each as if it were alone."""

from __future__ import annotations

import pickle
import random
import sys

import torch
from torch import nn

from smd_evo.evaluation.guard import BufferChange, Buffers, reseed

__all__ = ["Turns"]


class Turns:
    """What a child finds when it is its turn to be evaluated: what it would find if nobody else were.

    The first turn finds the same random numbers as everybody's, so that a network that draws some does not depend
    on the order, and the network's own buffers. Where children take several turns, each finds both as it left them.
    A turn that did not end may begin again and finds the same.

    Args:
        module: the network.
        several: whether they do.
    """

    def __init__(self, module: nn.Module, several: bool) -> None:
        self._buffers = Buffers(module)
        self._several = several
        self._first = b""
        self._left: dict[int, tuple[bytes, list[BufferChange]]] = {}

    def begin(self, child: int) -> None:
        """The turn of a child, by its number, begins."""
        self.restore()
        reseed()
        if not self._several:
            return
        self._first = self._first or _random_states()
        if child in self._left:
            states, changes = self._left[child]
            _set_random_states(states)
            self._buffers.change(changes)

    def end(self, child: int) -> None:
        """It ends."""
        if self._several:
            left = _random_states(), self._buffers.changes()
            self._left.pop(child, None)
            if left != (self._first, []):  # few networks leave anything
                self._left[child] = left

    def restore(self) -> None:
        """Put back the buffers: after the last turn, or where one was cut short."""
        self._buffers.restore()


def _random_states() -> bytes:
    """Those that :func:`reseed` sets."""
    numpy = sys.modules.get("numpy")
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    of_torch = [state.numpy() for state in (torch.get_rng_state(), *cuda)]
    return pickle.dumps((random.getstate(), numpy and numpy.random.get_state(), of_torch))


def _set_random_states(states: bytes) -> None:
    of_python, of_numpy, of_torch = pickle.loads(states)
    random.setstate(of_python)
    if of_numpy:
        sys.modules["numpy"].random.set_state(of_numpy)
    cpu, *cuda = map(torch.from_numpy, of_torch)
    torch.set_rng_state(cpu)
    for device, state in enumerate(cuda):
        torch.cuda.set_rng_state(state, device)
