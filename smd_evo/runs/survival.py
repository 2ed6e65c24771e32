"""What a long run does about other processes, signals and full disks."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from smd_evo.errors import InvalidValue

__all__ = ["disk", "locked", "signals"]

_LOCK = "lock"


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run's lock, which ends with this process whatever happens to it."""
    lock = FileLock(run / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InvalidValue(
            f"run: expected one that no other process works on, got {run}; wait for that or stop it"
        ) from None
    except OSError as error:
        raise InvalidValue(f"run: expected a folder that can be written to, got {run} ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def disk(run: Path, stored: int) -> Iterator[None]:
    """Errors of the disk, with what they mean for the run."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{run}: {error.strerror or error}; the run is kept as of generation {stored}; once it can be written "
            "to, smd-evo resume goes on"
        ) from error


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """The signals to stop that have come; the second one interrupts at once."""
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield asked
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
