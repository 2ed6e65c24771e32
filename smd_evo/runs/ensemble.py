"""An ensemble's folder in a run directory, and weights that leave it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from smd_evo.atomic import write_whole
from smd_evo.ensemble.combine import COMBINES
from smd_evo.ensemble.selection import METHODS
from smd_evo.errors import InvalidValue, OutputExists, check_choice
from smd_evo.experiments.ensembles import EnsembleResult
from smd_evo.experiments.export import FORMATS, encode_weights, exported
from smd_evo.report.ensemble_plot import plot_ensembles
from smd_evo.runs.finetune import CHILDREN, read_config, read_shortlists
from smd_evo.runs.folder import PLOT, RESULTS, gains, write_results

__all__ = ["ensemble_name", "export_weights", "write_ensemble"]

ENSEMBLE = "ensemble.safetensors"


def ensemble_name(method: str, size: int | None, combine: str) -> str:
    """The folder in the run directory for an ensemble that is chosen like this.

    Raises:
        InvalidValue: an unknown method or combination.
    """
    parts = ["ensemble", check_choice("method", method, METHODS), check_choice("combine", combine, COMBINES)]
    return "-".join(parts if size is None else [*parts, str(size)])


def write_ensemble(folder: Path, result: EnsembleResult, seconds: float) -> None:
    """Everything of an ensemble: the members' file, numbers, the plot."""
    results = {
        "scores": [dataclasses.asdict(row) for row in result.scores],
        "sparse_ensemble_against": gains(result.against),
        "selections": {name: dataclasses.asdict(chosen) for name, chosen in result.selections.items()},
        "diversity": [dataclasses.asdict(row) for row in result.diversity],
        "validation_curves": [dataclasses.asdict(curve) for curve in result.curves],
    }
    write_results(folder / RESULTS, "ensemble", results, seconds)
    result.ensemble.save(folder / ENSEMBLE)
    plot_ensembles(result, folder / PLOT)


def export_weights(
    run: Path | str,
    out: Path,
    child: str,
    kind: str,
    *,
    method: str,
    size: int | None,
    combine: str,
    trust: bool = False,
) -> str:
    """Write the weights of a run's child, soup or ensemble; see :func:`smd_evo.experiments.export.exported`.

    Returns:
        What was written.

    Raises:
        OutputExists: ``out`` is there already.
        InvalidValue: it cannot be written there, or there is no such child, format, method or combination.
    """
    check_choice("format", kind, FORMATS)
    check_choice("method", method, METHODS)
    check_choice("combine", combine, COMBINES)
    if out.exists():
        raise OutputExists(f"out: expected a new file, got {out}; choose another name or move that away")
    if not out.absolute().parent.is_dir():
        raise InvalidValue(f"out: expected a file in a folder that is there, got {out}; make {out.parent} first")
    config, shortlists = read_config(run, trust), read_shortlists(run)
    choice: dict[str, Any] = {"method": method, "size": size, "combine": combine}
    state, how = exported(config, shortlists, Path(run) / CHILDREN, child, **choice)
    write_whole(out, encode_weights(state, how, kind))
    return how
