"""What each experiment is about to evaluate, from its settings and the sizes of its splits alone.

Where an experiment decides on the way (a calibration, a mutation window, an ensemble's size), its most is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smd_evo.evaluation.calibration import Effort, calibration_cost
from smd_evo.experiments.config import CompareConfig, FinetuneConfig, WindowConfig
from smd_evo.experiments.evolution_config import VOTERS, EvolutionConfig, phases
from smd_evo.experiments.methods.base import STRENGTH_COST
from smd_evo.experiments.results import ARMS, SHORTLIST
from smd_evo.experiments.rules import CALIBRATION
from smd_evo.experiments.window_sampling import MOST_CELLS
from smd_evo.experiments.workload import Part, Workload, workload

__all__ = [
    "calibration_effort",
    "calibrations",
    "compare_workload",
    "ensemble_workload",
    "evolution_workload",
    "finetune_workload",
    "votes_of",
    "window_workload",
]

Sizes = Mapping[str, int]
"""Samples of the fitness, the validation and the test split."""


def calibrations(config: FinetuneConfig) -> tuple[int, Effort]:
    """How many calibrations a single generation makes, and how thorough each is: half of its children, usually.

    ``number * calibration_cost(effort.children, effort.bisections)`` is the most that they take together.
    """
    groups = _groups(config)
    number = groups if config.sigma else 2 * groups  # the dense arm's own are always calibrated
    return number, Effort.within(config.children * groups * ARMS // (2 * number))


def calibration_effort(config: EvolutionConfig) -> Effort:
    """How thoroughly a run finds its sigma, if none is given: half of what its children take, usually, at most."""
    return Effort.within(config.children * config.generations // 2)


def _groups(config: FinetuneConfig) -> int:
    """Groups of children in each arm."""
    return 1 if config.subspace == "tensor" else len(config.density)


def finetune_workload(config: FinetuneConfig, sizes: Sizes) -> Workload:
    """A single generation with its controls.

    Example:
        >>> config, sizes = FinetuneConfig(density=(0.1,)), {"fitness": 300, "validation": 300, "test": 500}
        >>> [(part.name, part.count, part.images) for part in finetune_workload(config, sizes).parts][1:3]
        [('children', 512, 300), ('parent', 2, 300)]
    """
    groups = _groups(config)
    votes = min(SHORTLIST, config.children)
    number, effort = calibrations(config)
    calibrating = number * calibration_cost(effort.children, effort.bisections)
    return workload(
        [
            Part("calibration", calibrating, min(CALIBRATION, sizes["fitness"]), bound=True),
            Part("children", ARMS * groups * config.children, sizes["fitness"]),
            Part("parent", 2, sizes["fitness"]),
            Part("validation", ARMS * groups * votes, sizes["validation"]),
            # Of each arm the median child, the best one and those that vote.
            Part("test", 1 + ARMS * (2 + votes), sizes["test"], bound=True),
        ]
    )


def evolution_workload(config: EvolutionConfig, images: str, sizes: Sizes, done: int | None = None) -> Workload:
    """A run over generations.

    Args:
        config: the settings.
        images: the schedule of images, which depends on the data where none is given.
        sizes: of the splits.
        done: generations that are; None: not even the calibration is.
    """
    early = config.patience is not None
    first, last = (done or 0) + 1, config.generations
    validations = -(-last // config.validate_every) - (first - 1) // config.validate_every
    candidates = 1 + config.late_parents + min(VOTERS, config.children)
    begun, effort = done is not None, calibration_effort(config)
    parts = [
        Part(
            "calibration",
            0 if begun or config.sigma else calibration_cost(effort.children, effort.bisections),
            min(CALIBRATION, sizes["fitness"]),
            bound=True,
        ),
        # The parent is evaluated on each minibatch, too.
        *(
            Part("children and parents", count * (config.children + 1), each, bound=early)
            for count, each in phases(images, first, last)
        ),
        Part("validation", validations + (not begun) + candidates, sizes["validation"], bound=True),
        Part("test", 2 + candidates, sizes["test"], bound=True),
    ]
    return workload(parts)


def window_workload(config: WindowConfig, rules: int, sizes: Sizes) -> Workload:
    """A mutation window of so many different rules."""
    cells = rules * (MOST_CELLS if config.sigma is None else len(config.sigma))
    return workload(
        [
            Part("parent", 1, sizes["fitness"]),
            Part("children", cells * config.children, sizes["fitness"], bound=True),
            Part("validation", 1 + cells, sizes["validation"], bound=True),
        ]
    )


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
        ]
    )


def votes_of(settings: Mapping[str, Any]) -> int:
    """Networks that a method of these settings predicts with, as far as they say so."""
    members = settings.get("members", 1)
    return members if isinstance(members, int) else 1


def ensemble_workload(members: Sequence[int], views: int, sizes: Sizes) -> Workload:
    """Ensembles that are chosen from stored predictions, and are about to be scored beside their rivals.

    Args:
        members: of each arm's.
        views: of each image, plain or mirrored as validation says, for which the parent votes; 0: none.
        sizes: of the splits.
    """
    # The parent and its views; of each arm the best child, the members and their soup.
    test = 1 + views + sum(2 + count for count in members)
    return workload([Part("validation", 2 * views, sizes["validation"]), Part("test", test, sizes["test"])])
