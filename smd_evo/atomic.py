"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import warnings
from pathlib import Path

__all__ = ["in_text", "partial_name", "short_name", "sync", "sync_folder", "warn_once", "write_whole"]

_LONGEST = 255
"""Bytes of a file's name, on almost all file systems."""
_calls = itertools.count()
_NOT_OFFERED = (
    *(errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF),
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTTY),
)
"""What file systems answer that cannot sync a folder, or this file; anything else is an error of the disk."""


def partial_name(target: Path) -> Path:
    """Where a file is made, beside its place, before it is renamed: another one at each call, in any process."""
    return short_name(target, f".{target.name}.{os.getpid()}-{next(_calls)}.partial")


def short_name(target: Path, name: str) -> Path:
    """A place of that name beside another, whose name is cut where no file system takes it."""
    if len(os.fsencode(name)) > _LONGEST:
        name = f".{hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()}.partial"
    return target.parent / name


def in_text(path: Path | str) -> bool:
    """Whether a name is UTF-8, which is all that some libraries take; an open file is also ``/dev/fd/NUMBER``."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def write_whole(target: Path, content: bytes) -> None:
    """Write a file under another name and rename it; after a failure the old file, if any, is still there.

    Afterwards it is on the disk, not only in the system's memory.

    Raises:
        OSError: it cannot be; the error names the file.
    """
    partial = partial_name(target)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            sync(file.fileno(), target.parent)
        partial.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        if error.filename is None:  # of a write, a sync
            error.filename = str(target)
        raise
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            partial.unlink(missing_ok=True)


def sync(descriptor: int, folder: Path) -> None:
    """Have an open file of a folder, or that, written to the disk; where a file system offers none, that is told."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
        _not_offered(folder, error)


def sync_folder(folder: Path) -> None:
    """Have a renaming written to the disk; where a folder cannot be opened (Windows), the system does so in time."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError as error:  # it may be written to and not be read
        _not_offered(folder, error)
        return
    try:
        sync(descriptor, folder)
    finally:
        os.close(descriptor)


def _not_offered(folder: Path, error: OSError) -> None:
    warn_once(
        "sync",
        folder,
        f"{folder}: expected a file system that syncs, got {error.strerror}; what is written there may be lost "
        "with a power cut",
    )


_told: set[tuple[str, int]] = set()


def warn_once(kind: str, place: Path, text: str) -> None:
    """Warn of something of this kind once in a process and file system, however often it is met."""
    with contextlib.suppress(OSError):
        if (key := (kind, place.stat().st_dev)) in _told:
            return
        _told.add(key)
    warnings.warn(text, RuntimeWarning, stacklevel=3)
