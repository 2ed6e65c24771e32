"""ToolboxEvaluator: ``map`` and ``evaluate`` of a DEAP toolbox, a whole generation at a time."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from deap import base
from torch import nn

from smd_evo.core.delta import SparseValues
from smd_evo.core.mutation import Lineage
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.core.selection import Select
from smd_evo.errors import InvalidType, InvalidValue, WrongParent, shown
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import Fitness
from smd_evo.integrations.deap.individuals import DenseIndividual, LineageIndividual, MaxFitness, MinFitness
from smd_evo.integrations.deap.rebased import Rebased, common_steps

__all__ = ["NetworkToolbox", "ToolboxEvaluator"]


class NetworkToolbox(ABC):
    """What a toolbox registers: ``evaluate`` and ``map``, for individuals that stand for children of one parent.

    Attributes:
        evaluator: the core's evaluator of the parent.
    """

    evaluator: Evaluator

    @abstractmethod
    def _child(self, individual: Any) -> Child:
        """The child that an individual stands for."""

    def evaluate(self, individual: Any) -> tuple[float]:
        """Fitness of one individual, as a tuple."""
        return self.evaluate_all([individual])[0]

    def evaluate_all(self, individuals: Iterable[Any]) -> list[tuple[float]]:
        """Fitness of a generation, in its order."""
        individuals = list(individuals)
        for individual in individuals:
            self._check_direction(individual)
        children = [self._child(individual) for individual in individuals]
        return [(fitness,) for fitness in self._evaluated(children)]

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterable[Any]:
        """The built-in map, but for this object's ``evaluate``, which gets the whole generation."""
        inner = function
        while isinstance(inner, functools.partial) and not inner.args and not inner.keywords:
            inner = inner.func
        if inner == self.evaluate and len(iterables) == 1:
            return self.evaluate_all(iterables[0])
        return map(function, *iterables)

    def make_net(self, individual: Any) -> nn.Module:
        """An individual as an independent network."""
        return self.evaluator.space.make_child(self._child(individual))

    def _evaluated(self, children: list[Child]) -> list[float]:
        return self.evaluator.evaluate(children).fitness.tolist()

    def _check_direction(self, individual: Any) -> None:
        """Refuse an individual whose fitness would be led the wrong way."""
        weights: Sequence[float] | None = getattr(getattr(individual, "fitness", None), "weights", None)
        wanted = -1 if self.evaluator.fitness.sense == "min" else 1
        if weights is not None and (len(weights) != 1 or weights[0] * wanted <= 0):
            raise InvalidValue(
                f"fitness: expected weights ({wanted:.1f},), as {self.evaluator.fitness.name} is to be "
                f"{'low' if wanted < 0 else 'high'}, got {tuple(weights)}"
            )


