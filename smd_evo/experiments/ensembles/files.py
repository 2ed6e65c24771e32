"""An ensemble's folder in a run directory, and weights that leave it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smd_evo.ensemble.combine import COMBINES
from smd_evo.ensemble.selection import METHODS
from smd_evo.errors import check_choice
from smd_evo.experiments.ensembles.export import exported
from smd_evo.experiments.ensembles.plot import plot_ensembles
from smd_evo.experiments.ensembles.run import EnsembleResult
from smd_evo.experiments.finetune.files import CHILDREN, read_config, read_shortlists
from smd_evo.experiments.folders.content import PLOT, RESULTS, TABLE, gains, write_plot, write_results, write_table
from smd_evo.experiments.folders.kinds import is_evolution
from smd_evo.experiments.folders.rescue import Files
from smd_evo.experiments.folders.take import new_file
from smd_evo.experiments.generations.evolved import evolved_weights
from smd_evo.experiments.settings import FORMATS
from smd_evo.experiments.weights import encode_weights

__all__ = ["ensemble_files", "ensemble_name", "export_weights"]

ENSEMBLE = "ensemble.safetensors"


def ensemble_name(method: str, size: int | None, combine: str) -> str:
    """The folder in the run directory for an ensemble that is chosen like this.

    Raises:
        InvalidValue: an unknown method or combination.
    """
    parts = ["ensemble", check_choice("method", method, METHODS), check_choice("combine", combine, COMBINES)]
    return "-".join(parts if size is None else [*parts, str(size)])


def ensemble_files(result: EnsembleResult, seconds: float) -> Files:
    """What writes everything of an ensemble: the members' file, numbers, the plot."""
    results = {
        "scores": [dataclasses.asdict(row) for row in result.scores],
        "sparse_ensemble_against": gains(result.against),
        "selections": {name: dataclasses.asdict(chosen) for name, chosen in result.selections.items()},
        "diversity": [dataclasses.asdict(row) for row in result.diversity],
        "validation_curves": [dataclasses.asdict(curve) for curve in result.curves],
    }
    return {
        ENSEMBLE: result.ensemble.save,
        TABLE: lambda file: write_table(file, [dataclasses.asdict(row) for row in result.scores]),
        RESULTS: lambda file: write_results(file, "ensemble", results, seconds),
        PLOT: lambda file: write_plot(file, lambda picture: plot_ensembles(result, picture)),
    }


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
    given: Mapping[str, Any] | None = None,
) -> str:
    """Write the weights of a run's child, soup or ensemble, see :func:`exported` and :func:`evolved_weights`.

    ``given``: where its parent and data are now.

    Returns:
        What was written.

    Raises:
        OutputExists: ``out`` is there already.
        InvalidValue: it cannot be written there, or there is no such child, format, method or combination.
    """
    check_choice("format", kind, FORMATS)
    check_choice("method", method, METHODS)
    check_choice("combine", combine, COMBINES)
    choice: dict[str, Any] = {"method": method, "size": size, "combine": combine}
    with new_file(out) as write:
        if is_evolution(Path(run)):
            state, how = evolved_weights(Path(run), child, trust, given, **choice)
        else:
            config, shortlists = read_config(run, trust, given), read_shortlists(run)
            state, how = exported(config, shortlists, Path(run) / CHILDREN, child, **choice)
        write(encode_weights(state, how, kind))
    return how
