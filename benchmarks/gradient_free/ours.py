"""Our methods and dense OpenAI-ES, as searches of a task: EvoTorch's searchers of this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from frame import Task, calibrated
from torch import nn

import smd_evo
from smd_evo.controls.batchnorm import blended, statistics_of

__all__ = ["MAKERS", "adapted", "beginning", "dense_of", "moves", "newton_of", "sparse"]

SHARES = 0.0, 0.25, 0.5, 0.75, 1.0


class Searching:
    """A searcher of a problem; what is evaluated is counted by the problem, its parent included.

    Attributes:
        before: forward passes taken before the first step.
    """

    def __init__(self, problem: Any, searcher: Any) -> None:
        self.problem, self.searcher, self.before = problem, searcher, 0

    @property
    def module(self) -> nn.Module:
        return self.problem.make_net()

    def step(self) -> int:
        evaluated, before, self.before = self.problem.evaluations, self.before, 0
        self.searcher.step()
        return before + (self.problem.evaluations - evaluated) * self.problem.minibatch_size


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


def adapted(task: Task) -> nn.Module:
    """Our parent with as much of its fitness samples' own statistics in its normalisations as validation prefers."""
    if "adapted" not in task.starts:
        network = task.network if task.own is None else task.own
        statistics = statistics_of(network, smd_evo.Evaluator(network, task.data.fitness).batches)
        task.starts["adapted"] = max((blended(network, statistics, share) for share in SHARES), key=task.validate)
    return task.starts["adapted"]


Start = Callable[[Task], nn.Module]


def beginning(start: Start | None, maker: Any) -> Any:
    """A maker whose searches begin with another network than the parent, if told: one look at all samples counts."""

    def made(task: Task, seed: int, **setting: Any) -> Searching:
        search = maker(replace(task, own=start(task)), seed, **setting)
        search.before = task.samples
        return search

    return made if start else maker


class NewtonSearch(Searching):
    """SubspaceNewton: dense children of few parameters, and the mixture of them that has the least loss."""

    def __init__(
        self,
        task: Task,
        seed: int,
        select: Any,
        ridge: float,
        children: int = 64,
        images: int | None = None,
    ) -> None:
        problem = task.problem(seed, task.own, select)
        problem.minibatch_size = images or task.minibatch
        searcher = smd_evo.SubspaceNewton(problem, popsize=children, subspace=smd_evo.Dense(), ridge=ridge)
        super().__init__(problem, searcher)
        _ = self.searcher.sigma  # found now, and not counted, as other strengths are not


MAKERS: dict[str, Any] = {"sparse-es": SparseSearch, "newton": NewtonSearch}
SPARSEST, RIDGES = 0.1, (0.1, 0.03, 0.3, 0.01)


def moves(by: float = 1.0) -> list[dict[str, Any]]:
    """The grid of an evolution strategy: strengths, and learning rates times a number, both in calibrated units."""
    return [{"sigma": sigma, "rate": by * rate} for sigma, rate in ((1.0, 0.4), (1.0, 0.2), (1.0, 0.8), (0.5, 0.4))]


def sparse(by: float = 1.0, density: float = SPARSEST, **more: Any) -> list[dict[str, Any]]:
    """The same of sparse children."""
    return [{"density": density, **more, **each} for each in moves(by)]


def dense_of(select: Any, by: float = 1.0, start: Start | None = None) -> tuple[Any, list[dict[str, Any]]]:
    """Dense children of what is selected: maker and grid."""
    return beginning(start, SparseSearch), sparse(by, 1.0, select=select)


def newton_of(select: Any, start: Start | None = None, **more: Any) -> tuple[Any, list[dict[str, Any]]]:
    """SubspaceNewton of what is selected: maker and grid."""
    return beginning(start, NewtonSearch), [{"select": select, "ridge": ridge, **more} for ridge in RIDGES]
