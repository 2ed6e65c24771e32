"""Subspaces: which coordinates a mutation touches.

A subspace is a rule. One *draw* of it, a 64-bit number that a recipe carries, fixes the coordinates; the
rule makes them from that number alone, in time and memory proportional to their count. With a *dynamic*
subspace every child has its own draw; with a *static* one (``static=True``) one draw serves the whole run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from smd_evo.core.keys import Key, derive
from smd_evo.core.layout import Layout
from smd_evo.core.noise import permutation
from smd_evo.errors import InvalidValue, check_choice, check_count, check_number

__all__ = [
    "Dense",
    "NeuronSubspace",
    "PartitionSubspace",
    "RandomSubspace",
    "Subspace",
    "TensorSubspace",
    "parse_subspace",
]


class Subspace(ABC):
    """Protocol of all subspaces: ``draw`` a number for a child, turn it into ``coordinates``."""

    name: ClassVar[str]
    static: bool

    @property
    def siblings(self) -> int:
        """How many consecutive children share one draw's randomness (the parts of a partition)."""
        return 1

    def draw(self, key: Key, generation: int = 0, index: int = 0) -> int:
        """The draw of child ``index`` of a generation, in [0, 2**64); the same for all if static.

        Args:
            key: the run's key.
            generation: number of the generation.
            index: number of the child in it.
        """
        return derive(key, "subspace", *(() if self.static else (generation, index)))

    def coordinates(self, draw: int, layout: Layout, device: torch.device | str = "cpu") -> Tensor:
        """Sorted distinct coordinates in [0, layout.size), int64 [k], of one draw.

        Args:
            draw: a number from :meth:`draw`.
            layout: where the tensors lie.
            device: where the coordinates are made; they are the same everywhere.

        Raises:
            InvalidValue: the layout is too small for the rule (more parts than coordinates, say).
        """
        chosen = self._chosen(draw, layout, torch.device(device))
        if chosen.device.type == "cpu":
            chosen.numpy().sort()  # in place and vectorised: a sixth of the time of torch.sort
            return chosen
        return chosen.sort().values

    @abstractmethod
    def _chosen(self, draw: int, layout: Layout, device: torch.device) -> Tensor:
        """The coordinates in any order, in memory of their own."""

    @property
    def spec(self) -> str:
        """The rule as a short string, which :func:`parse_subspace` reads back."""
        values = (getattr(self, field.name) for field in fields(self) if field.name != "static")  # type: ignore[arg-type]
        return ":".join([self.name, *map(str, values), *(["static"] if self.static else [])])


@dataclass(frozen=True)
class RandomSubspace(Subspace):
    """k = round(density * D) coordinates, at least one, uniformly at random over all selected parameters.

    Args:
        density: k / D, in (0, 1].
        static: one draw for the whole run.

    Example:
        >>> RandomSubspace(0.3).coordinates(5, Layout.flat(10))
        tensor([2, 4, 6])
    """

    name: ClassVar[str] = "random"
    density: float
    static: bool = False

    def __post_init__(self) -> None:
        check_number("density", self.density, low=0, high=1)

    def _chosen(self, draw: int, layout: Layout, device: torch.device) -> Tensor:
        positions = torch.arange(_share(self.density, layout.size), device=device)
        return permutation(draw, positions, layout.size)


