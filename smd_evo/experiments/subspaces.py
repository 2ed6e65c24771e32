"""The setting ``subspace``: a kind of rule, alone, within parameters or in a unit; checked without the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smd_evo.errors import InvalidType, InvalidValue, check_choice, shown
from smd_evo.experiments.readers import Reader, schedule

__all__ = [
    "STAGES",
    "SUBSPACES",
    "UNIT",
    "WITHIN",
    "check_density",
    "has_density",
    "parts_of",
    "staged",
    "stages_of",
    "subspace_of",
]

SUBSPACES = ("random", "partition", "neuron", "tensor")
WITHIN, UNIT = "within:SELECT:NAME", "unit:UNIT:NAME"
"""How help calls a rule within some parameters, and in one unit that each child has of its own."""

STAGES = "NAME/NAME@G"
"""How help calls one from generation G on."""

_OPEN = SUBSPACES[:-1]
"""Kinds whose density is a setting of its own."""

_SPECS = ("random", "partition", "neuron", "tensor", "dense", "lowrank")
"""What specs begin with that say all by themselves."""

_FORMS = ("random:DENSITY", "dense", "lowrank:RANK", WITHIN, UNIT)
"""What there is beside the kinds, as a message calls it."""

_UNITS = ("tensor", "layer")
"""Beside whole numbers: see :class:`smd_evo.core.units.UnitSubspace`."""


def parts_of(subspace: str) -> tuple[str, str, str]:
    """``within`` or ``unit``, what it names, and the kind or the spec of the rule there; of others only the last.

    >>> parts_of("within:norm,bias:random:0.1"), parts_of("neuron")
    (('within', 'norm,bias', 'random:0.1'), ('', '', 'neuron'))
    """
    place, _, rest = subspace.partition(":")
    if place not in ("within", "unit"):
        return "", "", subspace
    what, _, rule = rest.partition(":")
    return place, what, rule


def subspace_of(kinds: tuple[str, ...]) -> Reader:
    """One of the kinds, a spec or a rule that has one, or ``within:SELECT:RULE`` or ``unit:UNIT:RULE``.

    RULE is a kind or a spec.

    >>> subspace_of(SUBSPACES)("subspace", "within:norm,bias:dense")
    'within:norm,bias:dense'
    """

    def read(name: str, value: Any) -> str:
        value = _spec_of(name, value)
        if isinstance(value, str) and "/" in value:
            raise InvalidValue(
                f"{name}: expected one for a single generation, got {shown(value)}; give generations, 100 say"
            )
        if not isinstance(value, str) or not parts_of(value)[0]:
            if isinstance(value, str) and value.partition(":")[0] in _SPECS and value not in kinds:
                from smd_evo.core.specs import parse_subspace

                return parse_subspace(value).spec
            return check_choice(name, value, (*kinds, *_FORMS))
        place, what, rule = parts_of(value)
        known = place == "within" or what in _UNITS or (what.isdecimal() and int(what) > 0)
        if not what or not rule or not known or rule.startswith(("within:", "unit:")):
            form, example = (WITHIN, "within:head:dense") if place == "within" else (UNIT, "unit:layer:dense")
            raise InvalidValue(f"{name}: expected {form}, got {shown(value)}; try {example}")
        if place == "unit" and rule == "partition":  # of one generation's children, whatever their units
            raise InvalidValue(
                f"{name}: expected a rule that each child draws, got {shown(value)}; try unit:1:random"
            )
        if rule not in _OPEN:
            from smd_evo.core.specs import parse_subspace  # which imports torch: only where it is needed

            parse_subspace(value if place == "unit" else rule)
        return str(value)

    return read


def _spec_of(name: str, value: Any) -> Any:
    """The text of a rule that is given as an object; anything else as it is."""
    spec = value if isinstance(value, str | type) else getattr(value, "spec", value)
    if spec is value or not isinstance(spec, str):
        return value
    from smd_evo.core.own import is_own  # which imports torch; a rule has done so

    if is_own(type(value)):
        raise InvalidType(
            f"{name}: expected a rule that a run's files are read back by, got {shown(value)}; SubspaceES and "
            "SubspaceEvolution take it"
        )
    return spec


def staged(one: Reader) -> Reader:
    """One such setting, or several with the generations from which on they hold."""

    def read(name: str, value: Any) -> str:
        value = _spec_of(name, value)
        if not isinstance(value, str):
            return str(one(name, value))
        for _, stage in stages_of(value):
            one(name, stage)
        return value

    return read


def stages_of(subspace: str) -> list[tuple[int, str]]:
    """The generation that each stage begins with, from 1, and its subspace.

    >>> stages_of("within:head:dense/within:norm,bias:dense@20/random@60")
    [(1, 'within:head:dense'), (20, 'within:norm,bias:dense'), (60, 'random')]
    """
    return schedule("subspace", subspace, "/", "try within:head:dense/random@20")


def has_density(subspace: str) -> bool:
    """Whether such a setting leaves the density open, which ``density`` then says; of stages, whether one does.

    >>> has_density("random"), has_density("within:head:neuron"), has_density("within:head:random:0.1")
    (True, True, False)
    """
    return any(parts_of(stage)[2] in _OPEN for _, stage in stages_of(subspace))


def check_density(subspace: str, given: Mapping[str, Any]) -> None:
    """Raise InvalidValue if a density is given beside a setting that leaves none open."""
    if "density" in given and not has_density(subspace):
        raise InvalidValue(
            f"density: expected none for the {subspace} subspace, which leaves none open; leave it out"
        )
