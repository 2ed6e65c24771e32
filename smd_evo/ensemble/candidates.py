"""Candidates for an ensemble, and how good they are together: as much of their outputs as that needs."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from smd_evo.atomic import in_text
from smd_evo.ensemble.combine import ballots, pooled, weighted
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.classification import check_range, class_range
from smd_evo.evaluation.fitness import CROSS_ENTROPY, BatchFitness, OutputFitness, rank

__all__ = ["Judge", "Kept"]

_CHUNK = 2**20
"""Numbers that are pooled at a time: few enough for a cache, which is faster than more."""

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

    def __init__(self, targets: Tensor, fitness: OutputFitness, combine: str) -> None:
        self.targets, self.combine, self.sense = targets, combine, fitness.sense
        self._fitness = fitness
        self._range = class_range([targets]) if fitness.classes else None
        # A negative target is one that cross-entropy is told to ignore.
        plain = targets.dim() == 1 and self._range is not None and int(targets.min()) >= 0
        self._compact = plain and fitness == CROSS_ENTROPY and combine != "logits"

    def ballot(self, outputs: Tensor) -> Tensor:
        """What is kept of a candidate's outputs [n, ...]: [n], or [n, ...].

        Raises:
            InvalidValue: there are another number of samples, or fewer classes than the targets name.
        """
        self._check(outputs)
        ballot = ballots(outputs, self.combine)
        return ballot.gather(1, self.targets[:, None].long())[:, 0] if self._compact else ballot

    def fitness_alone(self, outputs: Tensor) -> float:
        """Fitness of a candidate by itself, as an evaluator has it: of its outputs, not of its ballot."""
        self._check(outputs)
        alone = torch.tensor(self._fitness.of(outputs, self.targets), dtype=torch.float64, device="cpu")
        return float(self._usable(alone))

    def fitness_of(self, pool: Tensor, votes: int = 1) -> float:
        """Fitness of the mean of ``votes`` pooled ballots."""
        return float(self.fitness_of_each(pool[None], votes)[0])

    def fitness_of_each(self, pools: Tensor, votes: int) -> Tensor:
        """The same of several pools at once: float64 [pools]."""
        means = weighted(pools, 1 / votes, self.combine)
        if self._compact:
            return -means.mean(1, dtype=torch.float64)
        if not isinstance(self._fitness, BatchFitness):
            each = [self._fitness.of(mean, self.targets) for mean in means]
            return self._usable(torch.tensor(each, dtype=torch.float64, device="cpu"))
        count, samples = means.shape[:2]
        targets = self.targets.repeat(count, *[1] * (self.targets.dim() - 1))
        scores = self._fitness.per_sample(means.flatten(0, 1), targets, count * samples)
        return self._usable(scores.view(count, samples).mean(1))

    def prefixes(self, outputs: Iterable[Tensor]) -> list[float]:
        """Fitness of the first, the first two, the first three, ..."""
        pool, curve = None, []
        for votes, output in enumerate(outputs, start=1):
            ballot = self.ballot(output)
            _check_shape(ballot, ballot if pool is None else pool)
            pool = ballot if pool is None else pooled(pool, ballot, self.combine)
            curve.append(self.fitness_of(pool, votes))
        return curve

    def _check(self, outputs: Tensor) -> None:
        if len(outputs) != len(self.targets):
            raise InvalidValue(f"outputs: expected those of {len(self.targets)} samples, got {len(outputs)}")
        check_range(self._range, outputs)

    def _usable(self, fitness: Tensor) -> Tensor:
        """The fitness, but NaN where it is infinitely good: as with an evaluator, an accident, no success."""
        return fitness.where(fitness != (math.inf if self.sense == "max" else -math.inf), math.nan)


class Kept:
    """The ballots of all candidates, in memory or in a file.

    Args:
        judge: says what is kept.
        outputs: [n, ...] of each candidate, one after the other.
        count: N, how many there are.
        spill: folder for a temporary file of float16; None: float32 in memory.
        diversity: weight of the disagreement of a candidate with those that are chosen before it, which are not
            chosen again; None: no such term, and any candidate again.

    Raises:
        InvalidValue: outputs that the judge refuses, of shapes that differ, or which are no scores of classes
            where their disagreement counts; or a folder that cannot be written to.
    """

    def __init__(
        self,
        judge: Judge,
        outputs: Iterable[Tensor],
        count: int,
        spill: Path | str | None = None,
        diversity: float | None = None,
    ) -> None:
        self._judge, self._diversity = judge, diversity
        for number, output in enumerate(outputs):
            ballot = judge.ballot(output)
            if diversity is not None and (output.dim() != 2 or output.shape[1] < 2):
                raise InvalidValue(
                    f'method: expected scores of classes, [n, classes], for "diverse", got {list(output.shape)}; '
                    'try "greedy"'
                )
            if number == 0:
                self._ballots = _room(spill, (count, *ballot.shape))
                if diversity is not None:
                    small = torch.int16 if output.shape[1] < 2**15 else torch.int32
                    self._classes = torch.empty(count, len(output), dtype=small, device="cpu")
            _check_shape(ballot, self._ballots[0])
            self._ballots[number] = ballot if spill is None else ballot.clamp(-_HALF, _HALF)
            if diversity is not None:
                self._classes[number] = output.argmax(1)

    def forward(self, choices: int) -> tuple[list[int], list[float]]:
        """Forward selection.

        Args:
            choices: how many; at most N where none is chosen again.

        Returns:
            The chosen candidates in order, and the fitness of the first, the first two, ...
        """
        judge, chosen, curve = self._judge, list[int](), list[float]()
        pool, apart = None, torch.zeros(len(self._ballots), dtype=torch.float64, device="cpu")
        for votes in range(1, choices + 1):
            fitness = torch.cat([judge.fitness_of_each(pools, votes) for pools in self._joined(pool)])
            if self._diversity is None:
                best = rank(fitness.tolist(), judge.sense)[0]
            else:
                bonus = self._diversity * apart / max(1, len(chosen))
                merit = fitness + bonus if judge.sense == "max" else fitness - bonus
                taken = set(chosen)
                best = next(number for number in rank(merit.tolist(), judge.sense) if number not in taken)
                apart += (self._classes != self._classes[best]).sum(1).double() / self._classes.shape[1]
            chosen.append(best)
            curve.append(float(fitness[best]))
            ballot = self._ballots[best].float()
            pool = ballot if pool is None else pooled(pool, ballot, judge.combine)
        return chosen, curve

    def _joined(self, pool: Tensor | None) -> Iterator[Tensor]:
        """What is pooled so far together with each candidate, some at a time."""
        at_once = max(1, _CHUNK // max(1, self._ballots[0].numel()))
        for some in self._ballots.split(at_once):
            yield some.float() if pool is None else pooled(pool, some.float(), self._judge.combine)


def _check_shape(ballot: Tensor, other: Tensor) -> None:
    if ballot.shape != other.shape:
        raise InvalidValue(f"outputs: expected {list(other.shape)} of each candidate, got {list(ballot.shape)}")


def _room(spill: Path | str | None, shape: tuple[int, ...]) -> Tensor:
    """Memory for ballots; a file vanishes from its folder at once and from the disk with the last use."""
    if spill is None:
        return torch.empty(shape, dtype=torch.float32, device="cpu")
    try:
        with tempfile.NamedTemporaryFile(dir=spill) as file:
            size = torch.Size(shape).numel()
            if hasattr(os, "posix_fallocate"):  # or a full disk ends the process where the file is written to
                os.posix_fallocate(file.fileno(), 0, 2 * size)
            name = file.name if in_text(file.name) else f"/dev/fd/{file.fileno()}"
            return torch.from_file(name, shared=True, size=size, dtype=torch.float16).view(shape)
    except OSError as error:
        raise InvalidValue(f"spill: expected a folder with room for a file, got {spill} ({error})") from None
