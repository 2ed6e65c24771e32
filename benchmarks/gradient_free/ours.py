"""Our methods and dense OpenAI-ES, as searches of a task: EvoTorch's searchers of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from frame import Task, calibrated
from torch import nn

import smd_evo
from smd_evo.controls.batchnorm import blended, statistics_of

__all__ = ["GRIDS", "MAKERS", "MOVES", "of_few"]


class Searching:
    """A searcher of a problem; what is evaluated is counted by the problem, its parent included."""

    def __init__(self, problem: Any, searcher: Any) -> None:
        self.problem, self.searcher = problem, searcher

    @property
    def module(self) -> nn.Module:
        return self.problem.make_net()

    def step(self) -> int:
        before = self.problem.evaluations
        self.searcher.step()
        return (self.problem.evaluations - before) * self.problem.minibatch_size


class OpenAIESSearch(Searching):
    """Dense OpenAI-ES: antithetic pairs, centred ranks, Adam; no decay of weights.

    Args:
        rank: of the noise in each matrix, which makes it EGGROLL (Sarkar et al., arXiv 2511.16652); 0: any.
    """

    def __init__(self, task: Task, seed: int, sigma: float, rate: float, rank: int = 0) -> None:
        problem, unit = task.problem(seed), calibrated(task)
        searcher = smd_evo.SubspaceES(
            problem,
            popsize=task.children,
            subspace=smd_evo.LowRank(rank) if rank else smd_evo.Dense(),
            sigma=sigma * unit,
            center_learning_rate=rate * unit,
        )
        super().__init__(problem, searcher)


class SparseSearch(Searching):
    """SubspaceES, a random subspace for each pair of children; of the integers themselves where there are some."""

    def __init__(
        self,
        task: Task,
        seed: int,
        density: float,
        sigma: float,
        rate: float,
        select: Any = None,
    ) -> None:
        select = select or task.own_select
        subspace = smd_evo.RandomSubspace(density) if density < 1 else smd_evo.Dense()
        problem = task.problem(seed, task.own, select)
        unit = calibrated(task, subspace, task.own, select)
        searcher = smd_evo.SubspaceES(
            problem,
            popsize=task.children,
            subspace=subspace,
            sigma=sigma * unit,
            center_learning_rate=rate * unit * density**0.5,
        )
        super().__init__(problem, searcher)


class NewtonSearch(Searching):
    """SubspaceNewton: dense children of few parameters, and the mixture of them that has the least loss.

    Args:
        share: of the fitness samples' own statistics in batch normalisations, before the first step; 0: none.
    """

    def __init__(
        self,
        task: Task,
        seed: int,
        select: Any,
        ridge: float,
        children: int = 64,
        images: int | None = None,
        share: float = 0.0,
    ) -> None:
        network = task.network if task.own is None else task.own
        self.before = 0
        if share:
            ranker = smd_evo.Evaluator(network, task.data.fitness)
            network, self.before = blended(network, statistics_of(network, ranker.batches), share), task.samples
        problem = task.problem(seed, network, select)
        problem.minibatch_size = images or task.minibatch
        searcher = smd_evo.SubspaceNewton(problem, popsize=children, subspace=smd_evo.Dense(), ridge=ridge)
        super().__init__(problem, searcher)
        _ = self.searcher.sigma  # found now, and not counted, as other strengths are not

    def step(self) -> int:
        before, self.before = self.before, 0
        return before + super().step()


MOVES = [{"sigma": 1.0, "rate": 0.2}, {"sigma": 1.0, "rate": 0.4}, {"sigma": 0.5, "rate": 0.2}]
MAKERS: dict[str, Any] = {"sparse-es": SparseSearch, "newton": NewtonSearch}
GRIDS: Mapping[str, list[dict[str, Any]]] = {
    "sparse-es": [{"density": 0.1, **each} for each in MOVES],
    "newton": [{"select": "norm,bias,head", "ridge": ridge} for ridge in (0.03, 0.1, 0.3)],
}


def of_few(select: Any) -> dict[str, Any]:
    """Makers and grids of what mutates few parameters of an image network, densely."""
    ridges = [{"select": select, "ridge": ridge, "images": 500, "share": 0.75} for ridge in (0.1, 0.03, 0.3)]
    return {
        "norm-es": (SparseSearch, [{"select": select, "density": 1.0, **each} for each in MOVES]),
        "norm-newton": (NewtonSearch, ridges),
    }
