"""Run directories: made under another name, renamed when they are whole."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from smd_evo import __version__
from smd_evo.atomic import partial_name
from smd_evo.ensemble.files import save_children
from smd_evo.errors import InvalidValue, OutputExists
from smd_evo.experiments.config import FinetuneConfig, load_settings
from smd_evo.experiments.results import FinetuneResult
from smd_evo.report.plot import plot_finetune

__all__ = ["CHILDREN", "CONFIG", "new_run", "read_config", "write_finetune"]

CONFIG, RESULTS, CHILDREN, PLOT = "config.yaml", "results.json", "children.safetensors", "plot.png"


@contextmanager
def new_run(out: Path | str) -> Iterator[Path]:
    """A folder to fill, which becomes ``out`` if all goes well and vanishes if not.

    Raises:
        OutputExists: ``out`` is a file or a folder that is not empty.
        InvalidValue: the folder cannot be made there.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputExists(f"out: expected a new or empty folder, got {target}; choose another or move that away")
    made = [folder for folder in target.absolute().parents if not folder.exists()]
    partial = partial_name(target)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise InvalidValue(f"out: expected a place that can be written to, got {target} ({error.strerror})") from None
    try:
        yield partial
        partial.replace(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:  # innermost first; one that somebody else uses by now is not empty and stays
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
        raise


def write_finetune(folder: Path, result: FinetuneResult, seconds: float) -> None:
    """Everything of a fine-tuning run: settings, numbers, the chosen sparse children, the plot."""
    (folder / CONFIG).write_text(yaml.safe_dump(result.config.as_dict(), sort_keys=False), encoding="utf-8")
    results = {
        "rows": [dataclasses.asdict(row) for row in result.rows],
        "sparse_ensemble_against": {
            name: {"accuracy_gain": dataclasses.asdict(difference), "p_value": p_value}
            for name, (difference, p_value) in result.against_dense.items()
        },
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
        "fingerprint": result.space.fingerprint(),
        "evaluations": result.evaluations,
        "splits": {name: indices.tolist() for name, indices in result.data.indices.items()},
        "environment": {
            "smd_evo": __version__,
            "python": platform.python_version(),
            "torch": version("torch"),
            "platform": platform.platform(),
            "seconds": round(seconds, 1),
        },
    }
    (folder / RESULTS).write_text(json.dumps(_finite(results), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    group = result.arms[0].group
    save_children(folder / CHILDREN, result.space, group.recipes, group.result, result.config.fitness)
    plot_finetune(result, folder / PLOT)


def read_config(run: Path | str) -> FinetuneConfig:
    """The settings of a finished run.

    Raises:
        InvalidValue: ``run`` is no run directory.
    """
    file = Path(run) / CONFIG
    if not file.is_file():
        raise InvalidValue(f"run: expected a folder that finetune wrote, got {run}, which holds no {CONFIG}")
    return FinetuneConfig.read(load_settings(file))


def _finite(value: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
