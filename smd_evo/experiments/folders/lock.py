"""Locks that end with their process, whatever happens to it, and stay with their file when its folder is renamed.

Libraries know a lock by its path; here the folder that holds one gets another name meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

from smd_evo.atomic import warn_once

__all__ = ["LOCK", "Busy", "Lock", "is_own"]

LOCK = "lock"
"""Name of the file, in the folder that is locked."""
_MARK = b"smd_evo"
"""What is in it, so that no other program's is taken for one."""
_HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK)

if sys.platform == "win32":
    import msvcrt

    def _try(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _try(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Busy(Exception):
    """Another process has the lock."""


class Lock:
    """The lock of a folder, held from now on.

    Args:
        folder: is there.

    Attributes:
        certain: whether the file system knows locks; where not, that is told once and nobody is kept out.

    Raises:
        Busy: another process has it.
        OSError: its file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.certain = True
        self._descriptor: int | None = self._open(folder)

    def release(self) -> None:
        """Let others have it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open(self, folder: Path) -> int:
        while True:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            try:
                self._lock(descriptor, folder)
                if not os.fstat(descriptor).st_size:
                    os.write(descriptor, _MARK)
                if _is(descriptor, folder / LOCK):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its last holder has deleted or moved it before this process had it

    def _lock(self, descriptor: int, folder: Path) -> None:
        try:
            _try(descriptor)
        except OSError as error:
            if error.errno in _HELD:
                raise Busy from None
            self.certain = False
            warn_once(
                "lock",
                folder,
                f"{folder.parent}: expected a file system that locks files, got {error.strerror}; see to it that no "
                "other process works in the same folder",
            )


def _is(descriptor: int, file: Path) -> bool:
    """Whether a file is still the one that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def is_own(folder: Path, *, marked: bool = False) -> bool:
    """Whether this is a folder of this user's and no link to one; ``marked``: which a lock of this package is in."""
    try:
        about = folder.lstat()
        own = stat.S_ISDIR(about.st_mode) and (os.name != "posix" or about.st_uid == os.geteuid())
        return own and (not marked or (folder / LOCK).read_bytes() == _MARK)
    except OSError:
        return False
