"""Where a comparison is, or may begin: looked at before torch is imported."""

from __future__ import annotations

import os
from pathlib import Path

from smd_evo.errors import OutputExists
from smd_evo.experiments.folders.content import CONFIG
from smd_evo.experiments.folders.lock import LOCK
from smd_evo.experiments.folders.take import usable

__all__ = ["check_comparison"]


def check_comparison(folder: Path) -> None:
    """Raise OutputExists if there is something else than a comparison."""
    with usable(folder):
        if (folder / CONFIG).is_file() or not os.path.lexists(folder):
            return
        if not folder.is_dir() or any(map(_is_found, folder.iterdir())):
            raise OutputExists(
                f"out: expected a new or empty folder, or a comparison to go on with, got {folder}; choose another"
            )


def _is_found(entry: Path) -> bool:
    """Whether this is more than what a process leaves that is killed at its first step."""
    return entry.name != LOCK and not entry.name.endswith(".partial")
