"""Fitness: what makes a child good, and whether lower or higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from smd_evo.errors import InvalidType, InvalidValue, check_choice, shown
from smd_evo.evaluation import classification
from smd_evo.evaluation.fields import scored
from smd_evo.evaluation.metrics import METRICS, metric_of
from smd_evo.evaluation.whole import Sense, WholeFitness, check_made, one_number

__all__ = [
    "ACCURACY",
    "BALANCED_ACCURACY",
    "CROSS_ENTROPY",
    "MACRO_F1",
    "NAMES",
    "WORST",
    "BatchFitness",
    "Fitness",
    "ModuleFitness",
    "OutputFitness",
    "Sense",
    "TotalFitness",
    "WholeFitness",
    "best_of",
    "described",
    "get_fitness",
    "loss_mend",
    "rank",
]

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
            dimensions are averaged. Of outputs with names it gets the ``logits``, where there are some.
        classes: whether targets are numbers of the network's outputs; those that it does not have are refused.
        surrogate: a smooth loss that stands for it where slopes are asked for; None: the score itself, if it has one.

    Example:
        >>> absolute_error = BatchFitness("absolute error", "min", lambda out, target: (out - target).abs())
    """

    name: str
    sense: Sense
    score: Callable[[Any, Any], Tensor]
    classes: bool = False
    surrogate: BatchFitness | None = None

    def __post_init__(self) -> None:
        check_made(self.name, self.sense, score=self.score)

    def per_sample(self, outputs: Any, targets: Any, count: int) -> Tensor:
        """Scores of one batch, float64 [count]."""
        scores = scored(self.name, self.score, outputs, targets)
        if not isinstance(scores, Tensor) or scores.dim() == 0 or len(scores) != count or scores.is_complex():
            got = described(scores) if isinstance(scores, Tensor) else type(scores).__name__
            raise InvalidValue(f"{self.name}: expected one score a sample, [{count}, ...], got {got}")
        if _broadcast(scores, outputs, targets):
            raise InvalidValue(
                f"{self.name}: expected scores of each sample's own target, got {list(scores.shape)} from outputs "
                f"{list(outputs.shape)} and targets {list(targets.shape)}; give both one shape"
            )
        return scores.double().reshape(count, -1).mean(1)

    def total(self, outputs: Any, targets: Any, count: int) -> Tensor:
        """What a batch adds to the whole: the sum of its scores, float64 []."""
        return self.per_sample(outputs, targets, count).sum()

    def totals(self, outputs: Tensor, targets: Any, count: int) -> Tensor:
        """:meth:`total` of several networks' outputs [N, B, ...] for one batch, float64 [N]."""
        repeated = tree_map(lambda target: target.repeat(len(outputs), *[1] * (target.dim() - 1)), targets)
        scores = self.per_sample(outputs.flatten(0, 1), repeated, len(outputs) * count)
        return torch.stack([own.sum() for own in scores.split(count)])  # one by one, as the order of a sum counts

    def value(self, totals: Tensor, samples: int) -> Tensor:
        """Fitness of several networks [N] by the totals of all samples [N]."""
        return totals / samples

    def of(self, outputs: Any, targets: Any) -> float:
        """Fitness of outputs for all samples."""
        return float(self.per_sample(outputs, targets, len(targets)).mean())


@dataclass(frozen=True)
class TotalFitness:
    """A score of all samples together that is no mean over them, made of numbers that add up over batches.

    Args:
        name: what reports call it.
        sense: "min" if lower is better, "max" if higher is.
        count: ``count(outputs, targets)``: float tensor of a batch, of the same shape for each.
        score: ``score(sums)``: of the sums of these [..., *shape], float tensor [...].
        classes: whether targets are numbers of the network's outputs; those that it does not have are refused.
        surrogate: a smooth loss that stands for it where slopes are asked for.

    Example:
        >>> def moments(out, target):
        ...     return torch.stack([(out - target).square().sum(), target.square().sum()])
        >>> unexplained = TotalFitness("unexplained", "min", moments, lambda sums: sums[..., 0] / sums[..., 1])
        >>> unexplained.of(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
        0.1
    """

    name: str
    sense: Sense
    count: Callable[[Any, Any], Tensor]
    score: Callable[[Tensor], Tensor]
    classes: bool = False
    surrogate: BatchFitness | None = None

    def __post_init__(self) -> None:
        check_made(self.name, self.sense, count=self.count, score=self.score)

    def total(self, outputs: Any, targets: Any, count: int) -> Tensor:
        """What a batch adds to the whole: float64 [*shape]."""
        counts = scored(self.name, self.count, outputs, targets)
        if not isinstance(counts, Tensor) or counts.is_complex():
            got = described(counts) if isinstance(counts, Tensor) else type(counts).__name__
            raise InvalidValue(f"{self.name}: expected a tensor of numbers from count, got {got}")
        return counts.double()

    def value(self, totals: Tensor, samples: int) -> Tensor:
        """Fitness of several networks [N] by the totals of all samples [N, *shape]."""
        found = self.score(totals)
        if not isinstance(found, Tensor) or found.shape != totals.shape[:1] or found.is_complex():
            got = described(found) if isinstance(found, Tensor) else type(found).__name__
            raise InvalidValue(
                f"{self.name}: expected one number for each of {len(totals)} networks from score, got {got}; sums "
                "are [..., *shape], with networks on the left"
            )
        return found

    def of(self, outputs: Any, targets: Any) -> float:
        """Fitness of outputs for all samples."""
        return float(self.value(self.total(outputs, targets, len(targets))[None], len(targets)))


