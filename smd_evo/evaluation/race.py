"""Race: the best of many children, without showing all samples to those that will not win.

Successive halving: all children see an eighth of the samples, the better half of them another eighth, the better half
of these another quarter, and the best eighth of the children the rest. That takes 31 % of the image evaluations.

Reference: Karnin, Koren, Somekh, "Almost optimal exploration in multi-armed bandits", ICML 2013 (sequential halving).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from smd_evo.core.keys import Key, check_key
from smd_evo.core.noise import permutation
from smd_evo.core.parameters import Child
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.fitness import Fitness, ModuleFitness, OutputFitness, WholeFitness
from smd_evo.evaluation.result import Evaluation, evaluation, parents_among
from smd_evo.evaluation.rewards import RewardFitness

__all__ = ["Racing", "finalists", "race", "race_rounds", "raced"]

_SHARES = (1 / 8, 1 / 4, 1 / 2, 1)
"""Of the samples that are seen by the end of each round."""


class Racing(Protocol):
    """What a race asks of an evaluator."""

    @property
    def samples(self) -> int:
        """How many."""

    @property
    def fitness(self) -> Fitness:
        """Of children."""

    def on_samples(self, numbers: Tensor) -> Racing:
        """Some of the samples."""

    def totals(self, children: Sequence[Child], progress: Callable[[], object] | None = None) -> Tensor:
        """What the samples add to each child's total."""


def race(
    evaluator: Racing, children: Sequence[Child], key: Key = 0, progress: Callable[[], object] | None = None
) -> Evaluation:
    """Fitness of children of which only the best matter.

    Those that are in the race to its end have their fitness on all samples. Each other one has that on the samples
    it has seen, or one just behind the worst child that got further, whichever is worse: the ranking is the race's.

    Args:
        evaluator: of their parent, on all samples.
        children: recipes, lineages or deltas; ``Lineage()``, the parent, sees all samples.
        key: of the samples' order.
        progress: called once for each child.

    Raises:
        InvalidValue: the fitness is a function of the network, or there are too few samples.
    """
    rule, total = raced(evaluator.fitness), evaluator.samples
    if total < len(_SHARES):
        raise InvalidValue(f"race: expected at least {len(_SHARES)} samples, got {total}")
    order = permutation(check_key(key), torch.arange(total, device="cpu"), total)
    parents = parents_among(children)
    racing = sorted({*range(len(children))} - {*parents})
    sums: dict[int, Tensor] = {}
    values = torch.zeros(len(children), dtype=torch.float64, device="cpu")
    dropped: list[list[int]] = []
    begin = 0
    for number, end in enumerate(_ends(total)):
        if number:
            kept = sorted(sorted(racing, key=lambda n: _order(values[n], rule.sense))[: -(-len(racing) // 2)])
            dropped.append(sorted({*racing} - {*kept}))
            racing = kept
        seen = [*racing, *parents]
        found = evaluator.on_samples(order[begin:end]).totals(
            [children[n] for n in seen], None if number else progress
        )
        for n, own in zip(seen, found, strict=True):
            sums[n] = sums[n] + own if n in sums else own
        if seen:
            values[seen] = rule.value(torch.stack([sums[n] for n in seen]), end).double()
        begin = end
    result = evaluation(values, rule.sense, parents)
    for group in reversed(dropped):  # the latest first, so that each is behind those that are dealt with
        if group and rule.sense == "min":
            behind = math.nextafter(float(result.fitness[racing].max()), math.inf)
            result.fitness[group] = result.fitness[group].clamp(min=behind)
        elif group:
            behind = math.nextafter(float(result.fitness[racing].min()), -math.inf)
            result.fitness[group] = result.fitness[group].clamp(max=behind)
        racing += group
    return result


def raced(fitness: Fitness) -> OutputFitness | RewardFitness:
    """A fitness by which children can race.

    Raises:
        InvalidValue: it is a function of the network, or a metric of all samples.
    """
    if isinstance(fitness, WholeFitness):
        raise InvalidValue(
            f"race: expected a fitness that adds up over samples, got {fitness.name!r}, a metric of all of them; "
            "leave race out"
        )
    if isinstance(fitness, ModuleFitness) and not isinstance(fitness, RewardFitness):
        raise InvalidValue(f"race: expected a fitness of samples, got {fitness.name!r}, a function of the network")
    return fitness


def finalists(children: int) -> int:
    """How many of so many children see all samples.

    >>> finalists(128), finalists(9)
    (16, 2)
    """
    for _ in _SHARES[1:]:
        children = -(-children // 2)
    return children


def race_rounds(children: int, samples: int) -> list[tuple[int, int]]:
    """Children and samples of each round of a race.

    >>> race_rounds(128, 800), 128 * 800
    ([(128, 100), (64, 100), (32, 200), (16, 400)], 102400)
    """
    rounds, begin = [], 0
    for end in _ends(samples):
        rounds.append((children, end - begin))
        children, begin = -(-children // 2), end
    return rounds


def _ends(samples: int) -> list[int]:
    return [max(number, round(samples * share)) for number, share in enumerate(_SHARES, start=1)]


def _order(value: Tensor, sense: str) -> float:
    """Smaller is better; what is no number comes last."""
    own = float(value) if sense == "min" else -float(value)
    return own if own == own else float("inf")
