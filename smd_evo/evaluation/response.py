"""Response: the mutation strength at which a network's outputs change by a given share of their size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from smd_evo.core.keys import Key, check_key, derive
from smd_evo.core.mutation import Lineage, sample_mutations
from smd_evo.core.newton import unit_directions
from smd_evo.core.subspace import Subspace
from smd_evo.errors import InvalidValue, check_number
from smd_evo.evaluation.evaluator import Evaluator

__all__ = ["RESPONSE_COST", "Response", "calibrate_response"]

_FIRST, _CHILDREN, _ROUNDS = 0.01, 4, 4
_NEAR = 1.25
"""A factor of the share that is near enough."""

_FARTHEST = 256.0
"""By which a strength may change in one round: where outputs overflow, or hardly change, it says little."""

RESPONSE_COST = 1 + _CHILDREN * _ROUNDS
"""Networks that :func:`calibrate_response` evaluates at most."""


@dataclass(frozen=True)
class Response:
    """A strength, and how it was found.

    Attributes:
        sigma: the strength, of two digits.
        evaluations: networks that were evaluated, the parent included.
    """

    sigma: float
    evaluations: int


def calibrate_response(
    evaluator: Evaluator, subspace: Subspace, share: float = 0.05, *, key: Key = 0, scale: str = "absolute"
) -> Response:
    """The strength at which the median child's outputs differ from the parent's by a share of their size.

    Size and difference are root mean squares over samples and outputs. Small changes are proportional to the
    strength, so that it is found in two or three rounds of four children.

    Args:
        evaluator: the parent on some samples.
        subspace: rule of the coordinates.
        share: in (0, 1).
        key: key of the test children.
        scale: see :class:`smd_evo.core.mutation.Mutation`.

    Raises:
        InvalidValue: outputs that are all 0 or not finite, or that no child changes.
    """
    share = check_number("share", share, low=0, high=1, mend="try 0.05")
    key = derive(check_key(key), "response")
    sigma = tried = _FIRST
    evaluations, size = 1, math.nan
    for number in range(_ROUNDS):
        children = sample_mutations(key, _CHILDREN, subspace=subspace, sigma=sigma, scale=scale)
        with evaluator.space.rounding.quiet():
            outputs = evaluator.predict([*([] if number else [Lineage()]), *children])
        if not number:
            parent, outputs = outputs[0], outputs[1:]
            size = float(parent.double().square().mean().sqrt())
            if not 0 < size < math.inf:
                raise InvalidValue("outputs: expected finite ones of the parent, not all 0, got others; give sigma")
        evaluations += _CHILDREN
        broken = not bool(outputs.isfinite().all())
        change = math.inf if broken else float(unit_directions(parent, outputs)[1].quantile(0.5)) / size
        factor = share / change if change else math.inf
        tried, sigma = sigma, sigma * min(max(factor, 1 / _FARTHEST), _FARTHEST)
        if 1 / _NEAR <= factor <= _NEAR:
            break
    if not 0 < change < math.inf:
        raise InvalidValue(
            f"sigma: expected children that change the outputs by {share:g} of their size, got a change by "
            f"{change:g} at {tried:g}; give sigma"
        )
    return Response(float(f"{sigma:.1e}"), evaluations)
