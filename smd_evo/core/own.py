"""Rules of somebody's own: what is wrong with one is said when it is given, or used first."""

from __future__ import annotations

import re
import weakref
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor

from smd_evo.errors import InvalidType, InvalidValue, shown

__all__ = ["KINDS", "check_rule", "checked_coordinates", "is_own"]

KINDS = ("random", "partition", "tensor", "neuron", "dense", "lowrank", "unit", "within")
"""The names of this package's rules."""

_repeated: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes of which one draw has been seen to give the same coordinates twice."""


def is_own(kind: type) -> bool:
    """Whether a class is somebody's own.

    >>> is_own(Tensor)
    True
    """
    return not kind.__module__.startswith("smd_evo.")


def check_rule(rule: Any) -> None:
    """Raise in one line where a rule lacks what recipes tell it by.

    Raises:
        InvalidType: it has no name, no ``static``, or no fields that are compared.
        InvalidValue: its name is that of one of this package's rules, which makes other coordinates.
    """
    kind = type(rule)
    name, static = getattr(rule, "name", None), getattr(rule, "static", None)
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
        raise InvalidType(
            f"subspace: expected a word as {kind.__name__}.name, by which recipes tell it, got {name!r}"
        )
    maker = next(each for each in kind.__mro__ if "_chosen" in vars(each))
    namer = next(each for each in kind.__mro__ if "name" in vars(each))
    if name in KINDS and (is_own(maker) or is_own(namer)):
        raise InvalidValue(
            f"subspace: expected a name of its own for {kind.__name__}, got {name!r}, as which its recipes would be "
            "read; give the class another one"
        )
    if not isinstance(static, bool):
        raise InvalidType(
            f"subspace: expected True or False as {kind.__name__}.static, got {shown(static)}; False draws anew for "
            "each child"
        )
    if not is_dataclass(rule) or kind.__hash__ is None:
        raise InvalidType(
            f"subspace: expected a frozen dataclass, whose fields tell it from others, got {kind.__name__}; write "
            "@dataclass(frozen=True) above it"
        )


def checked_coordinates(rule: Any, draw: int, layout: Any, found: object, device: torch.device) -> Tensor:
    """What a rule has chosen, sorted.

    Raises:
        InvalidType, InvalidValue: these are no coordinates, or others each time.
    """
    kind, size = type(rule), layout.size
    expected = f"subspace: expected distinct int64 coordinates [k] in [0, {size}) from {kind.__name__}._chosen, got"
    if not isinstance(found, Tensor):
        raise InvalidType(f"{expected} {shown(found)}")
    if found.dtype != torch.int64 or found.dim() != 1:
        raise InvalidType(f"{expected} {list(found.shape)} of {str(found.dtype).removeprefix('torch.')}")
    if not found.numel():
        raise InvalidValue(f"{expected} none")
    ordered = found if rule.ordered else found.sort().values
    if not 0 <= int(ordered[0]) <= int(ordered[-1]) < size:
        raise InvalidValue(f"{expected} {int(ordered[0])} to {int(ordered[-1])}")
    if bool((ordered.diff() <= 0).any()):
        raise InvalidValue(f"{expected} {'some that are not in order' if rule.ordered else 'some twice'}")
    if kind in _repeated:
        return ordered
    again = rule._chosen(draw, layout, device)
    if not isinstance(again, Tensor) or not torch.equal(again.sort().values, ordered):
        raise InvalidValue(
            f"subspace: expected the same coordinates of {kind.__name__} for one draw each time, got others; make "
            "them from draw and layout alone, by permutation(draw, ...) for instance"
        )
    _repeated.add(kind)
    return ordered
