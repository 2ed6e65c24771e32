"""Candidates for an ensemble, and how good they are together: as much of their outputs as that needs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from smd_evo.ensemble.combine import ballots, pooled, weighted
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.fitness import CROSS_ENTROPY, BatchFitness, best_of

__all__ = ["Judge", "Kept"]

_CHUNK = 2**24
_HALF = 6e4


class Judge:
    """Fitness of pooled ballots on some samples.

    The cross-entropy of pooled probabilities needs of each member only the probability of the true class,
    one number a sample; any other fitness needs all outputs.

    Args:
        targets: [n, ...].
        fitness: the score.
        combine: see :func:`smd_evo.ensemble.combine.ballots`.
    """

    def __init__(self, targets: Tensor, fitness: BatchFitness, combine: str) -> None:
        self.targets, self.combine, self.sense = targets, combine, fitness.sense
        self._fitness = fitness
        self._classes = targets.dim() == 1 and not targets.is_floating_point()
        self._compact = self._classes and fitness == CROSS_ENTROPY and combine != "logits"

    def ballot(self, outputs: Tensor) -> Tensor:
        """What is kept of a candidate's outputs [n, ...]: [n], or [n, ...].

        Raises:
            InvalidValue: there are another number of samples, or fewer classes than the targets name.
        """
        if len(outputs) != len(self.targets):
            raise InvalidValue(f"outputs: expected those of {len(self.targets)} samples, got {len(outputs)}")
        if self._classes and outputs.dim() == 2 and int(self.targets.max()) >= outputs.shape[1]:
            raise InvalidValue(
                f"targets: expected classes below {outputs.shape[1]}, which the network knows, "
                f"got {int(self.targets.max())}; use the data that the network was made for"
            )
        ballot = ballots(outputs, self.combine)
        return ballot.gather(-1, self.targets[:, None])[:, 0] if self._compact else ballot

    def fitness_of(self, pool: Tensor, votes: int = 1) -> float:
        """Fitness of the mean of ``votes`` pooled ballots."""
        return float(self.fitness_of_each(pool[None], votes)[0])

    def fitness_of_each(self, pools: Tensor, votes: int) -> Tensor:
        """The same of several pools at once: float64 [pools]."""
        means = weighted(pools, 1 / votes, self.combine)
        if self._compact:
            return -means.double().mean(1)
        count, samples = means.shape[:2]
        targets = self.targets.repeat(count, *[1] * (self.targets.dim() - 1))
        return self._fitness.per_sample(means.flatten(0, 1), targets, count * samples).view(count, samples).mean(1)

    def prefixes(self, outputs: Iterable[Tensor]) -> list[float]:
        """Fitness of the first, the first two, the first three, ..."""
        pool, curve = None, []
        for votes, output in enumerate(outputs, start=1):
            ballot = self.ballot(output)
            pool = ballot if pool is None else pooled(pool, ballot, self.combine)
            curve.append(self.fitness_of(pool, votes))
        return curve


class Kept:
    """The ballots of all candidates, in memory or in a file.

    Args:
        judge: says what is kept.
        outputs: [n, ...] of each candidate, one after the other.
        count: N, how many there are.
        spill: folder for a temporary file of float16; None: float32 in memory.
    """

    def __init__(self, judge: Judge, outputs: Iterable[Tensor], count: int, spill: Path | str | None) -> None:
        self._judge = judge
        self._classes: list[Tensor] = []
        for number, output in enumerate(outputs):
            ballot = judge.ballot(output)
            if number == 0:
                self._ballots = _room(spill, (count, *ballot.shape))
            elif ballot.shape != self._ballots.shape[1:]:
                raise InvalidValue(
                    f"outputs: expected {list(self._ballots.shape[1:])} of each candidate, got {list(ballot.shape)}"
                )
            self._ballots[number] = ballot.clamp(-_HALF, _HALF) if spill else ballot
            if output.dim() == 2:
                self._classes.append(output.argmax(1).to(torch.int16 if output.shape[1] < 2**15 else torch.int32))

    def forward(self, choices: int, diversity: float | None) -> tuple[list[int], list[float]]:
        """Forward selection.

        Args:
            choices: how many.
            diversity: weight of the disagreement with those chosen before, without repetition; None: repetitions,
                and no such term.

        Returns:
            The chosen candidates in order, and the fitness of the first, the first two, ...
        """
        judge, chosen, curve = self._judge, list[int](), list[float]()
        if diversity is not None and not self._classes:
            raise InvalidValue('method: expected scores of classes, [n, classes], for "diverse"; try "greedy"')
        pool, apart = None, torch.zeros(len(self._ballots), dtype=torch.float64)
        for votes in range(1, choices + 1):
            fitness = torch.cat([judge.fitness_of_each(pools, votes) for pools in self._joined(pool)])
            merit = fitness.clone()
            if diversity is not None:
                bonus = diversity * apart / max(1, len(chosen))
                merit += bonus if judge.sense == "max" else -bonus
                merit[chosen] = torch.nan
            best = best_of(merit.tolist(), judge.sense)
            chosen.append(best)
            curve.append(float(fitness[best]))
            ballot = self._ballots[best].float()
            pool = ballot if pool is None else pooled(pool, ballot, judge.combine)
            if diversity is not None:
                apart += torch.stack([(own != self._classes[best]).double().mean() for own in self._classes])
        return chosen, curve

    def _joined(self, pool: Tensor | None) -> Iterator[Tensor]:
        """What is pooled so far together with each candidate, some at a time."""
        at_once = max(1, _CHUNK // max(1, self._ballots[0].numel()))
        for some in self._ballots.split(at_once):
            yield some.float() if pool is None else pooled(pool, some.float(), self._judge.combine)


def _room(spill: Path | str | None, shape: tuple[int, ...]) -> Tensor:
    """Memory for ballots; a file vanishes from its folder at once and from the disk with the last use."""
    if spill is None:
        return torch.empty(shape)
    try:
        with tempfile.NamedTemporaryFile(dir=spill) as file:
            size = torch.Size(shape).numel()
            return torch.from_file(file.name, shared=True, size=size, dtype=torch.float16).view(shape)
    except OSError as error:
        raise InvalidValue(f"spill: expected a folder that can be written to, got {spill} ({error})") from None
