"""Ctrl-C at any moment: an interrupt waits for the end of an import, and comes again where Python would lose it.

In the middle of an import KeyboardInterrupt leaves half a module behind, and anything may follow: a library takes it
for "not installed" and goes on without, NumPy's import falls into a RecursionError. So whoever interrupts then is
heard as soon as the import is over, or, if that takes long or they ask twice, the process ends at once: nothing is
being written while modules are loaded.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

__all__ = ["INTERRUPTED", "Interrupts", "undone"]

INTERRUPTED = 130
"""Exit code of a process that Ctrl-C ended, as shells have it."""

_IMPORTING = "<frozen importlib._bootstrap>"
_LOOK, _PATIENCE = 0.02, 3.0
"""Seconds between looks whether an import is over, and until it has taken too long."""


_undo: list[Callable[[], object]] = []


@contextlib.contextmanager
def undone(undo: Callable[[], object]) -> Iterator[None]:
    """A block that this function undoes if an interrupt has to end the process inside of it, without unwinding."""
    _undo.append(undo)
    try:
        yield
    finally:
        _undo.remove(undo)


class Interrupts:
    """What SIGINT, SIGTERM and SIGHUP do from :meth:`begin` on: KeyboardInterrupt, at a moment that bears it.

    Signals that were ignored before, as in a shell's background, still are.

    Attributes:
        asked: whether anybody has interrupted.
    """

    def __init__(self) -> None:
        self.asked = False
        self._own = False
        self._since: float | None = None
        self._ended = False
        self._bottom: FrameType | None = None
        self._hook: Callable[[Any], object] = sys.unraisablehook

    def begin(self) -> None:
        """Listen; what the caller is importing by then is not waited for."""
        if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
            return
        self._bottom = sys._getframe(1)
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # there is no terminal to be closed on Windows
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                signal.signal(number, self._come)
        sys.unraisablehook = self._lost

    def end(self) -> None:
        """The command is done: from here on an interrupt ends the process without a word."""
        self._ended = True
        if sys.unraisablehook == self._lost:
            sys.unraisablehook = self._hook

    def leave(self) -> NoReturn:
        """End the process at once, with one line, and leave terminal and folders as they were."""
        for undo in reversed(_undo):
            with contextlib.suppress(Exception):
                undo()
        with contextlib.suppress(Exception):
            shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar has hidden the cursor
            print(
                f"{shown}smd-evo: interrupted while modules were loading; nothing was being written", file=sys.stderr
            )
            sys.stderr.flush()
        os._exit(INTERRUPTED)

    def _come(self, number: int, frame: FrameType | None) -> None:
        own, self._own, self.asked = self._own, False, True
        if self._ended:
            os._exit(INTERRUPTED)
        if not self._importing(frame):
            self._since = None
            raise KeyboardInterrupt
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif not own or now - self._since > _PATIENCE:
            self.leave()
        self._come_again()

    def _importing(self, frame: FrameType | None) -> bool:
        while frame is not None and frame is not self._bottom:
            if frame.f_code.co_filename == _IMPORTING:
                return True
            frame = frame.f_back
        return False

    def _come_again(self) -> None:
        # Not threading.Thread: whoever was interrupted may hold one of its locks.
        _thread.start_new_thread(self._remind, ())

    def _remind(self) -> None:
        time.sleep(_LOOK)
        self._own = True
        if hasattr(signal, "pthread_kill"):  # which also ends what the main thread is waiting in
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:
            _thread.interrupt_main(signal.SIGINT)

    def _lost(self, found: Any) -> None:
        """Python ignores exceptions in ``__del__`` and the like; an interrupt is not to be lost there."""
        if issubclass(found.exc_type, KeyboardInterrupt):
            self._come_again()
        else:
            self._hook(found)
