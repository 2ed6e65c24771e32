"""Calibration: the mutation strength that a network survives, found instead of guessed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from smd_evo.core.keys import Key, derive
from smd_evo.core.mutation import Lineage, sample_mutations
from smd_evo.core.subspace import Subspace
from smd_evo.errors import InvalidValue, check_count, check_keep
from smd_evo.evaluation.evaluator import Evaluator

__all__ = ["Calibration", "calibrate_sigma", "calibration_cost"]

_FIRST, _FACTOR, _LOWEST, _HIGHEST = 0.01, 4.0, 1e-8, 1e6


@dataclass(frozen=True)
class Calibration:
    """A calibrated mutation strength.

    Attributes:
        sigma: the strength.
        kept: share of the parent's score that the median child kept there.
        evaluations: children that were evaluated to find it, the parent included.
    """

    sigma: float
    kept: float
    evaluations: int


def calibration_cost(children: int = 16, bisections: int = 5) -> int:
    """Children that :func:`calibrate_sigma` evaluates at most, the parent included.

    Example:
        >>> calibration_cost(children=8, bisections=4)
        161
    """
    up = math.ceil(math.log(_HIGHEST / _FIRST, _FACTOR)) + 1  # the way down is shorter
    return 1 + children * (1 + up + bisections)


def calibrate_sigma(
    evaluator: Evaluator,
    subspace: Subspace,
    keep: float = 0.99,
    *,
    key: Key = 0,
    children: int = 16,
    bisections: int = 5,
    scale: str = "absolute",
    progress: Callable[[], object] | None = None,
) -> Calibration:
    """The mutation strength at which the median child keeps a share of the parent's score.

    Kept is ``child / parent`` where higher is better and ``parent / child`` where lower is. The strength is
    bracketed by factors of 4 from 0.01 and bisected on a logarithmic scale, always with the same children,
    only stronger or weaker: 5 bisections leave 4 % of uncertainty.

    Args:
        evaluator: the parent on data that may be used for selection.
        subspace: rule of the coordinates.
        keep: share to keep, in (0, 1).
        key: key of the test children.
        children: number of test children, each evaluated about ten times.
        bisections: halvings of the logarithmic bracket.
        scale: see :class:`smd_evo.core.mutation.Mutation`.
        progress: called after each child.

    Raises:
        InvalidValue: ``keep`` out of range, a parent's score that is not above zero, or a network that no
            strength between 1e-8 and 1e6 takes to that share.

    Reference: this definition is ours; it replaces the hand-tuned strengths of arXiv 2302.05832.
    """
    check_keep(keep)
    check_count("children", children)
    parent = float(evaluator.evaluate([Lineage()]).fitness[0])
    if parent <= 0:
        raise InvalidValue(
            f"parent: expected a score above zero to keep a share of, got "
            f"{evaluator.fitness.name} {parent:g}; give sigma instead"
        )
    evaluations = 1

    def kept(sigma: float) -> float:
        nonlocal evaluations
        evaluations += children
        recipes = sample_mutations(
            derive(key, "calibration"),
            children,
            subspace=subspace,
            sigma=sigma,
            scale=scale,
            antithetic=True,  # cancels the slope, which would move a small sample's median either way
        )
        median = float(evaluator.evaluate(recipes, progress).fitness.quantile(0.5))
        return median / parent if evaluator.fitness.sense == "max" else parent / median

    low, low_kept = _FIRST, kept(_FIRST)
    high = low
    while low_kept < keep and low > _LOWEST:
        high, low = low, low / _FACTOR
        low_kept = kept(low)
    if high == low:
        while (now := kept(high * _FACTOR)) >= keep and high < _HIGHEST:
            high *= _FACTOR
            low, low_kept = high, now
        high *= _FACTOR
    if not _LOWEST < low < _HIGHEST:
        raise InvalidValue(
            f"keep: expected some strength in [{_LOWEST:g}, {_HIGHEST:g}] that keeps {keep:g} of the parent's "
            f"{evaluator.fitness.name}, found none; is the selection connected to the outputs?"
        )
    for _ in range(bisections):
        middle = (low * high) ** 0.5
        if (now := kept(middle)) >= keep:
            low, low_kept = middle, now
        else:
            high = middle
    return Calibration(low, low_kept, evaluations)
