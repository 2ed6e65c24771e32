"""Operators: sparse Gaussian mutation of any numeric population, and mutation of lineages."""

from __future__ import annotations

import torch
from evotorch import Problem, SolutionBatch
from evotorch.operators import CopyingOperator, CrossOver
from torch import Tensor

from smd_evo.core.keys import Key, derive
from smd_evo.core.layout import Layout
from smd_evo.core.subspace import Subspace
from smd_evo.core.vectors import add_noise, check_vector_subspace
from smd_evo.errors import InvalidType, InvalidValue, check_count, check_number
from smd_evo.integrations.evotorch.finetune import FinetuneProblem
from smd_evo.integrations.evotorch.keys import draw_key
from smd_evo.integrations.rules import strength_of, subspace_of
from smd_evo.integrations.words import OPERATOR_WORDS
from smd_evo.mends import not_here

__all__ = ["AddMutation", "LineageCrossOver", "SparseGaussianMutation"]


class SparseGaussianMutation(CopyingOperator):  # type: ignore[misc]
    """Gaussian noise on exactly k coordinates of each solution: GaussianMutation, restricted to a subspace.

    ``child_S = parent_S + stdev * eps_S`` on a subspace S of k = round(density * solution_length)
    coordinates, clipped to the problem's bounds there; the rest of the solution is not looked at. Beyond the
    copy of the population that is O(k) a solution. At density 1 it is EvoTorch's GaussianMutation, and ``stdev`` is
    what it is there; elsewhere in this package that is called sigma, which does here as well.

    Args:
        problem: a problem with a floating dtype, on any device, of one or more objectives.
        stdev, sigma: standard deviation of the noise, > 0: one number, by either word.
        density: k / solution_length, in (0, 1]: a random subspace. Give this or ``subspace``.
        subspace: a RandomSubspace, PartitionSubspace or Dense, if it is to be another rule.
        static: with ``density``: one subspace for all children, drawn when the operator is made, instead of
            one for each child.

    Raises:
        InvalidValue, InvalidType: the above does not hold.

    The random numbers follow from the problem's ``seed``.

    Example:
        >>> problem = Problem("min", torch.linalg.norm, initial_bounds=(-1, 1), solution_length=100, seed=1)
        >>> mutate = SparseGaussianMutation(problem, stdev=0.1, density=0.05)
        >>> parents = problem.generate_batch(3)
        >>> (mutate(parents).values != parents.values).sum(1).tolist()
        [5, 5, 5]

    Reference: Whitaker, Whitley, arXiv 2302.05832.
    """

    @not_here(**OPERATOR_WORDS)
    def __init__(
        self,
        problem: Problem,
        *,
        stdev: float | None = None,
        sigma: float | None = None,
        density: float | None = None,
        subspace: Subspace | None = None,
        static: bool = False,
    ) -> None:
        if not isinstance(problem, Problem):
            raise InvalidType(f"problem: expected an EvoTorch Problem, got a {type(problem).__name__}")
        super().__init__(problem)
        if problem.dtype is object or not problem.dtype.is_floating_point:
            raise InvalidType(f"problem: expected a floating dtype to add noise to, got {problem.dtype}")
        self._sigma = strength_of(stdev, sigma, "try a hundredth of the values' own")
        self._subspace = check_vector_subspace(subspace_of(density, subspace, static))
        self._layout = Layout.flat(problem.solution_length)
        self._subspace.coordinates(0, self._layout)  # which says if the vector is too short
        self._key, self._seed = draw_key(problem), _seed_of(problem)

    @torch.no_grad()
    def _do(self, batch: SolutionBatch) -> SolutionBatch:
        if not isinstance(batch, SolutionBatch):
            raise InvalidType(f"batch: expected a SolutionBatch, got a {type(batch).__name__}")
        if batch.solution_length != self._layout.size:
            raise InvalidValue(
                f"batch: expected solutions of length {self._layout.size}, got {batch.solution_length}; "
                "make an operator for that problem"
            )
        children = batch.clone()
        values = children.access_values()
        if len(values):
            add_noise(
                values,
                self._present_key(),
                subspace=self._subspace,
                sigma=self._sigma,
                generation=draw_key(self.problem),
                low=self._lb,
                high=self._ub,
            )
        return children

    def _present_key(self) -> Key:
        """That of the operator; one of the problem's seed, if ``manual_seed`` has given it another one since."""
        seed = _seed_of(self.problem)
        if seed == getattr(self, "_seed", seed):  # pickles of 0.1.0 have none
            return self._key
        # Not drawn: nothing tells whether the same seed was given again, after which the same must come out.
        return derive(0 if seed is None else seed, f"operator {self._subspace.spec}")


def _seed_of(problem: Problem) -> int | None:
    """The seed of the problem's own generator; None if it follows torch's."""
    return None if problem.generator is None else problem.generator.initial_seed()


