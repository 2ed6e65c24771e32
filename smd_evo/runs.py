"""Run directories: made under another name, renamed when they are whole."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from smd_evo import __version__
from smd_evo.atomic import partial_name, write_whole
from smd_evo.ensemble.combine import COMBINES
from smd_evo.ensemble.files import save_children
from smd_evo.ensemble.selection import METHODS
from smd_evo.errors import InvalidValue, OutputExists, check_choice, check_count
from smd_evo.experiments.config import FinetuneConfig, load_settings
from smd_evo.experiments.ensembles import EnsembleResult
from smd_evo.experiments.export import FORMATS, encode_weights, exported
from smd_evo.experiments.results import FinetuneResult
from smd_evo.experiments.shortlists import Shortlist, load_shortlists, save_shortlists
from smd_evo.report.ensemble_plot import plot_ensembles
from smd_evo.report.plot import plot_finetune

__all__ = [
    "CHILDREN",
    "CONFIG",
    "ensemble_name",
    "export_weights",
    "new_run",
    "read_config",
    "read_shortlists",
    "read_size",
    "write_ensemble",
    "write_finetune",
]

CONFIG, RESULTS, PLOT = "config.yaml", "results.json", "plot.png"
CHILDREN, SHORTLISTS, ENSEMBLE = "children.safetensors", "shortlists.safetensors", "ensemble.safetensors"


@contextlib.contextmanager
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
        "environment": _environment(seconds),
    }
    _write_json(folder / RESULTS, results)
    group = result.arms[0].group
    save_children(folder / CHILDREN, result.space, group.recipes, group.result, result.config.fitness)
    fingerprint = result.space.fingerprint()
    shortlists = [arm.group.shortlist(arm.name, fingerprint) for arm in result.arms]
    save_shortlists(folder / SHORTLISTS, shortlists)
    plot_finetune(result, folder / PLOT)


def read_size(text: str | None) -> int | None:
    """The size of an ensemble as a user writes it.

    Raises:
        InvalidValue, InvalidType: it is no whole number of at least 1.
    """
    if text is None:
        return None
    number: object = text
    with contextlib.suppress(ValueError):
        number = int(text)
    return check_count("size", number, mend="leave it out for the best number on validation")


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
        "sparse_ensemble_against": {
            name: {"accuracy_gain": dataclasses.asdict(gain), "p_value": p_value}
            for name, (gain, p_value) in result.against.items()
        },
        "selections": {name: dataclasses.asdict(chosen) for name, chosen in result.selections.items()},
        "diversity": [dataclasses.asdict(row) for row in result.diversity],
        "validation_curves": [dataclasses.asdict(curve) for curve in result.curves],
        "environment": _environment(seconds),
    }
    _write_json(folder / RESULTS, results)
    result.ensemble.save(folder / ENSEMBLE)
    plot_ensembles(result, folder / PLOT)


def _environment(seconds: float) -> dict[str, Any]:
    return {
        "smd_evo": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "platform": platform.platform(),
        "seconds": round(seconds, 1),
    }


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(_finite(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_config(run: Path | str) -> FinetuneConfig:
    """The settings of a finished run; where its device is not there, with another.

    Raises:
        InvalidValue: ``run`` is no run directory.
    """
    file = Path(run) / CONFIG
    if not file.is_file():
        raise InvalidValue(f"run: expected a folder that finetune wrote, got {run}, which holds no {CONFIG}")
    settings = load_settings(file)
    try:
        return FinetuneConfig.read(settings)
    except InvalidValue:  # the run may come from a machine with other devices
        return FinetuneConfig.read(settings | {"device": "auto"})


def read_shortlists(run: Path | str) -> list[Shortlist]:
    """The candidates that a finished run has stored.

    Raises:
        InvalidValue, ChildrenFileError: ``run`` is no run directory, or the file is damaged.
    """
    read_config(run)
    return load_shortlists(Path(run) / SHORTLISTS)


def export_weights(
    run: Path | str, out: Path, child: str, kind: str, *, method: str, size: int | None, combine: str
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
    config, shortlists = read_config(run), read_shortlists(run)
    choice: dict[str, Any] = {"method": method, "size": size, "combine": combine}
    state, how = exported(config, shortlists, Path(run) / CHILDREN, child, **choice)
    write_whole(out, encode_weights(state, how, kind))
    return how


def _finite(value: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
