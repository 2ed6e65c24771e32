"""Children of a network: applied to it in place, and taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import TypeVar
from weakref import WeakValueDictionary

import torch
from torch import nn

from smd_evo.core.blocks import within
from smd_evo.core.copying import whole_copy
from smd_evo.core.delta import SparseDelta, SparseValues, union
from smd_evo.core.elements import Elements
from smd_evo.core.exclusive import alone
from smd_evo.core.integers import Rounding, rounded
from smd_evo.core.layout import Layout
from smd_evo.core.memory import Memory
from smd_evo.core.mutation import Lineage, Mutation, replay
from smd_evo.core.patches import Patched, Patches
from smd_evo.core.selection import Select
from smd_evo.errors import InvalidType

__all__ = ["Applying", "Child"]

T = TypeVar("T")

Child = Mutation | Lineage | SparseDelta | SparseValues | tuple[SparseDelta | SparseValues, ...]
"""What stands for a child of a parent: a recipe, a sequence of recipes, a difference, new values, several."""

_AT_ONCE = 2**15
"""Coordinates that are replayed in one go: as many as the noise takes through a CPU's cache at a time."""

_WORTH_IT = 4
"""Children that are replayed in one go, if it is not one by one: sorting them apart costs a little, too."""

_MORE = 4
"""By which one go may have more children than the one before, as those of one rule may be of many sizes."""


