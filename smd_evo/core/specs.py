"""Subspaces from their short strings, as files and command lines hold them."""

from __future__ import annotations

import re
from urllib.parse import unquote

from smd_evo.core.lowrank import LowRank
from smd_evo.core.own import KINDS
from smd_evo.core.structured import NeuronSubspace, TensorSubspace
from smd_evo.core.subspace import Dense, PartitionSubspace, RandomSubspace, Subspace
from smd_evo.core.units import UnitSubspace
from smd_evo.core.within import Within
from smd_evo.errors import InvalidType, InvalidValue, check_choice, shown

__all__ = ["parse_subspace"]

_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)


def parse_subspace(spec: str) -> Subspace:
    """The subspace of a ``spec`` string.

    Raises:
        InvalidValue: the string is no spec.

    Example:
        >>> parse_subspace("random:0.01:static")
        RandomSubspace(density=0.01, static=True)
        >>> parse_subspace(TensorSubspace(2, "layer").spec)
        TensorSubspace(count=2, unit='layer', static=False)
        >>> parse_subspace("within:fc,layer3.2.bn1:dense")
        Within(names=('fc', 'layer3.2.bn1'), rule=Dense())
    """
    if not isinstance(spec, str):
        raise InvalidType(f"subspace: expected a text such as 'random:0.01', got {shown(spec)}")
    kind, *values = str(spec).split(":")
    static = values[-1:] == ["static"]
    values = values[:-1] if static else values
    check_choice("subspace", kind, KINDS)
    if kind in ("unit", "within") and len(values) > 1 and values[1] not in ("within", kind):
        rule = parse_subspace(str(spec).split(":", 2)[2])
        if kind == "unit":
            return UnitSubspace(int(values[0]) if _NUMBER.fullmatch(values[0]) else values[0], rule)
        return Within(tuple(map(unquote, values[0].split(","))), rule)
    try:
        if kind == "dense" and not values and not static:
            return Dense()
        if kind == "lowrank" and len(values) == 1 and not static:
            return LowRank(int(values[0]))
        if kind == "partition" and len(values) == 1:
            return PartitionSubspace(int(values[0]), static)
        if kind == "tensor" and len(values) == 2:
            return TensorSubspace(int(values[0]), values[1], static)
        if kind in ("random", "neuron") and len(values) == 1:
            return (RandomSubspace if kind == "random" else NeuronSubspace)(float(values[0]), static)
    except InvalidValue:
        raise
    except ValueError:
        pass
    raise InvalidValue(
        f"subspace: expected random:DENSITY, neuron:DENSITY, partition:PARTS, tensor:COUNT:tensor|layer "
        f"(each may end in :static), lowrank:RANK, dense, or unit:tensor|layer|DEPTH: or "
        f"within:NAME[,NAME...]: before another, got {shown(spec)}"
    )
