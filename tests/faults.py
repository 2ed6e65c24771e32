"""A file system that fails: at the n-th call that changes something under a folder, once or from then on."""

import contextlib
import errno
import os
import warnings
from pathlib import Path

import pytest

ERRORS = {
    name: getattr(errno, name)
    for name in (
        *("ENOSPC", "EIO", "EACCES", "EROFS", "EDQUOT", "EINVAL"),
        *("ENOLCK", "ENOSYS", "ENOTSUP", "EMFILE", "EPERM", "EBADF"),
    )
}
_METHODS = ("mkdir", "rename", "replace", "unlink", "rmdir")
_CALLS = ("open", "fsync", "link", "write")


class Faults:
    """Counts such calls, and lets some fail.

    Args:
        folder: what is elsewhere, a temporary folder, say, works.
        at: the number of the first call that fails, from 1; None: none does.
        error: its number.
        once: whether those after it work again.
        names: calls that may fail.
    """

    def __init__(self, folder, at=None, error=errno.ENOSPC, *, once=True, names=(*_METHODS, *_CALLS, "content")):
        self.folder, self.at, self.error, self.once, self.names = str(folder), at, error, once, names
        self.count = 0

    def pass_one(self, name, path):
        if name not in self.names or not _path(path).startswith(self.folder):
            return
        self.count += 1
        if self.at is not None and (self.count == self.at or (self.count > self.at and not self.once)):
            raise OSError(self.error, os.strerror(self.error), *([] if name in ("fsync", "write") else [_path(path)]))

    def _watched(self, name, function):
        def watched(first, *arguments, **options):
            self.pass_one(name, first)
            return function(first, *arguments, **options)

        return watched

    @contextlib.contextmanager
    def __call__(self):
        """A block in which they happen; what is warned of meanwhile is no error, and returned."""
        open_file = Path.open

        def opened(path, mode="r", *arguments, **options):
            if "r" not in mode:
                self.pass_one("open", path)
            file = open_file(path, mode, *arguments, **options)
            return _Watched(file, path, self) if mode in ("wb", "ab") else file

        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for name in _METHODS:
                patch.setattr(Path, name, self._watched(name, getattr(Path, name)))
            for name in _CALLS:
                patch.setattr(os, name, self._watched(name, getattr(os, name)))
            patch.setattr(Path, "open", opened)
            yield told


class _Watched:
    """A file of which half may have been written when it fails."""

    def __init__(self, file, path, faults):
        self._file, self._path, self._faults = file, path, faults

    def write(self, content):
        middle = len(content) // 2
        self._file.write(content[:middle])
        self._file.flush()
        self._faults.pass_one("content", self._path)
        return middle + self._file.write(content[middle:])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)


def _path(given):
    """Of a file, or of one that is open."""
    if isinstance(given, int):
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/self/fd/{given}")
        return ""
    return os.path.abspath(given)
