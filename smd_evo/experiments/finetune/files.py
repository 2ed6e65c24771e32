"""The run directory of a fine-tuning experiment."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from smd_evo.ensemble.files import save_children
from smd_evo.errors import InvalidValue
from smd_evo.experiments.finetune.plot import plot_finetune
from smd_evo.experiments.finetune.results import FinetuneResult
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.folders.content import (
    CONFIG,
    PLOT,
    RESULTS,
    TABLE,
    described,
    differing,
    gains,
    read_results,
    write_config,
    write_plot,
    write_results,
    write_table,
)
from smd_evo.experiments.folders.kinds import check_single
from smd_evo.experiments.folders.rescue import Files
from smd_evo.experiments.settings import load_settings
from smd_evo.experiments.shortlists import Shortlist, load_shortlists, save_shortlists
from smd_evo.experiments.trust import check_trust

__all__ = [
    "CHILDREN",
    "SHORTLISTS",
    "finetune_files",
    "is_finished",
    "read_config",
    "read_shortlists",
    "stored_config",
]

CHILDREN, SHORTLISTS = "children.safetensors", "shortlists.safetensors"


def finetune_files(result: FinetuneResult, seconds: float) -> Files:
    """What writes everything of a fine-tuning run: settings, the chosen sparse children, numbers, the plot."""
    fingerprint = result.space.fingerprint()
    results = {
        "rows": [dataclasses.asdict(row) for row in result.rows],
        "right": result.right,
        "also": [dataclasses.asdict(row) for row in result.also],
        "sparse_ensemble_against": gains(result.against),
        "arms": {
            arm.name: {
                "chosen": arm.choice,
                "groups": [
                    {
                        "subspace": group.subspace.spec,
                        "density": group.density,
                        "sigma": group.sigma,
                        "validation": group.ensemble.fitness,
                        "ensemble_size": len(group.ensemble.members),
                        "best_fitness": float(group.result.fitness[group.result.ranking()[0]]),
                        "nonfinite": group.result.nonfinite,
                    }
                    for group in arm.groups
                ],
            }
            for arm in result.arms
        },
        "parent_fitness": result.parent_fitness,
        "sense": result.sense,
        "parameters": result.space.size,
        "fingerprint": fingerprint,
        "evaluations": result.evaluations,
        "free": result.free,
        "left_out": result.left_out,
        "data": described(result.data),
        "splits": {name: indices.tolist() for name, indices in result.data.indices.items()},
    }
    group = result.arms[0].group
    shortlists = [arm.group.shortlist(arm.name, fingerprint) for arm in result.arms]
    return {
        CONFIG: lambda file: write_config(file.parent, result.config),
        CHILDREN: lambda file: save_children(file, result.space, group.recipes, group.result, result.config.fitness),
        SHORTLISTS: lambda file: save_shortlists(file, shortlists),
        TABLE: lambda file: write_table(file, [dataclasses.asdict(row) for row in result.rows]),
        RESULTS: lambda file: write_results(file, "finetune", results, seconds),
        PLOT: lambda file: write_plot(file, lambda picture: plot_finetune(result, picture)),
    }


def read_config(run: Path | str, trust: bool = False, given: Mapping[str, Any] | None = None) -> FinetuneConfig:
    """The settings of a finished run, to load its parent with; where its device is not there, with another.

    Args:
        run: the run directory.
        trust: whether functions that it names may be imported.
        given: settings of :data:`smd_evo.experiments.settings.ELSEWHERE` that are others now.

    Raises:
        InvalidValue: ``run`` is no run directory, or names functions and is not trusted.
    """
    config, given = stored_config(run), dict(given or {})
    check_trust(run, config.as_dict(), given, trust)
    return dataclasses.replace(config, also=None, **given)  # which nobody reads again


def stored_config(run: Path | str) -> FinetuneConfig:
    """The same to read, not to load anything with.

    Raises:
        InvalidValue: ``run`` is no run directory, or one over generations.
    """
    check_single(Path(run))
    read_results(Path(run) / RESULTS, "finetune")
    settings = load_settings(Path(run) / CONFIG)
    try:
        return FinetuneConfig.read(settings)
    except InvalidValue:  # the run may come from a machine with other devices
        return FinetuneConfig.read(settings | {"device": "auto"})


def read_shortlists(run: Path | str) -> list[Shortlist]:
    """The candidates that a finished run has stored.

    Raises:
        ChildrenFileError: the file is absent or damaged.
    """
    return load_shortlists(Path(run) / SHORTLISTS)


def is_finished(run: Path, config: FinetuneConfig, but: Collection[str] = ()) -> bool:
    """Whether a run of these settings has been written there.

    Args:
        run: the run directory.
        config: the settings.
        but: those that may be others.

    Raises:
        InvalidValue: a run of other settings has been.
    """
    if not (run / RESULTS).is_file():
        return False
    wanted = {name: value for name, value in config.as_dict().items() if name not in but}
    if differ := differing(stored_config(run).as_dict(), wanted):
        raise InvalidValue(f"out: expected runs of the same settings, got {run} with {differ}; choose another")
    return True
