"""What the searchers share: a FinetuneProblem, a subspace, and a mutation strength that may be calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evotorch import SolutionBatch
from evotorch.algorithms import SearchAlgorithm
from evotorch.algorithms.searchalgorithm import SinglePopulationAlgorithmMixin
from torch import Tensor

from smd_evo.core.mutation import SCALES
from smd_evo.core.subspace import Subspace
from smd_evo.core.units import UnitSubspace
from smd_evo.errors import InvalidType, check_choice, check_count, check_keep, check_number
from smd_evo.evaluation.calibration import Calibration, calibrate_sigma
from smd_evo.evaluation.response import Response
from smd_evo.integrations.evotorch.finetune import FinetuneProblem
from smd_evo.integrations.evotorch.keys import draw_key
from smd_evo.integrations.evotorch.solutions import solutions_from, solutions_state
from smd_evo.integrations.evotorch.units import UnitChoice
from smd_evo.markup import html_table

__all__ = ["NetworkSearcher"]


_SHOWN = ("evaluations", "sigma", "parent_eval", "best_eval", "pop_best_eval", "median_eval", "nonfinite")
"""What a notebook shows of a searcher."""


class NetworkSearcher(SearchAlgorithm, SinglePopulationAlgorithmMixin):  # type: ignore[misc]
    """Base of searchers on a FinetuneProblem."""

    _sigma: float | str

    def _repr_html_(self) -> str:
        names = ("iter", *_SHOWN) if self.step_count else ()  # before the first step EvoTorch knows nothing
        known = [(name, self.status[name]) for name in names if name in self.status]
        rows = [[name, f"{value:,}" if isinstance(value, int) else f"{value:.4g}"] for name, value in known]
        return html_table(type(self).__name__, ["status", ""], rows)

    def __init__(
        self,
        problem: FinetuneProblem,
        *,
        popsize: int,
        sigma: float | str,
        subspace: Subspace,
        scale: str,
        keep: float = 0.99,
    ) -> None:
        if not isinstance(problem, FinetuneProblem):
            raise InvalidType(f"problem: expected a FinetuneProblem, got a {type(problem).__name__}")
        self._popsize = check_count("popsize", popsize)
        auto = isinstance(sigma, str) and sigma == "auto"
        self._sigma = "auto" if auto else check_number("sigma", sigma, low=0, mend='"auto" finds one')
        self._keep = check_keep(keep)
        self._subspace, self._scale = subspace, check_choice("scale", scale, SCALES)
        problem.rule(subspace, scale)
        self._key = draw_key(problem)
        self._population: SolutionBatch | None = None
        self._units = UnitChoice(problem, subspace) if isinstance(subspace, UnitSubspace) else None
        SearchAlgorithm.__init__(self, problem, sigma=self._get_sigma)
        SinglePopulationAlgorithmMixin.__init__(self)

    @property
    def population(self) -> SolutionBatch:
        """The solutions of the last generation, evaluated; None before the first."""
        return self._population

    @property
    def sigma(self) -> float:
        """The mutation strength; a calibrated one is found now, if it was not yet, in this process."""
        if isinstance(self._sigma, str):
            found = self._calibrated()
            self._sigma = found.sigma
            self.problem.count(found.evaluations)
        return self._sigma

    @property
    def unit_chances(self) -> dict[str, float]:
        """With a :class:`UnitSubspace` the chance of each unit in the next generation, by its name; else nothing."""
        return {} if self._units is None else self._units.chances

    def settle(self) -> None:
        """Make what the search has arrived at the problem's parent, from which another searcher goes on."""

    def _calibrated(self) -> Calibration | Response:
        """A strength for the present parent."""
        return calibrate_sigma(self.problem.evaluator, self._subspace, self._keep, key=self._key, scale=self._scale)

    def state_dict(self) -> dict[str, Any]:
        """All that the searcher and its problem have become: dicts and lists of tensors, numbers and texts.

        With :meth:`load_state_dict` a search goes on elsewhere as if it had never stopped, to the bit.
        """
        return {
            "problem": self.problem.state_dict(),
            "generation": self.step_count,
            "key": self._key,
            "sigma": self._sigma,
            "population": solutions_state(self._population),
            **({} if self._units is None else {"units": self._units.state_dict()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state_dict` told of a searcher of the same settings on a problem of the same settings.

        Raises:
            WrongParent, InvalidValue: it is of another parent, subspace or scale.
        """
        self.problem.load_state_dict(state["problem"])
        self._steps_count = state["generation"]
        self._key, self._sigma = state["key"], state["sigma"]
        self._population = solutions_from(self.problem, state["population"])
        if self._units is not None:
            self._units.load_state_dict(state["units"])

    def _get_sigma(self) -> float:
        return self.sigma

    def _get_center(self) -> Tensor:
        """The parent as a solution, of searchers that move it: what EvoTorch's distributions call their center."""
        values: Tensor = self.problem.generate_values(1)[0]
        return values

    def _mutated(self, parents: SolutionBatch, antithetic: bool = False) -> SolutionBatch:
        units = None
        if self._units is not None:
            units = self._units.draw(self._key, self.step_count, len(parents), antithetic)
        return self.problem.mutate(
            parents,
            key=self._key,
            subspace=self._subspace,
            sigma=self.sigma,
            generation=self.step_count,
            scale=self._scale,
            antithetic=antithetic,
            units=units,
        )
