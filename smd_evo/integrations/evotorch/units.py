"""Which units of the network a searcher's children touch: chosen by cost at first, then by gain per cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evotorch import SolutionBatch
from torch import Tensor

from smd_evo.core.credit import chances_of, learned, picked, weights_of
from smd_evo.core.keys import Key
from smd_evo.core.units import UnitSubspace
from smd_evo.errors import InvalidValue, check_number
from smd_evo.integrations.evotorch.finetune import FinetuneProblem

__all__ = ["UnitChoice"]


class UnitChoice:
    """What a searcher knows of the units of a :class:`UnitSubspace`; recipes know nothing of it.

    Args:
        problem: the searcher's.
        subspace: its rule.

    Attributes:
        drawn: number of each child's unit in the last generation, int64 [N].
    """

    def __init__(self, problem: FinetuneProblem, subspace: UnitSubspace) -> None:
        self._problem = problem
        self._units = subspace.units(problem.space.layout)
        self._gains = [1.0] * len(self._units)
        self._costs: list[float] = []
        self.drawn: Tensor | None = None
        self._chances: list[float] = []

    @property
    def chances(self) -> dict[str, float]:
        """The chance of each unit in the next generation."""
        names = (name for name, _ in self._units)
        return dict(zip(names, chances_of(self._gains, self.costs), strict=True))

    @property
    def costs(self) -> list[float]:
        """What a child of each unit takes, in forward passes; found out when it is first asked for."""
        if not self._costs:
            self._costs = self._problem.evaluator.costs([tensors for _, tensors in self._units])
        return self._costs

    def draw(self, key: Key, generation: int, count: int, antithetic: bool) -> Tensor:
        """The units of a generation's children; antithetic partners have one."""
        self._chances = chances_of(self._gains, self.costs)
        if antithetic:
            self.drawn = picked(key, generation, count // 2, self._chances).repeat_interleave(2)
        else:
            self.drawn = picked(key, generation, count, self._chances)
        return self.drawn

    def weights(self) -> Tensor:
        """What each of these children counts in a gradient: see :func:`smd_evo.core.credit.weights_of`."""
        assert self.drawn is not None
        return weights_of(self.drawn, self._chances)

    def learn(self, children: SolutionBatch, parent_eval: float | None) -> None:
        """Take note of what the children that were drawn last have gained over the parent."""
        assert self.drawn is not None
        assert parent_eval is not None
        gains = children.access_evals(0).cpu() - parent_eval
        self._gains = learned(self._gains, self.drawn, gains if self._problem.objective_sense == "max" else -gains)

    def state_dict(self) -> dict[str, Any]:
        """What was learned."""
        return {"gains": list(self._gains), "costs": list(self._costs)}

    def loading(self, state: Mapping[str, Any]) -> Callable[[], None]:
        """Check what :meth:`state_dict` told; what is returned becomes it.

        Raises:
            InvalidValue, InvalidType: it is of other units.
        """
        gains = [check_number("gains", gain, low=0, closed=True) for gain in state["gains"]]
        costs = [check_number("costs", cost, low=0) for cost in state["costs"]]
        if len(gains) != len(self._units) or len(costs) not in (0, len(gains)):
            raise InvalidValue(f"state: expected one of {len(self._units)} units, got {len(gains)} and {len(costs)}")

        def become() -> None:
            self._gains, self._costs = gains, costs

        return become
