"""Evaluation: the fitness of some children."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from smd_evo.core.mutation import Lineage
from smd_evo.core.parameters import Child
from smd_evo.evaluation.fitness import WORST, Sense
from smd_evo.evaluation.histogram import histogram, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Evaluation", "evaluation", "finite", "is_parent", "parents_among"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Fitness of some children.

    Attributes:
        fitness: float64 [N] on the CPU, in the fitness's own units; all finite.
        sense: "min" or "max".
        nonfinite: how many were NaN or infinite and became the worst, +-1e18.
        parent: the parent's fitness, if it was among them.
    """

    fitness: Tensor
    sense: str
    nonfinite: int
    parent: float | None = None

    def plot(self, parent: float | None = None) -> Figure:
        """A histogram, with a line for the parent's fitness, where it was evaluated or is given."""
        return histogram(self.fitness, self.sense, self.parent if parent is None else parent)

    def _repr_html_(self) -> str:
        return picture(self.plot())

    def ranking(self) -> list[int]:
        """Numbers of the children, best first; equal ones in their order."""
        order = self.fitness.argsort(stable=True, descending=self.sense == "max")
        return order.tolist()


def evaluation(fitness: Tensor, sense: Sense, parents: list[int]) -> Evaluation:
    """What is made of raw values.

    Args:
        fitness: float64 [N], which may hold NaN and infinities.
        sense: of them.
        parents: numbers of those that are the parent.
    """
    values = finite(fitness, sense)
    nonfinite = int((values.abs() >= WORST).sum())
    return Evaluation(values, sense, nonfinite, float(values[parents[0]]) if parents else None)


def is_parent(child: Child) -> bool:
    """Whether a child is the parent itself."""
    return isinstance(child, Lineage) and not child.steps


def parents_among(children: Sequence[Child]) -> list[int]:
    """Numbers of those that are the parent."""
    return [number for number, child in enumerate(children) if is_parent(child)]


def finite(fitness: Tensor, sense: Sense) -> Tensor:
    """Fitness of which what is NaN, infinite or beyond it is the worst there is, +-1e18."""
    return fitness.where(fitness.isfinite() & (fitness.abs() < WORST), WORST if sense == "min" else -WORST)
