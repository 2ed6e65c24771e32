"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["partial_name", "write_whole"]


def partial_name(target: Path) -> Path:
    """Where a file or folder is made, beside its place, before it is renamed."""
    return target.with_name(f".{target.name}.{os.getpid()}.partial")


def write_whole(target: Path, content: bytes) -> None:
    """Write a file under another name and rename it; after a failure the old file, if any, is still there."""
    partial = partial_name(target)
    try:
        partial.write_bytes(content)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
