"""Scores of classifiers on the same samples, each number with its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smd_evo.ensemble.combine import combined
from smd_evo.ensemble.diversity import disagreement, oracle, pairwise_kl, q_statistic
from smd_evo.ensemble.metrics import PER_SAMPLE, accuracy, confidence, finite_logits, negative_log_likelihood
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.fitness import ACCURACY, CROSS_ENTROPY, BatchFitness, OutputFitness, WholeFitness
from smd_evo.statistics.bootstrap import mean_interval, paired_difference, statistic_interval
from smd_evo.statistics.tests import Estimate, mcnemar_exact

__all__ = [
    "Curve",
    "Diversity",
    "Row",
    "Score",
    "against",
    "curve",
    "diversity",
    "of_classes",
    "pooling",
    "score",
    "table_row",
]

_QUICK = 999
_BINS = 15


@dataclass(frozen=True)
class Row:
    """One line of the table: a network on the test split, and its difference to the parent, if it is another one.

    Attributes:
        method, candidate, members, density, sigma: what it is.
        accuracy, loss, accuracy_gain, loss_gain: of a classifier.
        p_value: of the exact McNemar test on its accuracy.
        fitness, fitness_gain: the run's own, where it is none of these; a gain if it is a mean or a metric of
            samples, and finite.
    """

    method: str
    candidate: str
    members: int
    density: float | None
    sigma: float | None
    accuracy: float | None = None
    loss: float | None = None
    accuracy_gain: Estimate | None = None
    loss_gain: Estimate | None = None
    p_value: float | None = None
    fitness: float | None = None
    fitness_gain: Estimate | None = None


@dataclass(frozen=True)
class Score:
    """A classifier on the test split; differences and p values (exact McNemar) are of its accuracy.

    Attributes:
        method: the arm, or "parent".
        candidate: which classifier of it.
        passes: forward passes an image.
        metrics: accuracy, nll (nats), brier and calibration_error (15 bins), each with its interval; that of the
            calibration error need not hold the value.
        over: gain in accuracy over the parent and over the arm's best child.
        p_values: of the same.
    """

    method: str
    candidate: str
    passes: int
    metrics: dict[str, Estimate]
    over: dict[str, Estimate]
    p_values: dict[str, float]


@dataclass(frozen=True)
class Diversity:
    """How an arm's members differ on the test split: disagreement, kl (nats), q, oracle (accuracy)."""

    method: str
    members: int
    measures: dict[str, Estimate]


@dataclass(frozen=True)
class Curve:
    """An arm on the validation split.

    Attributes:
        method: the arm.
        accuracy, nll: of the first one, two, three, ... by fitness together.
        members: accuracy of each of them alone, and its mean disagreement with the others.
    """

    method: str
    accuracy: list[Estimate]
    nll: list[Estimate]
    members: list[tuple[float, float]]


def score(
    method: str,
    candidate: str,
    passes: int,
    logits: Tensor,
    targets: Tensor,
    references: dict[str, Tensor],
    seed: int = 0,
) -> Score:
    """A row of a table.

    Args:
        method, candidate, passes: see :class:`Score`.
        logits: [n, classes]; a sample whose outputs are not finite counts as wrong.
        targets: int64 [n].
        references: logits of the parent and of the best child, as far as it is to be compared with them.
        seed: of the resampling.
    """
    metrics = {name: mean_interval(metric(logits, targets), seed=seed) for name, metric in PER_SAMPLE.items()}
    # The percentile interval of a calibration error is biased upwards where the calibration is good.
    error = statistic_interval(_calibration_error(logits, targets), len(targets), seed=seed, method="basic")
    low, high = (min(max(end, 0.0), 1.0) for end in (error.low, error.high))
    metrics["calibration_error"] = Estimate(error.value, low, high)
    compared = {name: against(logits, other, targets, seed) for name, other in references.items()}
    return Score(
        method=method,
        candidate=candidate,
        passes=passes,
        metrics=metrics,
        over={name: gain for name, (gain, _) in compared.items()},
        p_values={name: p_value for name, (_, p_value) in compared.items()},
    )


def _calibration_error(logits: Tensor, targets: Tensor) -> Callable[[NDArray[np.int64]], float]:
    """:func:`smd_evo.ensemble.metrics.calibration_error` of resampled samples, in microseconds.

    torchmetrics takes 0.2 ms for 500 samples, and 10 ms where torch's threads wait for a processor; here it is
    called a thousand times for each row of a table.
    """
    sure = confidence(logits, targets)
    gaps = (accuracy(logits, targets) - sure).numpy()
    edges = torch.linspace(0, 1, _BINS + 1, dtype=torch.float32, device="cpu")
    bins = (torch.bucketize(sure.float(), edges, right=True) - 1).clamp(max=_BINS - 1).numpy()

    def error(numbers: NDArray[np.int64]) -> float:
        return float(np.abs(np.bincount(bins[numbers], gaps[numbers])).sum() / len(numbers))

    return error


def against(logits: Tensor, other: Tensor, targets: Tensor, seed: int = 0) -> tuple[Estimate, float]:
    """Gain in accuracy over another classifier, and the p value of the exact McNemar test."""
    one, two = accuracy(logits, targets), accuracy(other, targets)
    return paired_difference(one, two, seed=seed), mcnemar_exact(one, two)


