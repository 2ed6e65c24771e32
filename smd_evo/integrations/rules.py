"""How operators and searchers say which coordinates a mutation touches."""

from __future__ import annotations

from smd_evo.core.subspace import RandomSubspace, Subspace
from smd_evo.errors import InvalidType, InvalidValue, check_count

__all__ = ["subspace_of", "subspace_of_dimensions"]


def subspace_of(density: float | None, subspace: Subspace | None, static: bool) -> Subspace:
    """The subspace of ``density`` (and ``static``), or the given one.

    Raises:
        InvalidValue, InvalidType: neither or both are given, or something that is no subspace.
    """
    if (density is None) == (subspace is None):
        raise InvalidValue(f"density: expected it or subspace, got {'neither' if subspace is None else 'both'}")
    if density is not None:
        return RandomSubspace(density, static)
    if not isinstance(subspace, Subspace):
        raise InvalidType(f"subspace: expected e.g. RandomSubspace(0.01), got {subspace!r}")
    if static:
        raise InvalidValue(f"static: expected it with density, got {subspace}; make that one static itself")
    return subspace


def subspace_of_dimensions(dimensions: int | None, subspace: Subspace | None, size: int) -> Subspace:
    """A random subspace of exactly so many of ``size`` coordinates, or the given one.

    Raises:
        InvalidValue, InvalidType: neither or both are given, too many, or something that is no subspace.
    """
    if (dimensions is None) == (subspace is None):
        raise InvalidValue(f"dimensions: expected it or subspace, got {'neither' if subspace is None else 'both'}")
    if dimensions is not None:
        if check_count("dimensions", dimensions) > size:
            raise InvalidValue(f"dimensions: expected at most the {size} selected parameters, got {dimensions}")
        return RandomSubspace(dimensions / size)
    if not isinstance(subspace, Subspace):
        raise InvalidType(f"subspace: expected e.g. RandomSubspace(0.01), got {subspace!r}")
    return subspace
