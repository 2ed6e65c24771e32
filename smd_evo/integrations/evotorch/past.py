"""What a problem's rows need beside themselves: the rules of their steps, and what became of the parent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from smd_evo.core.blocks import within
from smd_evo.core.checksum import checksum_of
from smd_evo.core.exclusive import Exclusive
from smd_evo.core.keys import Key, derive
from smd_evo.core.mutation import Lineage
from smd_evo.core.rows import decode_rows, row_lengths
from smd_evo.core.subspace import Subspace
from smd_evo.errors import InvalidValue, WrongParent
from smd_evo.integrations.evotorch.replica import Change, Replica
from smd_evo.integrations.evotorch.solutions import MOST_CHANGES, MOST_RULES, broken, changes_of, rule_of

if TYPE_CHECKING:
    from smd_evo.integrations.evotorch.history import History

__all__ = ["Past", "Rules"]

Rules = Sequence[tuple[Subspace, str]]
"""Subspaces and scales, by their numbers in rows."""


class Past:
    """The rules of a problem, and what its parent has gone through since the first one that is known here.

    Args:
        first: how many changes that one had gone through.
        key: what the seals of its children follow from; None: a former version knew of none.

    Attributes:
        rules: by their numbers in rows.
        former: whether populations may hold rows of former versions.
    """

    def __init__(self, first: int = 0, key: Key | None = 0, rules: Rules = ()) -> None:
        self.rules, self.former = list(rules), key is None
        self._first = first
        self._keys: dict[int, Key] = {first: key or 0}
        self._lines: list[str | None] | None = []  # None instead: of a former version, in which no history was left
        self._start: tuple[int, int | None] | None = None
        self._told: tuple[tuple[int, int], Tensor] | None = None

    def number(self, subspace: Subspace, scale: str) -> int:
        """The number of a rule; a new one is taken note of."""
        if (subspace, scale) not in self.rules:
            if len(self.rules) == MOST_RULES:
                raise InvalidValue(f"subspace: expected at most {MOST_RULES} in one problem, got another one")
            self.rules.append((subspace, scale))
        return self.rules.index((subspace, scale))

    def key_after(self, changes: int) -> Key:
        """What seals follow from after so many changes, 0 where nothing is known of it."""
        return self._keys.get(changes, 0)

    def key_of(self, changes: int, rule: int) -> Key | None:
        """See :data:`smd_evo.integrations.evotorch.solutions.KeyOf`."""
        return _seal_key(self._keys.get(changes), rule, self.rules)

    def note(self, change: Change, replica: Replica) -> None:
        """Take note of a change before the parent goes through it."""
        from smd_evo.integrations.evotorch.history import encoded  # it knows the searchers' changes

        if replica.changes + 1 >= MOST_CHANGES:
            raise InvalidValue(f"change: expected less than {MOST_CHANGES:,} changes of a parent, got as many")
        if replica.changes == self._first:
            self._start = _checksums(replica)
        try:
            line = json.dumps(encoded(change))
        except TypeError:  # somebody's own, of which nobody else can know
            line = None
        self._keys[replica.changes + 1] = following(self.key_after(replica.changes), line or "")
        if self._lines is not None:
            del self._lines[replica.changes - self._first :]  # noted, and then interrupted or refused
            self._lines.append(line)

    def told(self, first: Replica, changes: int) -> Tensor | None:
        """See :attr:`FinetuneProblem.history`; ``first`` is the first parent that is known, ``changes`` the last."""
        from smd_evo.integrations.evotorch.history import History

        if self._lines is None:
            return None
        now = changes, len(self.rules)
        if self._told is None or self._told[0] != now:
            lines = [line for line in self._lines[: changes - self._first] if line is not None]
            if len(lines) < changes - self._first:
                return None
            found = History(*self._checksums(first), self._first, self._keys[self._first], tuple(self.rules), lines)
            self._told = now, torch.frombuffer(bytearray(found.text.encode()), dtype=torch.uint8)
        return self._told[1]

    def restored(self, first: Replica, row: Tensor, history: History) -> nn.Module:
        """See :meth:`FinetuneProblem.make_net`, with a history."""
        if (history.parent, history.optimizer, history.first) != (*self._checksums(first), self._first):
            raise WrongParent(
                f"history: expected one that begins at this problem's parent {self._first}, got that of another "
                f"network, selection or run, from parent {history.first}; make the problem as it was made then"
            )
        changes, rule = int(changes_of(row)[0]), int(rule_of(row)[0])
        length, last = int(row_lengths(row[:, 1:])[0]), self._first + len(history.lines)
        if not self._first <= changes <= last or (length and not 0 <= rule < len(history.rules)):
            raise WrongParent(
                f"values: expected a child of one of parents {self._first} to {last}, of one of {len(history.rules)} "
                f"rules, got one of parent {changes}, rule {rule}; take the same run's history, from after it"
            )
        key = history.key
        for line in history.lines[: changes - self._first]:
            key = following(key, line)
        if bool(broken(row, lambda _, rule: _seal_key(key, rule, history.rules), former=True).any()):
            raise WrongParent("values: expected a solution of this history, got one of another; take its own run's")
        replica = first.copied()
        replica.catch_up(self._first, history.changes(changes - self._first))
        lineage = Lineage()
        if length:
            subspace, scale = history.rules[rule]
            lineage = decode_rows(row[:, 1:], subspace=subspace, scale=scale)[0]
        return replica.space.make_child(lineage)

    def _checksums(self, first: Replica) -> tuple[int, int | None]:
        if self._start is None:
            self._start = _checksums(first)
        return self._start


def following(key: Key, line: str) -> Key:
    """What seals follow from after one more change, by its line of text."""
    return derive(key, line)


def _checksums(replica: Replica) -> tuple[int, int | None]:
    """Of a parent's selected parameters and the whole network, and of its optimizer, if it has one, with its rest."""
    _, optimizer = replica.optimizer or (None, None)
    rest = [] if replica.rest is None else [replica.rest]
    state = None if optimizer is None else checksum_of([*map(torch.as_tensor, optimizer.state.values()), *rest])
    space = replica.space
    tensors = [*space.tensors, *space.module.parameters(), *space.module.buffers()]
    return within(Exclusive(space.module), lambda: checksum_of(tensors)), state


def _seal_key(begin: Key | None, rule: int, rules: Rules) -> Key | None:
    """What the seal of a row follows from besides its steps: what became of the parent, and the rule."""
    if begin is None or rule >= len(rules):
        return None
    return derive(begin, "parent") if rule < 0 else derive(begin, f"{rules[rule][0].spec}|{rules[rule][1]}")
