"""What a single generation is about to evaluate, from its settings and the sizes of its splits alone."""

from __future__ import annotations

from smd_evo.evaluation.calibration import Effort, calibration_cost
from smd_evo.evaluation.race import race_rounds
from smd_evo.experiments.calibration import few
from smd_evo.experiments.finetune.settings import DENSE_ARMS, FinetuneConfig, arm_names
from smd_evo.experiments.free import FREE
from smd_evo.experiments.shortlists import SPARSE
from smd_evo.experiments.subspaces import has_density
from smd_evo.experiments.workload import Part, Sizes, Workload, workload

__all__ = ["calibrations", "finetune_workload"]


def calibrations(config: FinetuneConfig) -> tuple[int, Effort]:
    """How many calibrations a single generation makes, and how thorough each is: half of its children, usually.

    ``number * calibration_cost(effort.children, effort.bisections)`` is the most that they take together.
    """
    own = [count for arm, count in _groups(config).items() if arm not in ("matched-sigma", "matched-norm")]
    number = sum(own) - (own[0] if config.sigma else 0)  # what the sparse arm is given needs none
    return number, Effort.within(config.children * sum(_groups(config).values()) // (2 * max(1, number)))


def _groups(config: FinetuneConfig) -> dict[str, int]:
    """Groups of children in each arm, by its name in the settings, that of the sparse one first."""
    sparse = _densities(config, config.subspace)
    arms = {arm: sparse if arm in DENSE_ARMS else _densities(config, arm) for arm in arm_names(config)}
    return {SPARSE: sparse} | arms


def _densities(config: FinetuneConfig, subspace: str) -> int:
    return len(config.density) if has_density(subspace) else 1


def _children(config: FinetuneConfig, groups: int, samples: int) -> list[Part]:
    """Their evaluations on the fitness split; in a race those of each round."""
    if not config.race:
        return [Part("children", groups * config.children, samples)]
    rounds = race_rounds(config.children, samples)
    return [Part(f"round {number}", groups * count, images) for number, (count, images) in enumerate(rounds, start=1)]


def _free(sizes: Sizes) -> list[Part]:
    """What is nearly free: fitted with each of its settings, tried on validation, the chosen one reported."""
    made = [[kind(**settings) for settings in kind.grid] for kind in FREE.values()]
    tried = sum(each.passes for several in made for each in several)
    chosen = sum(several[0].passes for several in made)
    return [
        Part("free, fitted", sum(map(len, made)), sizes["fitness"], bound=True),
        Part("free, validation", tried, sizes["validation"], bound=True),
        Part("free, test", chosen, sizes["test"], bound=True),
        Part("free, also", chosen, sizes.get("also", 0), bound=True),
    ]


def finetune_workload(config: FinetuneConfig, sizes: Sizes) -> Workload:
    """A single generation with its controls.

    Args:
        config: the settings.
        sizes: of the splits, and of the other data under "also" if there are any.

    Example:
        >>> config, sizes = FinetuneConfig(density=(0.1,)), {"fitness": 300, "validation": 300, "test": 500}
        >>> [(part.name, part.count, part.images) for part in finetune_workload(config, sizes).parts][1:3]
        [('children', 512, 300), ('parent', 2, 300)]
    """
    arms, groups = len(_groups(config)), sum(_groups(config).values())
    votes = min(config.shortlist, config.children)
    number, effort = calibrations(config)
    calibrating = number * calibration_cost(effort.children, effort.bisections)
    # Of each arm the median child, those that vote, the best one among them, and their soup.
    reported = 1 + arms * (1 + votes + ("soup" in config.ensembles))
    return workload(
        [
            Part("calibration", calibrating, few(sizes["fitness"], config.race), bound=True),
            *_children(config, groups, sizes["fitness"]),
            Part("parent", 2, sizes["fitness"]),
            Part("validation", groups * votes, sizes["validation"]),
            *(_free(sizes) if config.controls else ()),
            Part("test", reported, sizes["test"], bound=True),
            Part("also", reported, sizes.get("also", 0), bound=True),
        ]
    )