def table_row(
    method: str,
    candidate: str,
    members: int,
    outputs: Tensor,
    parent: Tensor | None,
    targets: Tensor,
    fitness: OutputFitness,
    seed: int = 0,
    *,
    density: float | None = None,
    sigma: float | None = None,
) -> Row:
    """A line of the table of a fine-tuning run.

    Args:
        method, candidate, members, density, sigma: see :class:`Row`.
        outputs: [n, classes], of which a sample's that are not finite count as wrong; or of any other kind [n, ...].
        parent: those of the parent; None: this is the parent's own line, without differences.
        targets: int64 [n]; or of any other kind [n, ...].
        fitness: the run's, which scores other kinds; of classes it is reported, too, unless it is one of the others.
        seed: of the resampling.
    """
    if not of_classes(outputs, targets):
        row = Row(method, candidate, members, density, sigma, fitness=fitness.of(outputs, targets))
        if parent is None:
            return row
        return replace(row, fitness_gain=_gain(outputs, parent, targets, fitness, seed))
    right, loss = accuracy(outputs, targets), negative_log_likelihood(outputs, targets)
    row = Row(method, candidate, members, density, sigma, float(right.mean()), float(loss.mean()))
    own = fitness not in (ACCURACY, CROSS_ENTROPY)
    if own:
        judged = finite_logits(outputs, targets)
        row = replace(row, fitness=fitness.of(judged, targets))
    if parent is None:
        return row
    if own:
        row = replace(row, fitness_gain=_gain(judged, finite_logits(parent, targets), targets, fitness, seed))
    before, loss_before = accuracy(parent, targets), negative_log_likelihood(parent, targets)
    return replace(
        row,
        accuracy_gain=paired_difference(right, before, seed=seed),
        loss_gain=paired_difference(loss, loss_before, seed=seed),
        p_value=mcnemar_exact(right, before),
    )


def _gain(outputs: Tensor, parent: Tensor, targets: Tensor, fitness: OutputFitness, seed: int) -> Estimate | None:
    """Difference to the parent by paired resampling; None for sums, and where it or a resampled one is not finite."""
    of_each: Callable[..., Any]
    if isinstance(fitness, BatchFitness):
        of_each = partial(fitness.per_sample, count=len(targets))
    elif isinstance(fitness, WholeFitness):
        of_each = getattr(fitness.metric, "of_each", lambda *_: None)
    else:
        return None

    def gain(numbers: NDArray[np.int64]) -> float:
        own, before = (fitness.of(each[numbers], targets[numbers]) for each in (outputs, parent))
        return own - before

    mine, theirs = (of_each(each, targets) for each in (outputs, parent))
    try:
        if mine is not None and theirs is not None:
            return paired_difference(mine, theirs, seed=seed)
        return statistic_interval(gain, len(targets), seed=seed)
    except InvalidValue:  # the logarithm of nothing, say, or a class that is missing from a resampled set
        return None


def of_classes(outputs: Tensor, targets: Tensor) -> bool:
    """Whether targets [n] are numbers of the outputs [n, classes]; of a single output, yes or no, they are none."""
    return outputs.dim() == 2 and outputs.shape[1] > 1 and targets.dim() == 1 and not targets.is_floating_point()


def pooling(outputs: Tensor, targets: Tensor) -> str:
    """How members of an ensemble are combined: by probabilities, or where there are none by the mean of outputs."""
    return "probabilities" if of_classes(outputs, targets) else "logits"


def diversity(method: str, members: Tensor, targets: Tensor, seed: int = 0) -> Diversity:
    """How members differ.

    Args:
        method: see :class:`Diversity`.
        members: [M, n, classes], finite, two or more.
        targets: int64 [n].
        seed: of the resampling.
    """
    correct = torch.stack([accuracy(member, targets) for member in members]).bool()
    measures = {
        "disagreement": mean_interval(disagreement(members), seed=seed),
        "kl": mean_interval(pairwise_kl(members), seed=seed),
        "oracle": mean_interval(oracle(members, targets), seed=seed),
        "q": statistic_interval(lambda numbers: q_statistic(correct[:, numbers]), len(targets), seed=seed),
    }
    return Diversity(method, len(members), measures)


def curve(method: str, ranked: Tensor, targets: Tensor, combine: str = "probabilities", seed: int = 0) -> Curve:
    """Ensembles of the first one, two, three, ..., and the members one by one.

    Args:
        method: see :class:`Curve`.
        ranked: outputs [M, n, classes], best first; where those of a member are not finite, neither is the mean.
        targets: int64 [n].
        combine: see :func:`smd_evo.ensemble.combine.combined`.
        seed: of the resampling.
    """
    together = [combined(ranked[:size], None, combine) for size in range(1, len(ranked) + 1)]

    def intervals(name: str) -> list[Estimate]:
        return [mean_interval(PER_SAMPLE[name](some, targets), resamples=_QUICK, seed=seed) for some in together]

    logits = finite_logits(ranked, targets)
    predicted = logits.argmax(-1)
    apart = [float((predicted != own).double().mean(1).sum()) / max(1, len(logits) - 1) for own in predicted]
    alone = [float(accuracy(own, targets).mean()) for own in logits]
    return Curve(method, intervals("accuracy"), intervals("nll"), list(zip(alone, apart, strict=True)))
