"""SubspaceEvolution: sample sparse children, evaluate, keep the best; one generation or many."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from evotorch import SolutionBatch

from smd_evo.core.rows import WORDS, row_lengths
from smd_evo.core.subspace import Subspace
from smd_evo.errors import InvalidValue, check_count, check_flag
from smd_evo.integrations.evotorch.finetune import FinetuneProblem
from smd_evo.integrations.evotorch.searcher import NetworkSearcher
from smd_evo.integrations.evotorch.solutions import changes_of, rows_of, solutions_from, solutions_state
from smd_evo.integrations.rules import subspace_of
from smd_evo.integrations.words import SEARCHER_WORDS
from smd_evo.mends import not_here

__all__ = ["SubspaceEvolution"]

_SUCCESSES = 1 / 5


class SubspaceEvolution(NetworkSearcher):
    """Evolution strategy with selection: mu parents, lambda children, the best mu are the next parents.

    (1 + lambda) by default; (1, lambda) with ``num_elites=0``; (mu, lambda) with ``num_parents``, of which the
    best ``num_elites`` compete with the children; (mu + lambda) if all do. ``run(1)`` is the single generation
    of the paper; ``population`` then holds all children, for an ensemble.

    Each child has one parent and one mutation more. What all parents share is folded into the problem's
    parent before each generation, so that a child costs its few last steps. If the parents' lineages are
    full all the same (``problem.steps``), those that do not share the best one's next step are dropped; the
    status says how many (``dropped_parents``).

    Args:
        problem: a FinetuneProblem; of ``steps`` >= 2 for several parents.
        popsize: lambda, the number of children.
        density: share of the coordinates that a mutation touches, in (0, 1]. Give this or ``subspace``.
        subspace: another rule of the coordinates.
        static: with ``density``: one subspace for the whole run.
        sigma: mutation strength; "auto" calibrates it at the first generation, by some 110 evaluations.
        num_parents: mu.
        num_elites: parents that compete with their children, 0 to mu; 1 by default.
        adapt_sigma: the 1/5 success rule: after each generation sigma is multiplied by
            ``exp((p - 1/5) / (1 - 1/5))``, where p is the share of children that are better than their parent;
            but not below the first sigma times the precision of the parameters' type (1.2e-7 of float32), nor an
            eighth of a step of integers.
        race: whether children that will not win see less than all samples, see :func:`smd_evo.evaluation.race.race`;
            ``status["images"]`` tells how many sample evaluations there were. Not with actors.
        keep: with "auto": share of the parent's score that the median child keeps.
        scale: see :class:`smd_evo.core.mutation.Mutation`.

    Raises:
        InvalidValue, InvalidType: the above does not hold.

    Example:
        >>> data = torch.eye(4), torch.arange(4)
        >>> problem = FinetuneProblem(torch.nn.Linear(4, 4), data, seed=1)
        >>> searcher = SubspaceEvolution(problem, popsize=20, density=0.2, sigma=0.3)
        >>> searcher.run(5)
        >>> searcher.status["pop_best_eval"] < searcher.status["parent_eval"]
        True
        >>> network = problem.make_net(searcher.status["pop_best"])

    References:
        Whitaker, Whitley, arXiv 2302.05832 (single generation).
        Rechenberg, "Evolutionsstrategie", 1973 (1/5 rule); Igel, Hansen, Roth, "Covariance matrix adaptation for
        multi-objective optimization", Evol. Comput. 15, 2007 (its form for lambda children; no damping here).
    """

    _dropped_at = -1  # the generation that dropped parents are told of; pickles of 0.1.0 have none

    @not_here(**SEARCHER_WORDS)
    def __init__(
        self,
        problem: FinetuneProblem,
        *,
        popsize: int,
        density: float | None = None,
        subspace: Subspace | None = None,
        static: bool = False,
        sigma: float | str = "auto",
        num_parents: int = 1,
        num_elites: int = 1,
        adapt_sigma: bool = False,
        race: bool = False,
        keep: float = 0.9,
        scale: str = "absolute",
    ) -> None:
        rule = subspace_of(density, subspace, static)
        super().__init__(problem, popsize=popsize, sigma=sigma, subspace=rule, scale=scale, keep=keep)
        num_parents = self._num_parents = check_count("num_parents", num_parents)
        num_elites = self._num_elites = check_count("num_elites", num_elites, low=0)
        if not num_elites <= num_parents <= self._popsize:
            raise InvalidValue(
                f"num_parents: expected num_elites <= num_parents <= popsize, got "
                f"{num_elites}, {num_parents}, {self._popsize}"
            )
        if num_parents > 1 and problem.steps < 2:
            raise InvalidValue(
                f"num_parents: expected 1 where lineages have one step, got {num_parents}; FinetuneProblem(steps=8)"
            )
        if self._units is not None and (num_parents > 1 or race):
            raise InvalidValue(
                "subspace: expected one parent and no race with a UnitSubspace, whose units are judged by what all "
                f"children gain over their parent, got num_parents {num_parents}, race {race}"
            )
        self._adapt_sigma, self._race = check_flag("adapt_sigma", adapt_sigma), check_flag("race", race)
        if self._race and self._adapt_sigma:
            raise InvalidValue(
                "race: expected it without adapt_sigma, which counts the children that are better than their parent; "
                "leave one of them out"
            )
        with self._ranked():  # which says if that cannot be
            pass
        self._first_sigma: float | None = None
        self._parents = problem.generate_batch(1)
        self._dropped, self._dropped_at = 0, 0
        self.add_status_getters({"dropped_parents": self._get_dropped})

    @property
    def parents(self) -> SolutionBatch:
        """The parents of the next generation, best first."""
        return self._parents

    def settle(self) -> None:
        """The best of the parents becomes the problem's, and the only one; once more does no harm."""
        self._parents = self._present()[:1]
        self.problem.fold_common(self._parents)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`NetworkSearcher.state_dict`."""
        return {
            **super().state_dict(),
            "parents": solutions_state(self._parents),
            "dropped": self._dropped,
            "dropped_at": self._dropped_at,
            "first_sigma": self._first_sigma,
        }

    def _loading(self, state: Mapping[str, Any]) -> Callable[[], None]:
        become_searcher = super()._loading(state)
        parents = solutions_from(self.problem, state["parents"])
        dropped = check_count("state: dropped", state["dropped"], low=0)

        def become() -> None:
            become_searcher()
            self._parents, self._dropped, self._dropped_at = parents, dropped, state.get("dropped_at", -1)
            self._first_sigma = state.get("first_sigma")

        return become

    def _get_dropped(self) -> int:
        return self._dropped

    def _solutions(self) -> SolutionBatch:
        parents = self._make_room()
        children = self._mutated(parents.take(self._of(len(parents))))
        return SolutionBatch.cat([parents, children]) if self._competes else children

    def _evaluate(self, solutions: SolutionBatch) -> None:
        with self._ranked():
            super()._evaluate(solutions)

    def _learn(self, solutions: SolutionBatch, parent_eval: float | None) -> None:
        count = len(solutions) - self._popsize
        parents, children = solutions[:count], solutions[count:] if count else solutions
        if self._adapt_sigma:
            sigma, of = self.sigma, self._of(count)
            change = math.exp((self._successes(parents, children, of) - _SUCCESSES) / (1 - _SUCCESSES))
            self._sigma = max(sigma * change, self._lowest(sigma))
        if self._competes:
            self._population = SolutionBatch.cat([self._best(parents, self._num_elites), children])
        else:
            self._population = children
        if self._units is not None:
            self._units.learn(children, parent_eval)
        self._parents = self._best(self._population, self._num_parents)

    @property
    def _competes(self) -> bool:
        """Whether parents are evaluated with their children."""
        return self._num_elites > 0 or self._adapt_sigma

    def _of(self, parents: int) -> torch.Tensor:
        """The number of each child's parent: a block of children for each."""
        return torch.arange(self._popsize, device="cpu") * parents // self._popsize

    def _ranked(self) -> AbstractContextManager[None]:
        """A block in which solutions are evaluated as far as ranks need it."""
        return self.problem.racing() if self._race else nullcontext()

    def _lowest(self, sigma: float) -> float:
        """Where the 1/5 rule ends on a plateau: the first strength times the precision of the parameters' type.

        A fitness is smooth where strengths are small: at a share r of the first strength it changes by some r of what
        it changed by there. Below r = eps that is less than what numbers of this type are rounded by, so smaller
        children tell no more, and only the way back (a factor e a generation at most) becomes longer.
        """
        space = self.problem.space
        if self._first_sigma is None:
            self._first_sigma = sigma
        if space.integers:  # below an eighth of a step, one coordinate in 15,000 is rounded to another integer
            slots = [slot for slot in space.layout.slots if slot.name in space.integers]
            most = max(slot.scale for slot in slots) if self._scale == "relative" else 1.0
            return min(self._first_sigma, 0.125 / most)
        return self._first_sigma * torch.finfo(space.narrowest).eps

    def _best(self, solutions: SolutionBatch, count: int) -> SolutionBatch:
        """The best ones, best first, and of equals the first, which ``take_best`` does not promise."""
        descending = self.problem.objective_sense == "max"
        order = solutions.access_evals(0).argsort(stable=True, descending=descending)
        return solutions.take(order[:count])

    def _successes(self, parents: SolutionBatch, children: SolutionBatch, of: torch.Tensor) -> float:
        gain = children.access_evals(0) - parents.access_evals(0)[of.to(parents.device)]
        better = gain > 0 if self.problem.objective_sense == "max" else gain < 0
        return float(better.double().mean())

    def _present(self) -> SolutionBatch:
        """The parents; the problem's own one where somebody has moved that."""
        moved = bool((changes_of(rows_of(self._parents)) != self.problem.changes).any())
        return self.problem.generate_batch(1) if moved else self._parents

    def _make_room(self) -> SolutionBatch:
        """The parents, best first, with room for another step; those that are left when a generation begins again."""
        if self._dropped_at != self.step_count:
            self._dropped, self._dropped_at = 0, self.step_count
        self._parents = self._present()
        while True:
            self.problem.fold_common(self._parents)  # all others are of a former parent then
            rows = rows_of(self._parents)
            if int(row_lengths(rows[:, 1:]).max()) < self.problem.steps:
                return self._parents
            kin = (rows[:, 1 : 1 + WORDS] == rows[:1, 1 : 1 + WORDS]).all(1)
            self._dropped += int((~kin).sum())
            self._parents = self._parents.take(kin.nonzero().flatten())
