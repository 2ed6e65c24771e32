"""Which cells of a mutation window are sampled, and by how many children."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import log10

from smd_evo.core.mutation import Mutation
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.experiments.window.numbers import FEWEST, median_interval
from smd_evo.experiments.window.results import SHARES
from smd_evo.statistics.tests import Estimate

__all__ = ["MOST_CELLS", "Levels", "Sample", "complete_edges", "walk"]

_PER_DECADE = 4
_REACH = 4 * _PER_DECADE
"""Cells that a walk may be away from its start: a network that nothing destroys, or nothing spares, ends it."""

MOST_CELLS = 2 * _REACH + 1
"""Of a walk."""


@dataclass(frozen=True)
class Levels:
    """The accuracies that a cell's median is compared with.

    Args:
        parent: the parent's accuracy.
        chance: what a constant answer reaches.

    Raises:
        InvalidValue: the parent is no better than chance.

    Example:
        >>> Levels(0.8, 0.1).shares, Levels(0.8, 0.1).destroyed
        ({0.99: 0.792, 0.9: 0.7200000000000001}, 0.45)
    """

    parent: float
    chance: float

    def __post_init__(self) -> None:
        if not self.parent > self.chance:
            raise InvalidValue(
                f"parent: expected an accuracy above chance ({100 * self.chance:.1f} %, the most frequent class), "
                f"got {100 * self.parent:.1f} %; is the network trained, and for these classes?"
            )

    @cached_property
    def shares(self) -> dict[float, float]:
        """Levels of those shares of the parent's accuracy that are more than chance."""
        return {share: share * self.parent for share in SHARES if share * self.parent > self.chance}

    @cached_property
    def destroyed(self) -> float:
        """Half way down to chance, or the lowest share if that is lower."""
        return min((self.parent + self.chance) / 2, *self.shares.values(), 1)

    @cached_property
    def all(self) -> tuple[float, ...]:
        """Each level that the median is to be compared with, highest first."""
        return (*self.shares.values(), self.destroyed)


@dataclass(frozen=True, eq=False)
class Sample:
    """A cell in the making.

    Attributes:
        recipes: all children that it may have, of one strength.
        accuracies: of the first ones, on the fitness split.
        nonfinite: how many of these had an output that was not finite; their accuracy counts as 0.
    """

    recipes: list[Mutation]
    accuracies: list[float] = field(default_factory=list)
    nonfinite: int = 0

    @property
    def sigma(self) -> float:
        """Strength of the mutations."""
        return self.recipes[0].sigma

    @property
    def full(self) -> bool:
        """Whether there are no more children."""
        return len(self.accuracies) == len(self.recipes)

    @cached_property
    def median(self) -> Estimate:
        """Of the accuracies."""
        return median_interval(self.accuracies)

    def above(self, level: float) -> bool:
        """Whether the median certainly is at least that."""
        return level <= self.median.low

    def below(self, level: float) -> bool:
        """Whether the median certainly is lower."""
        return self.median.high < level

    def certain(self, levels: Levels) -> bool:
        """Whether the median certainly is on one side of each level."""
        return bool(self.accuracies) and all(self.above(level) or self.below(level) for level in levels.all)

    def grown(
        self, ranker: Evaluator, until: Callable[[Sample], bool], progress: Callable[[], object] | None = None
    ) -> Sample:
        """The cell with more children, six and six, until it is as wanted or full.

        Args:
            ranker: the parent on the fitness split.
            until: whether a cell is as wanted.
            progress: called after each child.
        """
        cell = self
        while not (cell.full or until(cell)):
            done = len(cell.accuracies)
            result = ranker.evaluate(cell.recipes[done : done + FEWEST], progress)
            more = result.fitness.clamp(min=0).tolist()  # a fitness that is not finite is far below 0 here
            cell = Sample(cell.recipes, cell.accuracies + more, cell.nonfinite + result.nonfinite)
        return cell


def walk(sample: Callable[[float], Sample], start: float, levels: Levels) -> list[Sample]:
    """Sample cells of the grid up to two that are destroyed and down to two that keep everything.

    The grid has four strengths a decade, 1 among them.

    Args:
        sample: makes the cell of a strength.
        start: where to begin; the grid's nearest strength.
        levels: what destroyed is, and what everything is: the highest of them.

    Returns:
        Adjacent cells, weakest first; at most 16 on either side of the first.
    """
    first = round(_PER_DECADE * log10(start))
    cells: dict[int, Sample] = {}

    def visit(number: int) -> None:
        cells[number] = sample(float(10 ** (number / _PER_DECADE)))

    def extend(step: int, done: Callable[[Sample], bool]) -> None:
        end = max(cells) if step > 0 else min(cells)
        while abs(end - first) < _REACH:
            if end - step in cells and done(cells[end]) and done(cells[end - step]):
                return
            end += step
            visit(end)

    visit(first)
    directions = [
        (1, lambda cell: cell.below(levels.destroyed)),
        (-1, lambda cell: cell.above(levels.all[0])),
    ]
    # Towards the edge first: the cells on this way may be all that the other one needs.
    for step, done in directions if cells[first].above(levels.destroyed) else directions[::-1]:
        extend(step, done)
    return [cells[number] for number in sorted(cells)]


def complete_edges(cells: Sequence[Sample], complete: Callable[[Sample], Sample], levels: Levels) -> list[Sample]:
    """All children for the cells between which a median falls below a share: their medians make its edge.

    Args:
        cells: adjacent ones, weakest first.
        complete: fills a cell.
        levels: the shares.

    Returns:
        The cells, after which each edge lies between full ones.
    """
    cells = list(cells)
    while True:
        keeps = [[cell.median.value >= level for cell in cells] for level in levels.shares.values()]
        # The first cell from above that keeps the share, and the next stronger one.
        last = [max((place for place, kept in enumerate(row) if kept), default=-1) for row in keeps]
        beside = {side for place in last if 0 <= place < len(cells) - 1 for side in (place, place + 1)}
        short = [place for place in sorted(beside) if not cells[place].full]
        if not short:
            return cells
        for place in short:
            cells[place] = complete(cells[place])
