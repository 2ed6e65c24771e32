"""What a fine-tuning run finds: groups of children, arms, rows of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from smd_evo.core.mutation import Mutation
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.core.subspace import Subspace
from smd_evo.ensemble.selection import Selection
from smd_evo.ensemble.soup import soup
from smd_evo.evaluation.evaluator import Evaluation
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.free import Free
from smd_evo.experiments.scores import Row
from smd_evo.experiments.shortlists import Shortlist
from smd_evo.statistics.tests import Estimate
from smd_evo.zoo.data import Data

__all__ = ["NEARLY_FREE", "RACED", "UNRACED", "Arm", "Candidate", "FinetuneResult", "Group"]

NEARLY_FREE = "nearly free"
"""The method of a table's rows that no children are behind."""

RACED, UNRACED = "their image evaluations", "without a race"
"""Entries of a result's evaluations, where there was a race."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """Children that predict together.

    Attributes:
        members: the children by their places in their group's ranking, best first; what is none of them is at -1.
        weights: one a member, adding up to one; None: all alike.
    """

    members: Mapping[int, Child]
    weights: tuple[float, ...] | None = None


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
        others: ensembles of the shortlist that are chosen otherwise, by their method.
        mixed: whether the mean of the first ensemble's weights is a candidate, too.
    """

    subspace: Subspace
    sigma: float
    density: float
    recipes: list[Mutation]
    result: Evaluation
    logits: Tensor
    best: int
    ensemble: Selection
    others: Mapping[str, Selection]
    mixed: bool

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

    def chosen(self, space: ParameterSpace) -> dict[str, Candidate]:
        """What is reported of the group, a child of its parent or several of them, by its name."""
        ranked = [self.recipes[number] for number in self.result.ranking()]

        def candidate(*places: int, weights: tuple[float, ...] | None = None) -> Candidate:
            return Candidate({place: ranked[place] for place in places}, weights)

        found = {
            "median child": candidate(len(ranked) // 2),
            "best child": candidate(self.best),
            "ensemble": candidate(*self.ensemble.members),
        }
        for name, chosen in self.others.items():
            members, weights = zip(*sorted(zip(chosen.members, chosen.weights, strict=True)), strict=True)
            found[f"{name} ensemble"] = candidate(*members, weights=weights)
        if self.mixed:
            found["soup"] = Candidate({-1: soup(space, [*found["ensemble"].members.values()])})
        return found


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
        arms: the sparse arm, then the others.
        rows: the table.
        right: for each of its rows which samples it has right, as the bits of a hexadecimal number, the first sample
            first; none where samples have no classes.
        also: the same rows on other data, if there are any.
        against: ensemble of the sparse arm against that of each other arm, and against the control that is
            best on validation of what is free: accuracy difference, p value.
        evaluations: children evaluated on the fitness split, by purpose.
        free: of each control that is nearly free its settings, its fitness on validation, the images that it was
            fitted to, and the forward passes that an image takes; the best on validation first.
        left_out: those that make no sense, and why.
        best_free: the first of them, fitted; None where there is none.
    """

    config: FinetuneConfig
    data: Data
    space: ParameterSpace
    parent_fitness: float
    sense: str
    arms: list[Arm]
    rows: list[Row]
    right: list[str]
    also: list[Row]
    against: dict[str, tuple[Estimate, float]]
    evaluations: dict[str, int]
    free: dict[str, dict[str, Any]]
    left_out: dict[str, str]
    best_free: Free | None
