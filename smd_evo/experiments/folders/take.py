"""Taking places for results, so that whoever comes second is told so at once and not when all is computed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from smd_evo.errors import InvalidValue, OutputExists
from smd_evo.experiments.folders.claim import clear_dead, folder_of, removed, taken
from smd_evo.experiments.folders.lock import LOCK, Busy, Lock
from smd_evo.experiments.folders.place import Place, is_there
from smd_evo.experiments.folders.rescue import reason
from smd_evo.experiments.folders.survival import clear_files
from smd_evo.interrupts import undone

__all__ = ["check_new", "chosen", "new_file", "new_run", "usable", "working_in"]

_MISTAKES = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL),
)
"""Of whoever named a place; other errors are the disk's."""


@contextlib.contextmanager
def new_run(out: Path | str) -> Iterator[Place]:
    """A place for a new run, from now on nobody else's; it vanishes if nothing is written.

    Args:
        out: the folder that it is to be, new or empty.

    Raises:
        OutputExists: ``out`` is a file or a folder that is not empty.
        InvalidValue: the folder cannot be made there, or another process is making it.
    """
    target = Path(out) if Path(out).name not in ("", "..") else Path(out).resolve()
    with _taking_back(folder_of(target).absolute()):  # an interrupt may come before the place is there to leave it
        with usable(target):
            _check_new(target)
            place = Place(target)
        try:
            try:
                with usable(target):
                    _check_new(target)  # nobody else makes it from now on, but somebody may have until now
                clear_dead(target.parent)
                with undone(place.leave):
                    yield place
            finally:
                place.leave()
        finally:  # an interrupt may come while it is left
            place.leave()


@contextlib.contextmanager
def new_file(out: Path) -> Iterator[Callable[[bytes], None]]:
    """A function that writes a new file, whose place nobody else gets until then.

    Raises:
        OutputExists: it is there.
        InvalidValue: it cannot be made there, or another process is making it.
        OSError: it could not be written; it says where the content is.
    """
    with usable(out):
        if not out.absolute().parent.is_dir():
            raise InvalidValue(f"out: expected a file in a folder that is there, got {out}; make {out.parent} first")
        if is_there(out):
            raise OutputExists(f"out: expected a new file, got {out}; choose another name or move that away")
        place = Place(out)
    try:
        yield place.write_file
    finally:
        place.leave()


@contextlib.contextmanager
def chosen(out: str | None, kind: str) -> Iterator[Path]:
    """The folder that a user has named, or a new one of a name that nobody else gets; it vanishes if it stays empty.

    Args:
        out: the user's.
        kind: of experiment, for the name.
    """
    if out is not None:
        yield Path(out)
        return
    name = time.strftime(f"{kind}-%Y%m%d-%H%M%S")
    with _taking_back(Path("runs").absolute()):
        for number in itertools.count(1):
            target = Path("runs") / (name if number == 1 else f"{name}-{number}")
            with usable(target):
                target.parent.mkdir(exist_ok=True)
                try:
                    target.mkdir()
                except FileExistsError:
                    continue
            break

        def give_back() -> None:
            with contextlib.suppress(OSError):
                target.rmdir()

        try:
            with undone(give_back):
                yield target
        finally:
            give_back()


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Have a folder, made if it is not there, to oneself; if it stays empty it is as before.

    Raises:
        InvalidValue: another process works in it, or it cannot be made.
    """
    with _taking_back(folder.absolute()):
        with usable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = Lock(folder)
            except Busy:
                raise InvalidValue(taken(folder)) from None
        try:
            clear_files(folder)
            yield
        finally:
            if folder.is_dir() and all(entry.name == LOCK for entry in folder.iterdir()):
                removed(folder)
            lock.release()


def check_new(target: Path) -> None:
    """Raise OutputExists if there is something, other than an empty folder; InvalidValue if nothing can be there."""
    with usable(target):
        _check_new(target)


def _check_new(target: Path) -> None:
    """Raise OutputExists if there is something, other than an empty folder."""
    if is_there(target) and (not target.is_dir() or any(target.iterdir())):
        raise OutputExists(f"out: expected a new or empty folder, got {target}; choose another or move that away")


@contextlib.contextmanager
def usable(place: Path) -> Iterator[None]:
    """What the system refuses is a mistake in naming this place, or else an error of the disk.

    Raises:
        InvalidValue: of these.
        OSError: of those, with the place.
    """
    try:
        yield
    except OutputExists:
        raise
    except OSError as error:
        if error.errno in _MISTAKES:
            raise InvalidValue(
                f"out: expected a place that can be written to, got {place} ({error.strerror})"
            ) from None
        raise OSError(f"{place}: {reason(error)}; nothing has been computed yet") from error


@contextlib.contextmanager
def _taking_back(folder: Path) -> Iterator[None]:
    """A block that may make this folder and those above it; those of them that stay empty are gone afterwards."""
    made = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]

    def take_back() -> None:
        for each in made:  # innermost first; one that is in use is not empty, and so are those above
            with contextlib.suppress(OSError):
                each.rmdir()

    try:
        with undone(take_back):
            yield
    finally:
        take_back()
