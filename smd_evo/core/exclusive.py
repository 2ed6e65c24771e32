"""Exclusive: networks are patched in place, so a thread has one to itself for as long as that lasts."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Concatenate, ParamSpec, TypeVar

from torch import Tensor, nn

from smd_evo.core.blocks import within
from smd_evo.errors import NetworkInUse

__all__ = ["Exclusive", "alone"]

P = ParamSpec("P")
R = TypeVar("R")
Owner = TypeVar("Owner")

_RANDOM = -1
"""What stands for the random states of the process among the things that a thread has."""

_LOOK_AGAIN = 1.0
"""Seconds after which a waiting thread looks by itself."""

# Held for moments, while the two below are read or written. Python may run another block's end in such a moment, by a
# garbage collection or in a signal handler: hence re-entrant.
_moment = threading.RLock()
_held: list[Exclusive] = []
_waiting: list[Exclusive] = []


class Exclusive:
    """A block in which no other thread has the network, nor anything that is part of both its and another one's.

    Threads that want it wait for each other. They have it or they do not: whoever waits for a network and for the
    random states holds neither meanwhile. One thread may enter such blocks of one network inside of each other.

    Parameters and buffers are told by their memory and modules by themselves, when the block is entered, so networks
    that share weights, a network and a part of it, or a wrapper and what it wraps are one. Nothing is kept
    at the network, which is copied, pickled and saved as if there were no threads.

    Args:
        module: the network.
        random: also the random states of the process.

    Raises:
        NetworkInUse: entering would mean waiting for ever.
    """

    def __init__(self, module: nn.Module, *, random: bool = False) -> None:
        self._module, self._random = module, random
        self._thread = threading.current_thread()
        self._things: frozenset[int] = frozenset()
        self._gate = threading.Lock()

    @property
    def held(self) -> bool:
        """Whether it is had just now."""
        return self in _held

    @property
    def ours(self) -> bool:
        """Whether no other thread has it just now."""
        return self._thread is threading.current_thread() or not self.held

    def enter(self) -> None:
        """Wait for it."""
        self._thread = threading.current_thread()
        self._things = self._known() or frozenset(_things(self._module, self._random))
        while not self._taken():
            self._gate.acquire(timeout=_LOOK_AGAIN)

    def leave(self) -> None:
        """Let others have it."""
        with _moment:
            for known in (_held, _waiting):
                if self in known:
                    known.remove(self)
            for other in tuple(_waiting):
                if other._gate.locked():
                    other._gate.release()

    def _known(self) -> frozenset[int] | None:
        """The same things of the block around this one, where it is one: they need not be looked up for each child."""
        for other in tuple(_held):
            if other._thread is self._thread and other._module is self._module and other._random >= self._random:
                return other._things
        return None

    def _taken(self) -> bool:
        """Take it if it is free, else be woken when something is."""
        with _moment:
            blocking = self._blocking()
            if not blocking:
                _held.append(self)
                if self in _waiting:
                    _waiting.remove(self)
                return True
            self._check_for_deadlock(blocking)
            if self not in _waiting:
                _waiting.append(self)
            self._gate.acquire(blocking=False)
            return False

    def _blocking(self) -> set[threading.Thread]:
        """The other threads that have something of it."""
        return {
            other._thread
            for other in tuple(_held)
            if other._thread is not self._thread and not other._things.isdisjoint(self._things)
        }

    def _check_for_deadlock(self, blocking: set[threading.Thread]) -> None:
        """Refuse to wait for whom nothing will ever end, or who waits for this thread."""
        known: set[threading.Thread] = set()
        while blocking := blocking - known:
            for thread in blocking:
                if not thread.is_alive():
                    raise NetworkInUse(
                        f"network: expected the parent, got a child that thread {thread.name!r} has left applied "
                        "when it ended; leave each applied() block in the thread that has entered it"
                    )
            if self._thread in blocking:
                raise NetworkInUse(
                    "network: expected one that other threads leave at last, got one whose thread waits for a "
                    "network of this one; do not enter blocks of two networks in each other in different orders"
                )
            known |= blocking
            blocking = {one for other in tuple(_waiting) if other._thread in known for one in other._blocking()}


def alone(function: Callable[Concatenate[Owner, P], R]) -> Callable[Concatenate[Owner, P], R]:
    """A method that has its owner's network, ``self.module``, to itself."""

    @functools.wraps(function)
    def method(self: Owner, /, *arguments: P.args, **keywords: P.kwargs) -> R:
        block = Exclusive(self.module)  # type: ignore[attr-defined]
        return within(block, lambda: function(self, *arguments, **keywords))

    return method


def _things(module: nn.Module, random: bool) -> Iterator[int]:
    """Numbers of what a network consists of, and of the random states."""
    for part in module.modules():
        yield id(part)
        for tensor in (*part._parameters.values(), *part._buffers.values()):
            if tensor is not None:
                yield _memory(tensor)
    if random:
        yield _RANDOM


def _memory(tensor: Tensor) -> int:
    """A number of a tensor's memory, or of the tensor where it has none of its own."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):  # lazy, sparse or a subclass of tensors
        return id(tensor)


def _in_a_fork() -> None:
    """A child process has none of the other threads, and none of what they had; a lock may be held by one for ever."""
    global _moment
    _moment = threading.RLock()
    _held[:] = [block for block in _held if block._thread is threading.current_thread()]
    _waiting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_fork)
