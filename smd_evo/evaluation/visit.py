"""Visit: all children meet all batches, each as if it were alone, and the parent is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from torch import nn

from smd_evo.core.blocks import within
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.evaluation.batches import Batch, Batches, MemoryBatches
from smd_evo.evaluation.guard import Evaluating
from smd_evo.evaluation.limit import BatchLimit
from smd_evo.evaluation.probe import probe
from smd_evo.evaluation.turns import Turns
from smd_evo.evaluation.work import Work

__all__ = ["Visitor", "visit"]

Visitor = Callable[[int, nn.Module, Sequence[Batch]], object]
"""What is done with a child's number, the parent turned into it, and some batches."""


def visit(
    space: ParameterSpace,
    children: Iterable[Child],
    batches: Batches,
    function: Visitor,
    limit: BatchLimit,
    work: Work,
    *,
    free: bool,
    progress: Callable[[], object] | None = None,
) -> None:
    """Call a function with each child and its batches, in eval and inference mode, no other thread at it meanwhile.

    Args:
        space: the parent's.
        children: of those in memory each meets all batches in turn; of a stream each batch meets all children.
        batches: at least one.
        function: where memory was short it is called again, with smaller batches: until it returns it must do nothing
            for good.
        limit: of the samples in a forward pass.
        work: takes note of what is computed; of a function of the network nothing is known.
        free: whether the function may switch the network's modes.
        progress: called as often as there are children.
    """
    if not isinstance(batches, MemoryBatches):
        children = list(children)  # each batch meets all of them
        if not children:
            return
    guard = Evaluating(space, free=free)
    within(guard, lambda: _visit(guard, children, batches, function, limit, Work() if free else work, progress))


def _visit(
    guard: Evaluating,
    children: Iterable[Child],
    batches: Batches,
    function: Visitor,
    limit: BatchLimit,
    work: Work,
    progress: Callable[[], object] | None,
) -> None:
    turns = Turns(guard, several=not isinstance(batches, MemoryBatches))
    done = 0

    def turn(number: int, module: nn.Module, some: Sequence[Batch]) -> None:
        turns.begin(number)
        function(number, module, some)

    for chunk in batches.chunks():
        probe(guard.space, chunk[0], turns.fresh, limit.samples)
        for number, deltas in enumerate(guard.space.replayed(children)):
            with guard.space.applied(deltas) as module:
                limit.within(partial(turn, number, module), chunk)
                turns.end(number)
            work.count(sum(batch.count for batch in chunk))
            done += len(chunk)
            if progress and done % len(batches) == 0:
                progress()
