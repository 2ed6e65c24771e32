"""ToolboxEvaluator: ``map`` and ``evaluate`` of a DEAP toolbox, a whole generation at a time."""

from __future__ import annotations

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

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
from smd_evo.evaluation.front import ParetoFront
from smd_evo.evaluation.objectives import Objective, Objectives, listed
from smd_evo.integrations.deap.individuals import DenseIndividual, LineageIndividual, fitness_class, genes_of
from smd_evo.integrations.deap.rebased import Rebased, common_steps
from smd_evo.integrations.words import TOOLBOX_WORDS
from smd_evo.mends import not_here

__all__ = ["NetworkToolbox", "ToolboxEvaluator"]


class NetworkToolbox(ABC):
    """What a toolbox registers: ``evaluate`` and ``map``, for individuals that stand for children of one parent.

    Attributes:
        evaluator: the core's evaluator of the parent.
        objectives: what individuals are evaluated by.
    """

    evaluator: Evaluator
    objectives: Objectives
    _alike = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "objectives" not in state:  # a pickle from before there were several
            self.objectives = Objectives([self.evaluator.fitness])

    @abstractmethod
    def _child(self, individual: Any) -> Child:
        """The child that an individual stands for."""

    def evaluate(self, individual: Any) -> tuple[float, ...]:
        """Fitness of one individual, as a tuple."""
        return self.evaluate_all([individual])[0]

    def evaluate_all(self, individuals: Iterable[Any]) -> list[tuple[float, ...]]:
        """Fitness of a generation, in its order."""
        individuals = list(individuals)
        for individual in individuals:
            self._check_direction(individual)
        children = [self._child(individual) for individual in individuals]
        self._say_if_nothing_mutates(individuals)
        return self._evaluated(children)

    def front(self, individuals: Iterable[Any]) -> ParetoFront:
        """The Pareto front of evaluated individuals; its ``numbers`` are places among them.

        Raises:
            InvalidValue: some have no fitness.
        """
        values = [individual.fitness.values for individual in individuals]
        if missing := [number for number, own in enumerate(values) if len(own) != len(self.objectives)]:
            raise InvalidValue(
                f"individuals: expected {len(self.objectives)} values of fitness, got {len(values[missing[0]])} in "
                f"number {missing[0]}; evaluate it first"
            )
        table = torch.tensor(values, dtype=torch.float64, device="cpu").view(len(values), len(self.objectives))
        return self.objectives.front(table)

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

    def _evaluated(self, children: list[Child]) -> list[tuple[float, ...]]:
        return self._values(self.evaluator, children)

    def _values(self, evaluator: Evaluator, children: Sequence[Child]) -> list[tuple[float, ...]]:
        """Of each objective, of children of an evaluator's parent."""
        if len(self.objectives) == 1:
            return [(fitness,) for fitness in evaluator.evaluate(children).fitness.tolist()]
        return [tuple(values) for values in self.objectives.evaluate(evaluator, children).tolist()]

    def _say_if_nothing_mutates(self, individuals: Sequence[Any]) -> None:
        """Warn of two generations of parents: to DEAP's own operators a lineage without mutations has no genes."""
        alike = len(individuals) > 1 and all(
            isinstance(one, LineageIndividual) and not len(one) for one in individuals
        )
        if alike and self._alike:
            warnings.warn(
                "individuals: expected mutations in the second generation, got the parent again; mutSparseGaussian "
                "adds them, DEAP's own operators find no genes in a lineage",
                stacklevel=3,
            )
        self._alike = alike

    def _check_direction(self, individual: Any) -> None:
        """Refuse an individual whose fitness would be led the wrong way."""
        weights: Sequence[float] | None = getattr(getattr(individual, "fitness", None), "weights", None)
        wanted = fitness_class(self.objectives.senses).weights
        if weights is not None and (
            len(weights) != len(wanted) or any(own * sign <= 0 for own, sign in zip(weights, wanted, strict=True))
        ):
            names = zip(self.objectives.names, self.objectives.senses, strict=True)
            aims = " and ".join(f"{name} is to be {'low' if sense == 'min' else 'high'}" for name, sense in names)
            raise InvalidValue(f"fitness: expected weights {wanted}, as {aims}, got {tuple(weights)}")


class ToolboxEvaluator(NetworkToolbox):
    """Fitness of networks for a DEAP toolbox; every generation goes through the core's Evaluator at once.

    ``toolbox.register("evaluate", evaluator.evaluate)`` and ``toolbox.register("map", evaluator.map)``. A
    LineageIndividual is a child of the parent; any other sequence holds all selected parameters of a network.
    Fitness that is not finite becomes the worst there is, +-1e18, so that no NaN enters a HallOfFame. An
    ``evaluate`` that is decorated (constraints) works, one individual after the other. Threads may map it, too; they
    take turns.

    Args:
        parent: the network; it is patched in place while it is evaluated, and as before afterwards.
        fitness: a name, a BatchFitness or a ModuleFitness, or a list of several objectives: see
            :class:`smd_evo.evaluation.objectives.Objectives`.
        data, select, batch_size, device, together: see :class:`smd_evo.evaluation.evaluator.Evaluator`.

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

    @not_here(**TOOLBOX_WORDS)
    def __init__(
        self,
        parent: nn.Module | ParameterSpace,
        data: Any = None,
        fitness: str | Fitness | Sequence[str | Objective] = "cross_entropy",
        *,
        select: Select = "all",
        batch_size: int | str = "auto",
        device: torch.device | str | None = None,
        together: int | None = None,
    ) -> None:
        self.objectives = Objectives(listed(fitness))
        self.evaluator = self.objectives.evaluator(
            parent, data, select=select, batch_size=batch_size, device=device, together=together
        )

    @property
    def fitness(self) -> type[base.Fitness]:
        """Class of the individuals' fitness: MinFitness or MaxFitness, or one with a weight for each objective."""
        return fitness_class(self.objectives.senses)

    def lineage(self) -> LineageIndividual:
        """The parent as an individual of no mutations."""
        return LineageIndividual(Lineage(), self.fitness)

    def dense(self) -> DenseIndividual:
        """The parent as an individual of all its selected parameters."""
        return DenseIndividual(self.evaluator.space.flat().cpu().numpy(), self.fitness)

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
            InvalidValue: a fitness is of what differs from the parent, which would be another one then.

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
        if of_changes := self.objectives.of_changes:
            raise InvalidValue(
                f"fitness: expected none of the change where a copy of the network takes steps, got {of_changes[0]}; "
                "leave rebase out"
            )
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

    def _evaluated(self, children: list[Child]) -> list[tuple[float, ...]]:
        if self._rebased is None:
            return super()._evaluated(children)
        return self._rebased.evaluate(children, self._values)

    def _child(self, individual: Any) -> Child:
        if isinstance(individual, LineageIndividual):
            return individual.lineage
        parent = self.evaluator.space.flat()  # as it is now: its owner may have trained it since the last generation
        genes = genes_of(individual, "evaluator.dense() is one, and LineageIndividual(lineage)")
        values = torch.as_tensor(genes, device=parent.device)
        if values.shape != parent.shape:
            raise WrongParent(
                f"individual: expected {len(parent)} numbers, one for each selected parameter, got "
                f"{list(values.shape)}; evaluator.dense() makes one"
            )
        changed = (values != parent).nonzero().flatten()
        return SparseValues(changed, values[changed])
