"""Timeout: somebody else's function ends in time, or is left."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ["TimedOut", "in_time"]

_Result = TypeVar("_Result")

_LONGEST = 1e8
"""Seconds that clocks can be set to everywhere: three years."""

_AGAIN = 0.1
"""Seconds after which a function that has caught the alarm is told again: it may catch one for each sample."""


class TimedOut(Exception):
    """A function took too long."""


class _Expired(BaseException):
    """Raised inside the function; nothing that catches every Exception keeps it."""


def in_time(function: Callable[[], _Result], seconds: float | None) -> _Result:
    """What a function returns, if it does so in time.

    In the main thread of a process on Unix an alarm ends the function wherever it is in Python's own code, so that
    nothing of it is left; only an endless loop that catches everything goes on. A function that sets the process's
    alarm itself takes this one away, and is told once it returns. In other threads, on Windows, and
    where the process has an alarm of its own, it runs in a thread, which nobody can end: it is left to itself, and
    does not keep the process from ending.

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
    seconds = min(seconds, _LONGEST)
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

    before, end = signal.signal(signal.SIGALRM, expire), time.monotonic() + seconds
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
            found = function()
        finally:
            armed = False
    except BaseException:
        if not expired:
            raise
    finally:
        armed = False  # also where the alarm came once more, just before the other one
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if expired or time.monotonic() > end:  # also where the function has swallowed it, or set another alarm
        raise TimedOut
    return found


def _by_thread(function: Callable[[], _Result], seconds: float) -> _Result:
    found: list[Any] = []
    failure: list[BaseException] = []
    inference = torch.is_inference_mode_enabled()  # each thread has its own mode

    def act() -> None:
        try:
            with torch.inference_mode(inference):
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
