"""Which of the candidates make up an ensemble: chosen by their joint prediction on validation data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from smd_evo.core.parameters import Child
from smd_evo.ensemble.candidates import Judge, Kept
from smd_evo.ensemble.choices import COMBINES, METHODS
from smd_evo.errors import InvalidType, InvalidValue, check_choice, check_count, check_number, shown
from smd_evo.evaluation.evaluator import Evaluation, Evaluator
from smd_evo.evaluation.fitness import ModuleFitness, OutputFitness, best_of, rank

__all__ = ["METHODS", "Selection", "select_from", "select_members", "stored"]

_LARGEST = 20

_ONE_TENSOR = "choose by data, and a fitness, with one tensor of targets"

Source = Callable[[Sequence[int]], Iterable[Tensor]]
"""Outputs [n, ...] of the candidates of these numbers, one after the other."""


@dataclass(frozen=True)
class Selection:
    """An ensemble as numbers of candidates.

    Attributes:
        members: the distinct candidates, in the order in which they were chosen.
        weights: one a member, adding up to one: how often each was chosen.
        fitness: the ensemble's on the validation samples.
        curve: the same after 1, 2, 3, ... choices.
        method: one of :data:`METHODS`.
        combine: how outputs are combined.
    """

    members: tuple[int, ...]
    weights: tuple[float, ...]
    fitness: float
    curve: tuple[float, ...]
    method: str
    combine: str


def select_members(
    judge: Evaluator,
    candidates: Sequence[Child],
    result: Evaluation | None = None,
    *,
    method: str = "greedy",
    size: int | None = None,
    combine: str = "probabilities",
    diversity: float = 0.1,
    spill: Path | str | None = None,
    progress: Callable[[], object] | None = None,
) -> Selection:
    """Choose an ensemble among children of one parent, on validation data.

    - "top_k": the best by ``result``, all alike;
    - "greedy": again and again the candidate with which the ensemble is best, also repeatedly; weights count
      the repetitions;
    - "diverse": the same without repetition, where each disagreement with the members counts, too:
      fitness better by ``diversity`` times the mean share of samples on which the candidate and a member
      predict different classes;
    - "all": everyone, all alike.

    Candidates are predicted a few at a time. "top_k" and "all" hold no others; "greedy" and "diverse" hold one number
    a candidate and sample ("diverse" two) where the fitness is the cross-entropy of "probabilities" or "majority",
    and all outputs elsewhere.

    Args:
        judge: evaluator of the parent on the validation split, with the fitness to choose by.
        candidates: N children.
        result: their fitness on other data, which "top_k" ranks by; by default the judge ranks them, which takes one
            more prediction of each.
        method: one of :data:`METHODS`.
        size: choices to make, 1 to N (repetitions count); by default the best number on validation of 2 to 20.
        combine: one of :data:`smd_evo.ensemble.combine.COMBINES`.
        diversity: >= 0, in the fitness's own units; for "diverse".
        spill: folder for a temporary file that holds as float16 what has to be held of the candidates.
        progress: called after each prediction.

    Raises:
        InvalidValue, InvalidType: fewer candidates than members, a fitness that is not of a network's outputs,
            outputs that do not suit the targets or the combination, targets that are not one tensor, or an unknown
            method.

    Example:
        >>> from torch import nn
        >>> from smd_evo import Evaluator, RandomSubspace, sample_mutations
        >>> judge = Evaluator(nn.Linear(4, 4), (torch.eye(4), torch.arange(4)))
        >>> children = sample_mutations(0, 30, subspace=RandomSubspace(0.2), sigma=0.5)
        >>> chosen = select_members(judge, children, size=5)
        >>> len(chosen.curve), sum(chosen.weights)
        (5, 1.0)

    Reference: Caruana et al., "Ensemble selection from libraries of models", ICML 2004 (greedy). The
    disagreement term is ours.
    """
    if not isinstance(judge, Evaluator):
        raise InvalidType(f"judge: expected an Evaluator, got {shown(judge)}; the order is judge, candidates, result")
    if not isinstance(candidates, Sequence):
        raise InvalidType(f"candidates: expected a list of children, got {shown(candidates)}; put it in a list")
    if isinstance(judge.fitness, ModuleFitness):
        raise InvalidType(
            f"judge: expected a fitness of the network's outputs, got {judge.fitness.name!r}; "
            'use judge.on(validation, "cross_entropy")'
        )
    if result is not None and len(result.fitness) != len(candidates):
        raise InvalidValue(f"result: expected the fitness of {len(candidates)} candidates, got {len(result.fitness)}")

    try:
        targets = judge.targets()
    except TypeError:  # of torch, which joins those of all batches
        raise InvalidType(f"targets: expected one tensor to choose by, got several; {_ONE_TENSOR}") from None

    def source(numbers: Sequence[int]) -> Iterator[Tensor]:
        for outputs in judge.outputs(candidates[number] for number in numbers):
            yield outputs
            if progress:
                progress()

    return select_from(
        source,
        len(candidates),
        targets,
        judge.fitness,
        ranking=None if result is None else result.ranking(),
        method=method,
        size=size,
        combine=combine,
        diversity=diversity,
        spill=spill,
    )


def stored(outputs: Tensor) -> Source:
    """A source of what is there already: outputs [N, n, ...]."""
    return lambda numbers: (outputs[number] for number in numbers)


@torch.no_grad()
def select_from(
    source: Source,
    count: int,
    targets: Tensor,
    fitness: OutputFitness,
    *,
    ranking: Sequence[int] | None = None,
    method: str = "greedy",
    size: int | None = None,
    combine: str = "probabilities",
    diversity: float = 0.1,
    spill: Path | str | None = None,
) -> Selection:
    """:func:`select_members` of predictions from anywhere.

    Args:
        source: gives the outputs [n, ...] of candidates by their numbers, on the targets' device.
        count: N.
        targets: [n, ...].
        fitness: what to choose by.
        ranking: numbers of all candidates, best first.
        method, size, combine, diversity, spill: as there.
    """
    check_choice("method", method, METHODS)
    check_choice("combine", combine, COMBINES)
    diversity = check_number("diversity", diversity, low=0, closed=True, mend="try 0.1, or 0 for none")
    if not isinstance(targets, Tensor):
        raise InvalidType(f"targets: expected one tensor to choose by, got {type(targets).__name__}; {_ONE_TENSOR}")
    if len(targets) == 0:
        raise InvalidValue("validation: expected at least one sample to choose by, got none")
    if count < 1:
        raise InvalidValue("candidates: expected at least one, got none")
    size = None if size is None else check_count("size", size)
    if size is not None and size > count:
        raise InvalidValue(
            f"size: expected at most the {count} candidates that there are, got {size}; make more children"
        )
    if method == "all" and size not in (None, count):
        raise InvalidValue(f'size: expected none for "all", which takes all {count}, got {size}; try "top_k"')
    if ranking is not None and sorted(ranking) != list(range(count)):
        raise InvalidValue(f"ranking: expected each number of the {count} candidates once, got {list(ranking)[:9]}")
    sizes = [size or count] if size or method == "all" else range(min(2, count), min(_LARGEST, count) + 1)
    judge = Judge(targets, fitness, combine)
    if method in ("top_k", "all"):
        if method == "all":
            ranking = range(count)
        elif ranking is None:
            alone = [judge.fitness_alone(outputs) for outputs in _counted(source, range(count))]
            ranking = rank(alone, judge.sense)
        chosen = list(ranking[: max(sizes)])
        curve = judge.prefixes(_counted(source, chosen))
    else:
        apart = diversity if method == "diverse" else None
        chosen, curve = Kept(judge, _counted(source, range(count)), count, spill, apart).forward(max(sizes))
    length = sizes[best_of([curve[size - 1] for size in sizes], fitness.sense)]
    times = Counter(chosen[:length])  # in the order of the first time
    weights = tuple(number / length for number in times.values())
    return Selection(tuple(times), weights, curve[length - 1], tuple(curve), method, combine)


def _counted(source: Source, numbers: Sequence[int]) -> Iterator[Tensor]:
    """What the source gives for these candidates: as many as there are."""
    given = 0
    for given, outputs in enumerate(source(numbers), start=1):
        if given > len(numbers):
            break
        yield outputs
    if given != len(numbers):
        raise InvalidValue(f"source: expected the outputs of {len(numbers)} candidates, got {given}")
