"""Keyword arguments made of an experiment's settings: each is one field, with its default and its check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from smd_evo.core.supported import check_there, check_uncopied
from smd_evo.early import check_apart
from smd_evo.errors import InvalidType, InvalidValue, check_choice, check_flag, shown
from smd_evo.evaluation.fitness import Fitness, ModuleFitness, loss_mend
from smd_evo.evaluation.rewards import RewardFitness
from smd_evo.experiments.parent import NAMED, Given, Source, own_fitness
from smd_evo.experiments.settings import OBJECT, ExperimentConfig
from smd_evo.mends import network_mend
from smd_evo.zoo.data import Data
from smd_evo.zoo.own import data_of, no_data, split

__all__ = ["has_settings", "taken"]

_Config = TypeVar("_Config", bound=ExperimentConfig)
_Function = TypeVar("_Function", bound=Callable[..., Any])
_OURS = (
    *("model", "checkpoint", "checkpoint_key", "data", "data_dir", "download", "fitness_samples"),
    *("validation_samples", "test_samples", "memory", "skip_unreadable", "outputs", "preprocessing", "also"),
)
"""Settings that say where the parent and the data come from: here they are there."""


def has_settings(kind: type[ExperimentConfig]) -> Callable[[_Function], _Function]:
    """A function whose ``settings`` are the fields of an experiment's: its signature and its help tell them.

    Args:
        kind: the settings.
    """
    own = [setting for setting in fields(kind) if setting.name not in (*_OURS, "fitness")]

    def decorated(function: _Function) -> _Function:
        there = signature(function)
        kept = [each for each in there.parameters.values() if each.kind is not Parameter.VAR_KEYWORD]
        named = {each.name for each in kept}
        added = [
            Parameter(setting.name, Parameter.KEYWORD_ONLY, default=setting.default, annotation=setting.type)
            for setting in own
            if setting.name not in named
        ]
        vars(function)["__signature__"] = there.replace(parameters=[*kept, *added])
        lines = [f"        {setting.name}: {setting.metadata['help'] or 'see smd-evo finetune'}" for setting in own]
        about = "\n".join(lines)
        function.__doc__ = (function.__doc__ or "").replace("        settings: those of the command.", about, 1)
        return function

    return decorated


def taken(
    kind: type[_Config],
    network: Any,
    data: Any,
    fitness: Any,
    settings: Mapping[str, Any],
    sense: str | None = None,
    copy: bool = True,
    out: Path | str | None = None,
) -> tuple[_Config, Source]:
    """The settings of an experiment on objects, and where it gets these.

    Args:
        kind: of settings.
        network: the parent; or a name as ``--model`` takes it, then ``data`` is one, too.
        data: :class:`smd_evo.Splits`; None for a fitness of the network.
        fitness: a name, a fitness, or a function of the network.
        settings: as keyword arguments.
        sense: of such a function.
        copy: whether the experiment has a copy of the network.
        out: the folder for results; None: there is none.

    Raises:
        InvalidType, InvalidValue: one of them is something else.
    """
    if isinstance(network, str):
        if not isinstance(data, str):
            got = type(data).__name__
            raise InvalidType(f"data: expected a name such as digits with a network's name, got {got}")
        named = kind.read({**settings, "model": network, "data": data, **_named(fitness)})
        if out is not None:
            check_apart(named, out)
        return named, NAMED
    for name in settings:
        if name in _OURS:
            raise InvalidValue(f"{name}: expected none with a network and data that are there; leave it out")
        check_choice("setting", name, [setting.name for setting in fields(kind) if setting.name not in _OURS])
    if not isinstance(network, nn.Module):
        mend = network_mend(network) or "; the order is network, data"
        raise InvalidType(f"network: expected a torch.nn.Module, got {shown(network)}{mend}")
    check_there(network)
    own = _fitness(fitness, sense)
    if sense is not None and not callable(fitness):
        raise InvalidValue(f"sense: expected none with fitness {shown(fitness)}, which says it; leave it out")
    samples = _samples(data, own)
    given = {"model": f"{OBJECT}:{type(network).__name__}", "data": f"{OBJECT}:samples"}
    label = fitness if own is None else f"{OBJECT}:{own.name}"
    device = settings.get("device") or _device(network)
    config = kind.read({**settings, **given, "device": device, **({} if label is None else {"fitness": label})})
    if not check_flag("copy", copy):
        check_uncopied(network, config.device, settings.get("actors", 1) != 1)
    return config, Given(network, samples, own, copy)


def _named(fitness: Any) -> dict[str, str]:
    if fitness is not None and not isinstance(fitness, str):
        raise InvalidType(
            f"fitness: expected a name with a network's name, got {type(fitness).__name__}; give the network itself"
        )
    return {} if fitness is None else {"fitness": fitness}


def _fitness(fitness: Any, sense: str | None) -> Fitness | None:
    """A fitness that is no name."""
    if fitness is None or isinstance(fitness, str):
        return None
    if isinstance(fitness, Fitness):
        return fitness
    if callable(fitness) and not loss_mend(fitness):
        return own_fitness(fitness, check_choice("sense", sense or "max", ("min", "max")))  # type: ignore[arg-type]
    mend = loss_mend(fitness) or "BatchFitness(name, 'min', score) scores outputs against targets"
    raise InvalidType(
        f"fitness: expected a name, a BatchFitness or a function of the network, got {shown(fitness)}; {mend}"
    )


def _samples(data: Any, fitness: Fitness | None) -> Data:
    if isinstance(fitness, RewardFitness):
        return data_of(split(fitness.samples) if data is None else data)
    if isinstance(fitness, ModuleFitness):
        if data is not None:
            raise InvalidValue(
                f"data: expected none with fitness {fitness.name!r}, a function of the network alone, got "
                f"{type(data).__name__}; a BatchFitness scores outputs for data"
            )
        return no_data()
    if data is None:
        raise InvalidValue("data: expected smd_evo.Splits, got None; only a function of the network needs none")
    return data_of(data)


def _device(network: nn.Module) -> str:
    """Where the network is."""
    for parameter in network.parameters():
        return str(parameter.device)
    return "cpu"
