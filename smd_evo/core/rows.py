"""Rows: lineages of one rule as fixed-width int64 tensors, for populations of any size on any device.

A step is three words: key, draw, and the bit pattern of the float64 strength; an unused step is zeros. The
rule (subspace and scale) is common to all rows and not in them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from smd_evo.core.keys import Key, derive_tensor, key_from_int64, key_to_int64
from smd_evo.core.mutation import Lineage, from_words, sample_words
from smd_evo.core.subspace import Subspace
from smd_evo.errors import InvalidValue, check_count, check_number

__all__ = [
    "WORDS",
    "append_steps",
    "common_steps",
    "compacted",
    "cross_rows",
    "decode_rows",
    "encode_rows",
    "row_lengths",
    "sample_rows",
    "step_sums",
]

WORDS = 3
"""Words of a step."""


def sample_rows(
    key: Key,
    count: int,
    *,
    subspace: Subspace,
    sigma: float,
    generation: int = 0,
    antithetic: bool = False,
    units: Tensor | None = None,
) -> Tensor:
    """The recipes of :func:`smd_evo.core.mutation.sample_mutations` as rows of one step, without making them.

    Returns:
        int64 [count, 3].

    Raises:
        InvalidValue, InvalidType: bad count, sigma or key.

    Example:
        >>> from smd_evo import Dense, sample_mutations
        >>> rows = sample_rows(1, 5, subspace=Dense(), sigma=0.1)
        >>> recipes = sample_mutations(1, 5, subspace=Dense(), sigma=0.1)
        >>> decode_rows(rows, subspace=Dense()) == [Lineage((recipe,)) for recipe in recipes]
        True
    """
    sigma = check_number("sigma", sigma, low=0, mend="calibrate_sigma finds one")
    keys, draws, signs = sample_words(key, count, subspace, generation, antithetic, units)
    return torch.stack([keys, draws, (signs.double() * sigma).view(torch.int64)], dim=1)


def row_lengths(rows: Tensor) -> Tensor:
    """Number of steps of each row, int64 [N]."""
    triples = _triples(rows)
    numbers = torch.arange(1, triples.shape[1] + 1, device=rows.device)
    return (numbers * _used(triples)).amax(1)


def append_steps(rows: Tensor, steps: Tensor) -> Tensor:
    """Each lineage with one more step.

    Args:
        rows: int64 [N, 3 * S].
        steps: int64 [N, 3], one step for each.

    Returns:
        int64 [N, 3 * S].

    Raises:
        InvalidValue: a lineage has S steps already, or the steps are not one for each.
    """
    triples = _triples(rows).clone()
    if steps.dtype != torch.int64 or steps.shape != (len(rows), WORDS):  # one step for all would be a silent twin
        raise InvalidValue(f"steps: expected int64 [{len(rows)}, 3], got {steps.dtype} {list(steps.shape)}")
    lengths = row_lengths(rows)
    if len(rows) and int(lengths.max()) >= triples.shape[1]:
        raise InvalidValue(
            f"lineages: expected room for another step, got one of {triples.shape[1]} steps; give rows more steps"
        )
    triples[torch.arange(len(rows), device=rows.device), lengths] = steps.to(rows.device)
    return triples.view(rows.shape)


def compacted(rows: Tensor) -> Tensor:
    """The same lineages without unused steps between others; the rows themselves where there are none.

    Example:
        >>> step = [5, 7, 1 << 62]
        >>> compacted(torch.tensor([[0, 0, 0, *step]])).tolist() == [[*step, 0, 0, 0]]
        True
    """
    triples = _triples(rows)
    used = _used(triples)
    return rows if bool((used.sum(1) == row_lengths(rows)).all()) else _taken(triples, used).view(rows.shape)


def common_steps(rows: Tensor) -> int:
    """How many steps all of some compacted rows begin with.

    Example:
        >>> common_steps(torch.tensor([[5, 7, 1 << 62, 6, 7, 1 << 62], [5, 7, 1 << 62, 0, 0, 0]]))
        1
    """
    triples = _triples(rows)
    if not len(rows):
        return 0
    same = (triples == triples[:1]).all(2).all(0) & _used(triples).all(0)
    return int(same.long().cumprod(0).sum())


def cross_rows(first: Tensor, second: Tensor, key: Key) -> tuple[Tensor, Tensor]:
    """Two children of each pair of compacted rows, which exchange the steps that only one of them has.

    What a pair has in common stays in both, wherever it stands, in the first parent's order: of equal steps as many
    as both have. Of the other steps each child gets as many as its own parent has, at random and in their order,
    the first parent's before the second's. So nothing is lost or doubled, and no lineage becomes longer.

    Args:
        first, second: int64 [N, 3 * S].
        key: of the random choice.

    Returns:
        The children of the same shape.

    Example:
        >>> one, two = torch.tensor([[1, 1, 1 << 62, 2, 2, 1 << 62]]), torch.tensor([[1, 1, 1 << 62, 0, 0, 0]])
        >>> children = cross_rows(one, two, key=0)
        >>> [row_lengths(child).tolist() for child in children]
        [[2], [1]]
    """
    one, two = _triples(first), _triples(second)
    pool, common, size = torch.cat([one, two], 1), _common(one, two), one.shape[1]
    both = common & (torch.arange(2 * size, device=common.device) < size)
    free = _used(pool) & ~common
    chances = derive_tensor(key, torch.arange(free.numel(), device=free.device)).view(free.shape)
    last = torch.iinfo(torch.int64).max
    ranks = chances.bitwise_right_shift(1).masked_fill(~free, last).argsort(stable=True, dim=1).argsort(1)
    own = free & (ranks < (row_lengths(first) - both.sum(1))[:, None])
    children = (_taken(pool, both | mine)[:, :size].reshape(first.shape) for mine in (own, free & ~own))
    return next(children), next(children)


def step_sums(rows: Tensor) -> Tensor:
    """A number of each row's words and their places, int64 [N], whatever room the rows have; 0 of no steps.

    It tells rows from those that an operator for numbers has cut or changed: a word that is another one, or
    elsewhere, makes another number, but for one case in 2**64.

    Example:
        >>> step_sums(torch.tensor([[5, 7, 9, 0, 0, 0]])).equal(step_sums(torch.tensor([[5, 7, 9]])))
        True
    """
    triples = _triples(rows)
    words = derive_tensor(rows, torch.arange(rows.shape[1], device=rows.device)).view(triples.shape)
    return (words * (triples != 0).any(2, keepdim=True)).sum((1, 2))


def encode_rows(lineages: Sequence[Lineage], steps: int) -> Tensor:
    """Lineages of one subspace and scale as fixed-width rows, for populations that are tensors.

    A step is three int64: key, draw, and the bit pattern of the float64 strength; an unused step is zeros.

    Args:
        lineages: N lineages of at most ``steps`` steps.
        steps: number of steps that a row has room for.

    Returns:
        int64 [N, 3 * steps].

    Raises:
        InvalidValue: a lineage is too long, or the steps' subspaces or scales differ.
    """
    steps = check_count("steps", steps)
    rules = {(step.subspace, step.scale) for lineage in lineages for step in lineage.steps}
    if len(rules) > 1:
        raise InvalidValue(f"lineages: expected one subspace and scale in all rows, got {len(rules)}")
    longest = max((len(lineage) for lineage in lineages), default=0)
    if longest > steps:
        raise InvalidValue(f"lineages: expected at most {steps} steps, got {longest}")
    padding = [(0, 0, 0.0)] * steps
    words, strengths = [], []
    for lineage in lineages:
        row = [(key_to_int64(step.key), key_to_int64(step.draw), step.strength) for step in lineage.steps]
        for key, draw, strength in (row + padding)[:steps]:
            words.append((key, draw))
            strengths.append((strength,))
    bits = torch.tensor(strengths, dtype=torch.float64, device="cpu").view(torch.int64)
    both = torch.tensor(words, dtype=torch.int64, device="cpu").view(-1, 2)
    rows = torch.cat([both, bits.view(-1, 1)], dim=1)
    return rows.view(len(lineages), WORDS * steps)


def decode_rows(rows: Tensor, *, subspace: Subspace, scale: str = "absolute") -> list[Lineage]:
    """Inverse of :func:`encode_rows`; the rows do not hold the rule, so it is given.

    Raises:
        InvalidValue: the rows are not int64 [N, 3 * steps], or hold a step that is none.
    """
    triples = _triples(rows).cpu()
    words = triples[..., :2].tolist()
    strengths = triples[..., 2].contiguous().view(torch.float64).tolist()
    return [
        Lineage(
            tuple(
                from_words(key_from_int64(key), key_from_int64(draw), strength, subspace, scale)
                for (key, draw), strength in zip(row, row_strengths, strict=True)
                if strength != 0
            )
        )
        for row, row_strengths in zip(words, strengths, strict=True)
    ]


def _used(triples: Tensor) -> Tensor:
    """Which steps are some: those whose strength is not zero, of either sign."""
    return triples[..., 2].bitwise_and(2**63 - 1) != 0


def _common(one: Tensor, two: Tensor) -> Tensor:
    """Which steps of a pair both have: of equal ones the first, as many as there are in both; bool [N, 2 * S]."""
    pool = torch.cat([one, two], 1)
    labels = derive_tensor(pool, torch.arange(WORDS, device=pool.device)).sum(2)  # of two steps one, once in 2**64
    labels, order = labels.sort(dim=1, stable=True)  # equal ones in a row, the first parent's before the second's
    places = torch.arange(labels.shape[1], device=pool.device).expand_as(labels)
    begins = torch.ones_like(labels, dtype=torch.bool)
    begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
    group, begin = begins.cumsum(1) - 1, places.where(begins, 0).cummax(1).values
    later = order >= one.shape[1]
    counts = (torch.zeros_like(group).scatter_add(1, group, own.long()) for own in (~later, later))
    firsts, seconds = (count.gather(1, group) for count in counts)
    common = torch.where(later, places - begin - firsts < firsts, places - begin < seconds)
    return torch.zeros_like(common).scatter(1, order, common) & _used(pool)


def _taken(triples: Tensor, chosen: Tensor) -> Tensor:
    """Some of each row's steps in their order, at the row's begin; zeros behind them."""
    order = (~chosen).long().argsort(stable=True, dim=1)
    steps = torch.where(chosen[..., None], triples, 0)
    return steps.gather(1, order[..., None].expand(-1, -1, WORDS))


def _triples(rows: Tensor) -> Tensor:
    """[N, steps, 3]."""
    if rows.dtype != torch.int64 or rows.dim() != 2 or not rows.shape[1] or rows.shape[1] % WORDS:
        raise InvalidValue(f"rows: expected int64 [N, 3 * steps], got {rows.dtype} {list(rows.shape)}")
    return rows.reshape(len(rows), rows.shape[1] // WORDS, WORDS)
