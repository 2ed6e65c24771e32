"""What is nearly free beside a run: each control fitted to the fitness split, its settings chosen on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from smd_evo.core.mutation import Lineage
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import OutputFitness, best_of
from smd_evo.experiments.free import FREE, Free
from smd_evo.experiments.scores import of_classes
from smd_evo.zoo.data import Data, Samples

__all__ = ["Chosen", "choose_free"]


@dataclass(frozen=True, eq=False)
class Chosen:
    """A control with its settings.

    Attributes:
        name: of :data:`smd_evo.experiments.free.FREE`.
        settings: the best on validation.
        control: fitted.
        validation: its fitness there.
        images: that it was fitted to, by a forward pass of each.
    """

    name: str
    settings: Mapping[str, Any]
    control: Free
    validation: float
    images: int

    def cost(self) -> dict[str, Any]:
        """What is stored of it."""
        return {
            "settings": dict(self.settings),
            "validation": self.validation,
            "images": self.images,
            "passes": self.control.passes,
        }


def choose_free(ranker: Evaluator, judge: Evaluator, data: Data, views: int) -> tuple[list[Chosen], dict[str, str]]:
    """The controls that make sense, and why the others do not.

    Args:
        ranker: the parent on the fitness split.
        judge: the parent on validation.
        data: the splits.
        views: of an image, at most: no more than an ensemble may have members.
    """
    targets, fitness = judge.targets(), judge.fitness
    assert isinstance(fitness, OutputFitness)
    chosen: list[Chosen] = []
    left_out: dict[str, str] = {}
    before = judge.predict([Lineage()])[0]
    if not of_classes(before, targets):
        return [], dict.fromkeys(FREE, "its targets are no classes")
    for name, kind in FREE.items():
        reason = kind.refusal(ranker.space.module, data.fitness)
        if reason:
            left_out[name] = reason
            continue
        try:
            grid = [{**each, "views": min(views, each["views"])} if "views" in each else each for each in kind.grid]
            fitted, outputs = _tried(kind, grid, ranker, judge, data.validation, before)
        except Exception as error:  # of outputs, or features, that only a forward pass shows: children are worth more
            left_out[name] = str(error).partition("\n")[0] or type(error).__name__
            continue
        scores = [fitness.of(each, targets) for each in outputs]
        best = best_of(scores, fitness.sense)
        images = ranker.samples if kind.looks else 0
        chosen.append(Chosen(name, grid[best], fitted[best], scores[best], images))
    return chosen, left_out


def _tried(
    kind: type[Free],
    grid: Sequence[Mapping[str, Any]],
    ranker: Evaluator,
    judge: Evaluator,
    samples: Samples,
    before: Tensor,
) -> tuple[list[Free], list[Tensor]]:
    """One of each of its settings, and what it predicts for validation."""
    fitted = [kind(**settings) for settings in grid]
    seen, outputs = kind.look(ranker), []
    for control in fitted:
        control.fit(seen)
        outputs.append(control.predict(judge, samples, before))
    return fitted, outputs
