"""What the searchers share: a FinetuneProblem, a subspace, and a mutation strength that may be calibrated."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from evotorch import SolutionBatch
from evotorch.algorithms import SearchAlgorithm
from evotorch.algorithms.searchalgorithm import SinglePopulationAlgorithmMixin
from torch import Tensor

from smd_evo.core.keys import check_key
from smd_evo.core.mutation import SCALES
from smd_evo.core.rows import row_lengths
from smd_evo.core.subspace import Subspace
from smd_evo.core.units import UnitSubspace
from smd_evo.errors import (
    InvalidType,
    InvalidValue,
    WrongParent,
    check_choice,
    check_count,
    check_keep,
    check_number,
    shown,
)
from smd_evo.evaluation.calibration import Calibration, calibrate_sigma
from smd_evo.evaluation.fitness import WORST
from smd_evo.evaluation.response import Response
from smd_evo.integrations.evotorch.asking import AskAndTell
from smd_evo.integrations.evotorch.finetune import FinetuneProblem
from smd_evo.integrations.evotorch.keys import draw_key
from smd_evo.integrations.evotorch.solutions import rows_of, solutions_from, solutions_state
from smd_evo.integrations.evotorch.states import check_kind, kind_of, read_state
from smd_evo.integrations.evotorch.units import UnitChoice
from smd_evo.markup import html_table

__all__ = ["NetworkSearcher"]


_SHOWN = ("evaluations", "sigma", "parent_eval", "best_eval", "pop_best_eval", "median_eval", "nonfinite")
"""What a notebook shows of a searcher."""


class NetworkSearcher(AskAndTell):
    """Base of searchers on a FinetuneProblem."""

    _sigma: float | str
    # What pickles of 0.1.0 have none of.
    _auto = _lost = False
    _given: float | str | None = None
    _seeding = _asked_at = 0
    _asked: SolutionBatch | None = None

    def _repr_html_(self) -> str:
        names = ("iter", *_SHOWN) if self.step_count else ()  # before the first step EvoTorch knows nothing
        known = [(name, self.status[name]) for name in names if self.status.get(name) is not None]
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
        problem.check_one_fitness(f"a {type(self).__name__}")
        self._popsize = check_count("popsize", popsize)
        self._auto = isinstance(sigma, str) and sigma == "auto"
        self._given = self._sigma = (
            "auto" if self._auto else check_number("sigma", sigma, low=0, mend='"auto" finds one')
        )
        self._keep = check_keep(keep)
        self._subspace, self._scale = subspace, check_choice("scale", scale, SCALES)
        problem.rule(subspace, scale)
        self._key, self._seeding = draw_key(problem), problem.seedings
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
        self._take_seed()
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
        self._take_seed()
        return {
            "kind": kind_of(self),
            "problem": self.problem.state_dict(),
            "generation": self.step_count,
            "key": self._key,
            "sigma": self._sigma,
            "given_sigma": self._given,
            "population": solutions_state(self._population),
            **({} if self._units is None else {"units": self._units.state_dict()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state_dict` told of a searcher of the same settings on a problem of the same settings.

        Raises:
            WrongParent: it is of another parent, see :meth:`NetworkProblem.load_state_dict`.
            InvalidValue, InvalidType: it is of another kind, fitness, subspace, scale or sigma, or none; nothing has
                changed then.
        """
        read_state(self._loading, state)
        self._tell_anew()

    def _loading(self, state: Mapping[str, Any]) -> Callable[[], None]:
        """Check a state; what is returned becomes it, of which nothing is true before."""
        check_kind(self, state)
        problem = self.problem
        become_problem = problem._loading(state["problem"])
        generation = check_count("state: generation", state["generation"], low=0)
        key, sigma, given = check_key(state["key"], "state: key"), state["sigma"], state.get("given_sigma")
        if None not in (given, self._given) and given != self._given:
            raise InvalidValue(
                f"state: expected one of sigma {self._given}, got {shown(given)}; make the searcher as it was "
                "made then"
            )
        if sigma != "auto":
            sigma = check_number("state: sigma", sigma, low=0)
        population = solutions_from(problem, state["population"])
        become_units = None if self._units is None else self._units.loading(state["units"])

        def become() -> None:
            become_problem()
            self._steps_count, self._key, self._sigma = generation, key, sigma
            self._population, self._asked = population, None
            self._seeding = problem.seedings
            if become_units is not None:
                become_units()

        return become

    def ask(self) -> SolutionBatch:
        """See :meth:`AskAndTell.ask`; with a :class:`UnitSubspace` the last solution is the parent."""
        if self._asked is None or self._asked_at != self.problem.changes:
            self._begin()
        assert self._asked is not None
        asked = [self._asked, *([] if self._units is None else [self.problem.generate_batch(1)])]
        batch = SolutionBatch.cat(asked)  # a copy, whatever happens to it
        batch.forget_evals()  # which parents have of the generation before, perhaps of other samples
        return batch

    def _checked(self, batch: SolutionBatch) -> SolutionBatch:
        if not isinstance(batch, SolutionBatch):
            raise InvalidType(f"batch: expected the SolutionBatch of ask(), got {shown(batch)}")
        if self._asked is None:
            raise InvalidValue(
                "tell: expected ask() before it, got solutions that were not asked for, or told before"
            )
        if self._asked_at != self.problem.changes:
            raise WrongParent(
                f"tell: expected children of the present parent, number {self.problem.changes}, got those of parent "
                f"{self._asked_at}; ask() again"
            )
        expected, found = rows_of(self.ask()), rows_of(batch)
        if not torch.equal(found.to(expected.device), expected):
            raise InvalidValue(f"batch: expected the {len(expected)} solutions of ask() in their order, got others")
        bad = (~batch.access_evals(0).isfinite()).nonzero().flatten().tolist()
        if bad:
            raise InvalidValue(
                f"batch: expected a finite fitness of each solution, got {len(bad)} of {len(batch)} without, number "
                f"{bad[0]} first; set_evals() gives them, +-{WORST:g} is the worst, and access_values() clears them"
            )
        return batch

    def _step(self) -> None:
        if self._answers is None:
            self._begin()
            assert self._asked is not None
            self._evaluate(self._asked)
            parent_eval = self.problem.status["parent_eval"]
        else:
            assert self._asked is not None
            evals = self._answers.access_evals(0)
            self._asked.set_evals(evals[: len(self._asked)].to(self._asked.device))
            parents = (row_lengths(rows_of(self._answers)[:, 1:]) == 0).nonzero().flatten()
            parent_eval = float(evals[parents[0]]) if len(parents) else None
            if not self.problem.has_evaluated(self._answers):
                self.problem.evaluated_elsewhere(self._asked, parent_eval)
        self._say_if_lost(self._asked)
        self._learn(self._asked, parent_eval)
        self._asked = None

    def _say_if_lost(self, solutions: SolutionBatch) -> None:
        """Say once that no child of a generation has a finite fitness, of which nothing can be learned."""
        if self._lost or int((solutions.access_evals(0).abs() >= WORST).sum()) < self._popsize:
            return
        self._lost = True
        warnings.warn(
            f"generation {self.step_count + 1}: expected children of a finite fitness, got none of {self._popsize}: "
            f"sigma ({self.sigma:g}) or the steps of the parent are too large; take a smaller sigma, or a smaller "
            "center_learning_rate",
            RuntimeWarning,
            stacklevel=3,
        )

    def _begin(self) -> None:
        """Make the solutions of the next generation, whatever was asked for before."""
        self._asked = None
        self._take_seed()
        self._asked = self._solutions()
        self._asked_at = self.problem.changes

    def _take_seed(self) -> None:
        """Before the first generation: a key of the seed that the problem was given after the searcher was made."""
        if self.step_count or self._asked is not None or self._seeding == self.problem.seedings:
            return
        self._key, self._seeding = draw_key(self.problem), self.problem.seedings
        if self._auto:
            self._sigma = "auto"

    @abstractmethod
    def _solutions(self) -> SolutionBatch:
        """What is to be evaluated in the next generation; the same, if it is called again."""

    def _evaluate(self, solutions: SolutionBatch) -> None:
        self.problem.evaluate(solutions)

    @abstractmethod
    def _learn(self, solutions: SolutionBatch, parent_eval: float | None) -> None:
        """Go on by the evaluations of these solutions, and of the parent, which is known if there are units."""

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
