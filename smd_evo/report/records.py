"""Run directories read back for a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smd_evo.documents import read_file
from smd_evo.early import check_reported
from smd_evo.errors import InvalidValue
from smd_evo.experiments.folders.content import CONFIG, PLOT, RESULTS, read_results
from smd_evo.experiments.generations.metrics import METRICS, read_metrics
from smd_evo.experiments.protocol.files import SUMMARY
from smd_evo.experiments.record import RunRecord
from smd_evo.experiments.settings import load_settings

__all__ = ["read_record"]

_LARGEST = 2**26
_PNG = b"\x89PNG\r\n\x1a\n"


def read_record(folder: Path | str) -> RunRecord:
    """A run with the ensembles in its directory, or with its generations, or a protocol with its runs.

    Args:
        folder: what ``smd-evo finetune``, ``smd-evo window`` or ``smd-evo compare`` wrote.

    Raises:
        InvalidValue: it holds no run, or something in it is unreadable.
    """
    run = Path(folder)
    check_reported(run)
    return _protocol(run) if (run / SUMMARY).is_file() else _run(run, "finetune", "window", "compare", "evolution")


def _run(run: Path, *kinds: str) -> RunRecord:
    results = read_results(run / RESULTS, *kinds)
    parts = _ensembles(run) if results["kind"] == "finetune" else ()
    config = load_settings(run / CONFIG)
    metrics = _metrics(run, results) if results["kind"] == "evolution" else ()
    return RunRecord(_name(run), results["kind"], config, results, _plot(run), parts, metrics)


def _metrics(run: Path, results: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    generations = results.get("generations")
    if type(generations) is not int or generations < 1 or not (run / METRICS).is_file():
        raise InvalidValue(
            f"run: expected a number of generations and {METRICS} in {run}, got {generations!r:.100} and "
            f"{'one' if (run / METRICS).is_file() else 'none'}; take them from a backup"
        )
    return tuple(read_metrics(run, generations))


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
    try:
        content = read_file(file, _LARGEST)
    except ValueError as error:
        raise InvalidValue(f"run: expected a plot as {file}, got {error}; run it again, or delete that") from None
    if not content.startswith(_PNG) or content[12:16] != b"IHDR" or len(content) < 24:
        raise InvalidValue(f"run: expected a PNG file as {file}, got another one; run it again, or delete that")
    return content


def _name(folder: Path) -> str:
    return folder.resolve().name
