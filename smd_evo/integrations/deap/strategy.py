"""SubspaceStrategy: DEAP's CMA-ES on k coordinates of a network, for ``eaGenerateUpdate``."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from deap import cma
from numpy.typing import NDArray

from smd_evo.core.delta import SparseDelta, placed
from smd_evo.core.subspace import Subspace
from smd_evo.errors import InvalidType, InvalidValue, WrongParent, check_choice, check_count, check_number, shown
from smd_evo.integrations.deap.evaluator import NetworkToolbox, ToolboxEvaluator
from smd_evo.integrations.deap.individuals import genes_of
from smd_evo.integrations.deap.variation import draw_key
from smd_evo.integrations.rules import subspace_of_dimensions
from smd_evo.mends import not_here

__all__ = ["SubspaceStrategy"]

_COUNTS, _NUMBERS = ("lambda_", "mu"), ("cs", "damps", "ccum", "ccov1", "ccovmu")
"""Settings of ``cma.Strategy``."""


class SubspaceStrategy(NetworkToolbox):
    """``deap.cma.Strategy`` on a subspace of k coordinates, which starts at the parent of an evaluator.

    An individual is k numbers that are added to the parent; register ``strategy.generate``, ``strategy.update``,
    ``strategy.evaluate`` and ``strategy.map``. The attributes of ``cma.Strategy`` (``centroid``, ``sigma``, ``C``,
    ``lambda_``, ...) are this one's, too, of the k numbers.

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
        >>> evaluator = ToolboxEvaluator(torch.nn.Linear(4, 4), (torch.eye(4), torch.arange(4)))
        >>> strategy = SubspaceStrategy(evaluator, dimensions=5, sigma=0.1)
        >>> from smd_evo import DenseIndividual
        >>> population = strategy.generate(DenseIndividual)
        >>> for individual, fitness in zip(population, strategy.map(strategy.evaluate, population)):
        ...     individual.fitness.values = fitness
        >>> strategy.update(population)

    Reference: Hansen, Ostermeier, "Completely derandomized self-adaptation in evolution strategies", Evol. Comput.
    9, 2001.
    """

    @not_here(
        centroid="the parent is where it starts, 0 in each dimension",
        stdev="write sigma=",
        N="write dimensions=",
        density="write dimensions=, how many coordinates, or subspace=RandomSubspace(density)",
    )
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
        sigma = check_number("sigma", sigma, low=0, mend="try a tenth of the parameters' own")
        if len(evaluator.objectives) > 1:
            raise InvalidValue(
                f"evaluator: expected one fitness for CMA-ES, got {', '.join(evaluator.objectives.names)}; "
                "tools.selNSGA2 takes several"
            )
        self.evaluator, self.objectives = evaluator.evaluator, evaluator.objectives
        space = self.evaluator.space
        rule = subspace_of_dimensions(dimensions, subspace, space.size)
        self._coordinates = rule.coordinates(rule.draw(draw_key()), space.layout, space.device)
        self.strategy = cma.Strategy(
            [0.0] * len(self._coordinates), sigma, **_checked(options, len(self._coordinates))
        )

    def __getattr__(self, name: str) -> Any:
        """What ``cma.Strategy`` has: ``centroid``, ``sigma``, ``C``, ``lambda_``, ..."""
        if name.startswith("__") or name == "strategy":  # there is none while one is unpickled
            raise AttributeError(name)
        return getattr(self.strategy, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Of what ``cma.Strategy`` has, its own."""
        own = self.__dict__.get("strategy")
        if own is not None and name not in self.__dict__ and name in vars(own):
            setattr(own, name, value)
        else:
            super().__setattr__(name, value)

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

    def _child(self, individual: Any) -> SparseDelta:
        space = self.evaluator.space
        genes = genes_of(individual, "strategy.generate(DenseIndividual) makes some")
        values = torch.as_tensor(genes, device=space.device)
        if values.shape != self._coordinates.shape:
            raise WrongParent(
                f"individual: expected {len(self._coordinates)} numbers, one for each dimension, got "
                f"{list(values.shape)}"
            )
        return placed(values, self._coordinates, space.layout, "absolute")


def _checked(options: dict[str, Any], size: int) -> dict[str, Any]:
    """Settings of ``cma.Strategy`` with plain numbers; it would ignore one that it does not know."""
    for name in options:
        check_choice("option", name, (*_COUNTS, *_NUMBERS, "weights", "cmatrix"))
    counts = {name: check_count(name, options[name]) for name in _COUNTS if name in options}
    numbers = {name: check_number(name, options[name], low=0, closed=True) for name in _NUMBERS if name in options}
    children = counts.get("lambda_", 4 + int(3 * math.log(size)))
    if not 1 <= counts.get("mu", children // 2) <= children:
        raise InvalidValue(
            f"mu: expected 1 to lambda_ = {children}, got {counts.get('mu', children // 2)}; half of them by default"
        )
    if "weights" in options:
        check_choice("weights", options["weights"], ("superlinear", "linear", "equal"))
    matrices = {"cmatrix": _matrix(options["cmatrix"], size)} if "cmatrix" in options else {}
    return {**options, **counts, **numbers, **matrices}


def _matrix(values: Any, size: int) -> NDArray[np.float64]:
    try:
        matrix = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise InvalidType(f"cmatrix: expected numbers, got {shown(values)}") from None
    if matrix.shape != (size, size):
        raise InvalidValue(f"cmatrix: expected shape {(size, size)}, as there are dimensions, got {matrix.shape}")
    return matrix
