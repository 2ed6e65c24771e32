"""Together: several children in one forward pass, for networks whose passes are mostly calls of PyTorch."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from smd_evo.core.blocks import Inference, within
from smd_evo.core.parameters import ParameterSpace
from smd_evo.errors import InvalidValue
from smd_evo.evaluation import sharing
from smd_evo.evaluation.batches import Batch, tensors_of
from smd_evo.evaluation.calls import autocast_now
from smd_evo.evaluation.fitness import BatchFitness
from smd_evo.evaluation.guard import Evaluating
from smd_evo.evaluation.limit import BatchLimit
from smd_evo.evaluation.sharing import Deltas, Visitor
from smd_evo.evaluation.stack import Stack, check_stackable
from smd_evo.evaluation.tails import tails_in
from smd_evo.evaluation.trial import tried
from smd_evo.evaluation.turns import Turns
from smd_evo.evaluation.watching import Refused
from smd_evo.evaluation.work import Work

__all__ = ["Several", "Together", "several_scored"]

_log = logging.getLogger(__name__)

Several = Callable[[Sequence[Batch]], bool]
"""What is done with outputs of several children at once, given as inputs of batches: ([children, samples, ...],).

It says whether it was done.
"""


@dataclass
class _Known:
    """What was found out about a network.

    Attributes:
        tried: for each kind of pass why children are evaluated one by one ("" where they need not be), and the bytes
            of one child's outputs. It follows from the network and the kind, never from the children: else a fitness
            would depend on what was asked before.
        told: reasons that the user knows.
    """

    tried: dict[Any, tuple[str, int]] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)


_known: weakref.WeakKeyDictionary[ParameterSpace, _Known] = weakref.WeakKeyDictionary()


class Together:
    """The turns of the children of one visit, so many in one forward pass: a block, see :mod:`smd_evo.core.blocks`.

    Every pass is of so many: those that are missing are the parent.

    Args:
        size: how many children; None for one by one.
        guard: of the network, entered.
        turns: of the children.
        limit: of the samples in a forward pass.
        work: takes note of what is computed.

    Attributes:
        on: whether they have their turns here.
    """

    def __init__(self, size: int | None, guard: Evaluating, turns: Turns, limit: BatchLimit, work: Work) -> None:
        self._space, self._guard, self._turns, self._limit, self._work = guard.space, guard, turns, limit, work
        self._size = size or 0
        self._known = _known.setdefault(self._space, _Known())
        self._stack: Stack | None = None
        self.on = False

    def enter(self) -> None:
        """Nothing yet."""

    def leave(self) -> None:
        """The network has its own parameters; once more does no harm."""
        stack, self.on = self._stack, False
        if stack is not None:
            stack.leave()
        self._stack = None

    def begin(self, batches: Sequence[Batch], *, unlike: str = "") -> None:
        """Find out whether these batches may be met together.

        Args:
            batches: all of them.
            unlike: a reason why not that the caller knows.
        """
        if not self._size:
            return
        try:
            if unlike:
                raise Refused(unlike)
            room = sharing.room(self._space.device)
            check_stackable(self._space, self._size, room)
            self._stack = Stack(self._space, self._size)
            if self._size * sum(self._bytes(piece) for piece in self._pieces(batches)) > room:
                raise Refused("outputs that do not fit into memory")
            self.on = True
        except Refused as refused:
            self._stop(str(refused))
        except torch.cuda.OutOfMemoryError:
            self._stop("too little memory")

    def rest(
        self,
        children: Iterable[tuple[int, Deltas]],
        function: Visitor,
        several: Several | None,
        batches: Sequence[Batch],
        progress: Callable[[], object] | None,
    ) -> Iterator[tuple[int, Deltas]]:
        """Give children their turns.

        Args:
            children: their numbers and what they are made of.
            function: of each child.
            several: of all of a pass at once, where it can do that.
            batches: all of them.
            progress: called once for each child.

        Yields:
            those that are to be evaluated one by one.
        """
        waiting, samples = iter(children), sum(batch.count for batch in batches)
        while self.on and (group := list(islice(waiting, self._size))):
            try:
                found = self._passed(group, batches)
            except torch.cuda.OutOfMemoryError:
                self._stop("too little memory")
                waiting = chain(group, waiting)
                break
            if several is None or not several(_known_outputs(found, slice(len(group)))):
                for place, (number, _) in enumerate(group):
                    function(number, cast(nn.Module, _itself), _known_outputs(found, place))
            for _ in group:
                self._work.count(samples)
                if progress:
                    progress()
        yield from waiting

    def _passed(self, group: Sequence[tuple[int, Deltas]], batches: Sequence[Batch]) -> list[tuple[Batch, Any]]:
        """The outputs [K, ...] of some children for each batch."""
        assert self._stack is not None
        with_deltas = [deltas for _, deltas in group]
        self._stack.fill(with_deltas)
        found = []
        for batch in self._pieces(batches):
            self._turns.fresh()
            found.append((batch, self._stack.outputs(batch)))
        self._stack.clear(with_deltas)
        return found

    def _pieces(self, batches: Sequence[Batch]) -> list[Batch]:
        most = self._limit.samples
        return [piece for batch in batches for piece in batch.split(most or batch.count)]

    def _bytes(self, batch: Batch) -> int:
        """Of one child's outputs for a batch, once such a pass is tried.

        Raises:
            Refused: children are not to be evaluated together.
        """
        shapes = tuple((tensor.shape, tensor.dtype, tensor.stride()) for tensor in tensors_of(batch.inputs))
        kind = self._size, self._space.device, self._space.dtype, autocast_now(), torch.get_num_threads(), shapes
        if kind not in self._known.tried:
            try:
                assert self._stack is not None
                self._known.tried[kind] = "", tried(self._guard, self._turns, self._stack, batch)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:
                reason = (
                    str(error) if isinstance(error, Refused) else f"what torch.func.vmap cannot do ({_line(error)})"
                )
                self._known.tried[kind] = reason, 0
        reason, nbytes = self._known.tried[kind]
        if reason:
            raise Refused(reason)
        return nbytes

    def _stop(self, reason: str) -> None:
        """Children of this visit are evaluated one by one."""
        self.leave()
        if reason not in self._known.told:
            self._known.told.add(reason)
            _log.info("together: children are evaluated one by one, because of %s", reason)


def several_scored(
    fitness: BatchFitness, look: Callable[[Tensor], object], add: Callable[[Sequence[Tensor]], object]
) -> Several:
    """Scores all children of a pass at once, where that gives the bits of each one's own score.

    It does where the score of a sample does not depend on the others in the batch, nor on its place among them: for
    each shape of outputs two children are scored alone, too, and operations with tails are looked for.

    Args:
        fitness: of the outputs.
        look: given a child's outputs for a batch, which it may refuse.
        add: given the children's totals, float64 [] each.
    """
    right: dict[torch.Size, bool] = {}

    def several(batches: Sequence[Batch]) -> bool:
        parts: list[Tensor] = []
        for batch in batches:
            (outputs,) = batch.inputs
            if not all(right.values()) or not isinstance(outputs, Tensor) or outputs.dim() < 2:
                return False
            look(outputs[0])
            try:
                if outputs.shape not in right:
                    own, right[outputs.shape] = _compared(fitness, outputs, batch)
                else:
                    own = fitness.totals(outputs, batch.targets, batch.count)
            except InvalidValue:  # whatever is wrong, a child's own score says it better
                return False
            parts.append(own)
        if not all(right.values()):
            return False
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        add(total.unbind())
        return True

    return several


def _compared(fitness: BatchFitness, outputs: Tensor, batch: Batch) -> tuple[Tensor, bool]:
    """Totals of several children, and whether they are those of each."""
    found: list[Tensor] = []
    known = within(Inference(False), outputs.clone)  # of tensors of that mode operations are seen whole

    def score() -> None:
        found.append(fitness.totals(known, batch.targets, batch.count))
        found.extend(fitness.total(known[place], batch.targets, batch.count) for place in (0, -1))

    tails = tails_in(score)
    return found[0], not tails and torch.equal(torch.stack(found[1:]), found[0][[0, -1]])


def _known_outputs(found: Sequence[tuple[Batch, Any]], place: int | slice) -> list[Batch]:
    """Batches of which a network only has to return what it is given."""
    return [
        Batch((tree_map(lambda leaf: leaf[place], outputs),), batch.targets, batch.count, batch.start)
        for batch, outputs in found
    ]


def _itself(outputs: Any) -> Any:
    return outputs


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
