"""Timeout: somebody else's function ends in time, or is left."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["TimedOut", "in_time"]

_Result = TypeVar("_Result")


class TimedOut(Exception):
    """A function took too long."""


class _Expired(BaseException):
    """Raised inside the function; nothing that catches every Exception keeps it."""


def in_time(function: Callable[[], _Result], seconds: float | None) -> _Result:
    """What a function returns, if it does so in time.

    In the main thread of a process on Unix an alarm ends the function wherever it is in Python's own code, so that
    nothing of it is left. In other threads, on Windows, and where the process has an alarm of its own, it runs in a
    thread, which nobody can end: it is left to itself, and does not keep the process from ending.

    Args:
        function: to be called.
        seconds: that it has; None for any number.

    Raises:
        TimedOut: it did not return.

    Example:
        >>> in_time(lambda: 3, 60)
        3
    """
    if seconds is None:
        return function()
    main = threading.current_thread() is threading.main_thread()
    if main and hasattr(signal, "setitimer") and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0):
        return _by_alarm(function, seconds)
    return _by_thread(function, seconds)


def _by_alarm(function: Callable[[], _Result], seconds: float) -> _Result:
    armed, expired = True, False

    def expire(*_: object) -> None:
        nonlocal expired
        if armed:
            expired = True
            raise _Expired

    before = signal.signal(signal.SIGALRM, expire)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        found = function()
    except BaseException:
        if not expired:
            raise
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if expired:  # also where the function has swallowed it
        raise TimedOut
    return found


def _by_thread(function: Callable[[], _Result], seconds: float) -> _Result:
    found: list[Any] = []
    failure: list[BaseException] = []

    def act() -> None:
        try:
            found.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=act, name="smd_evo timeout", daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not found:
        raise TimedOut
    result: _Result = found[0]
    return result
