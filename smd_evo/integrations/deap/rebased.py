"""Rebased: a second parent, nearer to a population than the first, so that its lineages replay few steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from smd_evo.core.blocks import within
from smd_evo.core.checksum import checksum
from smd_evo.core.exclusive import Exclusive
from smd_evo.core.mutation import Lineage, Mutation
from smd_evo.core.parameters import Child
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.evaluator import Evaluator

__all__ = ["Rebased", "common_steps"]

Values = Callable[[Evaluator, Sequence[Child]], list[tuple[float, ...]]]


def common_steps(lineages: Sequence[Lineage]) -> tuple[Mutation, ...]:
    """What all of some lineages begin with.

    Example:
        >>> from smd_evo import Dense
        >>> one, two = (Mutation(key, 0.1, Dense(), 0) for key in (1, 2))
        >>> common_steps([Lineage((one, two)), Lineage((one,))]) == (one,)
        True
    """
    common = lineages[0].steps if lineages else ()
    for lineage in lineages:
        if lineage.steps[: len(common)] != common:
            pairs = zip(common, lineage.steps, strict=False)
            common = common[: next((n for n, (own, other) in enumerate(pairs) if own != other), len(lineage))]
    return common


class Rebased:
    """Children of a parent, of which those that begin with some steps are made from a copy that has taken them.

    Every step is rounded to the parameters' type, so either way gives the same bits.

    Args:
        first: the evaluator of the parent; its network stays as it is.
    """

    def __init__(self, first: Evaluator) -> None:
        self._first = first
        self._near = first.on_parent(first.space.twin())  # which costs what is selected
        self._taken: tuple[Mutation, ...] | None = ()  # None: nobody knows
        self._checksum = self._first_checksum()
        self._compared = False

    def take(self, steps: tuple[Mutation, ...]) -> None:
        """Have the copy take these steps and no others.

        Raises:
            InvalidValue: the network is another one by now, or its copy computes something else.
        """
        if not self._is_as_it_was():
            raise InvalidValue(
                "network: expected it as it was at the first rebase, got other values; make a new ToolboxEvaluator"
            )
        within(Exclusive(self._near.space.module, random=True), lambda: self._take_alike(steps))

    def _take_alike(self, steps: tuple[Mutation, ...]) -> None:
        """Take them, and the first time compare the copy with the network, before anybody else changes it."""
        self._take(steps)
        if steps and not self._compared:
            near, first = self._near.evaluate([Lineage()]), self._first.evaluate([Lineage(steps)])
            if not torch.equal(near.fitness, first.fitness):
                raise InvalidValue(
                    "network: expected a copy that computes what the network does, got a fitness of "
                    f"{float(near.fitness[0]):g} and {float(first.fitness[0]):g} for one child; does a hook or a "
                    "function hold a module of it? Leave rebase out"
                )
            self._compared = True

    def _is_as_it_was(self) -> bool:
        """Whether the network is; else the copy, which is of the former one, makes nobody."""
        same = self._first_checksum() == self._checksum
        if not same:
            self._taken = None
        return same

    def _first_checksum(self) -> int:
        module = self._first.space.module
        return within(Exclusive(module), lambda: checksum(module))

    def evaluate(self, children: Sequence[Child], values: Values) -> list[tuple[float, ...]]:
        """Values of each child of the parent, by ``values(evaluator, children)`` of either parent."""
        self._is_as_it_was()
        return within(Exclusive(self._near.space.module, random=True), lambda: self._evaluate(children, values))

    def make_net(self, child: Child) -> nn.Module:
        """A child of the parent as an independent network."""
        self._is_as_it_was()
        return within(Exclusive(self._near.space.module), lambda: self._make_net(child))

    def _make_net(self, child: Child) -> nn.Module:
        rest = self._rest(child)
        return self._first.space.make_child(child) if rest is None else self._near.space.make_child(rest)

    def _take(self, steps: tuple[Mutation, ...]) -> None:
        taken = self._taken
        if steps == taken:
            return
        self._taken = None  # until all is done: Ctrl-C may come anywhere
        if taken is None or steps[: len(taken)] != taken:
            self._near.space.load(self._first.space.copied())
            taken = ()
        self._near.space.fold(Lineage(steps[len(taken) :]))
        self._taken = steps

    def _evaluate(self, children: Sequence[Child], values: Values) -> list[tuple[float, ...]]:
        rests = [self._rest(child) for child in children]
        near = iter(values(self._near, [rest for rest in rests if rest is not None]))
        far = [child for child, rest in zip(children, rests, strict=True) if rest is None]
        others = iter(values(self._first, far) if far else [])
        return [next(others if rest is None else near) for rest in rests]

    def _rest(self, child: Child) -> Lineage | None:
        """The steps that are left, of a child that begins with those taken."""
        taken = self._taken if self._compared else None  # a copy that may compute something else makes nobody
        if taken is None or not isinstance(child, Lineage) or child.steps[: len(taken)] != taken:
            return None
        return Lineage(child.steps[len(taken) :])
