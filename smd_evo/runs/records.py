"""Run directories read back for a report."""

from __future__ import annotations

from pathlib import Path

from smd_evo.errors import InvalidValue
from smd_evo.experiments.config import load_settings
from smd_evo.report.record import RunRecord
from smd_evo.runs.folder import CONFIG, PLOT, RESULTS, read_results
from smd_evo.runs.protocol import SUMMARY

__all__ = ["read_record"]

_PNG = b"\x89PNG\r\n\x1a\n"


def read_record(folder: Path | str) -> RunRecord:
    """A run with the ensembles in its directory, or a protocol with its runs.

    Args:
        folder: what ``smd-evo finetune``, ``smd-evo window`` or ``smd-evo compare`` wrote.

    Raises:
        InvalidValue: it holds no run, or something in it is unreadable.
    """
    run = Path(folder)
    return _protocol(run) if (run / SUMMARY).is_file() else _run(run, "finetune", "window", "compare")


def _run(run: Path, *kinds: str) -> RunRecord:
    results = read_results(run / RESULTS, *kinds)
    parts = _ensembles(run) if results["kind"] == "finetune" else ()
    return RunRecord(_name(run), results["kind"], load_settings(run / CONFIG), results, _plot(run), parts)


def _protocol(folder: Path) -> RunRecord:
    summary = read_results(folder / SUMMARY, "protocol")
    names = summary.get("runs")
    if not isinstance(names, list) or not all(map(_is_name, names)):
        raise InvalidValue(f"run: expected names of folders as runs of {folder / SUMMARY}, got {names!r:.100}")
    parts = tuple(_run(folder / name, "finetune") for name in names)
    return RunRecord(_name(folder), "protocol", {}, summary, _plot(folder), parts)


def _is_name(name: object) -> bool:
    """Whether it is that of something in a folder, not a way out of it."""
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name


def _ensembles(run: Path) -> tuple[RunRecord, ...]:
    found = []
    for file in sorted(run.glob(f"[!.]*/{RESULTS}")):  # a name with a dot in front is of something half-written
        results = read_results(file, "ensemble", "finetune", "window")
        if results["kind"] == "ensemble":
            found.append(RunRecord(file.parent.name, "ensemble", {}, results, _plot(file.parent)))
    return tuple(found)


def _plot(folder: Path) -> bytes | None:
    file = folder / PLOT
    if not file.is_file():
        return None
    content = file.read_bytes()
    if not content.startswith(_PNG) or content[12:16] != b"IHDR" or len(content) < 24:
        raise InvalidValue(f"run: expected a PNG file as {file}, got another one; run it again, or delete that")
    return content


def _name(folder: Path) -> str:
    return folder.resolve().name