@dataclass(frozen=True)
class ModuleFitness:
    """Any function of the network itself: a game's reward, a metric of its own data.

    Args:
        name: what reports call it.
        sense: "min" if lower is better, "max" if higher is.
        function: ``function(module)``: one real number, as a float or a tensor; it must not change the module.

    Example:
        >>> weight = ModuleFitness("weight", "min", lambda module: module.weight.abs().sum().item())
    """

    name: str
    sense: Sense
    function: Callable[[nn.Module], float]

    def __post_init__(self) -> None:
        check_made(self.name, self.sense, function=self.function)

    def value(self, totals: Tensor, samples: int) -> Tensor:
        """Fitness of several networks [N] by what the function said of them [N]."""
        return totals

    def of(self, module: nn.Module) -> float:
        """Fitness of a network."""
        return one_number(f"{self.name}: expected one real number from its function", self.function(module))


OutputFitness = BatchFitness | TotalFitness | WholeFitness
"""Of a network's outputs, which need not be computed again to know it."""

Fitness = OutputFitness | ModuleFitness


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


CROSS_ENTROPY = BatchFitness("cross_entropy", "min", classification.cross_entropy, classes=True)
"""Negative log-likelihood of the true class, in nats."""

ACCURACY = BatchFitness("accuracy", "max", classification.correct, classes=True, surrogate=CROSS_ENTROPY)
"""Share of the samples whose largest output is the true class's."""

BALANCED_ACCURACY = TotalFitness(
    "balanced_accuracy",
    "max",
    classification.class_counts,
    classification.balanced_accuracy,
    classes=True,
    surrogate=CROSS_ENTROPY,
)
"""Mean over the classes of the share of a class's samples that are found: small classes count as large ones."""

MACRO_F1 = TotalFitness(
    "macro_f1",
    "max",
    classification.class_counts,
    classification.macro_f1,
    classes=True,
    surrogate=CROSS_ENTROPY,
)
"""Mean over the classes of F1, the harmonic mean of precision and recall."""

_BY_NAME: dict[str, Fitness] = {
    fitness.name: fitness for fitness in (CROSS_ENTROPY, ACCURACY, BALANCED_ACCURACY, MACRO_F1)
}

NAMES = tuple(_BY_NAME)
"""Of the fitnesses above."""


def get_fitness(fitness: str | Fitness) -> Fitness:
    """A fitness by its name, one of :data:`NAMES` or :data:`.metrics.METRICS`, or the given one.

    Raises:
        InvalidValue: unknown name.
        InvalidType: a bare function, which does not say whether lower or higher is better.
    """
    if isinstance(fitness, str):
        found = None if fitness in _BY_NAME else metric_of(fitness)
        if found is None:
            return _BY_NAME[check_choice("fitness", fitness, [*_BY_NAME, *METRICS])]
        return WholeFitness(
            fitness, "max", found, classes=found.classes, surrogate=CROSS_ENTROPY if found.classes else None
        )
    if isinstance(fitness, Fitness):
        return fitness
    mend = loss_mend(fitness) or "the order is parent, data, fitness"
    if callable(fitness) and not loss_mend(fitness):
        mend = "wrap a function as ModuleFitness(name, sense, function), sense 'min' or 'max'"
    elif isinstance(fitness, list | tuple) and all(isinstance(part, str | Fitness) for part in fitness):
        mend = "FinetuneProblem, ToolboxEvaluator and Objectives take several"
    raise InvalidType(f"fitness: expected a name, a BatchFitness or a ModuleFitness, got {shown(fitness)}; {mend}")


def loss_mend(loss: object) -> str:
    """How to write one of torch's losses, a module, a class or a function, as a fitness; empty for anything else.

    >>> loss_mend(nn.CrossEntropyLoss()), loss_mend(nn.functional.mse_loss)
    ('write "cross_entropy"', 'write BatchFitness("mse_loss", "min", partial(mse_loss, reduction="none"))')
    """
    kind = loss if isinstance(loss, type) else type(loss)
    if issubclass(kind, nn.Module):
        name = kind.__name__
        if loss is nn.CrossEntropyLoss or (kind is nn.CrossEntropyLoss and _plain(loss)):
            return 'write "cross_entropy"'
        one_a_sample = f'{name}(reduction="none")' if kind.__module__.startswith("torch.") else "one score a sample"
    elif getattr(loss, "__module__", "") == nn.functional.__name__:
        name = str(getattr(loss, "__name__", "loss"))
        if name == "cross_entropy":
            return 'write "cross_entropy"'
        one_a_sample = f'partial({name}, reduction="none")'
    else:
        return ""
    return f'write BatchFitness("{name}", "min", {one_a_sample})'


def _plain(loss: Any) -> bool:
    """Whether a cross-entropy has no settings that "cross_entropy" lacks."""
    return loss.weight is None and loss.label_smoothing == 0 and loss.ignore_index == -100


def described(tensor: Tensor) -> str:
    """A tensor's shape and type in words.

    >>> described(torch.zeros(2, 3))
    '[2, 3] of float32'
    """
    return f"{list(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


def _broadcast(scores: Tensor, outputs: Any, targets: Any) -> bool:
    """Whether scores are of outputs and targets of which some stand for several, such as [n, 1] beside [n]."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return False
    if scores.numel() <= max(outputs.numel(), targets.numel()):
        return False
    try:
        return bool(scores.shape == torch.broadcast_shapes(outputs.shape, targets.shape))
    except RuntimeError:  # they do not go together so
        return False
