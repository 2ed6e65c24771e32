"""Places for results: taken before anything is computed, filled when all of it is, and nothing is lost in between.

A run is made in a folder beside its place, ``.NAME.partial``, locked by its process, and renamed when it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from smd_evo.atomic import sync_folder, warn_once, write_whole
from smd_evo.experiments.folders.claim import claimed, dropped, folder_of, removed
from smd_evo.experiments.folders.lock import LOCK, Lock
from smd_evo.experiments.folders.rescue import RESULTS, Files, aside, fill, numbers_in, reason, rescued
from smd_evo.experiments.folders.survival import Interrupted, signals

__all__ = ["Place", "is_there"]


class Place:
    """A place for the results of a run that this process has taken.

    Attributes:
        target: where they are to be.
        folder: beside it, to be filled.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = folder_of(target)
        self._lock = claimed(self.folder, target)
        self._stays = self._left = False

    def write(self, files: Files) -> None:
        """Write results and give the folder its name; signals wait for that.

        Args:
            files: what writes each, by its name.

        Raises:
            OSError: they could not be written there; it says where they are.
            Interrupted: by a signal meanwhile; it says where they are.
        """
        self._stays = True  # whatever happens now, something has been computed
        try:
            with signals() as asked:
                self._write(files)
        except KeyboardInterrupt:  # the second signal
            where = self.folder if self.folder.exists() else self.target
            raise Interrupted(f"what was written until then is in {where}") from None
        if asked:
            raise Interrupted(f"the results are in {self.target}")

    def _write(self, files: Files) -> None:
        errors = fill(self.folder, files)
        if errors:  # what failed once need not fail again
            errors = fill(self.folder, {name: write for name, write in files.items() if name in errors})
        if errors:
            error = next(iter(errors.values()))
            raise OSError(f"{self.target}: {reason(error)}; {self._saved(files, list(errors))}") from error
        self.publish()
        with contextlib.suppress(OSError):
            (self.target / LOCK).unlink(missing_ok=True)

    def write_file(self, content: bytes) -> None:
        """Write a file instead of a folder, and over nothing.

        Raises:
            OSError: it could not be written there; it says where it is.
        """
        made = self.folder / "file"
        try:
            write_whole(made, content)
            try:
                os.link(made, self.target)
            except FileExistsError:
                raise
            except OSError:  # a file system without links
                if is_there(self.target):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
                made.replace(self.target)
            sync_folder(self.target.parent)
        except OSError as error:
            elsewhere, _ = rescued(self.target, {self.target.name: lambda file: write_whole(file, content)})
            what = f"; it is in {elsewhere}" if elsewhere else ""
            raise OSError(f"{self.target}: {reason(error)}{what}") from error

    def publish(self) -> None:
        """Give the folder its name; it stays locked.

        Raises:
            OSError: something is there by now, or no folder can be renamed there; it says where this one is.
        """
        try:
            self._rename()
        except OSError as error:
            self._stays = True
            raise OSError(f"{self.target}: {reason(error)}; all of it is whole in {self._beside()}") from error
        self._stays = True
        try:
            sync_folder(self.target.parent)
        except OSError as error:
            warn_once(
                "name",
                self.target,
                f"{self.target}: expected its name to reach the disk, got {reason(error)}; look after it",
            )

    def _rename(self) -> None:
        if os.name == "nt":  # where an open file's folder cannot be renamed, nor any over an empty one
            self._lock.release()
            with contextlib.suppress(OSError):
                self.target.rmdir()
        try:
            if self.target.is_dir() and self.target.samefile(os.curdir):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            self.folder.rename(self.target)
        except OSError:
            if not self.target.is_dir() or any(self.target.iterdir()):
                raise
            self._move_in()  # it is the current folder, a link to one, or where another disk begins

    def leave(self) -> None:
        """Give the place back, once; what was not written vanishes."""
        if self._left:  # it may be another's by now
            return
        if self._stays:
            self._lock.release()
        else:
            dropped(self.folder, self._lock)
        self._left = True

    def _saved(self, files: Files, missing: list[str]) -> str:
        """Where the results are that this folder does not take."""
        elsewhere, without = rescued(self.target, files)
        if not without:
            self._stays = False
            return f"the results are whole in {elsewhere}"
        numbers = numbers_in(self.folder, files)
        if elsewhere is not None and set(missing) <= set(without):  # nothing is there that is not here
            shutil.rmtree(elsewhere, ignore_errors=True)
            elsewhere = None
        places = [self._beside(), *([elsewhere] if elsewhere else [])]
        lost = [name for name in missing if name in without and not (numbers and name == RESULTS)]
        told = f", all but {', '.join(lost)}" if lost else ""
        return f"what could be written is in {' and '.join(map(str, places))}{told}"

    def _move_in(self) -> None:
        """Fill an empty folder that cannot be replaced, its results last."""
        lock = Lock(self.target)
        try:
            files = [file for file in self.folder.rglob("*") if file.is_file() and file.name != LOCK]
            for file in sorted(files, key=lambda file: file.name == RESULTS):
                place = self.target / file.relative_to(self.folder)
                place.parent.mkdir(exist_ok=True)
                write_whole(place, file.read_bytes())
        except BaseException:
            removed(self.target)
            lock.release()
            raise
        dropped(self.folder, self._lock)
        self._lock = lock

    def _beside(self) -> Path:
        """Under another name, if that can be had; where it is now."""
        self.folder = aside(self.folder, self.target.name)
        if not self.folder.name.startswith("."):
            with contextlib.suppress(OSError):
                (self.folder / LOCK).unlink()
        return self.folder


def is_there(place: Path) -> bool:
    """Whether there is anything, also a link to nothing; OSError where nothing can be."""
    try:
        place.lstat()
    except FileNotFoundError:
        return False
    return True
