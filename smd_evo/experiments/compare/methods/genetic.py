"""Genetic algorithms: Deep GA through EvoTorch, mu + lambda through DEAP's own loop."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from deap import algorithms, base, tools
from torch import Tensor

from smd_evo.core.mutation import Lineage
from smd_evo.core.subspace import Dense, RandomSubspace
from smd_evo.evaluation.work import Work
from smd_evo.experiments.compare.methods.base import Method, SearcherMethod, Settings, Task, voted
from smd_evo.integrations.deap.evaluator import ToolboxEvaluator
from smd_evo.integrations.deap.variation import mutSparseGaussian
from smd_evo.integrations.evotorch.evolution import SubspaceEvolution
from smd_evo.integrations.evotorch.finetune import FinetuneProblem
from smd_evo.zoo.data import Samples

__all__ = ["DeapMuPlusLambda", "DeepGA"]

_STEPS = 8
"""Longest lineage beyond what all parents share, which is folded."""


class DeepGA(SearcherMethod):
    """Deep GA: truncation selection of dense mutations without crossover, and one elite.

    The parents are evaluated again on each minibatch, so a generation is ``children`` evaluations with them; where
    there are fewer parents, as in the first one, some evaluations are paid for and not made.

    Args:
        task: the task.
        sigma: mutation strength, in units of the calibrated dense one.
        parents: how many are selected.
    """

    about = "Deep GA: dense mutations, truncation selection, one elite (arXiv 1712.06567)"
    grid: ClassVar[Sequence[Settings]] = (
        {"sigma": 0.5, "parents": 4},
        {"sigma": 0.25, "parents": 4},
        {"sigma": 1.0, "parents": 4},
        {"sigma": 0.5, "parents": 2},
    )

    def __init__(self, task: Task, sigma: float, parents: int) -> None:
        super().__init__(task)
        self.problem = FinetuneProblem(task.space, task.data, task.fitness, steps=_STEPS, **task.host)
        self.searcher = SubspaceEvolution(
            self.problem,
            popsize=task.children - parents,
            subspace=Dense(),
            sigma=sigma * task.strength(Dense()).sigma,
            num_parents=parents,
            num_elites=1,
        )

    def predict(self, data: Samples) -> Tensor:
        """See the base class."""
        best = self.problem.lineages(self.searcher.status["pop_best"]) if self.searcher.step_count else [Lineage()]
        return voted(self.problem.evaluator.on(data), best)


class DeapMuPlusLambda(Method):
    """DEAP's eaMuPlusLambda on lineages of sparse mutations.

    As :class:`DeepGA` evaluates its parents again, so does this, on each minibatch.

    Args:
        task: the task.
        density: of each mutation.
        sigma: mutation strength, in units of the calibrated one.
        parents: mu.
    """

    about = "DEAP's eaMuPlusLambda, sparse mutations"
    grid: ClassVar[Sequence[Settings]] = (
        {"density": 0.1, "sigma": 0.5, "parents": 4},
        {"density": 0.1, "sigma": 0.25, "parents": 4},
        {"density": 0.1, "sigma": 1.0, "parents": 4},
        {"density": 0.01, "sigma": 0.5, "parents": 4},
    )

    def __init__(self, task: Task, density: float, sigma: float, parents: int) -> None:
        strength = task.strength(RandomSubspace(density))
        self._task, self._generation = task, 0
        self._deap = ToolboxEvaluator(task.space, task.data, task.fitness, batch_size=task.batch_size)
        self._random = random.Random(task.seed).getstate()
        self._children = task.children - parents
        self._toolbox = base.Toolbox()
        self._toolbox.register("evaluate", self._deap.evaluate)
        self._toolbox.register("map", self._deap.map)
        self._toolbox.register("mutate", mutSparseGaussian, mu=0, sigma=sigma * strength.sigma, density=density)
        self._toolbox.register("select", tools.selBest)
        self._population = [self._deap.lineage() for _ in range(parents)]

    @property
    def cost(self) -> int:
        """See the base class."""
        return self._task.generation

    @property
    def work(self) -> Work:
        """See the base class."""
        return self._task.parent.work

    def step(self) -> None:
        """See the base class."""
        self._deap.evaluator = self._task.minibatch(self._generation)
        for individual in self._population:
            del individual.fitness.values
        own, self._generation = random.getstate(), self._generation + 1
        random.setstate(self._random)  # DEAP draws from Python's global generator
        try:
            self._population, _ = algorithms.eaMuPlusLambda(
                self._population,
                self._toolbox,
                mu=len(self._population),
                lambda_=self._children,
                cxpb=0,
                mutpb=1,
                ngen=1,
                verbose=False,
            )
            self._random = random.getstate()
        finally:
            random.setstate(own)

    def predict(self, data: Samples) -> Tensor:
        """See the base class."""
        best = tools.selBest(self._population, 1)[0] if self._generation else self._population[0]
        return voted(self._task.parent.on(data), [best.lineage])
