"""What a fine-tuning run finds: groups of children, arms, rows of the table."""

from __future__ import annotations

from dataclasses import dataclass

from smd_evo.core.mutation import Mutation
from smd_evo.core.parameters import ParameterSpace
from smd_evo.core.subspace import Subspace
from smd_evo.evaluation.evaluator import Evaluation
from smd_evo.experiments.config import FinetuneConfig
from smd_evo.experiments.statistics import Estimate
from smd_evo.zoo.data import Data

__all__ = ["SPARSE", "Arm", "FinetuneResult", "Group", "Row"]

SPARSE = "sparse"
"""Name of the arm that is not a control."""


@dataclass(frozen=True, eq=False)
class Group:
    """Children of one subspace and strength: ranked on fitness, the shortlist judged on validation.

    Attributes:
        subspace, sigma: of the mutations.
        density: mean share of the coordinates that they touch.
        recipes: the children.
        result: their fitness.
        best: number of the child that is best on validation among the first ten by fitness.
        size: size of the ensemble of the first by fitness that is best on validation.
        validation: that ensemble's fitness there.
    """

    subspace: Subspace
    sigma: float
    density: float
    recipes: list[Mutation]
    result: Evaluation
    best: int
    size: int
    validation: float

    def chosen(self) -> dict[str, list[int]]:
        """Numbers of the children behind each candidate that is reported."""
        ranking = self.result.ranking()
        return {
            "median child": [ranking[len(ranking) // 2]],
            "best child": [self.best],
            "ensemble": ranking[: self.size],
        }


@dataclass(frozen=True, eq=False)
class Arm:
    """A method: its groups, and which of them validation chose."""

    name: str
    groups: list[Group]
    choice: int

    @property
    def group(self) -> Group:
        """The chosen group."""
        return self.groups[self.choice]


@dataclass(frozen=True)
class Row:
    """One line of the table: a classifier on the test split, and its difference to the parent.

    ``p_value`` is of the exact McNemar test, None for the parent itself.
    """

    method: str
    candidate: str
    members: int
    density: float | None
    sigma: float | None
    accuracy: float
    loss: float
    accuracy_gain: Estimate | None = None
    loss_gain: Estimate | None = None
    p_value: float | None = None


@dataclass(frozen=True, eq=False)
class FinetuneResult:
    """All that a run found.

    Attributes:
        config: the settings.
        data: the data with its splits.
        space: the parent's parameter space.
        parent_fitness: the parent on the fitness split.
        arms: the sparse arm, then the three dense controls.
        rows: the table.
        against_dense: ensemble of the sparse arm against that of each control: accuracy difference, p value.
        evaluations: children evaluated on the fitness split, by purpose.
    """

    config: FinetuneConfig
    data: Data
    space: ParameterSpace
    parent_fitness: float
    arms: list[Arm]
    rows: list[Row]
    against_dense: dict[str, tuple[Estimate, float]]
    evaluations: dict[str, int]
