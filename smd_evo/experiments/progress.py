"""How experiments tell what they are doing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from smd_evo.experiments.workload import Workload, duration

__all__ = ["Logged", "Progress", "Silent"]

_log = logging.getLogger(__name__)

_FIRST, _EVERY, _SHARE, _SELDOM = 5.0, 30.0, 0.01, 600.0
"""Seconds before the first line; between lines: at least, as a share of all that have gone by, and at most."""


class Progress(Protocol):
    """Told what is going on.

    Attributes:
        ended: whether whoever looks on has seen enough: a run over generations ends with the one that is done.
    """

    ended: bool

    def expect(self, workload: Workload) -> None:
        """So much is about to be evaluated; what this raises ends the experiment before it is."""

    def start(self, description: str, total: int | None) -> None:
        """A new phase begins, of ``total`` steps, or of nobody knows how many."""

    def advance(self) -> None:
        """One more step is done."""

    def reached(self, done: int, text: str) -> None:
        """So many steps of this phase are done, and how things stand."""


class Silent:
    """A progress that shows nothing."""

    ended = False

    def expect(self, workload: Workload) -> None:
        """Nothing."""

    def start(self, description: str, total: int | None) -> None:
        """Nothing."""

    def advance(self) -> None:
        """Nothing."""

    def reached(self, done: int, text: str) -> None:
        """Nothing."""


class Logged:
    """A progress in lines, by :mod:`logging` at level INFO: for what runs where nobody looks, and for programs.

    What is to come is told at once, the first phases only after five seconds, and then how far things are: every 30
    seconds, in long runs at growing intervals of up to ten minutes.

    Args:
        clock: the time in seconds.
    """

    ended = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin = self._last = self._phase = clock()
        self._told, self._description, self._text = False, "", ""
        self._total: int | None = None
        self._done = 0

    def expect(self, workload: Workload) -> None:
        """See :class:`Progress`."""
        _log.info("%s", workload)

    def start(self, description: str, total: int | None) -> None:
        """See :class:`Progress`."""
        self._phase = self._clock()
        self._description, self._text, self._total, self._done = description, "", total, 0
        if self._phase - self._last >= _FIRST:
            self._tell(description)

    def advance(self) -> None:
        """See :class:`Progress`."""
        self._done += 1
        self._perhaps()

    def reached(self, done: int, text: str) -> None:
        """See :class:`Progress`."""
        self._done, self._text = done, "; ".join(text.splitlines())
        self._perhaps()

    def _perhaps(self) -> None:
        now = self._clock()
        pause = min(max(_EVERY, _SHARE * (now - self._begin)), _SELDOM) if self._told else _FIRST
        if now - self._last >= pause:
            self._tell(self._line(now - self._phase))

    def _tell(self, line: str) -> None:
        _log.info("%s", line)
        self._last, self._told = self._clock(), True

    def _line(self, seconds: float) -> str:
        of = "" if self._total is None else f" of {self._total:,}"
        line = f"{self._description}: {self._done:,}{of}"
        if self._total is not None and self._done > 0 and seconds > 0:
            line += f", {duration(seconds / self._done * max(0, self._total - self._done))} left"
        return f"{line}; {self._text}" if self._text else line
