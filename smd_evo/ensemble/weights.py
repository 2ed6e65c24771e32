"""Weights of an ensemble's members."""

from __future__ import annotations

import math
from collections.abc import Iterable

from smd_evo.errors import InvalidType, InvalidValue, check_number, shown

__all__ = ["check_weights"]


def check_weights(weights: Iterable[float] | None, count: int | None = None) -> list[float]:
    """Weights of ``count`` members, or of as many as there are weights: as given, or all alike.

    Raises:
        InvalidValue, InvalidType: no members, another number of weights, or some that are not > 0 or do not add
            up to one.
    """
    if weights is not None and (getattr(weights, "shape", None) == () or not isinstance(weights, Iterable)):
        raise InvalidType(f"weights: expected numbers that add up to one, got {shown(weights)}; give one a member")
    weights = None if weights is None else list(weights)
    count = len(weights or ()) if count is None else count
    if count < 1:
        raise InvalidValue("members: expected at least one, got none")
    if weights is None:
        return [1 / count] * count
    numbers = [check_number("weights", weight, low=0, mend="leave members of weight 0 out") for weight in weights]
    if len(numbers) != count or not math.isclose(sum(numbers), 1, rel_tol=1e-5):
        raise InvalidValue(
            f"weights: expected {count} numbers that add up to one, got {len(numbers)} with the sum {sum(numbers):g}"
        )
    return numbers
