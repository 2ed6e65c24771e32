"""The run directory of a fine-tuning experiment."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from smd_evo.ensemble.files import save_children
from smd_evo.errors import InvalidValue
from smd_evo.experiments.config import FinetuneConfig, load_settings
from smd_evo.experiments.results import FinetuneResult
from smd_evo.experiments.shortlists import Shortlist, load_shortlists, save_shortlists
from smd_evo.experiments.trust import check_trust
from smd_evo.report.plot import plot_finetune
from smd_evo.runs.folder import (
    CONFIG,
    PLOT,
    RESULTS,
    described,
    differing,
    gains,
    read_results,
    write_config,
    write_results,
)

__all__ = [
    "CHILDREN",
    "SHORTLISTS",
    "is_finished",
    "read_config",
    "read_shortlists",
    "stored_config",
    "write_finetune",
]

CHILDREN, SHORTLISTS = "children.safetensors", "shortlists.safetensors"


def write_finetune(folder: Path, result: FinetuneResult, seconds: float) -> None:
    """Everything of a fine-tuning run: settings, numbers, the chosen sparse children, the plot."""
    write_config(folder, result.config)
    fingerprint = result.space.fingerprint()
    results = {
        "rows": [dataclasses.asdict(row) for row in result.rows],
        "sparse_ensemble_against": gains(result.against_dense),
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
        "parameters": result.space.size,
        "fingerprint": fingerprint,
        "evaluations": result.evaluations,
        "data": described(result.data),
        "splits": {name: indices.tolist() for name, indices in result.data.indices.items()},
    }
    write_results(folder / RESULTS, "finetune", results, seconds)
    group = result.arms[0].group
    save_children(folder / CHILDREN, result.space, group.recipes, group.result, result.config.fitness)
    shortlists = [arm.group.shortlist(arm.name, fingerprint) for arm in result.arms]
    save_shortlists(folder / SHORTLISTS, shortlists)
    plot_finetune(result, folder / PLOT)


def read_config(run: Path | str, trust: bool = False) -> FinetuneConfig:
    """The settings of a finished run, to load its parent with; where its device is not there, with another.

    Args:
        run: the run directory.
        trust: whether functions that it names may be imported.

    Raises:
        InvalidValue: ``run`` is no run directory, or names functions and is not trusted.
    """
    config = stored_config(run)
    check_trust(run, config.as_dict(), {}, trust)
    return config


def stored_config(run: Path | str) -> FinetuneConfig:
    """The same to read, not to load anything with.

    Raises:
        InvalidValue: ``run`` is no run directory.
    """
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


def is_finished(run: Path, config: FinetuneConfig) -> bool:
    """Whether a run of these settings has been written there.

    Raises:
        InvalidValue: a run of other settings has been.
    """
    if not (run / RESULTS).is_file():
        return False
    if differ := differing(stored_config(run).as_dict(), config.as_dict()):
        raise InvalidValue(f"out: expected runs of the same settings, got {run} with {differ}; choose another")
    return True
