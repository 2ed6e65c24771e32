"""Subspace rules by their kind and density, as settings give them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from smd_evo.core.layout import Layout
from smd_evo.core.parameters import ParameterSpace
from smd_evo.core.selection import within_kinds
from smd_evo.core.specs import parse_subspace
from smd_evo.core.structured import NeuronSubspace, TensorSubspace
from smd_evo.core.subspace import Dense, PartitionSubspace, RandomSubspace, Subspace
from smd_evo.core.units import UnitSubspace
from smd_evo.experiments.subspaces import has_density, parts_of

__all__ = ["in_short", "make_rule", "mean_density", "rules_of"]

_RULES: dict[str, Callable[[float], Subspace]] = {
    "random": RandomSubspace,
    "neuron": NeuronSubspace,
    "partition": lambda density: PartitionSubspace(round(1 / density)),
}
_LONG = 60


def make_rule(kind: str, density: float) -> Subspace:
    """The rule of that kind and density; of density 1, or a partition of one part, :class:`Dense` whatever the kind.

    Args:
        kind: "random", "neuron" or "partition", whose density becomes 1 / n, n whole.
        density: in (0, 1].

    Example:
        >>> make_rule("partition", 0.3), make_rule("neuron", 1)
        (PartitionSubspace(parts=3, static=False), Dense())
    """
    dense = density == 1 or (kind == "partition" and round(1 / density) == 1)
    return Dense() if dense else _RULES[kind](density)


def rules_of(subspace: str, densities: Iterable[float], space: ParameterSpace) -> list[Subspace]:
    """The rules of a setting, where it meets the network: what it is within becomes names of tensors or modules.

    Args:
        subspace: a kind, ``tensor``, or ``within:SELECT:`` or ``unit:UNIT:`` before a kind or a spec.
        densities: one rule for each, where the setting leaves the density open.
        space: of the parent.

    Raises:
        InvalidValue: the network has nothing that the setting names.

    Example:
        >>> from torch import nn
        >>> space = ParameterSpace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
        >>> rules_of("within:head:random", (0.5,), space)
        [Within(names=('1',), rule=RandomSubspace(density=0.5, static=False))]
        >>> rules_of("within:bias:dense", (0.5,), space)[0].spec
        'within:0.bias,1.bias:dense'
    """
    place, what, rule = parts_of(subspace)
    if has_density(subspace):
        made = [make_rule(rule, density) for density in densities]
    else:
        made = [TensorSubspace() if rule == "tensor" else parse_subspace(rule)]
    if place == "unit":
        return [UnitSubspace(int(what) if what.isdecimal() else what, each) for each in made]
    return [within_kinds(space.module, space.names, what, each) for each in made] if place else made


def in_short(rule: Subspace) -> str:
    """A rule's spec for a line of progress: without the end of a long list of parameters.

    Example:
        >>> in_short(RandomSubspace(0.3))
        'random:0.3'
    """
    return rule.spec if len(rule.spec) <= _LONG else f"{rule.spec[: _LONG - 3]}..."


def mean_density(rule: Subspace, layout: Layout) -> float:
    """Share of the coordinates that a child touches; the mean over all draws where children differ.

    Args:
        rule: of the coordinates.
        layout: where the tensors lie.

    Raises:
        InvalidValue: the layout is too small for the rule.

    Example:
        >>> mean_density(RandomSubspace(0.3), Layout.flat(12))  # 4 of 12 coordinates
        0.3333333333333333
    """
    return rule.mean_count(layout) / layout.size
