"""What a comparison is about to evaluate, from its settings and the sizes of its splits alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smd_evo.experiments.compare.methods.base import STRENGTH_COST
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.workload import Part, Sizes, Workload, workload

__all__ = ["compare_workload", "votes_of"]


def compare_workload(
    config: CompareConfig,
    sizes: Sizes,
    trials: Sequence[Mapping[str, Any]],
    reported: Sequence[Mapping[str, Any]],
    strengths: int,
    parent: bool = True,
) -> Workload:
    """The runs of a comparison that are still to be made.

    Args:
        config: the settings.
        sizes: of the splits.
        trials: settings of each method that is to be tried.
        reported: settings of the runs to be reported, or where they are not chosen yet of those with most votes.
        strengths: calibrations, of each process that makes runs.
        parent: whether it is still to be scored.
    """
    passes = sum(votes_of(settings) for settings in reported)
    curves = len(reported) + passes * config.checkpoints
    tried = sum(1 + votes_of(settings) for settings in trials)
    return workload(
        [
            Part("calibration", strengths * STRENGTH_COST, min(config.images, sizes["fitness"]), bound=True),
            Part("trials", len(trials), config.tuning_budget or config.budget, bound=True),
            Part("reported runs", len(reported), config.budget, bound=True),
            Part(
                "validation",
                parent + tried + curves,
                sizes["validation"],
                bound=True,
            ),
            Part("test", parent + passes, sizes["test"], bound=True),
            Part("calibrated scores", parent + passes, sizes["fitness"], bound=True),
        ]
    )


def votes_of(settings: Mapping[str, Any]) -> int:
    """Networks that a method of these settings predicts with, as far as they say so."""
    votes = settings.get("members", settings.get("views", 1))
    return votes if isinstance(votes, int) else 1
