"""How the groups of each arm mutate: their subspaces, and the strengths that are calibrated for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from smd_evo.core.subspace import Dense, Subspace
from smd_evo.evaluation.calibration import calibrate_sigma
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.experiments.calibration import on_few
from smd_evo.experiments.finetune.counts import calibrations
from smd_evo.experiments.finetune.settings import FinetuneConfig, arm_names
from smd_evo.experiments.progress import Progress
from smd_evo.experiments.rules import in_short, mean_density, rules_of
from smd_evo.experiments.shortlists import SPARSE

__all__ = ["Strength", "plan_arms"]


@dataclass(frozen=True)
class Strength:
    """How one group mutates.

    Attributes:
        subspace, sigma: of its mutations.
        density: mean share of the coordinates that they touch.
    """

    subspace: Subspace
    density: float
    sigma: float


def plan_arms(
    config: FinetuneConfig, ranker: Evaluator, progress: Progress
) -> tuple[dict[str, list[Strength]], dict[str, int]]:
    """The groups of each arm, the sparse one first.

    Args:
        config: the settings.
        ranker: the parent on the fitness split.
        progress: told of each child that a calibration evaluates.

    Returns:
        The groups by the arm's name in reports, and how many children finding the strengths took, by what for.

    Raises:
        InvalidValue: a network that has nothing of what an arm names, or that no strength suits.
    """
    costs: dict[str, int] = {}
    _, effort = calibrations(config)
    few = on_few(ranker, config.race)

    def calibrated(subspace: Subspace, keep: float, purpose: str) -> float:
        progress.start(f"calibrating sigma, {in_short(subspace)}", None)
        found = calibrate_sigma(few, subspace, keep, key=config.seed, progress=progress.advance, **asdict(effort))
        costs[f"calibration, {purpose}"] = costs.get(f"calibration, {purpose}", 0) + found.evaluations
        return found.sigma

    def within(subspace: str, sigma: Callable[[Subspace], float]) -> list[Strength]:
        rules = rules_of(subspace, config.density, ranker.space)
        return [Strength(rule, mean_density(rule, ranker.space.layout), sigma(rule)) for rule in rules]

    def dense(sigmas: Iterable[float]) -> list[Strength]:
        return [Strength(Dense(), 1.0, sigma) for sigma in sigmas]

    sparse = within(config.subspace, lambda rule: config.sigma or calibrated(rule, config.keep, SPARSE))
    plans = {SPARSE: sparse}
    for arm, name in arm_names(config).items():
        if arm == "matched-sigma":
            plans[name] = dense(group.sigma for group in sparse)
        elif arm == "matched-norm":
            plans[name] = dense(group.sigma * group.density**0.5 for group in sparse)
        elif arm == "own-sigma":
            # As many strengths for dense mutations as the sparse ones have densities, around the same kept share.
            exponents = [2.0 ** (number - (len(sparse) - 1) / 2) for number in range(len(sparse))]
            plans[name] = dense(calibrated(Dense(), config.keep**exponent, "dense") for exponent in exponents)
        else:
            plans[name] = within(arm, lambda rule, arm=arm: calibrated(rule, config.keep, arm))  # type: ignore[misc]
    return plans, costs
