"""Calibration: the mutation strength that a network survives, found instead of guessed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from smd_evo.core.keys import Key, check_key, derive
from smd_evo.core.mutation import SCALES, Lineage, sample_mutations
from smd_evo.core.subspace import Subspace, check_subspace
from smd_evo.errors import InvalidType, InvalidValue, check_choice, check_count, check_keep, check_pairs, shown
from smd_evo.evaluation.evaluator import Evaluator

__all__ = ["Calibration", "Effort", "calibrate_sigma", "calibration_cost"]

_FIRST, _FACTOR, _LOWEST, _HIGHEST = 0.01, 4.0, 1e-8, 1e6

_MOST_PROBES = 1 + math.ceil(math.log(_HIGHEST / _FIRST, _FACTOR))
"""Strengths that are tried at most before one is known that is too weak and one that is too strong."""

_USUAL_PROBES = 2
"""The same where the first strength is near, as for most networks."""


@dataclass(frozen=True)
class Effort:
    """How thoroughly to calibrate.

    Attributes:
        children: test children, each evaluated at every strength that is tried; even, for they come in pairs.
        bisections: halvings of the logarithmic bracket.
    """

    children: int = 16
    bisections: int = 5

    @classmethod
    def within(cls, evaluations: int) -> Effort:
        """The most thorough one that usually takes at most so many evaluations; 2 children where that is too few.

        Half as many children make the median less certain; one bisection less goes with that.

        Example:
            >>> Effort.within(128), Effort.within(64), Effort.within(1)
            (Effort(children=16, bisections=5), Effort(children=8, bisections=4), Effort(children=2, bisections=2))
        """
        evaluations = check_count("evaluations", evaluations, low=0)
        efforts = (cls(2**power, power + 1) for power in (4, 3, 2))
        return next((each for each in efforts if each.usual <= evaluations), cls(2, 2))

    @property
    def usual(self) -> int:
        """Evaluations that a calibration takes where the first strength tried is near."""
        return 1 + self.children * (_USUAL_PROBES + self.bisections)


def calibration_cost(children: int = Effort.children, bisections: int = Effort.bisections) -> int:
    """The most evaluations that :func:`calibrate_sigma` takes with these settings; usually it is a third.

    Args:
        children: number of test children.
        bisections: halvings of the logarithmic bracket.

    Returns:
        An upper bound of ``Calibration.evaluations``, the parent's one included, whatever the network; also where
        no strength is found.

    Example:
        >>> calibration_cost(), calibration_cost(**vars(Effort.within(64)))
        (321, 153)
    """
    children = check_count("children", children, mend="try 16")
    # Where all strengths are too weak, one more is tried, and nothing bisected.
    return 1 + children * (_MOST_PROBES + max(1, check_count("bisections", bisections, low=0, mend="try 5")))


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


def calibrate_sigma(
    evaluator: Evaluator,
    subspace: Subspace,
    keep: float = 0.99,
    *,
    key: Key = 0,
    children: int = Effort.children,
    bisections: int = Effort.bisections,
    scale: str = "absolute",
    progress: Callable[[], object] | None = None,
) -> Calibration:
    """The mutation strength at which the median child keeps a share of the parent's score.

    Kept is ``child / parent`` where higher is better and ``parent / child`` where lower is. The strength is
    bracketed by factors of 4 from 0.01, of integers from 0.64 steps, and bisected on a logarithmic scale, always with
    the same children, only stronger or weaker: 5 bisections leave 4 % of uncertainty.

    Args:
        evaluator: the parent on data that may be used for selection.
        subspace: rule of the coordinates.
        keep: share to keep, in (0, 1).
        key: key of the test children.
        children: number of test children, even, each evaluated about seven times, see :func:`calibration_cost`.
        bisections: halvings of the logarithmic bracket.
        scale: see :class:`smd_evo.core.mutation.Mutation`.
        progress: called after each child.

    Raises:
        InvalidType: an argument of another kind.
        InvalidValue: ``keep`` out of range, a parent's score that is not above zero, or a network that no strength
            between 1e-8 and 1e6 takes to that share.

    Reference: this definition is ours; it replaces the hand-tuned strengths of arXiv 2302.05832.
    """
    if not isinstance(evaluator, Evaluator):
        raise InvalidType(
            f"evaluator: expected an Evaluator, got {shown(evaluator)}; the order is evaluator, subspace"
        )
    check_subspace(subspace)
    keep, children, key = check_keep(keep), check_count("children", children), check_key(key)
    bisections, scale = check_count("bisections", bisections, low=0), check_choice("scale", scale, SCALES)
    check_pairs("children", children)
    found = evaluator.evaluate([Lineage()])
    parent = float(found.fitness[0])
    if parent <= 0 or found.nonfinite:
        got = "one that is not finite" if found.nonfinite else f"{parent:g}"
        raise InvalidValue(
            f"parent: expected a finite score above zero to keep a share of, got {evaluator.fitness.name} {got}; "
            "give sigma instead"
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
        with evaluator.space.rounding.quiet():
            median = float(evaluator.evaluate(recipes, progress).fitness.quantile(0.5))
        if evaluator.fitness.sense == "max":
            return median / parent
        return parent / median if median else math.inf

    space = evaluator.space
    steps = scale == "absolute" and space.integers == space.names  # which nothing below half a step changes
    low = _FIRST * _FACTOR**3 if steps else _FIRST
    high, low_kept = low, kept(low)
    while low_kept < keep and low > _LOWEST:
        high, low = low, low / _FACTOR
        low_kept = kept(low)
    if high == low:
        while (now := kept(high * _FACTOR)) >= keep and high < _HIGHEST:
            high *= _FACTOR
            low, low_kept = high, now
        high *= _FACTOR
    if not _LOWEST < low < _HIGHEST:
        raise _no_strength(evaluator.fitness.name, parent, keep, high_end=low >= _HIGHEST)
    for _ in range(bisections):
        middle = (low * high) ** 0.5
        if (now := kept(middle)) >= keep:
            low, low_kept = middle, now
        else:
            high = middle
    return Calibration(low, low_kept, evaluations)


def _no_strength(name: str, parent: float, keep: float, *, high_end: bool) -> InvalidValue:
    """The error where no strength keeps just that share, and at which end none was found."""
    told = f"at {_LOWEST:g} it keeps less; {name} is not smooth, or changes by itself"
    if high_end:
        told = f"up to {_HIGHEST:g} it keeps more; {name} hardly gets worse, or the selection does not matter to it"
    return InvalidValue(
        f"keep: expected a strength at which the median child keeps {keep:g} of the parent's {name} ({parent:g}), "
        f"found none: {told}; give sigma instead"
    )