@dataclass(frozen=True)
class PartitionSubspace(Subspace):
    """One of ``parts`` blocks of a shared permutation: disjoint, sizes equal to within one, union everything.

    A draw is ``block * parts + part``: children ``parts * i`` to ``parts * i + parts - 1`` are the parts of
    one decomposition. A static partition keeps one permutation for the whole run.

    Args:
        parts: number of parts, 1 to D; the density is 1 / parts.
        static: one permutation for the whole run.

    Example:
        >>> partition = PartitionSubspace(2)
        >>> [partition.coordinates(draw, Layout.flat(5)).tolist() for draw in (6, 7)]
        [[0, 4], [1, 2, 3]]
    """

    name: ClassVar[str] = "partition"
    parts: int
    static: bool = False

    def __post_init__(self) -> None:
        check_count("parts", self.parts)

    @property
    def siblings(self) -> int:
        """The parts of one decomposition."""
        return self.parts

    def draw(self, key: Key, generation: int = 0, index: int = 0) -> int:
        """Part ``index % parts`` of decomposition ``index // parts``."""
        block, part = divmod(index, self.parts)
        return self.first_draw(super().draw(key, generation, block)) + part

    def first_draw(self, key: Key) -> int:
        """The draw of part 0 of the partition that belongs to ``key``."""
        halved = key >> 1  # so that the last part's draw stays below 2**64
        return halved - halved % self.parts

    def _chosen(self, draw: int, layout: Layout, device: torch.device) -> Tensor:
        if self.parts > layout.size:
            raise InvalidValue(f"parts: expected at most D = {layout.size} parts, got {self.parts}")
        block, part = divmod(draw, self.parts)
        start, end = (number * layout.size // self.parts for number in (part, part + 1))
        return permutation(block, torch.arange(start, end, device=device), layout.size)


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
        tensor([0, 1, 2, 3, 4, 5])
    """

    name: ClassVar[str] = "tensor"
    count: int = 1
    unit: str = "tensor"
    static: bool = False

    def __post_init__(self) -> None:
        check_count("count", self.count)
        check_choice("unit", self.unit, ("tensor", "layer"))

    def _chosen(self, draw: int, layout: Layout, device: torch.device) -> Tensor:
        units: dict[str, list[range]] = {}
        for slot, start in zip(layout.slots, layout.offsets, strict=False):
            if slot.size:
                name = slot.layer if self.unit == "layer" else slot.name
                units.setdefault(name, []).append(range(start, start + slot.size))
        if self.count > len(units):
            raise InvalidValue(
                f"count: expected at most the {len(units)} {self.unit}s that are selected, got {self.count}"
            )
        chosen = permutation(draw, torch.arange(self.count), len(units)).tolist()
        pieces = [piece for number, unit in enumerate(units.values()) if number in set(chosen) for piece in unit]
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
        check_number("density", self.density, low=0, high=1)

    def _chosen(self, draw: int, layout: Layout, device: torch.device) -> Tensor:
        groups = list(_neuron_groups(layout))
        ends = torch.tensor([rows for rows, _ in groups]).cumsum(0)
        total = int(ends[-1])
        # Neurons are few beside coordinates: they are drawn and grouped on the CPU.
        drawn = permutation(draw, torch.arange(_share(self.density, total)), total).sort().values
        bounds = [0, *torch.searchsorted(drawn, ends).tolist()]
        pieces = []
        for number, (rows, members) in enumerate(groups):
            row = (drawn[bounds[number] : bounds[number + 1]] - (int(ends[number]) - rows)).to(device)
            for start, length in members:
                pieces.append((start + row[:, None] * length + torch.arange(length, device=device)).flatten())
        return torch.cat(pieces)


@dataclass(frozen=True)
class Dense(Subspace):
    """All coordinates: the dense mutation of OpenAI-ES. Every draw is the same; it is static by nature.

    Example:
        >>> Dense().coordinates(0, Layout.flat(3))
        tensor([0, 1, 2])
    """

    name: ClassVar[str] = "dense"

    @property
    def static(self) -> bool:  # type: ignore[override]
        """Always."""
        return True

    @property
    def spec(self) -> str:
        """The word ``dense``."""
        return self.name

    def draw(self, key: Key, generation: int = 0, index: int = 0) -> int:
        """There is only one, 0."""
        return 0

    def _chosen(self, draw: int, layout: Layout, device: torch.device) -> Tensor:
        return torch.arange(layout.size, device=device)


def parse_subspace(spec: str) -> Subspace:
    """The subspace of a ``spec`` string.

    Raises:
        InvalidValue: the string is no spec.

    Example:
        >>> parse_subspace("random:0.01:static")
        RandomSubspace(density=0.01, static=True)
        >>> parse_subspace(TensorSubspace(2, "layer").spec)
        TensorSubspace(count=2, unit='layer', static=False)
    """
    kind, *values = spec.split(":")
    static = values[-1:] == ["static"]
    values = values[:-1] if static else values
    check_choice("subspace", kind, ("random", "partition", "tensor", "neuron", "dense"))
    try:
        if kind == "dense" and not values and not static:
            return Dense()
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
        f"(each may end in :static) or dense, got {spec!r}"
    )


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


def _share(density: float, total: int) -> int:
    return max(1, round(density * total))
