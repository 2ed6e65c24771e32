"""Rows: lineages of one rule as fixed-width int64 tensors, for populations of any size on any device.

A step is three words: key, draw, and the bit pattern of the float64 strength; an unused step is zeros. The
rule (subspace and scale) is common to all rows and not in them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from smd_evo.core.keys import Key, key_from_int64, key_to_int64
from smd_evo.core.mutation import Lineage, from_words, sample_words
from smd_evo.core.subspace import Subspace
from smd_evo.errors import InvalidValue, check_count, check_number

__all__ = ["WORDS", "append_steps", "decode_rows", "encode_rows", "row_lengths", "sample_rows"]

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
    return (numbers * (triples[..., 2] != 0)).amax(1)


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


def _triples(rows: Tensor) -> Tensor:
    """[N, steps, 3]."""
    if rows.dtype != torch.int64 or rows.dim() != 2 or not rows.shape[1] or rows.shape[1] % WORDS:
        raise InvalidValue(f"rows: expected int64 [N, 3 * steps], got {rows.dtype} {list(rows.shape)}")
    return rows.reshape(len(rows), rows.shape[1] // WORDS, WORDS)
