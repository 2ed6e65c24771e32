"""What a long run does about other processes, signals and full disks."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from smd_evo.errors import InvalidValue
from smd_evo.experiments.folders.lock import Busy, Lock

__all__ = ["STOPPING", "Interrupted", "clear_files", "disk", "has_checkpoint", "locked", "signals"]

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What asks a process to end: a user, a scheduler, a terminal that is closed."""


class Interrupted(KeyboardInterrupt):
    """By a signal, and it says what is stored."""


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run's lock, which ends with this process whatever happens to it."""
    try:
        lock = Lock(run)
    except Busy:
        raise InvalidValue(
            f"run: expected one that no other process works on, got {run}; wait for that or stop it"
        ) from None
    except OSError as error:
        raise InvalidValue(f"run: expected a folder that can be written to, got {run} ({error.strerror})") from None
    try:
        clear_files(run)
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def disk(run: Path, stored: int) -> Iterator[None]:
    """Errors of the disk, with what they mean for the run."""
    try:
        yield
    except OSError as error:
        if has_checkpoint(run):
            kept = f"the run is kept as of generation {stored}; once it can be written to, smd-evo resume goes on"
        else:
            kept = "its checkpoints are gone, so nothing is kept"
        raise OSError(f"{run}: {error.strerror or error}; {kept}") from error


def clear_files(folder: Path) -> None:
    """Remove what a process left that was killed while it wrote; for whoever has the folder's lock."""
    for left in folder.glob(".*.partial"):
        if left.is_file():
            left.unlink()


def has_checkpoint(run: Path) -> bool:
    """Whether anything is there to go on with: somebody may have deleted a run that went on."""
    return any((run / "checkpoints").glob("*.json"))


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
    heard = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]  # nohup's stays ignored
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
