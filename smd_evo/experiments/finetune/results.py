"""What a fine-tuning run finds: groups of children, arms, rows of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from smd_evo.core.mutation import Mutation
from smd_evo.core.parameters import ParameterSpace
from smd_evo.core.subspace import Subspace
from smd_evo.ensemble.selection import Selection
from smd_evo.evaluation.evaluator import Evaluation
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.scores import Row
from smd_evo.experiments.shortlists import Shortlist
from smd_evo.statistics.tests import Estimate
from smd_evo.zoo.data import Data

__all__ = ["ARMS", "NEARLY_FREE", "RACED", "SHORTLIST", "UNRACED", "Arm", "FinetuneResult", "Group"]

ARMS, SHORTLIST = 4, 20
"""The sparse arm and its three dense controls; children of a group, best first, that validation looks at."""

NEARLY_FREE = "nearly free"
"""The method of a table's rows that no children are behind."""

RACED, UNRACED = "their image evaluations", "without a race"
"""Entries of a result's evaluations, where there was a race."""


@dataclass(frozen=True, eq=False)
class Group:
    """Children of one subspace and strength: ranked on fitness, the shortlist judged on validation.

    Attributes:
        subspace, sigma: of the mutations.
        density: mean share of the coordinates that they touch.
        recipes: the children.
        result: their fitness.
        logits: float32 [shortlist, n, classes] on validation of the first by fitness.
        best: place in the shortlist of the child that is best on validation among the first ten.
        ensemble: the best of the shortlist that vote best together.
    """

    subspace: Subspace
    sigma: float
    density: float
    recipes: list[Mutation]
    result: Evaluation
    logits: Tensor
    best: int
    ensemble: Selection

    def shortlist(self, name: str, fingerprint: str) -> Shortlist:
        """The first by fitness, of the arm of that name and the parent of that fingerprint."""
        numbers = self.result.ranking()[: len(self.logits)]
        recipes = [self.recipes[number] for number in numbers]
        return Shortlist(
            name=name,
            density=self.density,
            sigma=self.sigma,
            recipes=recipes,
            fitness=self.result.fitness[numbers],
            best=self.best,
            logits=self.logits,
            fingerprint=fingerprint,
        )

    def chosen(self) -> dict[str, list[Mutation]]:
        """The children behind each candidate that is reported."""
        ranked = [self.recipes[number] for number in self.result.ranking()]
        return {
            "median child": [ranked[len(ranked) // 2]],
            "best child": [ranked[self.best]],
            "ensemble": [ranked[place] for place in self.ensemble.members],
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


@dataclass(frozen=True, eq=False)
class FinetuneResult:
    """All that a run found.

    Attributes:
        config: the settings.
        data: the data with its splits.
        space: the parent's parameter space.
        parent_fitness: the parent on the fitness split.
        sense: of the fitness, "min" or "max".
        arms: the sparse arm, then the three dense controls.
        rows: the table.
        against: ensemble of the sparse arm against that of each dense control, and against the control that is
            best on validation of what is free: accuracy difference, p value.
        evaluations: children evaluated on the fitness split, by purpose.
        free: of each control that is nearly free its settings, its fitness on validation, the images that it was
            fitted to, and the forward passes that an image takes; the best on validation first.
        left_out: those that make no sense, and why.
    """

    config: FinetuneConfig
    data: Data
    space: ParameterSpace
    parent_fitness: float
    sense: str
    arms: list[Arm]
    rows: list[Row]
    against: dict[str, tuple[Estimate, float]]
    evaluations: dict[str, int]
    free: dict[str, dict[str, Any]]
    left_out: dict[str, str]
