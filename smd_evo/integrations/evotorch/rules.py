"""How operators and searchers say which coordinates a mutation touches."""

from __future__ import annotations

from smd_evo.core.subspace import RandomSubspace, Subspace
from smd_evo.errors import InvalidType, InvalidValue

__all__ = ["subspace_of"]


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