class ToolboxEvaluator(NetworkToolbox):
    """Fitness of networks for a DEAP toolbox; every generation goes through the core's Evaluator at once.

    ``toolbox.register("evaluate", evaluator.evaluate)`` and ``toolbox.register("map", evaluator.map)``. A
    LineageIndividual is a child of the parent; any other sequence holds all selected parameters of a network.
    Fitness that is not finite becomes the worst there is, +-1e18, so that no NaN enters a HallOfFame. An
    ``evaluate`` that is decorated (constraints) works, one individual after the other. Threads may map it, too; they
    take turns.

    Args:
        parent: the network; it is patched in place while it is evaluated, and as before afterwards.
        data, fitness, select, batch_size, device, together: see :class:`smd_evo.evaluation.evaluator.Evaluator`.

    Raises:
        InvalidValue, InvalidType, UnsupportedParameter: unusable parent, data or fitness.

    Example:
        >>> from deap import algorithms, base, tools
        >>> from smd_evo import mutSparseGaussian
        >>> evaluator = ToolboxEvaluator(nn.Linear(4, 4), (torch.eye(4), torch.arange(4)))
        >>> toolbox = base.Toolbox()
        >>> toolbox.register("evaluate", evaluator.evaluate)
        >>> toolbox.register("map", evaluator.map)
        >>> toolbox.register("mutate", mutSparseGaussian, mu=0, sigma=0.3, density=0.2)
        >>> toolbox.register("select", tools.selBest)
        >>> population = [evaluator.lineage() for _ in range(4)]
        >>> _ = algorithms.eaMuPlusLambda(population, toolbox, 4, 8, cxpb=0, mutpb=1, ngen=3, verbose=False)
    """

    _rebased: Rebased | None = None  # of the class, for what former versions have pickled

    def __init__(
        self,
        parent: nn.Module | ParameterSpace,
        data: Any = None,
        fitness: str | Fitness = "cross_entropy",
        *,
        select: Select = "all",
        batch_size: int | str = "auto",
        device: torch.device | str | None = None,
        together: int | None = None,
    ) -> None:
        self.evaluator = Evaluator(
            parent, data, fitness, select=select, batch_size=batch_size, device=device, together=together
        )
        space = self.evaluator.space
        self._parent = space.values_at(torch.arange(space.size, device=space.device))

    @property
    def fitness(self) -> type[base.Fitness]:
        """MinFitness or MaxFitness, as the fitness wants it."""
        return MinFitness if self.evaluator.fitness.sense == "min" else MaxFitness

    def lineage(self) -> LineageIndividual:
        """The parent as an individual of no mutations."""
        return LineageIndividual(Lineage(), self.fitness)

    def dense(self) -> DenseIndividual:
        """The parent as an individual of all its selected parameters."""
        return DenseIndividual(self._parent.cpu().numpy(), self.fitness)

    def rebase(self, population: Iterable[LineageIndividual]) -> int:
        """Have what all lineages of a population begin with replayed once, and no more for each child.

        Individuals stay as they are, the same children to the bit, and keep their fitness: a copy of the network
        takes the common steps, and children that begin with them are made from there. All others (in a hall of fame,
        in a History, migrants) are made from the network itself, as before, so they stay right, too. Call it in each
        generation: lineages coalesce, so a child then costs its few last steps, however long a run is.

        Args:
            population: the individuals that parents will come from.

        Returns:
            The number of steps that all have in common.

        Raises:
            InvalidType: an individual is no LineageIndividual.

        Example:
            >>> import copy
            >>> from smd_evo import mutSparseGaussian
            >>> evaluator = ToolboxEvaluator(nn.Linear(4, 4), (torch.eye(4), torch.arange(4)))
            >>> one = evaluator.lineage()
            >>> _ = mutSparseGaussian(one, mu=0, sigma=0.3, density=0.2)
            >>> two = copy.deepcopy(one)
            >>> _ = mutSparseGaussian(two, mu=0, sigma=0.3, density=0.2)
            >>> evaluator.rebase([one, two])
            1
        """
        population = list(population)
        for individual in population:
            if not isinstance(individual, LineageIndividual):
                raise InvalidType(
                    f"population: expected LineageIndividuals, got {shown(individual)}; others have no steps to fold"
                )
        steps = common_steps([individual.lineage for individual in population])
        if self._rebased is None and steps:
            self._rebased = Rebased(self.evaluator)
        if self._rebased is not None:
            self._rebased.take(steps)
        return len(steps)

    def make_net(self, individual: Any) -> nn.Module:
        """See :meth:`NetworkToolbox.make_net`."""
        if self._rebased is None:
            return super().make_net(individual)
        return self._rebased.make_net(self._child(individual))

    def _evaluated(self, children: list[Child]) -> list[float]:
        return super()._evaluated(children) if self._rebased is None else self._rebased.evaluate(children)

    def _child(self, individual: Any) -> Child:
        if isinstance(individual, LineageIndividual):
            return individual.lineage
        values = torch.as_tensor(np.asarray(individual, dtype=np.float32), device=self._parent.device)
        if values.shape != self._parent.shape:
            raise WrongParent(
                f"individual: expected {len(self._parent)} numbers, one for each selected parameter, got "
                f"{list(values.shape)}; evaluator.dense() makes one"
            )
        changed = (values != self._parent).nonzero().flatten()
        return SparseValues(changed, values[changed])
