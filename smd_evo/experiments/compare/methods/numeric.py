"""EvoTorch's own searchers on the parent's parameters as plain numbers: PGPE, SNES, CMA-ES."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from evotorch.algorithms import CMAES, PGPE, SNES, SearchAlgorithm
from torch import Tensor

from smd_evo.core.mutation import Lineage
from smd_evo.core.subspace import Dense, RandomSubspace, Subspace
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.experiments.compare.methods.base import SearcherMethod, Settings, Strength, Task
from smd_evo.integrations.evotorch.subspace import SubspaceProblem
from smd_evo.zoo.data import Samples

__all__ = ["Pgpe", "Snes", "SubspaceCmaes"]


class NumericSearch(SearcherMethod):
    """A searcher of EvoTorch's on a SubspaceProblem, whose centre starts at the parent."""

    def __init__(self, task: Task, subspace: Subspace) -> None:
        super().__init__(task)
        self.problem = SubspaceProblem(task.space, task.data, task.fitness, subspace=subspace, **task.host)
        self.searcher = self.start(task.strength(subspace))

    @abstractmethod
    def start(self, strength: Strength) -> SearchAlgorithm:
        """The searcher."""

    def predict(self, data: Samples) -> Tensor:
        """See the base class."""
        centre = self.searcher.status["center"] if self.searcher.step_count else None
        network = self.problem.make_net(centre)
        evaluator = Evaluator(network, data, self.task.fitness, batch_size=self.task.batch_size)
        outputs: Tensor = evaluator.predict([Lineage()])[0]
        return outputs


class Pgpe(NumericSearch):
    """PGPE of EvoTorch, dense: antithetic pairs, Adam, a strength of its own for each parameter."""

    about = "EvoTorch's PGPE on all parameters (Sehnke et al. 2010)"
    grid: ClassVar[Sequence[Settings]] = (
        {"sigma": 1.0, "rate": 0.2},
        {"sigma": 1.0, "rate": 0.4},
        {"sigma": 0.5, "rate": 0.2},
        {"sigma": 1.0, "rate": 0.1},
    )

    def __init__(self, task: Task, sigma: float, rate: float) -> None:
        self._sigma, self._rate = sigma, rate
        super().__init__(task, Dense())

    def start(self, strength: Strength) -> SearchAlgorithm:
        """See the base class."""
        return PGPE(
            self.problem,
            popsize=self.task.children,
            center_learning_rate=self._rate * strength.norm,
            stdev_learning_rate=0.1,
            stdev_init=self._sigma * strength.sigma,
            optimizer="adam",
            ranking_method="centered",
        )


class Snes(NumericSearch):
    """SNES of EvoTorch, dense."""

    about = "EvoTorch's SNES on all parameters (Schaul et al. 2011)"
    grid: ClassVar[Sequence[Settings]] = (
        {"sigma": 1.0, "rate": 1.0},
        {"sigma": 0.5, "rate": 1.0},
        {"sigma": 1.0, "rate": 3.0},
        {"sigma": 0.5, "rate": 3.0},
    )

    def __init__(self, task: Task, sigma: float, rate: float) -> None:
        self._sigma, self._rate = sigma, rate
        super().__init__(task, Dense())

    def start(self, strength: Strength) -> SearchAlgorithm:
        """See the base class."""
        return SNES(
            self.problem,
            popsize=self.task.children,
            stdev_init=self._sigma * strength.sigma,
            center_learning_rate=self._rate,
        )


class SubspaceCmaes(NumericSearch):
    """CMA-ES of EvoTorch on a few random coordinates."""

    about = "EvoTorch's CMA-ES on a random subspace (Hansen & Ostermeier 2001)"
    grid: ClassVar[Sequence[Settings]] = (
        {"dimensions": 100, "sigma": 1.0},
        {"dimensions": 100, "sigma": 0.5},
        {"dimensions": 400, "sigma": 1.0},
        {"dimensions": 400, "sigma": 0.5},
    )

    def __init__(self, task: Task, dimensions: int, sigma: float) -> None:
        self._sigma = sigma
        super().__init__(task, RandomSubspace(min(1.0, dimensions / task.space.size), static=True))

    def start(self, strength: Strength) -> SearchAlgorithm:
        """See the base class."""
        with warnings.catch_warnings():
            # Of torch and numpy to EvoTorch 0.6, in its constructor.
            warnings.filterwarnings("ignore", message="To copy construct from a tensor", category=UserWarning)
            warnings.filterwarnings("ignore", message="__array_wrap__ must accept", category=DeprecationWarning)
            return CMAES(self.problem, popsize=self.task.children, stdev_init=self._sigma * strength.sigma)