class _Drawn:
    """The deltas of one space's recipes, of which those are known that somebody still has: so it takes no memory.

    The last child's are there while the next one's are made, which for siblings are the same but for one step, and
    for antithetic partners the negative, to the same bits.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[object, ...], SparseDelta] = WeakValueDictionary()

    def __reduce__(self) -> tuple[type[_Drawn], tuple[()]]:
        """A copy begins anew."""
        return _Drawn, ()

    def replay(self, steps: Sequence[Mutation], layout: Layout, device: torch.device) -> list[SparseDelta]:
        """:func:`smd_evo.core.mutation.replay`, of those that are not known."""
        found: list[SparseDelta | None] = []
        names = [(device, step.key, step.draw, step.sigma, step.subspace, step.scale) for step in steps]
        for step, name in zip(steps, names, strict=True):
            same, partner = self._known.get((step.sign, *name)), self._known.get((-step.sign, *name))
            found.append(-partner if same is None and partner is not None else same)
        missing = [step for step, delta in zip(steps, found, strict=True) if delta is None]
        drawn = iter(replay(missing, layout, device))
        deltas = [next(drawn) if delta is None else delta for delta in found]
        for step, name, delta in zip(steps, names, deltas, strict=True):
            self._known[(step.sign, *name)] = delta
        return deltas


class Applying(Elements):
    """What turns a network into its children, and back.

    See :class:`smd_evo.core.parameters.ParameterSpace`, whose parent also moves.
    """

    def __init__(self, module: nn.Module, select: Select = "all", *, include_frozen: bool = False) -> None:
        super().__init__(module, select, include_frozen=include_frozen)
        self._patches, self.rounding, self._drawn = Patches(), Rounding(), _Drawn()
        self._memory = None if self._places else Memory(self._floats)

    def deltas(self, child: Child) -> list[SparseDelta | SparseValues]:
        """The deltas that make a child of the parent, in the order of their application."""
        if isinstance(child, Lineage):
            return [step.delta(self.layout, self.device) for step in child.steps]
        if isinstance(child, Mutation):
            return [child.delta(self.layout, self.device)]
        if isinstance(child, SparseDelta | SparseValues):
            return [child.to(self.device)]
        if isinstance(child, tuple):
            return [delta for part in child for delta in self.deltas(part)]
        raise InvalidType(f"child: expected a Mutation, Lineage or SparseDelta, got {type(child).__name__}")

    def replayed(self, children: Iterable[Child]) -> Iterator[tuple[SparseDelta | SparseValues, ...]]:
        """The deltas of each child; recipes of few coordinates are replayed several at a time, to the same bits."""
        waiting: list[tuple[Mutation, ...]] = []
        at_once, rule = 1, None
        for child in children:
            if not isinstance(child, Mutation | Lineage):
                yield from self._replayed(waiting)
                waiting = []
                yield tuple(self.deltas(child))
                continue
            steps = child.steps if isinstance(child, Lineage) else (child,)
            if steps and steps[-1].subspace != rule:  # of which nothing is known yet
                yield from self._replayed(waiting)
                waiting, at_once, rule = [], 1, steps[-1].subspace
            waiting.append(steps)
            if len(waiting) >= at_once:
                done = self._replayed(waiting)
                waiting = []
                if most := max(sum(map(len, deltas)) for deltas in done):  # parents touch nothing, and tell nothing
                    at_once = min(_AT_ONCE // most, _MORE * at_once)  # the next ones may be larger
                    at_once = at_once if at_once >= _WORTH_IT else 1
                yield from done
        yield from self._replayed(waiting)

    def _replayed(self, lineages: list[tuple[Mutation, ...]]) -> list[tuple[SparseDelta, ...]]:
        steps = [step for lineage in lineages for step in lineage]
        draw = self._drawn.replay if len(lineages) == 1 else replay  # several are of few coordinates
        deltas = iter(draw(steps, self.layout, self.device) if steps else ())
        return [tuple(islice(deltas, len(lineage))) for lineage in lineages]

    def applied(self, child: Child) -> AbstractContextManager[nn.Module]:
        """Turn the network into a child, in place in O(k), for the duration of a ``with`` block.

        Each delta is added at its coordinates in the wider of float32 and the parameter's type and rounded once,
        to integers within their range; new values are rounded as they are. On the way out the saved bits are copied
        back, whatever happened inside; nothing is ever subtracted. Blocks may be nested; the inner child is then a
        child of the outer one. Other threads that want this network wait until the block is left.

        Args:
            child: a recipe, a lineage, a delta, or new values.

        Raises:
            WrongParent: a coordinate lies outside this space, or a parameter changed its shape, or is no longer the
                network's.
            NetworkInUse: another thread has the network and will not leave it.
        """
        return self._patched(child)

    def while_applied(self, child: Child, function: Callable[[], T]) -> T:
        """What a function returns while a child is applied; an interrupt at any moment leaves the parent."""
        return within(self._patched(child), function)

    def _patched(self, child: Child, then: Callable[[], object] = lambda: None) -> Patched:
        def patch(things: frozenset[int]) -> None:
            if not self._patches.are_known(things):  # once for all children of an evaluation
                self.check_parts(things)
            self._patch(child)
            then()

        return Patched(self.module, self._patches, patch)

    @alone
    def values_of(self, child: Child) -> SparseValues:
        """A child as one set of new values: the same bits, whatever steps it was made of.

        Float32, or float64 where a selected parameter is.
        """
        deltas = self.deltas(child)
        wide = torch.promote_types(self.dtype, torch.float32)
        indices = deltas[0].indices if len(deltas) == 1 else union([delta.indices for delta in deltas], self.device)
        return SparseValues(indices, self.while_applied(tuple(deltas), lambda: self.values_at(indices, wide)))

    def _patch(self, child: Child) -> None:
        torch.clear_autocast_cache()  # autocast keeps copies of the weights in low precision
        for delta in self.deltas(child):
            self.check_coordinates(delta)
            if self._memory is not None and (patch := self._memory.patch(delta)) is not None:
                self._patches.write_all(patch)
                continue
            for elements, places, values in self._pieces(delta):
                old = elements.index_select(0, places)  # several times faster than elements[places]
                if isinstance(delta, SparseDelta):
                    values = old.to(torch.promote_types(old.dtype, torch.float32)).add(values)
                new = rounded(values, old.dtype)
                self._patches.write(elements, places, old, new)
                if isinstance(delta, SparseDelta):
                    self.rounding.see(old, values, new)
            self.rounding.say()

    def make_child(self, child: Child) -> nn.Module:
        """A child as an independent network: a copy with nothing shared, in the parent's modes."""
        return self.while_applied(child, lambda: whole_copy(self.module))

    @property
    def depth(self) -> int:
        """How many patches and blocks are in place now: 0 outside of all :meth:`applied` blocks."""
        return self._patches.depth

    def restore(self, depth: int = 0) -> None:
        """Take back all patches of this thread, or all but the first ``depth``, even while Ctrl-C is pressed.

        :meth:`applied` does this by itself. A caller that must survive an interrupt in the very moment in
        which a ``with`` block is left calls it once more in a ``finally`` of its own.
        """
        self._patches.restore(depth)
