"""Exclusive: networks are patched in place, so a thread has one to itself for as long as that lasts."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

from torch import Tensor, nn

from smd_evo.core.blocks import within
from smd_evo.errors import NetworkInUse

__all__ = ["AloneState", "Exclusive", "alone", "memory_of", "things_of"]

P = ParamSpec("P")
R = TypeVar("R")
Owner = TypeVar("Owner")

_RANDOM = -1
"""What stands for the random states of the process among the things that a thread has."""

_LOOK_AGAIN = 1.0
"""Seconds after which a waiting thread looks by itself."""


class _Blocks:
    """The blocks of this process, and a lock that is held for the moments in which they change.

    Python may run another block's end in such a moment, by a garbage collection or in a signal handler: hence it is
    re-entrant, and the lists are read from copies.
    """

    def __init__(self) -> None:
        self.moment = threading.RLock()
        self.held: list[Exclusive] = []
        self.waiting: list[Exclusive] = []

    def in_a_fork(self) -> None:
        """A child process has no other thread, nor what those had; one may have held the lock, which stays locked."""
        self.moment = threading.RLock()
        self.held = [block for block in self.held if block._thread is threading.current_thread()]
        self.waiting = []


_blocks = _Blocks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_blocks.in_a_fork)


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
        return self in _blocks.held

    @property
    def ours(self) -> bool:
        """Whether no other thread has it just now."""
        return self._thread is threading.current_thread() or not self.held

    def enter(self) -> None:
        """Wait for it."""
        self._thread = threading.current_thread()
        self._things = self.things
        while not self._taken():
            self._gate.acquire(timeout=_LOOK_AGAIN)

    def leave(self) -> None:
        """Let others have it."""
        with _blocks.moment:
            for known in (_blocks.held, _blocks.waiting):
                if self in known:
                    known.remove(self)
            for other in tuple(_blocks.waiting):
                if other._gate.locked():
                    other._gate.release()

    @property
    def things(self) -> frozenset[int]:
        """Numbers of what it consists of: those of the block around this one, else looked up."""
        return self._known() or frozenset(things_of(self._module, self._random))

    def around(self) -> list[Exclusive]:
        """The blocks in which this thread has something of it already."""
        return _sharing(self._thread, self.things, list(_blocks.held))

    def inside(self) -> list[Exclusive]:
        """The blocks that this one's thread has entered after it and not left yet, if they have something of it."""
        held = list(_blocks.held)
        return _sharing(self._thread, self._things, held[held.index(self) + 1 :]) if self in held else []

    def _known(self) -> frozenset[int] | None:
        """The things of the block around this one, if they are the same: not to be looked up for each child."""
        for other in tuple(_blocks.held):
            if other._thread is self._thread and other._module is self._module and other._random >= self._random:
                return other._things
        return None

    def _taken(self) -> bool:
        """Take it if it is free, else be woken when something is."""
        with _blocks.moment:
            blocking = self._blocking()
            if not blocking:
                _blocks.held.append(self)
                if self in _blocks.waiting:
                    _blocks.waiting.remove(self)
                return True
            self._check_for_deadlock(blocking)
            if self not in _blocks.waiting:
                _blocks.waiting.append(self)
            self._gate.acquire(blocking=False)
            return False

    def _blocking(self) -> set[threading.Thread]:
        """The other threads that have something of it."""
        return {
            other._thread
            for other in tuple(_blocks.held)
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
            blocking = {
                one for other in tuple(_blocks.waiting) if other._thread in known for one in other._blocking()
            }


def _sharing(thread: threading.Thread, things: frozenset[int], blocks: list[Exclusive]) -> list[Exclusive]:
    """Those of some blocks that are a thread's and have one of some things."""
    return [block for block in blocks if block._thread is thread and not block._things.isdisjoint(things)]


def alone(function: Callable[Concatenate[Owner, P], R]) -> Callable[Concatenate[Owner, P], R]:
    """A method that has its owner's network, ``self.module``, to itself."""

    @functools.wraps(function)
    def method(self: Owner, /, *arguments: P.args, **keywords: P.kwargs) -> R:
        block = Exclusive(self.module)  # type: ignore[attr-defined]
        return within(block, lambda: function(self, *arguments, **keywords))

    return method


class AloneState(dict[str, Any]):
    """The state of what has a network, for ``__getstate__``: no other thread has that while this is written.

    A lock around ``__getstate__`` would end too early: tensors are written after it has returned. It is read back
    as a plain dictionary. ``torch.save`` writes tensors at the very end, when others may have the network again.

    Args:
        module: the network.
        state: attributes.

    Example:
        >>> import pickle
        >>> pickle.loads(pickle.dumps(AloneState(nn.Linear(2, 1), {"a": 1})))
        {'a': 1}
    """

    def __init__(self, module: nn.Module, state: dict[str, Any]) -> None:
        super().__init__(state)
        self._module = module

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (), None, None, self._written()

    def _written(self) -> Iterator[tuple[str, Any]]:
        block = Exclusive(self._module)
        try:
            try:
                block.enter()
                yield from self.items()
            finally:  # also where something cannot be written, as the iterator is dropped then
                block.leave()
        finally:
            block.leave()


def things_of(module: nn.Module, random: bool = False) -> Iterator[int]:
    """Numbers of what a network consists of, and of the random states."""
    for part in module.modules():
        yield id(part)
        for tensor in (*part._parameters.values(), *part._buffers.values()):
            if tensor is not None:
                yield memory_of(tensor)
    if random:
        yield _RANDOM


def memory_of(tensor: Tensor) -> int:
    """A number of a tensor's memory, or of the tensor where it has none of its own."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):  # lazy, sparse or a subclass of tensors
        return id(tensor)