class AddMutation(CopyingOperator):  # type: ignore[misc]
    """A child of each lineage of a FinetuneProblem: EvoTorch's GeneticAlgorithm evolves networks by it.

    Args:
        problem: a FinetuneProblem, with ``steps`` for as many generations as the algorithm will run.
        stdev, sigma: mutation strength, > 0: one number, by either word.
        density: share of the coordinates that a mutation touches, in (0, 1]. Give this or ``subspace``.
        subspace: another rule of the coordinates.
        static: with ``density``: one subspace for the whole run.
        scale: see :class:`smd_evo.core.mutation.Mutation`.

    Raises:
        InvalidValue, InvalidType: the above does not hold; when called, also if a lineage is full.

    Example:
        >>> from evotorch.algorithms import GeneticAlgorithm
        >>> data = torch.eye(4), torch.arange(4)
        >>> problem = FinetuneProblem(torch.nn.Linear(4, 4), data, steps=10, seed=1)
        >>> mutate = AddMutation(problem, stdev=0.3, density=0.2)
        >>> searcher = GeneticAlgorithm(problem, operators=[mutate], popsize=8)
        >>> searcher.run(10)
        >>> searcher.status["best_eval"] < searcher.status["parent_eval"]
        True
        >>> network = problem.make_net(searcher.status["best"])
    """

    _seeding = 0  # pickles of 0.1.0 have none

    @not_here(**OPERATOR_WORDS)
    def __init__(
        self,
        problem: FinetuneProblem,
        *,
        stdev: float | None = None,
        sigma: float | None = None,
        density: float | None = None,
        subspace: Subspace | None = None,
        static: bool = False,
        scale: str = "absolute",
    ) -> None:
        super().__init__(_of_lineages(problem, "SparseGaussianMutation is for populations of numbers"))
        self._sigma = strength_of(stdev, sigma, "calibrate_sigma finds one")
        self._subspace = subspace_of(density, subspace, static)
        self._scale = scale
        problem.rule(self._subspace, scale)
        self._key, self._seeding = draw_key(problem), problem.seedings

    def _do(self, batch: SolutionBatch) -> SolutionBatch:
        if self._seeding != self.problem.seedings:
            self._key, self._seeding = draw_key(self.problem), self.problem.seedings
        return self.problem.mutate(
            batch,
            key=self._key,
            subspace=self._subspace,
            sigma=self._sigma,
            generation=draw_key(self.problem),
            scale=self._scale,
        )


class LineageCrossOver(CrossOver):  # type: ignore[misc]
    """Two children of each pair of lineages, which exchange mutations: EvoTorch's cross-over for a FinetuneProblem.

    What a pair has in common stays in both children, wherever it stands. Of the other mutations each child gets as
    many as its own parent has, at random. Mutations add up, so a child is the common ancestor and a random share of
    what its parents found since; nothing is lost or doubled between the two. No lineage becomes longer, so ``steps``
    of the problem is the number of generations, as with AddMutation alone. EvoTorch's own cross-overs would cut
    lineages inside a mutation; what they make is refused.

    Args:
        problem: a FinetuneProblem; its lineages have one rule of the coordinates.
        tournament_size: solutions of which the best becomes a parent, >= 1.
        obj_index: of several objectives the one that says which is the best; None for all of them, as in NSGA-II.
        num_children: how many children, an even number. Give this, or ``cross_over_rate``, or neither: as many as
            there are solutions.
        cross_over_rate: children for each solution, > 0.

    Raises:
        InvalidValue, InvalidType: the above does not hold.

    The random numbers follow from the problem's ``seed``.

    Example:
        >>> from evotorch.algorithms import GeneticAlgorithm
        >>> data = torch.eye(4), torch.arange(4)
        >>> problem = FinetuneProblem(torch.nn.Linear(4, 4), data, steps=10, seed=1)
        >>> operators = [LineageCrossOver(problem, tournament_size=2), AddMutation(problem, stdev=0.3, density=0.2)]
        >>> searcher = GeneticAlgorithm(problem, operators=operators, popsize=8)
        >>> searcher.run(10)
        >>> searcher.status["best_eval"] < searcher.status["parent_eval"]
        True

    Reference: Syswerda, "Uniform crossover in genetic algorithms", ICGA 1989, on mutations in place of genes.
    """

    def __init__(
        self,
        problem: FinetuneProblem,
        *,
        tournament_size: int,
        obj_index: int | None = None,
        num_children: int | None = None,
        cross_over_rate: float | None = None,
    ) -> None:
        _of_lineages(problem, "EvoTorch's own cross-overs are for populations of numbers")
        if num_children is not None and cross_over_rate is not None:
            raise InvalidValue("num_children: expected it or cross_over_rate, got both; leave one of them out")
        if num_children is not None and check_count("num_children", num_children, low=2) % 2:
            raise InvalidValue(f"num_children: expected an even number, got {num_children}; each pair has two")
        super().__init__(
            problem,
            tournament_size=check_count("tournament_size", tournament_size),
            obj_index=None if obj_index is None else _objective_of(problem, obj_index),
            num_children=num_children,
            cross_over_rate=None
            if cross_over_rate is None
            else check_number("cross_over_rate", cross_over_rate, low=0),
        )

    def _do_cross_over(self, parents1: Tensor, parents2: Tensor) -> SolutionBatch:
        return self._make_children_batch(self.problem.cross(parents1, parents2, key=draw_key(self.problem)))


def _objective_of(problem: FinetuneProblem, number: int) -> int:
    count = len(problem.senses)
    number = check_count("obj_index", number, low=-count)
    if number >= count:
        raise InvalidValue(f"obj_index: expected less than the {count} objectives, got {number}")
    return number


def _of_lineages(problem: Problem, mend: str) -> FinetuneProblem:
    if not isinstance(problem, FinetuneProblem):
        raise InvalidType(f"problem: expected a FinetuneProblem, got a {type(problem).__name__}; {mend}")
    return problem
