"""What a run over generations is about to evaluate, from its settings and the sizes of its splits alone."""

from __future__ import annotations

from smd_evo.evaluation.calibration import Effort, calibration_cost
from smd_evo.evaluation.response import RESPONSE_COST
from smd_evo.experiments.calibration import few
from smd_evo.experiments.generations.settings import VOTERS, EvolutionConfig, phases
from smd_evo.experiments.subspaces import stages_of
from smd_evo.experiments.workload import Part, Sizes, Workload, workload

__all__ = ["calibration_effort", "evolution_workload"]


def calibration_effort(config: EvolutionConfig) -> Effort:
    """How thoroughly a run finds the sigma of a stage: all take half of what its children take, usually, at most."""
    return Effort.within(config.children * config.generations // (2 * len(stages_of(config.subspace))))


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
    found = RESPONSE_COST if config.searcher == "newton" else calibration_cost(effort.children, effort.bisections)
    parts = [
        Part(
            "calibration",
            0 if begun or config.sigma else found * len(stages_of(config.subspace)),
            few(sizes["fitness"]),
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
