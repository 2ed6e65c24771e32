"""Results that cannot be written where they belong: they get to some other place, and it is told which."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["PLOT", "RESULTS", "Files", "aside", "fill", "numbers_in", "reason", "rescued"]

RESULTS = "results.json"
"""Comes when all else is there: a folder that holds it is whole."""
PLOT = "plot.png"
"""Comes behind it, as it may be missing."""
_NUMBERS = "numbers-of-an-incomplete-run.json"
"""The same content, where something else could not be written."""

Files = Mapping[str, Callable[[Path], object]]
"""What writes each file of a run, by the file's name."""


def fill(folder: Path, files: Files) -> dict[str, Exception]:
    """Write all files that can be written, the numbers and the plot last.

    Args:
        folder: to write to.
        files: what writes them, in any order.

    Returns:
        The error of each that could not be; where there is one, the numbers are not written either.
    """
    errors: dict[str, Exception] = {}
    for name in sorted(files, key=lambda name: (name == PLOT, name == RESULTS)):
        if name == RESULTS and errors:
            errors[name] = next(iter(errors.values()))
            continue
        try:
            files[name](folder / name)
        except Exception as error:  # of the disk, mostly; whatever it is, the next file may be luckier
            errors[name] = error
    return errors


def rescued(target: Path, files: Files) -> tuple[Path | None, list[str]]:
    """Write results to the system's folder for temporary files.

    Args:
        target: where they do not get.
        files: what writes them.

    Returns:
        The folder, None if not a single file got there; and what is not in it.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{_begin(target.name)}-"))
    except OSError:
        return None, list(files)
    missing = fill(folder, files)
    if RESULTS in missing:
        numbers_in(folder, files)
    if not any(folder.iterdir()):
        with contextlib.suppress(OSError):
            folder.rmdir()
        return None, list(files)
    return folder, list(missing)


def numbers_in(folder: Path, files: Files) -> bool:
    """Write the numbers at least, under a name that nothing takes for a whole run's; whether that succeeded."""
    with contextlib.suppress(Exception):
        files[RESULTS](folder / _NUMBERS)
        return True
    return False


def aside(folder: Path, name: str) -> Path:
    """Give a folder a name that nothing has, if that can be had.

    Args:
        folder: to rename.
        name: what it was to be called.

    Returns:
        Where it is now.
    """
    for number in itertools.count(1):
        place = folder.with_name(f"{_begin(name)}-kept" + (f"-{number}" if number > 1 else ""))
        try:
            place.mkdir()
        except FileExistsError:
            continue
        except OSError:
            return folder
        try:
            folder.rename(place)  # over an empty folder that nobody else has made
        except OSError:
            with contextlib.suppress(OSError):
                place.rmdir()
            return folder
        return place
    raise AssertionError


def reason(error: Exception) -> str:
    """An error in few words."""
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


def _begin(name: str) -> str:
    """As much of a name as leaves room for more."""
    return name.encode(errors="surrogateescape")[:200].decode(errors="ignore")
