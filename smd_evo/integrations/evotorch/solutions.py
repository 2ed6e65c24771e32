"""Solutions of a FinetuneProblem: rows of int64, a head and the steps of :mod:`smd_evo.core.rows`.

The head holds how many changes the parent had gone through in its low 32 bits, and above them the number of
the rule (subspace and scale) that the problem knows the steps by.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from smd_evo.core.rows import row_lengths

__all__ = [
    "changes_of",
    "head",
    "labels_of",
    "rows_of",
    "rule_of",
    "solutions_from",
    "solutions_state",
    "without_steps",
]


def rows_of(solutions: SolutionBatch | Solution) -> Tensor:
    """The rows themselves, [N, 1 + 3 * steps]; evaluations stay."""
    batch = solutions.to_batch() if isinstance(solutions, Solution) else solutions
    rows: Tensor = batch.access_values(keep_evals=True)
    return rows


def head(changes: Tensor | int, rule: Tensor | int) -> Tensor:
    """First words of rows; one of the two is a tensor."""
    words = rule * 2**32 + changes
    assert isinstance(words, Tensor)
    return words


def changes_of(rows: Tensor) -> Tensor:
    """How many changes the parent of each row had gone through, int64 [N]."""
    return rows[:, 0] & (2**32 - 1)


def rule_of(rows: Tensor) -> Tensor:
    """Number of each row's rule, int64 [N]; of no meaning for rows without steps."""
    return rows[:, 0] >> 32


def labels_of(rows: Tensor) -> list[bytes]:
    """What tells children of one parent apart: the rule and the steps; nothing for the parent itself."""
    words = torch.cat([rule_of(rows)[:, None], rows[:, 1:]], dim=1).cpu()
    lengths = row_lengths(words[:, 1:]).tolist()
    return [row.tobytes() if length else b"" for row, length in zip(words.numpy(), lengths, strict=True)]


def without_steps(label: bytes, size: int) -> bytes:
    """A label whose first steps, so many bytes, became part of the parent."""
    steps = label[8 + size :] + bytes(size)
    return label[:8] + steps if any(steps) else b""


def solutions_state(batch: SolutionBatch | None) -> dict[str, Tensor] | None:
    """Solutions and their evaluations as tensors, on the CPU."""
    if batch is None:
        return None
    tensors = {"values": batch.access_values(keep_evals=True), "evals": batch.evals}
    return {name: tensor.as_subclass(Tensor).to("cpu", copy=True) for name, tensor in tensors.items()}


def solutions_from(problem: Problem, state: Mapping[str, Tensor] | None) -> SolutionBatch | None:
    """The solutions of :func:`solutions_state` again."""
    if state is None:
        return None
    batch = SolutionBatch(problem, popsize=len(state["values"]), empty=True)
    batch.set_values(state["values"].to(batch.device))
    batch.set_evals(state["evals"].to(batch.device))
    return batch
