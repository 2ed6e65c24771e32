"""Our methods and dense OpenAI-ES, as searches of a task: EvoTorch's searchers of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from frame import Task, calibrated
from torch import nn

import smd_evo

__all__ = ["GRIDS", "MAKERS"]


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
    """Dense OpenAI-ES: antithetic pairs, centred ranks, Adam; no weight decay, which pulls a trained network to zero."""

    def __init__(self, task: Task, seed: int, sigma: float, rate: float) -> None:
        problem, unit = task.problem(seed), calibrated(task)
        searcher = smd_evo.SubspaceES(
            problem,
            popsize=task.children,
            subspace=smd_evo.Dense(),
            sigma=sigma * unit,
            center_learning_rate=rate * unit,
        )
        super().__init__(problem, searcher)


class SparseSearch(Searching):
    """SubspaceES with a random subspace for each pair of children; of the integers themselves where there are some."""

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
    """SubspaceNewton: dense children of few parameters, and the mixture of them that has the least loss."""

    def __init__(self, task: Task, seed: int, select: Any, ridge: float, children: int = 64) -> None:
        problem = task.problem(seed, task.own, select)
        super().__init__(
            problem, smd_evo.SubspaceNewton(problem, popsize=children, subspace=smd_evo.Dense(), ridge=ridge)
        )
        _ = self.searcher.sigma  # found now, and not counted, as other strengths are not


_MOVES = [{"sigma": 1.0, "rate": 0.2}, {"sigma": 1.0, "rate": 0.4}, {"sigma": 0.5, "rate": 0.2}]
MAKERS: dict[str, Any] = {"sparse-es": SparseSearch, "newton": NewtonSearch}
GRIDS: Mapping[str, list[dict[str, Any]]] = {
    "sparse-es": [{"density": 0.1, **each} for each in _MOVES],
    "newton": [{"select": "norm,bias,head", "ridge": ridge} for ridge in (0.03, 0.1, 0.3)],
}
