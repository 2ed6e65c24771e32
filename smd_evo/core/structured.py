"""Structured subspaces: whole tensors, layers or neurons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from smd_evo.core.layout import Layout
from smd_evo.core.noise import permutation
from smd_evo.core.subspace import Subspace, share
from smd_evo.errors import InvalidValue, check_choice, check_count, check_flag, check_number, kept

__all__ = ["NeuronSubspace", "TensorSubspace"]


@dataclass(frozen=True)
class TensorSubspace(Subspace):
    """``count`` whole tensors, or whole layers, drawn uniformly among those of the layout.

    Args:
        count: number of tensors or layers, at least 1.
        unit: "tensor", or "layer" for all selected tensors of one module together.
        static: one draw for the whole run.

    Example:
        >>> from smd_evo.core.layout import Slot
        >>> layout = Layout((Slot("a.weight", (2, 2)), Slot("a.bias", (2,)), Slot("b.weight", (1, 2))))
        >>> TensorSubspace(1).coordinates(0, layout)
        tensor([4, 5])
        >>> TensorSubspace(1, "layer").coordinates(1, layout)
        tensor([6, 7])
    """

    name: ClassVar[str] = "tensor"
    count: int = 1
    unit: str = "tensor"
    static: bool = False

    def __post_init__(self) -> None:
        kept(
            self,
            count=check_count("count", self.count),
            unit=check_choice("unit", self.unit, ("tensor", "layer")),
            static=check_flag("static", self.static),
        )

    def mean_count(self, layout: Layout) -> float:
        """See :meth:`Subspace.mean_count`."""
        return layout.size * self.count / len(self._units(layout))

    def _units(self, layout: Layout) -> list[list[range]]:
        """The coordinates of each tensor or layer."""
        units: dict[str, list[range]] = {}
        for slot, start in zip(layout.slots, layout.offsets, strict=False):
            if slot.size:
                name = slot.layer if self.unit == "layer" else slot.name
                units.setdefault(name, []).append(range(start, start + slot.size))
        if self.count > len(units):
            raise InvalidValue(
                f"count: expected at most the {len(units)} {self.unit}s that are selected, got {self.count}"
            )
        return list(units.values())

    def _chosen(self, draw: int, layout: Layout, device: torch.device) -> Tensor:
        units = self._units(layout)
        chosen = set(permutation(draw, torch.arange(self.count, device="cpu"), len(units)).tolist())
        pieces = [piece for number, unit in enumerate(units) if number in chosen for piece in unit]
        return torch.cat([torch.arange(piece.start, piece.stop, device=device) for piece in pieces])


@dataclass(frozen=True)
class NeuronSubspace(Subspace):
    """round(density * neurons) whole neurons, at least one, uniformly at random over all layers.

    A neuron is one row of a tensor of two or more dimensions (a filter of a convolution, an output row of a
    linear layer, one token of an embedding) with its element of the bias; of a normalisation, one channel's
    weight and bias. ``density`` is the share of neurons; k varies with the rows' lengths.

    Args:
        density: share of the neurons, in (0, 1].
        static: one draw for the whole run.

    Example:
        >>> from smd_evo.core.layout import Slot
        >>> layout = Layout((Slot("fc.weight", (4, 3)), Slot("fc.bias", (4,))))
        >>> NeuronSubspace(0.25).coordinates(0, layout)  # row 3 and its bias
        tensor([ 9, 10, 11, 15])
    """

    name: ClassVar[str] = "neuron"
    density: float
    static: bool = False

    def __post_init__(self) -> None:
        density = check_number("density", self.density, low=0, high=1, mend="try 0.01")
        kept(self, density=density, static=check_flag("static", self.static))

    def mean_count(self, layout: Layout) -> float:
        """See :meth:`Subspace.mean_count`."""
        total = sum(rows for rows, _ in _neuron_groups(layout))
        return layout.size * share(self.density, total) / total

    def _chosen(self, draw: int, layout: Layout, device: torch.device) -> Tensor:
        groups = list(_neuron_groups(layout))
        ends = torch.tensor([rows for rows, _ in groups], dtype=torch.int64, device="cpu").cumsum(0)
        total = int(ends[-1])
        # Neurons are few beside coordinates: they are drawn and grouped on the CPU.
        numbers = torch.arange(share(self.density, total), device="cpu")
        drawn = permutation(draw, numbers, total).sort().values
        bounds = [0, *torch.searchsorted(drawn, ends).tolist()]
        pieces = []
        for number, (rows, members) in enumerate(groups):
            row = (drawn[bounds[number] : bounds[number + 1]] - (int(ends[number]) - rows)).to(device)
            for start, length in members:
                pieces.append((start + row[:, None] * length + torch.arange(length, device=device)).flatten())
        return torch.cat(pieces)


def _neuron_groups(layout: Layout) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Tensors that share their rows: (number of rows, [(offset, row length) of each tensor])."""
    groups: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for slot, start in zip(layout.slots, layout.offsets, strict=False):
        if not slot.size:
            continue
        rows = slot.shape[0] if slot.shape else 1
        stem = slot.name.removesuffix("weight").removesuffix("bias")
        groups.setdefault((stem, rows), []).append((start, slot.size // rows))
    for (_, rows), members in groups.items():
        yield rows, members
