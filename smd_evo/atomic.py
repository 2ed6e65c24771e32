"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["partial_name", "write_whole"]


def partial_name(target: Path) -> Path:
    """Where a file or folder is made, beside its place, before it is renamed."""
    return target.with_name(f".{target.name}.{os.getpid()}.partial")


def write_whole(target: Path, content: bytes) -> None:
    """Write a file under another name and rename it; after a failure the old file, if any, is still there.

    Afterwards it is on the disk, not only in the system's memory.
    """
    partial = partial_name(target)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        _sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have a renaming written to the disk; where a folder cannot be opened (Windows), the system does so in time."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
