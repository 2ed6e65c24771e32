"""Mutations: recipes that replay to a sparse delta, one by one (Mutation) or in sequence (Lineage).

A child is ``theta + delta`` with ``delta_S = sign * sigma * scale_S * eps_S``; ``eps`` is the Gaussian field
of the recipe's key, so a sparse mutation is the dense one of the same key, restricted to its subspace S.

Reference: Whitaker, Whitley, "Sparse Mutation Decompositions: Fine Tuning Deep Neural Networks with
Subspace Evolution", arXiv 2302.05832. Gaussian noise, the choice of the subspaces and both scales are ours:
only the paper's abstract was at hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smd_evo.core.delta import SparseDelta, everything
from smd_evo.core.keys import Key, check_key, derive, derive_tensor, key_from_int64, key_to_int64
from smd_evo.core.layout import Layout
from smd_evo.core.lowrank import LowRank
from smd_evo.core.noise import gaussian
from smd_evo.core.specs import parse_subspace
from smd_evo.core.subspace import Dense, PartitionSubspace, Subspace, check_subspace, sorted_
from smd_evo.core.units import UnitSubspace
from smd_evo.errors import (
    InvalidType,
    InvalidValue,
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_pairs,
    kept,
    shown,
    whole,
)

__all__ = [
    "SCALES",
    "Lineage",
    "Mutation",
    "decompose",
    "replay",
    "sample_mutations",
]

SCALES = ("absolute", "relative")

_WORD = re.compile(r"[0-9a-f]{1,16}", re.ASCII | re.IGNORECASE)
"""64 bits; ``int`` would take any number of digits."""

_PIECE = 2**17
"""Values of noise that are made in one go: 1 MiB of float64."""

_MOST_STEPS = 100_000
"""Of a lineage that comes as text: each takes some hundred bytes, and a pass over its coordinates."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """Recipe of one step from a parent to a child: a few dozen bytes, replayed alike everywhere.

    Args:
        key: key of the Gaussian field.
        sigma: mutation strength, the standard deviation of the noise, > 0.
        subspace: rule of the coordinates.
        draw: number that fixes the coordinates under that rule, from ``subspace.draw``.
        sign: 1, or -1 for the antithetic partner.
        scale: "absolute", or "relative" to multiply sigma by each tensor's standard deviation in the parent.

    Raises:
        InvalidValue, InvalidType: a field is out of range or of the wrong kind.

    Example:
        >>> from smd_evo import Layout, RandomSubspace
        >>> mutation = Mutation(key=5, sigma=0.1, subspace=RandomSubspace(0.02), draw=7)
        >>> mutation.delta(Layout.flat(100))
        SparseDelta(indices=tensor([63, 74]), values=tensor([0.0844, 0.0754]))
        >>> mutation.encode()
        'random:0.02|absolute|0000000000000005|0000000000000007|0.1'
        >>> Mutation.decode(mutation.encode()) == mutation
        True
    """

    key: Key
    sigma: float
    subspace: Subspace
    draw: int
    sign: int = 1
    scale: str = "absolute"

    def __post_init__(self) -> None:
        check_subspace(self.subspace)
        sign = whole(self.sign)
        if sign not in (-1, 1):
            raise InvalidValue(f"sign: expected 1 or -1, got {shown(self.sign)}")
        kept(
            self,
            key=check_key(self.key),
            sigma=check_number("sigma", self.sigma, low=0, mend="calibrate_sigma finds one"),
            draw=check_key(self.draw, "draw"),
            sign=sign,
            scale=check_choice("scale", self.scale, SCALES),
        )

    @property
    def strength(self) -> float:
        """sign * sigma."""
        return self.sign * self.sigma

    @property
    def antithetic(self) -> Mutation:
        """The partner with the opposite sign: exactly the negated delta."""
        return replace(self, sign=-self.sign)

    def delta(self, layout: Layout, device: torch.device | str = "cpu") -> SparseDelta:
        """Replay the recipe: O(k) time and memory."""
        full = type(self.subspace) in (Dense, LowRank)
        indices = everything(layout.size, device) if full else self.subspace.coordinates(self.draw, layout, device)
        if not self.subspace.plain or indices.device.type != "cpu":
            return SparseDelta(indices, self._values(indices, layout))
        values = torch.empty(len(indices), dtype=torch.float32, device="cpu")
        for there, place in zip(values.split(_PIECE), indices.split(_PIECE), strict=True):
            there.copy_(self._values(place, layout))  # through the cache: no float64 of the network's size
        return SparseDelta(indices, values)

    def _values(self, indices: Tensor, layout: Layout) -> Tensor:
        noise = self.subspace.noise(self.key, indices, layout, torch.float64).mul_(self.strength)
        return (noise.mul_(layout.scales(indices)) if self.scale == "relative" else noise).float()

    def encode(self) -> str:
        """A compact line of text that holds everything."""
        return f"{self.subspace.spec}|{self.scale}|{self.key:016x}|{self.draw:016x}|{self.strength!r}"

    @classmethod
    def decode(cls, text: str) -> Mutation:
        """Inverse of :meth:`encode`.

        Raises:
            InvalidValue: the text is not an encoded mutation.
        """
        try:
            spec, scale, *words, strength = str(text).split("|")
            if len(words) != 2 or not all(map(_WORD.fullmatch, words)):
                raise ValueError
            numbers = int(words[0], 16), int(words[1], 16), float(strength)
        except ValueError:
            raise InvalidValue(f"mutation: expected SUBSPACE|SCALE|KEY|DRAW|STRENGTH, got {shown(text)}") from None
        return from_words(*numbers, parse_subspace(spec), scale)


@dataclass(frozen=True, slots=True)
class Lineage:
    """A sequence of mutations, one a generation, applied in order to the parent; empty, it is the parent.

    Every step is rounded to the parameters' own precision, so the first steps of a lineage may be folded
    into the parent without changing a bit of what the whole lineage makes.

    Example:
        >>> Lineage().encode(), len(Lineage.decode(""))
        ('', 0)
    """

    steps: tuple[Mutation, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.steps, Sequence) or not all(isinstance(step, Mutation) for step in self.steps):
            raise InvalidType(f"steps: expected mutations, got {shown(self.steps)}; Lineage((one, two)) has two")
        kept(self, steps=tuple(self.steps))

    def __len__(self) -> int:
        return len(self.steps)

    def then(self, mutation: Mutation) -> Lineage:
        """The lineage of a child of this one."""
        return Lineage((*self.steps, mutation))

    def encode(self) -> str:
        """One line of text: the encoded steps joined by ``>``."""
        return ">".join(step.encode() for step in self.steps)

    @classmethod
    def decode(cls, text: str) -> Lineage:
        """Inverse of :meth:`encode`.

        Raises:
            InvalidValue: the text is not an encoded lineage, or has more than 100,000 steps.
        """
        text = str(text)
        if (steps := text.count(">") + 1) > _MOST_STEPS:
            raise InvalidValue(
                f"lineage: expected at most {_MOST_STEPS:,} steps, got {steps:,}; fold the first of them"
            )
        return cls(tuple(Mutation.decode(step) for step in text.split(">")) if text else ())


def sample_mutations(
    key: Key,
    count: int,
    *,
    subspace: Subspace,
    sigma: float,
    generation: int = 0,
    antithetic: bool = False,
    scale: str = "absolute",
    units: Tensor | None = None,
) -> list[Mutation]:
    """The recipes of one generation.

    Args:
        key: the run's key.
        count: number of children.
        subspace: rule of the coordinates; the children of a partition share their noise key block by block,
            so that ``parts`` consecutive ones are the decomposition of one dense mutation.
        sigma: mutation strength.
        generation: number of the generation; another one gives other children.
        antithetic: children 2i and 2i + 1 are a pair of opposite sign; ``count`` must be even.
        scale: see :class:`Mutation`.
        units: with a :class:`smd_evo.core.units.UnitSubspace` the number of each child's unit, int64 [count], instead
            of those that it draws; antithetic partners have one.

    Returns:
        ``count`` mutations; mutation i does not depend on ``count``.

    Raises:
        InvalidValue, InvalidType: bad count, sigma or key.

    Example:
        >>> from smd_evo import RandomSubspace
        >>> children = sample_mutations(0, 4, subspace=RandomSubspace(0.1), sigma=0.01)
        >>> len({child.key for child in children}), len({child.draw for child in children})
        (4, 4)
    """
    sigma = check_number("sigma", sigma, low=0, mend="calibrate_sigma finds one")
    keys, draws, signs = sample_words(key, count, subspace, generation, antithetic, units)
    words = zip(keys.tolist(), draws.tolist(), signs.tolist(), strict=True)
    return [
        Mutation(key_from_int64(noise), sigma, subspace, key_from_int64(draw), sign, scale)
        for noise, draw, sign in words
    ]


def sample_words(
    key: Key, count: int, subspace: Subspace, generation: int, antithetic: bool, units: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, draws and signs of the mutations of one generation, int64 [count] each (keys as bit patterns)."""
    key, generation, count = check_key(key), check_key(generation, "generation"), check_count("count", count)
    check_subspace(subspace)
    if check_flag("antithetic", antithetic):
        check_pairs("count", count)
    children = torch.arange(count, device="cpu")
    indices = children // 2 if antithetic else children
    signs = 1 - 2 * (children % 2) if antithetic else torch.ones_like(children)
    keys = derive_tensor(derive(key, "noise", generation), indices // subspace.siblings)
    draws = subspace.draws(key, generation, indices)
    if units is not None:
        if not isinstance(subspace, UnitSubspace) or units.shape != draws.shape:
            raise InvalidValue(
                f"units: expected those of {count} children of a UnitSubspace, got {list(units.shape)} of "
                f"{subspace.spec}"
            )
        draws = subspace.within_units(draws, units)
    return keys, draws, signs


def replay(mutations: Sequence[Mutation], layout: Layout, device: torch.device | str = "cpu") -> list[SparseDelta]:
    """:meth:`Mutation.delta` of each, to the same bits, in as few tensor operations as one takes.

    For mutations of few coordinates, which cost their operations and not their numbers. Those of several rules are
    replayed one by one.
    """
    rules = {(mutation.subspace, mutation.scale) for mutation in mutations}
    if len(rules) != 1 or len(mutations) == 1 or not mutations[0].subspace.plain:
        return [mutation.delta(layout, device) for mutation in mutations]
    subspace, scale = mutations[0].subspace, mutations[0].scale
    words = [(key_to_int64(mutation.key), key_to_int64(mutation.draw)) for mutation in mutations]
    keys, draws = torch.tensor(words, dtype=torch.int64, device=device).unbind(1)
    strengths = torch.tensor([mutation.strength for mutation in mutations], dtype=torch.float64, device=device)
    numbers, coordinates = subspace.coordinates_of(draws, layout)
    both = sorted_(numbers * layout.size + coordinates)
    numbers, coordinates = both // layout.size, both % layout.size
    values = gaussian(keys[numbers], coordinates, torch.float64).mul_(strengths[numbers])
    counts = numbers.bincount(minlength=len(mutations)).tolist()
    pieces = zip(coordinates.split(counts), values.split(counts), strict=True)
    return [
        SparseDelta(indices, (own * layout.scales(indices) if scale == "relative" else own).float())
        for indices, own in pieces
    ]


def decompose(dense: Mutation, parts: int) -> tuple[Mutation, ...]:
    """Split a dense mutation into disjoint sparse ones whose deltas add up to its delta, bit for bit.

    Args:
        dense: a mutation of the :class:`Dense` subspace.
        parts: how many, 1 to D.

    Returns:
        ``parts`` mutations of one ``PartitionSubspace(parts)``.

    Raises:
        InvalidValue: ``dense`` is of another subspace.

    Example:
        >>> from smd_evo import Dense, Layout
        >>> whole = Mutation(key=1, sigma=0.1, subspace=Dense(), draw=0)
        >>> one, two = (part.delta(Layout.flat(5)) for part in decompose(whole, 2))
        >>> torch.equal((one + two).values, whole.delta(Layout.flat(5)).values)
        True

    Reference: arXiv 2302.05832, abstract ("decomposing dense mutations into low-dimensional subspaces").
    """
    if not isinstance(dense, Mutation):
        raise InvalidType(f"dense: expected a Mutation, got {shown(dense)}")
    if not isinstance(dense.subspace, Dense):
        raise InvalidValue(f"dense: expected a mutation of the dense subspace, got {dense.subspace.spec}")
    subspace = PartitionSubspace(parts)
    first = subspace.first_draw(derive(dense.key, "decompose"))
    return tuple(replace(dense, subspace=subspace, draw=first + part) for part in range(subspace.parts))


def from_words(key: Key, draw: int, strength: float, subspace: Subspace, scale: str) -> Mutation:
    """A mutation of its numbers and its rule."""
    return Mutation(key, abs(strength), subspace, draw, -1 if strength < 0 else 1, scale)
