"""One unit a child: a block, a layer or a tensor, and another rule inside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from smd_evo.core.keys import Key, derive, derive_tensor
from smd_evo.core.layout import Layout
from smd_evo.core.subspace import Dense, Subspace, check_subspace
from smd_evo.core.within import Part, Within
from smd_evo.errors import InvalidValue, check_choice, check_count, kept

__all__ = ["UnitSubspace"]

_BITS = 16
"""Of a draw: its lowest ones name the unit."""

_MASK = 2**_BITS - 1


@dataclass(frozen=True)
class UnitSubspace(Subspace):
    """Another rule in one unit of the network, as if there were nothing else.

    A child that touches one block has what is before it from its parent, where evaluators share that, so children of
    late units cost less. A draw's lowest 16 bits, modulo the number of units, are the number of the unit; the others
    are the rule's draw. So a recipe replays from its draw alone, whoever has chosen the unit: by itself this rule
    draws all alike, but for the remainder of 65,536; searchers choose by gain and cost: :mod:`smd_evo.core.credit`.

    Args:
        unit: "tensor"; "layer", the tensors of one module; or how many parts of modules' names are to be the same,
            of ``layer3.2.conv1.weight`` 1 for ``layer3``, and 2 for ``layer3.2``, a block.
        rule: of the coordinates in the unit; one that draws for each child, or ``Dense``.

    Raises:
        InvalidValue, InvalidType: another unit, or a rule whose draws belong together or whose noise is no field;
            when coordinates are made, more than 65,536 units.

    Example:
        >>> from smd_evo.core.layout import Slot
        >>> layout = Layout((Slot("a.weight", (2, 2)), Slot("a.bias", (2,)), Slot("b.weight", (1, 2))))
        >>> UnitSubspace("layer", Dense()).coordinates(1, layout)
        tensor([6, 7])
        >>> UnitSubspace(1, Dense()).units(layout)
        [('a', ('a.weight', 'a.bias')), ('b', ('b.weight',))]
    """

    name: ClassVar[str] = "unit"
    ordered: ClassVar[bool] = True
    static: ClassVar[bool] = False  # type: ignore[misc]
    unit: str | int
    rule: Subspace

    def __post_init__(self) -> None:
        unit: str | int = self.unit
        if isinstance(unit, str):
            unit = check_choice("unit", unit, ("tensor", "layer"))
        else:
            unit = check_count("unit", unit, mend='or "layer" or "tensor"')
        kept(self, unit=unit)
        rule = check_subspace(self.rule)
        alone = rule.siblings == 1 and rule.plain and (not rule.static or isinstance(rule, Dense))
        if not alone or isinstance(rule, Within | UnitSubspace):
            raise InvalidValue(
                f"rule: expected one that draws for each child, or dense, got {rule.spec}; try RandomSubspace(0.5)"
            )

    @property
    def spec(self) -> str:
        """``unit:UNIT:RULE``."""
        return f"{self.name}:{self.unit}:{self.rule.spec}"

    def draws(self, key: Key, generation: int, indices: Tensor) -> Tensor:
        """All units alike."""
        words = derive_tensor(derive(key, "unit", generation), indices)
        return (self.rule.draws(key, generation, indices) << _BITS).bitwise_or(words & _MASK)

    def within_units(self, draws: Tensor, units: Tensor) -> Tensor:
        """The same draws in other units.

        Args:
            draws: from :meth:`draws`.
            units: their numbers, int64 of the same shape, in [0, 65536).
        """
        if units.dtype != torch.int64 or bool(((units < 0) | (units > _MASK)).any()):
            raise InvalidValue(f"units: expected numbers in [0, 65536) as int64, got {units.dtype}")
        return draws.bitwise_and(~_MASK).bitwise_or(units.to(draws.device))

    def units(self, layout: Layout) -> list[tuple[str, tuple[str, ...]]]:
        """Name and tensors of each unit, in the order of the layout."""
        found: dict[str, list[str]] = {}
        for slot in layout.slots:
            if slot.size:
                found.setdefault(self._unit_of(slot.name, slot.layer), []).append(slot.name)
        if len(found) > _MASK + 1:
            raise InvalidValue(f"unit: expected at most 65,536 of them, got {len(found):,}; take larger ones")
        return [(name, tuple(tensors)) for name, tensors in found.items()]

    def mean_count(self, layout: Layout) -> float:
        """See :meth:`Subspace.mean_count`; of units that are drawn alike."""
        units = self.units(layout)
        return sum(self.rule.mean_count(Part(tensors, layout).layout) for _, tensors in units) / len(units)

    def _unit_of(self, name: str, layer: str) -> str:
        if self.unit == "tensor" or not layer:  # what the network itself owns
            return name
        return layer if self.unit == "layer" else ".".join(layer.split(".")[: int(self.unit)])

    def _chosen(self, draw: int, layout: Layout, device: torch.device) -> Tensor:
        units = self.units(layout)
        part = Part(units[(draw & _MASK) % len(units)][1], layout)
        return part.outside(self.rule.coordinates(draw >> _BITS, part.layout, device))
