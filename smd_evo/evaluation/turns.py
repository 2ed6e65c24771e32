"""Turns: several children on one batch after the other, each as if it were alone."""

from __future__ import annotations

from smd_evo.evaluation.buffers import BufferChange
from smd_evo.evaluation.guard import Evaluating

__all__ = ["Turns"]


class Turns:
    """What a child finds when it is its turn to be evaluated: what it would find if nobody else were.

    The first turn finds the same random numbers as everybody's, so that a network that draws some does not depend
    on the order, and the network's own buffers and modes. Where children take several turns, each finds numbers and
    buffers as it left them. A turn that did not end may begin again and finds the same.

    Args:
        guard: of the network, entered.
        several: whether they do.

    Attributes:
        several: may be set before the first turn.
    """

    def __init__(self, guard: Evaluating, several: bool) -> None:
        self._guard = guard
        self.several = several
        self._first = b""
        self._left: dict[int, tuple[bytes, list[BufferChange]]] = {}

    def begin(self, child: int) -> None:
        """The turn of a child, by its number, begins."""
        self.fresh()
        if not self.several:
            return
        self._first = self._first or self._guard.random.now()
        if child in self._left:
            states, changes = self._left[child]
            self._guard.random.set(states)
            self._guard.buffers.change(changes)

    def has_changed_buffers(self, child: int) -> bool:
        """Whether the network's buffers are not those of its parent when it is the turn of a child."""
        return child in self._left and bool(self._left[child][1])

    def fresh(self) -> None:
        """Modes, buffers and random numbers as everybody first finds them."""
        self._guard.modes.keep()
        self._guard.buffers.restore()
        self._guard.random.reseed()

    def end(self, child: int) -> None:
        """It ends."""
        if self.several:
            left = self._guard.random.now(), self._guard.buffers.changes()
            self._left.pop(child, None)
            if left != (self._first, []):  # few networks leave anything
                self._left[child] = left
