"""Fitness: what makes a child good, and whether lower or higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from smd_evo.errors import InvalidType, InvalidValue, check_choice, shown

__all__ = [
    "ACCURACY",
    "CROSS_ENTROPY",
    "WORST",
    "BatchFitness",
    "Fitness",
    "ModuleFitness",
    "best_of",
    "get_fitness",
    "rank",
]

Sense = Literal["min", "max"]

WORST = 1e18
"""Magnitude of the fitness that a non-finite one becomes.

Worse than any real one, and small enough that a float32 population's mean and variance stay finite.
"""


@dataclass(frozen=True)
class BatchFitness:
    """A score of the network's outputs against targets, averaged over all samples.

    Args:
        name: what reports call it.
        sense: "min" if lower is better, "max" if higher is.
        score: ``score(outputs, targets)``: float tensor [B] or [B, ...] for a batch of B samples; further
            dimensions are averaged.

    Example:
        >>> absolute_error = BatchFitness("absolute error", "min", lambda out, target: (out - target).abs())
    """

    name: str
    sense: Sense
    score: Callable[[Any, Any], Tensor]

    def __post_init__(self) -> None:
        check_choice("sense", self.sense, ("min", "max"))

    def per_sample(self, outputs: Any, targets: Any, count: int) -> Tensor:
        """Scores of one batch, float64 [count]."""
        scores = self.score(outputs, targets)
        if not isinstance(scores, Tensor) or scores.dim() == 0 or len(scores) != count:
            got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InvalidValue(f"{self.name}: expected one score a sample, [{count}, ...], got {got}")
        return scores.double().reshape(count, -1).mean(1)


@dataclass(frozen=True)
class ModuleFitness:
    """Any function of the network itself: a game's reward, a metric of its own data.

    Args:
        name: what reports call it.
        sense: "min" if lower is better, "max" if higher is.
        function: ``function(module) -> float``; it must not change the module.

    Example:
        >>> weight = ModuleFitness("weight", "min", lambda module: module.weight.abs().sum().item())
    """

    name: str
    sense: Sense
    function: Callable[[nn.Module], float]

    def __post_init__(self) -> None:
        check_choice("sense", self.sense, ("min", "max"))


Fitness = BatchFitness | ModuleFitness


def best_of(values: Sequence[float], sense: str) -> int:
    """Number of the best value: the first of equals, and never a NaN beside a number.

    Example:
        >>> best_of([math.nan, 2.0, 1.0, 1.0], "min"), best_of([math.nan, 2.0, 1.0], "max")
        (2, 1)
    """
    return rank(values, sense)[0]


def rank(values: Sequence[float], sense: str) -> list[int]:
    """Numbers of the values, best first; equal ones in their order, NaN last."""
    sign = -1 if sense == "max" else 1
    return sorted(range(len(values)), key=lambda number: (math.isnan(values[number]), sign * values[number]))


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.float(), targets, reduction="none")


def _correct(outputs: Tensor, targets: Tensor) -> Tensor:
    # A network that returns NaN predicts nothing; argmax would say the class of the first NaN.
    valid = outputs.isfinite().all(1)
    return torch.where(valid, (outputs.argmax(1) == targets).double(), math.nan)


CROSS_ENTROPY = BatchFitness("cross_entropy", "min", _cross_entropy)
"""Negative log-likelihood of the true class, in nats."""

ACCURACY = BatchFitness("accuracy", "max", _correct)
"""Share of the samples whose largest output is the true class's."""

_BY_NAME = {fitness.name: fitness for fitness in (CROSS_ENTROPY, ACCURACY)}


def get_fitness(fitness: str | Fitness) -> Fitness:
    """A fitness by its name ("cross_entropy", "accuracy"), or the given one.

    Raises:
        InvalidValue: unknown name.
        InvalidType: a bare function, which does not say whether lower or higher is better.
    """
    if isinstance(fitness, str):
        return _BY_NAME[check_choice("fitness", fitness, _BY_NAME)]
    if isinstance(fitness, BatchFitness | ModuleFitness):
        return fitness
    wrap = "wrap a function as ModuleFitness(name, sense, function), sense 'min' or 'max'"
    raise InvalidType(
        f"fitness: expected a name, a BatchFitness or a ModuleFitness, got {shown(fitness)}; "
        f"{wrap if callable(fitness) else 'the order is parent, data, fitness'}"
    )
