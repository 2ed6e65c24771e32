"""Patches: what a network's parameters were before they were written over, and the blocks that put it back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from smd_evo.core.exclusive import Exclusive
from smd_evo.core.memory import Written

__all__ = ["Patched", "Patches"]


class Patches:
    """The patches that are in place in a network, the last one on top.

    Each block puts itself below its patches, so that they are known to be its own, and its thread's.
    """

    def __init__(self) -> None:
        self._stack: list[Patched | Written | tuple[Tensor, Tensor, Tensor]] = []
        self._known: frozenset[int] = frozenset()

    def __reduce__(self) -> tuple[type[Patches], tuple[()]]:
        """A copy of the network, or one in another process, is what it is then: there is nothing to take back."""
        return Patches, ()

    @property
    def depth(self) -> int:
        """How many patches are in place now, counting blocks: 0 outside of all."""
        return len(self._stack)

    def write(self, elements: Tensor, places: Tensor, old: Tensor, new: Tensor) -> None:
        """Write over some elements of a flat memory."""
        self._stack.append((elements, places, old))  # first: an interrupt may come in between
        elements.index_copy_(0, places, new)

    def write_all(self, patch: Written) -> None:
        """Write over elements of any parameters."""
        self._stack.append(patch)  # first, as above
        patch.write()

    def keep(self) -> None:
        """What is in place stays, for good."""
        self._stack.clear()

    def begin(self, block: Patched) -> None:
        """A block begins."""
        self.restore(self.depth)
        self._stack.append(block)

    def are_known(self, things: frozenset[int]) -> bool:
        """Whether these are what the network consisted of at the last call, the same object: so it is of siblings."""
        before, self._known = self._known, things
        return things is before

    def end(self, block: Patched) -> None:
        """Take back a block's patches, and those of blocks inside of it, also of other spaces of the network."""
        for inner in reversed(block.inside()):
            if isinstance(inner, Patched):
                inner.leave()
        if block in self._stack:
            self.take_back(self._stack.index(block))

    def restore(self, depth: int) -> None:
        """Take back all patches, or all but the first ``depth``, if they are this thread's, and end their blocks.

        Those of a thread that a fork has left behind are taken back all.
        """
        first = self._stack[0] if self._stack else None
        if isinstance(first, Patched) and first.ours:
            self.take_back(depth if first.held else 0)

    def take_back(self, depth: int) -> None:
        """Take back all but the first ``depth`` patches, even while Ctrl-C is pressed."""
        torch.clear_autocast_cache()
        interrupt: KeyboardInterrupt | None = None
        while self.depth > depth:
            try:
                top = self._stack[-1]
                if isinstance(top, Patched):
                    self._stack.pop()
                    Exclusive.leave(top)
                elif isinstance(top, Written):
                    top.back()
                    self._stack.pop()
                else:
                    elements, places, old = top
                    elements.index_copy_(0, places, old)  # repeating it does no harm
                    self._stack.pop()
            except KeyboardInterrupt as caught:
                interrupt = caught
        if interrupt is not None:
            raise interrupt


class Patched(Exclusive, AbstractContextManager[nn.Module]):
    """A block in which a network is a child, and no other thread has it; see :mod:`smd_evo.core.blocks`.

    Args:
        module: the network.
        patches: those of its space.
        patch: patches it; is given what the network consists of.
    """

    def __init__(self, module: nn.Module, patches: Patches, patch: Callable[[frozenset[int]], object]) -> None:
        super().__init__(module)
        self._patches, self._patch = patches, patch

    def enter(self) -> None:
        """Have the network, and patch it."""
        super().enter()
        self._patches.begin(self)
        self._patch(self._things)

    def leave(self) -> None:
        """Take the patch back, and let others have the network."""
        self._patches.end(self)
        super().leave()

    def __enter__(self) -> nn.Module:
        try:
            try:
                self.enter()
                return self._module
            except BaseException:
                self.leave()
                raise
        except BaseException:
            self.leave()
            raise

    def __exit__(self, *error: object) -> None:
        try:
            self.leave()
        except BaseException:
            self.leave()
            raise
