"""Arms and what is free on a split that has chosen nothing: the rows of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from smd_evo.core.mutation import Lineage
from smd_evo.ensemble.combine import Pool
from smd_evo.ensemble.metrics import accuracy
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import OutputFitness
from smd_evo.experiments.finetune.free import Chosen
from smd_evo.experiments.finetune.results import NEARLY_FREE, Arm, Candidate
from smd_evo.experiments.scores import Row, against, of_classes, pooling, table_row
from smd_evo.experiments.shortlists import SPARSE
from smd_evo.experiments.tables import BEST_FREE
from smd_evo.statistics.tests import Estimate
from smd_evo.zoo.data import Samples

__all__ = ["Report", "report_on"]


@dataclass(frozen=True, eq=False)
class Report:
    """What comes out.

    Attributes:
        rows: of the parent, of each arm's candidates, and of what is free.
        right: which samples each row has right, see :class:`smd_evo.experiments.finetune.results.FinetuneResult`.
        against: the sparse ensemble beside those of the other arms and the best of what is free.
    """

    rows: list[Row]
    right: list[str]
    against: dict[str, tuple[Estimate, float]]


def report_on(
    samples: Samples, arms: Sequence[Arm], free: Sequence[Chosen], ranker: Evaluator, seed: int = 0
) -> Report:
    """Score everything on samples.

    Args:
        samples: that have chosen nothing.
        arms: the sparse one first.
        free: the best on validation first.
        ranker: the parent, and the fitness, on any samples.
        seed: of the resampling.
    """
    judge = ranker.on(samples)
    targets, fitness = judge.targets(), judge.fitness
    assert isinstance(fitness, OutputFitness)
    before = judge.predict([Lineage()])[0]
    classes, pool = of_classes(before, targets), pooling(before, targets)
    rows, ensembles = [table_row("parent", "parent", 1, before, None, targets, fitness)], {}
    right = [_bits(before, targets)] if classes else []
    for arm in arms:
        candidates = arm.group.chosen(ranker.space)
        strength = {"density": arm.group.density, "sigma": arm.group.sigma}
        for name, after in _predicted(judge, candidates, pool).items():
            members = len(candidates[name].members)
            rows.append(table_row(arm.name, name, members, after, before, targets, fitness, seed, **strength))
            right += [_bits(after, targets)] if classes else []
            if name == "ensemble":
                ensembles[arm.name] = after
    for each in free:
        after = each.control.predict(ranker, samples, before)
        rows.append(table_row(NEARLY_FREE, each.name, each.control.passes, after, before, targets, fitness, seed))
        right += [_bits(after, targets)] if classes else []
        if each is free[0]:
            ensembles[BEST_FREE] = after
    sparse = ensembles.pop(SPARSE)
    compared = {name: against(sparse, other, targets, seed) for name, other in ensembles.items()} if classes else {}
    return Report(rows, right, compared)


def _predicted(judge: Evaluator, candidates: Mapping[str, Candidate], combine: str) -> dict[str, Tensor]:
    """What each of them predicts; a child is asked once, however many of them it belongs to."""
    different = {place: child for each in candidates.values() for place, child in each.members.items()}
    places = sorted(different)
    pools = {name: Pool(each.weights, combine) for name, each in candidates.items()}
    for place, outputs in zip(places, judge.outputs(different[place] for place in places), strict=True):
        for name, each in candidates.items():
            if place in each.members:
                pools[name].add(outputs)
    return {name: pool.result() for name, pool in pools.items()}


def _bits(outputs: Tensor, targets: Tensor) -> str:
    """Which samples are right, eight in two hexadecimal digits."""
    return np.packbits(accuracy(outputs, targets).bool().numpy()).tobytes().hex()
