"""Folders in which runs are made before they get their name: taken from others, and from processes that are dead."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from pathlib import Path

from smd_evo.atomic import short_name
from smd_evo.errors import InvalidValue
from smd_evo.experiments.folders.lock import LOCK, Busy, Lock, is_own
from smd_evo.experiments.folders.rescue import aside

__all__ = ["claimed", "clear_dead", "dropped", "folder_of", "removed", "taken"]

_BEGINNING = {LOCK, "config.yaml", "run.json", "checkpoints"}
"""What such a folder holds before anything is found out."""
_TRIES = 100


def folder_of(target: Path) -> Path:
    """Where a run is made before it is renamed; the same for all processes, so that one can have it."""
    return short_name(target, f".{target.name}.partial")


def taken(target: Path) -> str:
    """What is told of a place that another process has."""
    return f"out: expected a folder that no other process works on, got {target}; choose another, or wait for that"


def claimed(folder: Path, target: Path) -> Lock:
    """The lock of a folder that is new, or that a process left which is dead; it is empty then.

    Raises:
        InvalidValue: another process has it, or it is not this user's.
        OSError: it cannot be made.
    """
    for _ in range(_TRIES):  # others may clear it in the same moment
        new = _made(folder)
        if not new and not is_own(folder):
            raise InvalidValue(f"out: expected {folder} to be this user's own, got another's; choose another place")
        try:
            lock = Lock(folder)
        except FileNotFoundError:
            continue
        except Busy:
            raise InvalidValue(taken(target)) from None
        except BaseException:  # Ctrl-C, too
            if new:
                removed(folder)
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise
        if new:
            return lock
        if not lock.certain:
            lock.release()
            raise InvalidValue(f"{taken(target)}; if there is none, delete {folder}")
        if not _holds_results(folder):
            removed(folder, but=LOCK)
            return lock
        where = _told_aside(folder, target.name)
        lock.release()
        if where == folder:
            raise InvalidValue(f"out: expected no results in {folder}, got those of a run that was killed; move them")
    raise InvalidValue(taken(target))


def clear_dead(place: Path) -> None:
    """Remove what killed processes left beside each other; what some of them had found out stays, and is told."""
    with contextlib.suppress(OSError):
        for folder in place.glob(".*.partial"):
            with contextlib.suppress(OSError, Busy):
                if not is_own(folder, marked=True):
                    continue
                lock = Lock(folder)
                if lock.certain and _holds_results(folder):
                    _told_aside(folder, folder.name.removeprefix(".").removesuffix(".partial"))
                    lock.release()
                elif lock.certain:
                    dropped(folder, lock)
                else:
                    lock.release()


def dropped(folder: Path, lock: Lock) -> None:
    """Delete a folder that is locked, as far as that can be; without an error."""
    removed(folder)
    lock.release()  # first: some network drives keep a file as long as it is open
    with contextlib.suppress(OSError):
        folder.rmdir()


def removed(folder: Path, but: str | None = None) -> None:
    """Delete what is in a folder, its lock last, as far as that can be; without an error."""
    with contextlib.suppress(OSError):
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == LOCK):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != but:
                with contextlib.suppress(OSError):
                    entry.unlink()


def _made(folder: Path) -> bool:
    """Whether it was not there before."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def _holds_results(folder: Path) -> bool:
    return any(entry.name not in _BEGINNING and not entry.name.endswith(".partial") for entry in folder.iterdir())


def _told_aside(folder: Path, name: str) -> Path:
    """Give results that a dead process left a name that can be seen."""
    where = aside(folder, name)
    warnings.warn(
        f"{folder}: got results that a process was writing when it ended; they are in {where}, look at them",
        RuntimeWarning,
        stacklevel=2,
    )
    return where
