"""The end of a run over generations: who votes, and the test split, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smd_evo.core.delta import SparseValues
from smd_evo.core.mutation import Lineage
from smd_evo.core.parameters import ParameterSpace
from smd_evo.ensemble.combine import combined
from smd_evo.ensemble.module import SparseEnsemble
from smd_evo.ensemble.selection import select_members
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import ModuleFitness, OutputFitness
from smd_evo.evaluation.rewards import RewardFitness
from smd_evo.experiments.generations.run import Evolution
from smd_evo.experiments.generations.settings import VOTERS
from smd_evo.experiments.parent import in_precision
from smd_evo.experiments.scores import Row, pooling, table_row
from smd_evo.statistics.bootstrap import paired_difference

__all__ = ["EvolutionResult", "finish"]


@dataclass(frozen=True, eq=False)
class EvolutionResult:
    """What a finished run hands over.

    Attributes:
        rows: on the test split: the pre-trained parent, the best network on validation, the ensemble.
        network: the best one.
        ensemble: of its relatives; None where the fitness is of a network and not of outputs.
        candidates: what might have voted, by their names.
        weights: of the candidates that do.
        fitness, sense: what ranked children.
    """

    rows: list[Row]
    network: nn.Module
    ensemble: SparseEnsemble | None
    candidates: list[str]
    weights: dict[str, float]
    fitness: str
    sense: str


def finish(evolution: Evolution) -> EvolutionResult:
    """Choose on validation, then read the test split; the problem's network becomes the best one."""
    with in_precision(evolution.config):
        return _finish(evolution)


def _finish(evolution: Evolution) -> EvolutionResult:
    config, data = evolution.config, evolution.data
    measure = config.fitness, evolution.fitness.sense
    kept = ParameterSpace(evolution.problem.space.module, config.select)  # the run is over, nobody else needs it
    if isinstance(evolution.fitness, ModuleFitness):
        kept.load(evolution.best)
        rows = (_rewarded if isinstance(evolution.fitness, RewardFitness) else _own_rows)(evolution, kept)
        return EvolutionResult(rows, kept.module, None, [], {}, *measure)
    voters = _voters(evolution, kept)
    kept.load(evolution.best)
    candidates = {name: _differing(kept, values) for name, values in voters.items()}
    judge = Evaluator(kept, data.validation, evolution.fitness, batch_size=config.batch_size)
    names, members = list(candidates), list(candidates.values())
    pool = pooling(judge.predict([Lineage()])[0], judge.targets())
    chosen = select_members(judge, members, method="greedy", combine=pool, progress=evolution.progress.advance)
    weights = {names[number]: weight for number, weight in zip(chosen.members, chosen.weights, strict=True)}
    ensemble = SparseEnsemble(
        kept,
        [candidates[name] for name in weights],
        list(weights.values()),
        combine=pool,
        notes={"members": list(weights), "method": chosen.method, "validation": chosen.fitness},
    )
    return EvolutionResult(_rows(evolution, judge, ensemble, pool), kept.module, ensemble, names, weights, *measure)


def _voters(evolution: Evolution, space: ParameterSpace) -> dict[str, dict[str, Tensor]]:
    """Parameters of the networks that may vote: the best parent, late ones, the last children."""
    found = {"best parent": evolution.best}
    found |= {f"late parent {number}": values for number, values in enumerate(evolution.late, start=1)}
    for number, child in enumerate(evolution.children(VOTERS), start=1):
        with space.applied(child):
            found[f"child {number}"] = space.copied()
    return found


def _differing(space: ParameterSpace, values: Mapping[str, Tensor]) -> SparseValues:
    """A network as what it has other than a parent."""
    parent = space.copied()
    wide = torch.promote_types(space.dtype, torch.float32)
    theirs, own = (torch.cat([each[name].flatten().to(wide) for name in space.names]) for each in (values, parent))
    places = (theirs != own).nonzero().flatten()
    return SparseValues(places, theirs[places])


def _rewarded(evolution: Evolution, kept: ParameterSpace) -> list[Row]:
    """The parent and the best network by their rewards of the test split's prompts: the only place that reads it."""
    config, test = evolution.config, evolution.data.test
    before, best = (
        Evaluator(space, test, evolution.fitness, batch_size=config.batch_size).scores([Lineage()])[0]
        for space in (evolution.space, kept)
    )
    gain = paired_difference(best, before, seed=config.seed)
    return [
        Row("parent", "parent", 1, None, None, fitness=float(before.mean())),
        Row(config.searcher, "best network", 1, None, None, fitness=float(best.mean()), fitness_gain=gain),
    ]


def _own_rows(evolution: Evolution, kept: ParameterSpace) -> list[Row]:
    """The parent and the best network by a fitness of the network; another look at it, no other samples."""
    before, best = (
        float(Evaluator(space, None, evolution.fitness).evaluate([Lineage()]).fitness[0])
        for space in (evolution.space, kept)
    )
    return [
        Row("parent", "parent", 1, None, None, fitness=before),
        Row(evolution.config.searcher, "best network", 1, None, None, fitness=best),
    ]


def _rows(evolution: Evolution, judge: Evaluator, ensemble: SparseEnsemble, pool: str) -> list[Row]:
    """Read the test split: the only place that does."""
    config, data = evolution.config, evolution.data
    test = judge.on(data.test)
    before = Evaluator(evolution.space, data.test, evolution.fitness, batch_size=config.batch_size)
    parent, targets = before.predict([Lineage()])[0], test.targets()
    best = test.predict([Lineage()])[0]
    fitness = evolution.fitness
    assert isinstance(fitness, OutputFitness)
    together = combined(test.outputs(ensemble.members), ensemble.weights.tolist(), pool)
    return [
        table_row("parent", "parent", 1, parent, None, targets, fitness),
        table_row(config.searcher, "best network", 1, best, parent, targets, fitness, config.seed),
        table_row(config.searcher, "ensemble", len(ensemble), together, parent, targets, fitness, config.seed),
    ]
