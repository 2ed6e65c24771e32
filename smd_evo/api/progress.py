"""How a function tells what it is doing: a bar on a terminal or in a notebook, or a call of a user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from smd_evo.bar import Bar
from smd_evo.errors import InvalidType, Stopped
from smd_evo.experiments.progress import Progress
from smd_evo.experiments.workload import Workload

__all__ = ["Calls", "State", "telling"]


@dataclass(frozen=True)
class State:
    """How far an experiment is.

    Attributes:
        phase: what it is doing.
        done: steps of it.
        total: of so many; None where nobody knows.
        text: how things stand, where there is something to say.
        workload: what all of it evaluates, once that is known.
    """

    phase: str
    done: int
    total: int | None
    text: str = ""
    workload: Workload | None = None


class Calls:
    """A progress that calls a function with each :class:`State`, and ends the experiment where it returns False.

    Args:
        function: the callback.
        gently: whether it ends with what it has by then, as runs over generations can.
    """

    def __init__(self, function: Callable[[State], Any], gently: bool = False) -> None:
        if not callable(function):
            raise InvalidType(f"callback: expected a function of the state, got {type(function).__name__}")
        self._function, self._gently, self.ended = function, gently, False
        self._state = State("begin", 0, None)

    def expect(self, workload: Workload) -> None:
        """See :class:`smd_evo.experiments.progress.Progress`."""
        self._tell(State("begin", 0, None, str(workload), workload))

    def start(self, description: str, total: int | None) -> None:
        """See :class:`smd_evo.experiments.progress.Progress`."""
        self._tell(State(description, 0, total))

    def advance(self) -> None:
        """See :class:`smd_evo.experiments.progress.Progress`."""
        self._tell(State(self._state.phase, self._state.done + 1, self._state.total, self._state.text))

    def reached(self, done: int, text: str) -> None:
        """See :class:`smd_evo.experiments.progress.Progress`."""
        self._tell(State(self._state.phase, done, self._state.total, text))

    def _tell(self, state: State) -> None:
        self._state = state
        if self.ended or self._function(state) is not False:
            return
        self.ended = True
        if not self._gently:
            raise Stopped(f"callback: it ended the experiment in phase {state.phase!r}")


@contextmanager
def telling(callback: Callable[[State], Any] | None, gently: bool = False) -> Iterator[Progress]:
    """A block with the progress that was asked for."""
    if callback is not None:
        yield Calls(callback, gently)
        return
    with Bar() as bar:
        yield bar
