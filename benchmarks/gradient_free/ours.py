"""Our methods and dense OpenAI-ES, as searches of a task: EvoTorch's searchers of this package."""

from __future__ import annotations

from typing import Any

from frame import Task, calibrated
from torch import nn

import smd_evo
from smd_evo.controls.batchnorm import blended, statistics_of

__all__ = ["MAKERS", "best_blend", "dense_of", "moves", "newton_of_few", "sparse"]

SHARES = 0.0, 0.25, 0.5, 0.75, 1.0


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


def best_blend(task: Task, network: nn.Module) -> nn.Module:
    """A network with as much of its fitness samples' own statistics in its normalisations as validation prefers."""
    statistics = statistics_of(network, smd_evo.Evaluator(network, task.data.fitness).batches)
    return max((blended(network, statistics, share) for share in SHARES), key=task.validate)


class NewtonSearch(Searching):
    """SubspaceNewton: dense children of few parameters, and the mixture of them that has the least loss.

    Args:
        blend: whether it begins with ``best_blend``, whose look at all fitness samples counts.
    """

    def __init__(
        self,
        task: Task,
        seed: int,
        select: Any,
        ridge: float,
        children: int = 64,
        images: int | None = None,
        blend: bool = False,
    ) -> None:
        network = task.network if task.own is None else task.own
        self.before = 0
        if blend:
            network, self.before = best_blend(task, network), task.samples
        problem = task.problem(seed, network, select)
        problem.minibatch_size = images or task.minibatch
        searcher = smd_evo.SubspaceNewton(problem, popsize=children, subspace=smd_evo.Dense(), ridge=ridge)
        super().__init__(problem, searcher)
        _ = self.searcher.sigma  # found now, and not counted, as other strengths are not

    def step(self) -> int:
        before, self.before = self.before, 0
        return before + super().step()


MAKERS: dict[str, Any] = {"sparse-es": SparseSearch, "newton": NewtonSearch}
SPARSEST, RIDGES = 0.1, (0.1, 0.03, 0.3, 0.01)


def moves(by: float = 1.0) -> list[dict[str, Any]]:
    """The grid of an evolution strategy: strengths, and learning rates times a number, both in calibrated units."""
    return [{"sigma": sigma, "rate": by * rate} for sigma, rate in ((1.0, 0.4), (1.0, 0.2), (1.0, 0.8), (0.5, 0.4))]


def sparse(by: float = 1.0, density: float = SPARSEST, **more: Any) -> list[dict[str, Any]]:
    """The same of sparse children."""
    return [{"density": density, **more, **each} for each in moves(by)]


def dense_of(select: Any, by: float = 1.0) -> tuple[Any, list[dict[str, Any]]]:
    """Dense children of few parameters: maker and grid."""
    return SparseSearch, sparse(by, 1.0, select=select)


def newton_of_few(select: Any, **more: Any) -> tuple[Any, list[dict[str, Any]]]:
    """SubspaceNewton of few parameters: maker and grid."""
    return NewtonSearch, [{"select": select, "ridge": ridge, **more} for ridge in RIDGES]
