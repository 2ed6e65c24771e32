"""Command lines that repeat a run, rebuilt from its settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import PurePath
from typing import Any

from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.experiments.record import RunRecord
from smd_evo.experiments.settings import ExperimentConfig, is_object
from smd_evo.experiments.window.settings import WindowConfig

__all__ = ["repeat"]

_CONFIGS: dict[str, type[ExperimentConfig]] = {
    "finetune": FinetuneConfig,
    "evolution": EvolutionConfig,
    "window": WindowConfig,
    "compare": CompareConfig,
}
_COMMANDS = {"evolution": "finetune"}
"""Of kinds that are not called like their command."""
_ALWAYS = {"device": "auto", "generations": None}
"""Written out whatever their defaults: the stored device is what "auto" found; generations choose the experiment."""
_ENSEMBLE = {"method": "greedy", "combine": "probabilities"}


def repeat(record: RunRecord) -> list[str]:
    """The commands that repeat a run and its ensembles in a new folder.

    Args:
        record: a run or a protocol; only settings that are not the defaults are written out. None of a program's own
            objects.

    Example:
        >>> repeat(RunRecord("run", "finetune", {"seed": 3, "density": [0.1, 0.01], "device": "cpu"}, {}))
        ['smd-evo finetune --seed 3 --device cpu --density 0.1,0.01 --out run-again']
    """
    if is_object(record.config.get("model")):
        return []  # which no command can name
    out = f"{record.name}-again"
    if record.kind == "protocol":
        return [_line("finetune", _several(record), "--out", out)]
    ensembles = [_line("ensemble", out, _ensemble(part)) for part in record.parts]
    command = _COMMANDS.get(record.kind, record.kind)
    return [_line(command, _options(record.kind, record.config), "--out", out), *ensembles]


def _line(command: str, *words: str | list[str]) -> str:
    flat = [word for part in words for word in ([part] if isinstance(part, str) else part)]
    return shlex.join(["smd-evo", command, *flat])


def _options(kind: str, config: Mapping[str, Any]) -> list[str]:
    defaults = {setting.name: _ALWAYS.get(setting.name, setting.default) for setting in fields(_CONFIGS[kind])}
    ordered = [name for name in defaults if name in config] + [name for name in config if name not in defaults]
    return [
        word
        for name in ordered
        if not _same(config[name], defaults.get(name))
        for word in _option(name, config[name])
    ]


def _same(value: Any, default: Any) -> bool:
    return bool(value == (list(default) if isinstance(default, tuple) else default))


def _option(name: str, value: Any) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option if value else f"--no-{name.replace('_', '-')}"]
    return [option, ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)]


def _several(protocol: RunRecord) -> list[str]:
    """Of all runs: the protocol and its settings, or their networks, their checkpoints' folder, what they share."""
    command = protocol.results["command"] or {"protocol": None, "seeds": None}
    configs = [dict(part.config) for part in protocol.parts]
    seeds = [] if command["seeds"] is None else ["--seeds", ",".join(map(str, command["seeds"]))]
    if command["protocol"] is not None:
        named = [] if command["models"] is None else ["--models", ",".join(map(str, command["models"]))]
        return ["--protocol", str(command["protocol"]), *named, *seeds, *_given(configs, command["settings"])]
    for config in configs if seeds else []:
        del config["seed"]
    models = list(dict.fromkeys(str(config.pop("model")).removeprefix("timm:") for config in configs))
    files = {config.pop("checkpoint", None) for config in configs}
    folders = {str(PurePath(str(file)).parent) for file in files if file is not None}
    checkpoint = [word for folder in sorted(folders) for word in ("--checkpoint", folder)]
    return ["--models", ",".join(models), *seeds, *checkpoint, *(_options("finetune", configs[0]) if configs else [])]


def _given(configs: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[str]:
    """All that was given, also what is the default, as it wins over what the protocol says."""
    device = {name: value for config in configs[:1] for name, value in config.items() if name == "device"}
    defaults = {setting.name: setting.default for setting in fields(FinetuneConfig)}
    return [
        word
        for name, value in {**device, **settings}.items()
        if value is not None and not (isinstance(value, bool) and value == defaults.get(name))
        for word in _option(name, value)
    ]


def _ensemble(ensemble: RunRecord) -> list[str]:
    selections = list(ensemble.results["selections"].values())
    chosen = selections[0]
    options = {name: str(chosen[name]) for name in _ENSEMBLE if chosen[name] != _ENSEMBLE[name]}
    if chosen["method"] != "all" and all(_is_full(each) for each in selections):
        options["size"] = str(len(chosen["curve"]))
    return [word for name, value in options.items() for word in _option(name, value)]


def _is_full(selection: Mapping[str, Any]) -> bool:
    """Whether all choices count, as they do where their number was asked for; else the best on the way does."""
    size = len(selection["curve"])
    whole = all(abs(weight * size - round(weight * size)) < 1e-6 for weight in selection["weights"])
    return whole and bool(selection["fitness"] == selection["curve"][-1])
