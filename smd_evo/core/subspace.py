"""Subspaces: which coordinates a mutation touches.

A subspace is a rule. One *draw* of it, a 64-bit number that a recipe carries, fixes the coordinates; the
rule makes them from that number alone, in time and memory proportional to their count. With a *dynamic*
subspace every child has its own draw; with a *static* one (``static=True``) one draw serves the whole run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from smd_evo.core.keys import Key, check_key, derive, derive_tensor, key_from_int64, key_to_int64
from smd_evo.core.layout import Layout
from smd_evo.core.noise import MAX_SIZE, gaussian, permutation
from smd_evo.core.own import check_rule, checked_coordinates, is_own
from smd_evo.errors import InvalidType, InvalidValue, check_count, check_flag, check_number, kept, shown

__all__ = [
    "Dense",
    "PartitionSubspace",
    "RandomSubspace",
    "Subspace",
    "check_subspace",
]

_Bits = TypeVar("_Bits", int, Tensor)

_DRAWS = 16


class Subspace(ABC):
    """Protocol of all subspaces: ``draw`` a number for a child, turn it into ``coordinates``."""

    name: ClassVar[str]
    plain: ClassVar[bool] = True
    """Whether the noise is the Gaussian field of the key, which is had at any coordinates of many keys at once."""
    ordered: ClassVar[bool] = False
    """Whether the rule makes the coordinates in their order."""
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
        key, generation = check_key(key), check_key(generation, "generation")
        return self._draw(key, generation, check_count("index", index, low=0))

    def _draw(self, key: Key, generation: int, index: int) -> int:
        number = torch.tensor(index, dtype=torch.int64, device="cpu")
        return key_from_int64(int(self.draws(key, generation, number)))

    def draws(self, key: Key, generation: int, indices: Tensor) -> Tensor:
        """:meth:`draw` of many children: bit patterns, int64, for int64 ``indices`` of any shape."""
        own = derive(key, "subspace")
        if self.static:
            return torch.full_like(indices, key_to_int64(own))
        return derive_tensor(derive(own, generation), indices)

    def coordinates(self, draw: int, layout: Layout, device: torch.device | str = "cpu") -> Tensor:
        """Sorted distinct coordinates in [0, layout.size), int64 [k], of one draw.

        Args:
            draw: a number from :meth:`draw`.
            layout: where the tensors lie.
            device: where the coordinates are made; they are the same everywhere.

        Raises:
            InvalidValue: the layout is too small for the rule (more parts than coordinates, say).
        """
        draw, device = check_key(draw, "draw"), torch.device(device)
        chosen = self._chosen(draw, layout, device)
        if is_own(type(self)):
            return checked_coordinates(self, draw, layout, chosen, device)
        return chosen if self.ordered else sorted_(chosen)

    def coordinates_of(self, draws: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Coordinates of many draws at once, in any order.

        Args:
            draws: int64 [N], from :meth:`draws`.
            layout: where the tensors lie.

        Returns:
            For each coordinate of each draw, the draw's number in [0, N) and the coordinate: both int64 [sum of k].
        """
        device = draws.device
        each = [self.coordinates(key_from_int64(draw), layout, device) for draw in draws.tolist()]
        lengths = torch.tensor([len(coordinates) for coordinates in each], dtype=torch.int64, device=device)
        numbers = torch.arange(len(each), device=device).repeat_interleave(lengths)
        return numbers, torch.cat(each) if each else numbers

    def noise(self, key: Key, coordinates: Tensor, layout: Layout, dtype: torch.dtype = torch.float32) -> Tensor:
        """The noise eps of a key at a draw's coordinates, [k], of mean 0 and variance 1 each."""
        return gaussian(key, coordinates, dtype)

    def mean_count(self, layout: Layout) -> float:
        """How many coordinates a draw has, in the mean of all draws; here, for rules of anybody's, of some.

        Raises:
            InvalidValue: as :meth:`coordinates`.
        """
        draws = [self.draw(0, index=index) for index in range(_DRAWS)]
        return sum(len(self.coordinates(draw, layout)) for draw in draws) / _DRAWS

    @abstractmethod
    def _chosen(self, draw: int, layout: Layout, device: torch.device) -> Tensor:
        """The coordinates in any order."""

    @property
    def spec(self) -> str:
        """The rule as a short string, which :func:`smd_evo.core.specs.parse_subspace` reads back."""
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
        tensor([0, 2, 6])
    """

    name: ClassVar[str] = "random"
    density: float
    static: bool = False

    def __post_init__(self) -> None:
        density = check_number("density", self.density, low=0, high=1, mend="try 0.01")
        kept(self, density=density, static=check_flag("static", self.static))

    def _draw(self, key: Key, generation: int, index: int) -> int:
        own = derive(key, "subspace")  # as draws() makes it, without tensors: a genome of ten numbers is fast
        return own if self.static else derive(own, generation, index)

    def _chosen(self, draw: int, layout: Layout, device: torch.device) -> Tensor:
        positions = torch.arange(share(self.density, layout.size), device=device)
        return positions if len(positions) == layout.size else permutation(draw, positions, layout.size)

    def mean_count(self, layout: Layout) -> float:
        """k."""
        return share(self.density, layout.size)

    def coordinates_of(self, draws: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """See :meth:`Subspace.coordinates_of`; all in one call."""
        positions = torch.arange(share(self.density, layout.size), device=draws.device)
        numbers = torch.arange(len(draws), device=draws.device).repeat_interleave(len(positions))
        if len(positions) == layout.size:
            return numbers, positions.repeat(len(draws))
        return numbers, permutation(draws[:, None], positions, layout.size).view(-1)


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
        [[0, 1], [2, 3, 4]]
    """

    name: ClassVar[str] = "partition"
    parts: int
    static: bool = False

    def __post_init__(self) -> None:
        kept(self, parts=check_count("parts", self.parts), static=check_flag("static", self.static))
        if self.parts > MAX_SIZE:
            raise InvalidValue(f"parts: expected at most 2**40 parts, got {shown(self.parts)}")

    @property
    def siblings(self) -> int:
        """The parts of one decomposition."""
        return self.parts

    def draws(self, key: Key, generation: int, indices: Tensor) -> Tensor:
        """Part ``index % parts`` of decomposition ``index // parts``."""
        keys = super().draws(key, generation, indices // self.parts)
        halved = (keys >> 1) & (2**63 - 1)
        return self._whole(halved) + indices % self.parts

    def first_draw(self, key: Key) -> int:
        """The draw of part 0 of the partition that belongs to ``key``."""
        return self._whole(check_key(key) >> 1)

    def mean_count(self, layout: Layout) -> float:
        """See :meth:`Subspace.mean_count`."""
        self._check(layout)
        return layout.size / self.parts

    def _whole(self, halved: _Bits) -> _Bits:
        """A multiple of the number of parts; from a halved key, so that the last part's draw stays below 2**64."""
        return halved - halved % self.parts

    def _chosen(self, draw: int, layout: Layout, device: torch.device) -> Tensor:
        self._check(layout)
        block, part = divmod(draw, self.parts)
        start, end = (number * layout.size // self.parts for number in (part, part + 1))
        return permutation(block, torch.arange(start, end, device=device), layout.size)

    def _check(self, layout: Layout) -> None:
        if self.parts > layout.size:
            raise InvalidValue(f"parts: expected at most D = {layout.size} parts, got {self.parts}")


@dataclass(frozen=True)
class Dense(Subspace):
    """All coordinates: the dense mutation of OpenAI-ES. Every draw is the same; it is static by nature.

    Example:
        >>> Dense().coordinates(0, Layout.flat(3))
        tensor([0, 1, 2])
    """

    name: ClassVar[str] = "dense"
    ordered: ClassVar[bool] = True

    @property
    def static(self) -> bool:  # type: ignore[override]
        """Always."""
        return True

    @property
    def spec(self) -> str:
        """The word ``dense``."""
        return self.name

    def draws(self, key: Key, generation: int, indices: Tensor) -> Tensor:
        """There is only one, 0."""
        return torch.zeros_like(indices)

    def mean_count(self, layout: Layout) -> float:
        """D."""
        return layout.size

    def _chosen(self, draw: int, layout: Layout, device: torch.device) -> Tensor:
        return torch.arange(layout.size, device=device)


def check_subspace(value: object) -> Subspace:
    """Return ``value`` if it is a subspace, or raise, saying how to make one."""
    if isinstance(value, Subspace):
        if is_own(type(value)):
            check_rule(value)
        return value
    mend = f"; parse_subspace({value!r}) makes one" if isinstance(value, str) else ""
    raise InvalidType(f"subspace: expected e.g. RandomSubspace(0.01), got {shown(value)}{mend}")


def sorted_(numbers: Tensor) -> Tensor:
    """Sorted int64 numbers, in memory of their own: what a rule gives may be a part of what it keeps."""
    if numbers.device.type == "cpu":
        numbers = numbers.clone()
        numbers.numpy().sort()  # vectorised: a sixth of the time of torch.sort
        return numbers
    return numbers.sort().values


def share(density: float, total: int) -> int:
    """How many of ``total`` a density stands for: at least one."""
    return max(1, round(density * total))
