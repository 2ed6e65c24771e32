"""Where an experiment gets its parent, its data and its fitness: by the names in its settings, or as objects."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol, get_args

import torch
from torch import nn

from smd_evo.core.blocks import within
from smd_evo.core.copying import whole_copy, without_graphs
from smd_evo.core.exclusive import Exclusive
from smd_evo.core.twins import sharing
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.fitness import (
    NAMES,
    Fitness,
    ModuleFitness,
    OutputFitness,
    Sense,
    get_fitness,
)
from smd_evo.experiments.progress import Logged, Progress
from smd_evo.experiments.settings import ExperimentConfig, is_object
from smd_evo.zoo import load
from smd_evo.zoo.data import Data
from smd_evo.zoo.names import user_object

__all__ = [
    "NAMED",
    "Given",
    "Source",
    "check_of_outputs",
    "find_fitness",
    "in_precision",
    "load_parent",
    "own_fitness",
]


def check_of_outputs(fitness: Fitness) -> OutputFitness:
    """The fitness, if it is one of outputs, which experiments that predict and vote need."""
    if isinstance(fitness, ModuleFitness):
        raise InvalidType(
            f"fitness: expected one of outputs for samples, got {fitness.name}, a function of the network; "
            "a BatchFitness is, and runs over generations take any"
        )
    return fitness


class Source(Protocol):
    """Who knows the parent, the data and the fitness of an experiment."""

    def parent(self, config: ExperimentConfig, progress: Progress) -> tuple[nn.Module, Data]:
        """The parent on the settings' device, for the experiment alone, and its data."""

    def fitness(self, name: str) -> Fitness:
        """The fitness that the settings call so."""


@dataclass(frozen=True, eq=False)
class Given:
    """Objects of a program's own; the network stays as it is, experiments have a copy.

    Attributes:
        network: the parent.
        data: its samples; None where the fitness brings its own.
        own: the fitness, where it is not one that the settings name.
        copy: whether the experiments' network has memory of its own; else it has that of the parent's weights, which
            are as before when the experiment is over.
    """

    network: nn.Module
    data: Data
    own: Fitness | None = None
    copy: bool = True

    def parent(self, config: ExperimentConfig, progress: Progress) -> tuple[nn.Module, Data]:
        """See :class:`Source`."""
        _check_test(self.data)
        if self.copy:
            return whole_copy(self.network).to(config.device).eval(), self.data
        memo = without_graphs(self.network, sharing(self.network))
        return within(Exclusive(self.network), lambda: deepcopy(self.network, memo)).eval(), self.data

    def fitness(self, name: str) -> Fitness:
        """See :class:`Source`."""
        return find_fitness(name) if self.own is None else self.own


class _Named:
    """What the settings name."""

    def parent(self, config: ExperimentConfig, progress: Progress) -> tuple[nn.Module, Data]:
        """See :class:`Source`."""
        return load_parent(config, progress)

    def fitness(self, name: str) -> Fitness:
        """See :class:`Source`."""
        return find_fitness(name)


NAMED: Source = _Named()
"""The source of the command line."""


def load_parent(config: ExperimentConfig, progress: Progress | None = None) -> tuple[nn.Module, Data]:
    """The parent on the settings' device, and its data.

    Raises:
        InvalidValue, InvalidType: see :func:`smd_evo.zoo.loading.load`.
    """
    _check_named("model", config.model)
    _check_named("data", config.data)
    progress = progress or Logged()
    progress.start("preparing the parent and its data", None)
    network, data = load(
        config.model,
        config.data,
        checkpoint=config.checkpoint,
        checkpoint_key=config.checkpoint_key,
        data_dir=config.data_dir,
        download=config.download,
        sizes=config.sizes,
        memory=config.memory,
        seed=config.seed,
        skip_unreadable=config.skip_unreadable,
        outputs=config.outputs,
        preprocessing=config.preprocessing,
        also=getattr(config, "also", None),  # one experiment's alone
        progress=progress.advance,
    )
    _check_test(data)
    return network.to(config.device), data


def find_fitness(name: str) -> Fitness:
    """A fitness by its name, or what ``module.path:name`` is: one, or a function of the network to be maximised.

    Raises:
        InvalidValue: there is none of that name.

    Example:
        >>> find_fitness("accuracy").sense
        'max'
    """
    if ":" not in name:
        return get_fitness(name)
    _check_named("fitness", name)
    found = user_object("fitness", name, NAMES, get_args(Fitness))
    return found if isinstance(found, Fitness) else own_fitness(found)


def _check_test(data: Data) -> None:
    """Raise InvalidValue for a test split of which no table could be made, before hours are spent on it."""
    if data.test is not None and data.sizes["test"] < 2:
        raise InvalidValue(
            f"test: expected at least 2 samples, for intervals, got {data.sizes['test']}; give more samples"
        )


def _check_named(setting: str, value: str) -> None:
    """Raise InvalidValue for what a program gave, which nobody can load by its name."""
    if is_object(value):
        raise InvalidValue(
            f"{setting}: expected a name to load it by, got {value}, which a program gave; give --{setting} "
            "module.path:function that returns it, or use smd_evo.load_run in that program"
            if setting != "fitness"
            else f"{setting}: expected a name, got {value}, which a program gave; give --fitness module.path:name"
        )


def own_fitness(function: Callable[[nn.Module], float], sense: Sense = "max") -> ModuleFitness:
    """A function of the network as a fitness, of which more is better unless told otherwise."""
    return ModuleFitness(getattr(function, "__name__", type(function).__name__), sense, function)


def in_precision(config: ExperimentConfig) -> AbstractContextManager[object]:
    """A block in which networks compute in the settings' precision, by autocast."""
    kind = torch.device(config.device).type
    return torch.autocast(kind, torch.bfloat16, enabled=config.precision == "bfloat16")
