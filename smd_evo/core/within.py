"""A rule for a part of the network: the head, the normalisations, some layers."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar
from urllib.parse import quote

import torch
from torch import Tensor

from smd_evo.core.keys import Key
from smd_evo.core.layout import Layout, Slot, named
from smd_evo.core.noise import gaussian
from smd_evo.core.subspace import Subspace, check_subspace
from smd_evo.errors import InvalidType, InvalidValue, kept, nearest, shown

__all__ = ["Part", "Within", "shortest_names"]


@dataclass(frozen=True)
class Within(Subspace):
    """Another rule, applied to some tensors as if there were no others.

    Its coordinates are those of ``rule`` in the layout of these tensors alone, at their places in the whole layout.
    Its noise is that of ``rule``: the field of the key at these places, or matrices of low rank in these tensors.

    Args:
        names: names of tensors, or of modules, which are all tensors below, or patterns with ``*``, ``?`` or
            ``[...]``; one text with commas between them, or several. Kinds such as ``head`` only the network knows:
            :func:`smd_evo.core.selection.within_kinds`.
        rule: of the coordinates in these tensors.

    Raises:
        InvalidValue, InvalidType: no names, or a rule that is none or is such a one itself; when coordinates are
            made, a name that no tensor of the layout has.

    Example:
        >>> from smd_evo.core.subspace import Dense
        >>> layout = Layout((Slot("conv.weight", (2, 2)), Slot("fc.weight", (1, 2)), Slot("fc.bias", (1,))))
        >>> Within("fc", Dense()).coordinates(0, layout)
        tensor([4, 5, 6])
        >>> Within(("conv", "*.bias"), Dense()).spec
        'within:conv,*.bias:dense'
    """

    name: ClassVar[str] = "within"
    ordered: ClassVar[bool] = True  # the rule's coordinates are in order, and the tensors stay in theirs
    names: tuple[str, ...]
    rule: Subspace

    def __post_init__(self) -> None:
        names: object = self.names
        if isinstance(names, str):
            names = [name.strip() for name in names.split(",")]
        if not isinstance(names, Iterable):
            raise InvalidType(f"names: expected those of tensors or modules, got {shown(names)}")
        names = tuple(names)
        if not names or not all(isinstance(name, str) and name for name in names):
            raise InvalidValue(f'names: expected one or more of tensors or modules, got {shown(names)}; try "fc"')
        if isinstance(check_subspace(self.rule), Within):
            raise InvalidValue(f"rule: expected one that is not within others itself, got {self.rule.spec}")
        kept(self, names=names)

    @property
    def static(self) -> bool:  # type: ignore[override]
        """As the rule."""
        return self.rule.static

    @property
    def plain(self) -> bool:  # type: ignore[override]
        """As the rule."""
        return self.rule.plain

    @property
    def siblings(self) -> int:
        """As the rule's."""
        return self.rule.siblings

    @property
    def spec(self) -> str:
        """``within:NAMES:RULE``; what has a meaning in specs, or in files, is written as in addresses, ``%2C``."""
        return f"{self.name}:{','.join(quote(name, safe='*?[]!') for name in self.names)}:{self.rule.spec}"

    def draws(self, key: Key, generation: int, indices: Tensor) -> Tensor:
        """Those of the rule."""
        return self.rule.draws(key, generation, indices)

    def coordinates_of(self, draws: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """See :meth:`Subspace.coordinates_of`; by the rule's own way."""
        part = self._part(layout)
        numbers, coordinates = self.rule.coordinates_of(draws, part.layout)
        return numbers, part.outside(coordinates)

    def noise(self, key: Key, coordinates: Tensor, layout: Layout, dtype: torch.dtype = torch.float32) -> Tensor:
        """See :meth:`Subspace.noise`."""
        if self.plain:
            return gaussian(key, coordinates, dtype)
        part = self._part(layout)
        return self.rule.noise(key, part.inside(coordinates), part.layout, dtype)

    def mean_count(self, layout: Layout) -> float:
        """See :meth:`Subspace.mean_count`."""
        return self.rule.mean_count(self._part(layout).layout)

    def _part(self, layout: Layout) -> Part:
        """Its tensors, which a layout keeps: to find hundreds of names anew takes longer than a child's noise."""
        found: Part | None = layout.parts.get(self.names)
        if found is None:
            found = layout.parts[self.names] = Part(_selected(self.names, layout), layout)
        return found

    def _chosen(self, draw: int, layout: Layout, device: torch.device) -> Tensor:
        part = self._part(layout)
        return part.outside(self.rule.coordinates(draw, part.layout, device))


def _selected(names: tuple[str, ...], layout: Layout) -> set[str]:
    """Names of the tensors that some names of tensors, modules or patterns stand for."""
    known = [slot.name for slot in layout.slots if slot.size]
    chosen: set[str] = set()
    for name in names:
        found = named(known, name)
        if not found:
            modules = {slot.layer for slot in layout.slots}
            raise InvalidValue(
                f"names: expected those of tensors that may be mutated, of modules or patterns, got {shown(name)}"
                f"{nearest(name, [*known, *modules])}"
            )
        chosen |= found
    return chosen


class Part:
    """Some tensors of a layout: the layout of them alone, and where its coordinates are in the whole.

    Args:
        chosen: names of the tensors.
        layout: the whole.
    """

    def __init__(self, chosen: Collection[str], layout: Layout) -> None:
        slots: list[Slot] = []
        ends: dict[int, int] = {}  # of tensors side by side, by how far they are moved
        size = 0
        for slot, start in zip(layout.slots, layout.offsets, strict=False):
            if slot.name in chosen:
                move = start - size
                slots.append(slot)
                size += slot.size
                ends[move] = size
        self.layout = Layout(tuple(slots))
        self._moves, self._ends = (
            torch.tensor([*each], dtype=torch.int64, device="cpu") for each in (ends, ends.values())
        )

    def outside(self, coordinates: Tensor) -> Tensor:
        """Where these coordinates of the part are in the whole layout."""
        return coordinates + self._moved(coordinates, self._ends)

    def inside(self, coordinates: Tensor) -> Tensor:
        """Where these coordinates of the whole, all in the part, are in the part's layout."""
        return coordinates - self._moved(coordinates, self._ends + self._moves)

    def _moved(self, coordinates: Tensor, ends: Tensor) -> Tensor:
        moves, ends = (each.to(coordinates.device) for each in (self._moves, ends))
        return moves if len(moves) == 1 else moves[torch.searchsorted(ends, coordinates, right=True)]


def shortest_names(chosen: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """Names of modules where all their tensors are chosen, else of tensors: as few as say it, for recipes.

    Args:
        chosen: names of some tensors.
        names: of all of them.

    >>> shortest_names(["a.0.weight", "a.0.bias", "b.bias"], ["a.0.weight", "a.0.bias", "b.weight", "b.bias"])
    ('a', 'b.bias')
    """
    wanted, everything = set(chosen), list(names)

    @cache
    def is_chosen(term: str) -> bool:
        return named(everything, term) <= wanted

    found: dict[str, None] = {}
    for name in (name for name in everything if name in wanted):
        parts = name.split(".")
        terms = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        found[next((term for term in terms if term and is_chosen(term)), glob.escape(name))] = None
    return tuple(found)
