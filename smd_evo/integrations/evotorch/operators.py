"""Operators: sparse Gaussian mutation of any numeric population, and mutation of lineages."""

from __future__ import annotations

import torch
from evotorch import Problem, SolutionBatch
from evotorch.operators import CopyingOperator, CrossOver
from torch import Tensor

from smd_evo.core.layout import Layout
from smd_evo.core.noise import gaussian
from smd_evo.core.rows import sample_rows
from smd_evo.core.subspace import Dense, PartitionSubspace, RandomSubspace, Subspace
from smd_evo.errors import InvalidType, InvalidValue, check_count, check_number, shown
from smd_evo.integrations.evotorch.finetune import FinetuneProblem
from smd_evo.integrations.evotorch.keys import draw_key
from smd_evo.integrations.rules import subspace_of

__all__ = ["AddMutation", "LineageCrossOver", "SparseGaussianMutation"]

_ROWS_TIMES_K = 2**22
"""Coordinates that are mutated in one go: they take about 100 bytes each while they are made."""


class SparseGaussianMutation(CopyingOperator):  # type: ignore[misc]
    """Gaussian noise on exactly k coordinates of each solution: GaussianMutation, restricted to a subspace.

    ``child_S = parent_S + stdev * eps_S`` on a subspace S of k = round(density * solution_length)
    coordinates, clipped to the problem's bounds there; the rest of the solution is not looked at. Beyond the
    copy of the population that is O(k) a solution. At density 1 it is EvoTorch's GaussianMutation.

    Args:
        problem: a problem with a floating dtype, on any device, of one or more objectives.
        stdev: standard deviation of the noise, > 0.
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

    def __init__(
        self,
        problem: Problem,
        *,
        stdev: float,
        density: float | None = None,
        subspace: Subspace | None = None,
        static: bool = False,
    ) -> None:
        if not isinstance(problem, Problem):
            raise InvalidType(f"problem: expected an EvoTorch Problem, got a {type(problem).__name__}")
        super().__init__(problem)
        if problem.dtype is object or not problem.dtype.is_floating_point:
            raise InvalidType(f"problem: expected a floating dtype to add noise to, got {problem.dtype}")
        self._stdev = check_number("stdev", stdev, low=0, mend="try a hundredth of the values' own")
        subspace = subspace_of(density, subspace, static)
        if not isinstance(subspace, RandomSubspace | PartitionSubspace | Dense):
            raise InvalidType(
                f"subspace: expected a RandomSubspace, PartitionSubspace or Dense, got {shown(subspace)}; a plain "
                "vector has no neurons or tensors"
            )
        self._subspace = subspace
        self._layout = Layout.flat(problem.solution_length)
        self._k = len(subspace.coordinates(0, self._layout))
        self._key = draw_key(problem)

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
        if not len(values):
            return children
        rows = sample_rows(
            self._key, len(values), subspace=self._subspace, sigma=self._stdev, generation=draw_key(self.problem)
        ).to(values.device)
        step = max(1, _ROWS_TIMES_K // self._k)
        for start in range(0, len(values), step):
            self._mutate(values[start : start + step], rows[start : start + step])
        return children

    def _mutate(self, values: Tensor, rows: Tensor) -> None:
        """Add the noise in place, in the wider of float32 and the population's type, rounded once."""
        numbers, coordinates = self._subspace.coordinates_of(rows[:, 1], self._layout)
        noise = gaussian(rows[numbers, 0], coordinates, torch.float64).mul_(self._stdev)
        elements, places = values.view(-1), numbers * self._layout.size + coordinates
        old = elements.index_select(0, places)  # several times faster than values[numbers, coordinates]
        wide = torch.promote_types(old.dtype, torch.float32)
        new = (old.to(wide) + noise.to(wide)).to(old.dtype)
        if self._lb is not None:
            new = torch.maximum(new, self._bound(self._lb, coordinates).to(new))
        if self._ub is not None:
            new = torch.minimum(new, self._bound(self._ub, coordinates).to(new))
        elements.index_copy_(0, places, new)

    def _bound(self, bound: Tensor, coordinates: Tensor) -> Tensor:
        """The bound of each coordinate: EvoTorch keeps one number if it is the same for all."""
        return bound.to(coordinates.device).expand(self._layout.size)[coordinates]


class AddMutation(CopyingOperator):  # type: ignore[misc]
    """A child of each lineage of a FinetuneProblem: EvoTorch's GeneticAlgorithm evolves networks by it.

    Args:
        problem: a FinetuneProblem, with ``steps`` for as many generations as the algorithm will run.
        stdev: mutation strength, > 0.
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

    def __init__(
        self,
        problem: FinetuneProblem,
        *,
        stdev: float,
        density: float | None = None,
        subspace: Subspace | None = None,
        static: bool = False,
        scale: str = "absolute",
    ) -> None:
        super().__init__(_of_lineages(problem, "SparseGaussianMutation is for populations of numbers"))
        self._stdev = check_number("stdev", stdev, low=0, mend="calibrate_sigma finds one")
        self._subspace = subspace_of(density, subspace, static)
        self._scale = scale
        problem.rule(self._subspace, scale)
        self._key = draw_key(problem)

    def _do(self, batch: SolutionBatch) -> SolutionBatch:
        return self.problem.mutate(
            batch,
            key=self._key,
            subspace=self._subspace,
            sigma=self._stdev,
            generation=draw_key(self.problem),
            scale=self._scale,
        )


class LineageCrossOver(CrossOver):  # type: ignore[misc]
    """Two children of each pair of lineages, which exchange mutations: EvoTorch's cross-over for a FinetuneProblem.

    What a pair has in common from the start, its last common ancestor, stays in both children. Of the mutations since
    then each child gets as many as its own parent has, at random. Mutations add up, so a child is the ancestor and a
    random share of what its parents found since; nothing is lost or doubled between the two. No lineage becomes
    longer, so ``steps`` of the problem is the number of generations, as with AddMutation alone. EvoTorch's own
    cross-overs would cut lineages inside a mutation; what they make is refused.

    Args:
        problem: a FinetuneProblem; its lineages have one rule of the coordinates.
        tournament_size: solutions of which the best becomes a parent, >= 1.
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
            num_children=num_children,
            cross_over_rate=None
            if cross_over_rate is None
            else check_number("cross_over_rate", cross_over_rate, low=0),
        )

    def _do_cross_over(self, parents1: Tensor, parents2: Tensor) -> SolutionBatch:
        return self._make_children_batch(self.problem.cross(parents1, parents2, key=draw_key(self.problem)))


def _of_lineages(problem: Problem, mend: str) -> FinetuneProblem:
    if not isinstance(problem, FinetuneProblem):
        raise InvalidType(f"problem: expected a FinetuneProblem, got a {type(problem).__name__}; {mend}")
    return problem
