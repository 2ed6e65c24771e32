"""What is wrong with a command that shows without torch: looked at first, because importing that takes seconds.

Whatever is refused here would be refused later, too.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smd_evo.errors import InvalidValue
from smd_evo.experiments.compare.methods.registry import METHODS, REFERENCE, TRIALS, check_trials
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.folders.content import CONFIG, RESULTS, SUMMARY, read_results
from smd_evo.experiments.folders.kinds import check_finished, check_single, is_evolution
from smd_evo.experiments.generations.identity import changed_config, read_identity
from smd_evo.experiments.generations.metrics import METRICS
from smd_evo.experiments.settings import ExperimentConfig, load_settings
from smd_evo.experiments.trust import check_trust, going_on
from smd_evo.zoo.names import MODELS, SOURCES, TEST_FOLDERS, check_place, unknown
from smd_evo.zoo.wanted import check_pictures

__all__ = ["check_apart", "check_exported", "check_reported", "check_resumed", "check_run", "check_settings"]

_FOLDERS = "imagenet", "imagefolder"
"""Data that are folders of images, one for each class."""


def check_settings(config: ExperimentConfig, out: str | None) -> None:
    """Raise InvalidValue for names that nobody knows, files that are not there, results among the images of classes.

    Args:
        config: the settings.
        out: the folder for results; None: one in ``runs``.
    """
    if config.model not in MODELS and ":" not in config.model:
        # The name of a network without its library's prefix is the likeliest mistake.
        known = MODELS if difflib.get_close_matches(config.model, MODELS, 1, 0.8) else [f"timm:{config.model}"]
        raise unknown("model", config.model, f"one of {', '.join(MODELS)} or module.path:factory", known)
    if config.model.startswith("hf:"):
        check_place(config.model)
    also = getattr(config, "also", None)
    kind, colon, place = config.data.partition(":")
    if config.data not in SOURCES and not colon:
        raise unknown("data", config.data, f"one of {', '.join(SOURCES)} or module.path:factory", SOURCES)
    if kind in _FOLDERS and place and not Path(place).expanduser().is_dir():
        raise InvalidValue(f"data: expected a folder, got {place}, which is not there")
    if kind == "digits":
        check_pictures(config.data, config.outputs, also, config.preprocessing)
    check_apart(config, out or "runs")
    if config.checkpoint is not None and not Path(config.checkpoint).expanduser().exists():
        raise InvalidValue(f"checkpoint: expected a file of weights, got {config.checkpoint}, which is not there")
    if isinstance(config, CompareConfig):
        for name in (REFERENCE, *config.methods):
            if name in METHODS:
                check_trials(name, TRIALS, config.trials)
            elif ":" not in name:
                raise unknown("methods", name, f"one of {', '.join(METHODS)} or module.path:factory", [*METHODS])


def check_apart(config: ExperimentConfig, out: Path | str) -> None:
    """Raise InvalidValue if results would lie where each folder is a class of images.

    Args:
        config: the settings.
        out: the folder for results.
    """
    for name in ("data", "also"):
        _check_one(name, getattr(config, name, None) or "", out)


def _check_one(name: str, data: str, out: Path | str) -> None:
    kind, _, place = data.partition(":")
    if kind not in _FOLDERS or not place:
        return
    folder = Path(place).expanduser().resolve()
    parts = [folder / part for part in ("train", *TEST_FOLDERS) if (folder / part).is_dir()]
    if any(Path(out).resolve().is_relative_to(images) for images in parts or [folder]):
        raise InvalidValue(
            f"out: expected a folder outside of {data}, where each is a class of images, got {out}; "
            f"choose another than that of {name}"
        )


def check_run(run: Path, trust: bool, given: Mapping[str, Any]) -> None:
    """Raise InvalidValue if there are no results of a single generation, or they are not trusted and have to be."""
    check_single(run)
    read_results(run / RESULTS, "finetune")
    check_trust(run, load_settings(run / CONFIG), given, trust)


def check_exported(run: Path, trust: bool, given: Mapping[str, Any]) -> None:
    """The same, or of a finished run over generations."""
    if is_evolution(run):
        check_finished(run)
    else:
        check_run(run, trust, given)


def check_reported(run: Path) -> None:
    """Raise InvalidValue if there are no results of any kind."""
    if (run / METRICS).is_file() and not (run / RESULTS).is_file():
        mend = going_on(run, load_settings(run / CONFIG))
        raise InvalidValue(f"run: expected a finished one, got {run}; {mend} goes on with it")
    if not (run / SUMMARY).is_file():
        read_results(run / RESULTS, "finetune", "window", "compare", "evolution")


def check_resumed(run: Path, given: Mapping[str, Any], trust: bool) -> None:
    """Raise InvalidValue or InvalidType if there is no run over generations, or its settings may not change so."""
    read_identity(run)
    changed_config(run, given, trust)
