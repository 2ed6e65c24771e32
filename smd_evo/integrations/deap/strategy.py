"""SubspaceStrategy: DEAP's CMA-ES on k coordinates of a network, for ``eaGenerateUpdate``."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from deap import cma
from torch import nn

from smd_evo.core.delta import placed
from smd_evo.core.subspace import RandomSubspace, Subspace
from smd_evo.errors import InvalidType, InvalidValue, WrongParent, check_count, check_number
from smd_evo.integrations.deap.evaluator import ToolboxEvaluator, check_direction, map_batches
from smd_evo.integrations.deap.variation import draw_key

__all__ = ["SubspaceStrategy"]


class SubspaceStrategy:
    """``deap.cma.Strategy`` on a subspace of k coordinates, which starts at the parent of an evaluator.

    An individual is k numbers that are added to the parent; register ``strategy.generate``, ``strategy.update``,
    ``strategy.evaluate`` and ``strategy.map``.

    Args:
        evaluator: of the network.
        dimensions: k, for a random subspace of so many coordinates. Give this or ``subspace``.
        subspace: another rule of the coordinates.
        sigma: first standard deviation, in units of the parameters.
        options: further settings of ``cma.Strategy``, ``lambda_`` for instance.

    Raises:
        InvalidValue, InvalidType: the above does not hold.

    All random numbers follow from Python's ``random``; numpy's generator, which ``deap.cma`` uses, is put back.

    Example:
        >>> evaluator = ToolboxEvaluator(nn.Linear(4, 4), (torch.eye(4), torch.arange(4)))
        >>> strategy = SubspaceStrategy(evaluator, dimensions=5, sigma=0.1)
        >>> from smd_evo import DenseIndividual
        >>> population = strategy.generate(DenseIndividual)
        >>> for individual, fitness in zip(population, strategy.map(strategy.evaluate, population)):
        ...     individual.fitness.values = fitness
        >>> strategy.update(population)

    Reference: Hansen, Ostermeier, "Completely derandomized self-adaptation in evolution strategies", Evol. Comput.
    9, 2001.
    """

    def __init__(
        self,
        evaluator: ToolboxEvaluator,
        *,
        dimensions: int | None = None,
        subspace: Subspace | None = None,
        sigma: float,
        **options: Any,
    ) -> None:
        if not isinstance(evaluator, ToolboxEvaluator):
            raise InvalidType(f"evaluator: expected a ToolboxEvaluator, got {type(evaluator).__name__}")
        if (dimensions is None) == (subspace is None):
            got = "neither" if subspace is None else "both"
            raise InvalidValue(f"dimensions: expected it or subspace, got {got}")
        check_number("sigma", sigma, low=0, mend="try a tenth of the parameters' own")
        self._space = evaluator.evaluator.space
        if subspace is None:
            k, size = check_count("dimensions", dimensions), self._space.size
            if k > size:
                raise InvalidValue(f"dimensions: expected at most the {size} selected parameters, got {k}")
            subspace = RandomSubspace(k / size)
        elif not isinstance(subspace, Subspace):
            raise InvalidType(f"subspace: expected e.g. RandomSubspace(0.01), got {subspace!r}")
        self._evaluator = evaluator.evaluator
        self._coordinates = subspace.coordinates(subspace.draw(draw_key()), self._space.layout, self._space.device)
        self.strategy = cma.Strategy([0.0] * len(self._coordinates), sigma, **options)

    def generate(self, ind_init: Callable[[Any], Any]) -> list[Any]:
        """A population from the current distribution."""
        state = np.random.get_state()
        np.random.seed(random.getrandbits(32))
        try:
            population: list[Any] = self.strategy.generate(ind_init)
        finally:
            np.random.set_state(state)
        return population

    def update(self, population: list[Any]) -> None:
        """Learn from an evaluated population."""
        self.strategy.update(population)

    def evaluate(self, individual: Any) -> tuple[float]:
        """Fitness of one individual, as a tuple."""
        return self.evaluate_all([individual])[0]

    def evaluate_all(self, individuals: Iterable[Any]) -> list[tuple[float]]:
        """Fitness of a generation, in its order."""
        children = [self._child(individual) for individual in individuals]
        return [(fitness,) for fitness in self._evaluator.evaluate(children).fitness.tolist()]

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterable[Any]:
        """The built-in map, but for this object's ``evaluate``, which gets the whole generation."""
        return map_batches(self.evaluate, self.evaluate_all, function, *iterables)

    def make_net(self, individual: Any) -> nn.Module:
        """An individual as an independent network."""
        return self._space.make_child(self._child(individual))

    def _child(self, individual: Any) -> Any:
        check_direction(individual, self._evaluator)
        values = torch.as_tensor(np.asarray(individual, dtype=np.float32), device=self._space.device)
        if values.shape != self._coordinates.shape:
            raise WrongParent(
                f"individual: expected {len(self._coordinates)} numbers, one for each dimension, got "
                f"{list(values.shape)}"
            )
        return placed(values, self._coordinates, self._space.layout, "absolute")
