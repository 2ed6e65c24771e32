"""Solutions of a FinetuneProblem: rows of int64, a head and the steps of :mod:`smd_evo.core.rows`.

The head holds how many changes the parent had gone through (26 bits), a seal (26 bits), the number of the rule
(subspace and scale) that the problem knows the steps by (10 bits), and a one. The seal follows from the steps, the
rule and the changes, so that no row stands for another network unseen: after an operator for numbers has cut it, or
in a problem of another rule or another history. Heads of former versions have no seal, and 32 bits of changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from smd_evo.core.keys import Key, derive_tensor, key_to_int64
from smd_evo.core.rows import WORDS, row_lengths, step_sums
from smd_evo.errors import InvalidType, InvalidValue, shown

__all__ = [
    "MOST_CHANGES",
    "MOST_RULES",
    "broken",
    "changes_of",
    "head",
    "labels_of",
    "row_of",
    "rows_of",
    "rule_of",
    "sealed",
    "solutions_from",
    "solutions_state",
    "without_steps",
]

MOST_CHANGES, MOST_RULES = 2**26, 2**10
"""That a head has room for."""

_SEALED, _RULE, _SEAL, _KINDS = 2**62, 2**52, 2**26, 2**11

KeyOf = Callable[[int, int], Key | None]
"""Of a number of changes and that of a rule, -1 for rows without steps: what seals follow from, if it is known."""

_ROWS = 2**14


def rows_of(solutions: SolutionBatch | Solution) -> Tensor:
    """The rows themselves, [N, 1 + 3 * steps]; evaluations stay."""
    batch = solutions.to_batch() if isinstance(solutions, Solution) else solutions
    rows: Tensor = batch.access_values(keep_evals=True)
    return rows


def row_of(values: object) -> Tensor:
    """The row [1, 1 + 3 * steps] of one solution, however many steps it has room for.

    Args:
        values: a Solution, a batch of one, or the values of one, as loggers store them.

    Raises:
        InvalidType, InvalidValue: it is no row, or several.
    """
    mend = "take one of them, solutions[0]"
    if isinstance(values, Solution | SolutionBatch):
        row = rows_of(values)
    elif isinstance(values, Tensor):
        row = values.as_subclass(Tensor)
    else:
        raise InvalidType(f"values: expected a solution or the values of one, got {shown(values)}")
    row = row[None] if row.dim() == 1 else row
    if row.dim() != 2 or len(row) != 1:
        raise InvalidValue(f"values: expected one solution, got {list(row.shape)} values; {mend}")
    if row.dtype != torch.int64 or row.shape[1] <= 1 or row.shape[1] % WORDS != 1:
        raise InvalidValue(f"values: expected int64 [1 + 3 * steps], got {row.dtype} {list(row.shape[1:])}")
    return row


def head(changes: Tensor | int, rule: Tensor | int) -> Tensor:
    """First words of rows, not sealed yet; one of the two is a tensor."""
    words = rule * _RULE + changes + _SEALED
    assert isinstance(words, Tensor)
    return words


def changes_of(rows: Tensor) -> Tensor:
    """How many changes the parent of each row had gone through, int64 [N]."""
    words = rows[:, 0]
    return words & torch.where(_has_seal(words), MOST_CHANGES - 1, 2**32 - 1)


def rule_of(rows: Tensor) -> Tensor:
    """Number of each row's rule, int64 [N]; of no meaning for rows without steps."""
    words = rows[:, 0]
    return torch.where(_has_seal(words), words // _RULE & (MOST_RULES - 1), words >> 32)


def sealed(rows: Tensor, key_of: KeyOf) -> Tensor:
    """The rows with their seals; where the key is not known they get a head without one, as of former versions."""
    seals, known = _seals(rows, key_of)
    changes, rules = changes_of(rows), rule_of(rows)
    words = torch.where(known, head(changes, rules) + seals * _SEAL, rules * 2**32 + changes)
    return torch.cat([words[:, None], rows[:, 1:]], 1)


def broken(rows: Tensor, key_of: KeyOf, former: bool = False) -> Tensor:
    """Which rows are not what was sealed, bool [N]; those of a key that is not known pass.

    Args:
        former: whether those without a seal pass, too, as of former versions.
    """
    seals, known = _seals(rows, key_of)
    words = rows[:, 0]
    return torch.where(_has_seal(words), known & (words // _SEAL % _SEAL != seals), not former)


def _has_seal(words: Tensor) -> Tensor:
    return words >= _SEALED


def _seals(rows: Tensor, key_of: KeyOf) -> tuple[Tensor, Tensor]:
    """The seals that rows are to have, and whether that is known; some rows at a time, as it takes several copies."""
    seals, known = zip(*(_seals_of(some, key_of) for some in rows.split(_ROWS)), strict=True)
    return torch.cat(seals), torch.cat(known)


def _seals_of(rows: Tensor, key_of: KeyOf) -> tuple[Tensor, Tensor]:
    rules = torch.where(row_lengths(rows[:, 1:]) > 0, rule_of(rows), -1)
    kinds, which = (changes_of(rows) * _KINDS + rules.clamp(-1, MOST_RULES) + 1).unique(return_inverse=True)
    keys = [key_of(kind // _KINDS, kind % _KINDS - 1) for kind in kinds.tolist()]
    numbers = torch.tensor([key_to_int64(key or 0) for key in keys], dtype=torch.int64, device=rows.device)
    known = torch.tensor([key is not None for key in keys], dtype=torch.bool, device=rows.device)
    return derive_tensor(numbers[which], step_sums(rows[:, 1:])) & (_SEAL - 1), known[which]


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
    """The solutions of :func:`solutions_state` again.

    Raises:
        InvalidValue: they are of a problem of other solutions or objectives.
    """
    if state is None:
        return None
    values, evals = state["values"], state["evals"]
    batch = SolutionBatch(problem, popsize=len(values), empty=True)
    expected = [len(values), problem.solution_length], [*batch.evals.shape]
    if ([*values.shape], [*evals.shape]) != expected:
        raise InvalidValue(
            f"state: expected solutions of shape {expected[0]} and evaluations of {expected[1]}, got "
            f"{[*values.shape]} and {[*evals.shape]}; make the problem as it was made then"
        )
    batch.set_values(values.to(batch.device))
    batch.set_evals(evals.to(batch.device))
    return batch
