"""The page of some runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smd_evo.atomic import write_whole
from smd_evo.errors import InvalidValue
from smd_evo.experiments.folders.take import usable
from smd_evo.report.page import render_page
from smd_evo.report.records import read_record

__all__ = ["REPORT", "write_report"]

REPORT = "report.html"


def write_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """One self-contained HTML page, over the one that may be there.

    Args:
        runs: run directories, at least one.
        out: the file; None: :data:`REPORT` in the first of them.

    Returns:
        Where it is.

    Raises:
        InvalidValue: one of them is no run directory, or ``out`` is in no folder.
    """
    records = [read_record(run) for run in runs]
    file = out or runs[0] / REPORT
    with usable(file):
        if not file.absolute().parent.is_dir() or file.is_dir():
            raise InvalidValue(
                f"out: expected a file in a folder that is there, got {file}; make {file.parent} first"
            )
    write_whole(file, render_page(records).encode())
    return file
