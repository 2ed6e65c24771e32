"""The setting ``subspace``: a kind of rule, or one within some parameters; checked without the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smd_evo.errors import InvalidValue, check_choice, shown
from smd_evo.experiments.readers import Reader

__all__ = ["SUBSPACES", "WITHIN", "check_density", "has_density", "subspace_of"]

SUBSPACES = ("random", "partition", "neuron", "tensor")
WITHIN = "within:SELECT:NAME"
"""How help calls a rule within some parameters."""

_OPEN = SUBSPACES[:-1]
"""Kinds whose density is a setting of its own."""


def subspace_of(kinds: tuple[str, ...]) -> Reader:
    """One of the kinds, or ``within:SELECT:RULE``: kinds, layers or patterns as for ``select``, and a kind or a spec.

    >>> subspace_of(SUBSPACES)("subspace", "within:norm,bias:dense")
    'within:norm,bias:dense'
    """

    def read(name: str, value: Any) -> str:
        if not isinstance(value, str) or not value.startswith("within:"):
            return check_choice(name, value, kinds)
        _, select, rule = (*value.split(":", 2), "", "")[:3]
        if not select or not rule or rule.startswith("within:"):
            raise InvalidValue(f"{name}: expected {WITHIN}, got {shown(value)}; try within:head:dense")
        if rule not in _OPEN:
            from smd_evo.core.specs import parse_subspace  # which imports torch: only where it is needed

            parse_subspace(rule)
        return str(value)

    return read


def has_density(subspace: str) -> bool:
    """Whether such a setting leaves the density open, which ``density`` then says.

    >>> has_density("random"), has_density("within:head:neuron"), has_density("within:head:random:0.1")
    (True, True, False)
    """
    return (subspace.split(":", 2)[2] if subspace.startswith("within:") else subspace) in _OPEN


def check_density(subspace: str, given: Mapping[str, Any]) -> None:
    """Raise InvalidValue if a density is given beside a setting that leaves none open."""
    if "density" in given and not has_density(subspace):
        raise InvalidValue(
            f"density: expected none for the {subspace} subspace, which leaves none open; leave it out"
        )
