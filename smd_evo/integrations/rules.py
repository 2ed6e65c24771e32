"""How operators and searchers say which coordinates a mutation touches."""

from __future__ import annotations

from smd_evo.core.subspace import RandomSubspace, Subspace, check_subspace
from smd_evo.errors import InvalidValue, check_count, check_flag, check_number

__all__ = ["strength_of", "subspace_of", "subspace_of_dimensions"]


def strength_of(stdev: float | None, sigma: float | None, mend: str) -> float:
    """The mutation strength that one of two words says: EvoTorch's and this package's.

    Raises:
        InvalidValue, InvalidType: neither or both are given, or no finite number above zero.
    """
    if (stdev is None) == (sigma is None):
        raise InvalidValue(
            f"stdev: expected it or sigma, which is the same, got {'neither' if sigma is None else 'both'}"
        )
    return (
        check_number("sigma", sigma, low=0, mend=mend)
        if stdev is None
        else check_number("stdev", stdev, low=0, mend=mend)
    )


def subspace_of(density: float | None, subspace: Subspace | None, static: bool) -> Subspace:
    """The subspace of ``density`` (and ``static``), or the given one.

    Raises:
        InvalidValue, InvalidType: neither or both are given, or something that is no subspace.
    """
    if (density is None) == (subspace is None):
        raise InvalidValue(f"density: expected it or subspace, got {'neither' if subspace is None else 'both'}")
    if density is not None:
        return RandomSubspace(density, static)
    rule = check_subspace(subspace)
    if check_flag("static", static):
        raise InvalidValue(f"static: expected it with density, got {rule}; make that one static itself")
    return rule


def subspace_of_dimensions(dimensions: int | None, subspace: Subspace | None, size: int) -> Subspace:
    """A random subspace of exactly so many of ``size`` coordinates, or the given one.

    Raises:
        InvalidValue, InvalidType: neither or both are given, too many, or something that is no subspace.
    """
    if (dimensions is None) == (subspace is None):
        raise InvalidValue(f"dimensions: expected it or subspace, got {'neither' if subspace is None else 'both'}")
    if dimensions is not None:
        dimensions = check_count("dimensions", dimensions)
        if dimensions > size:
            raise InvalidValue(f"dimensions: expected at most the {size} selected parameters, got {dimensions}")
        return RandomSubspace(dimensions / size)
    return check_subspace(subspace)
