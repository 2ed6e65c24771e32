"""Visit: all children meet all batches, each as if it were alone, and the parent is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from smd_evo.core.blocks import within
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.evaluation.batches import Batch, Batches, MemoryBatches
from smd_evo.evaluation.features import Features
from smd_evo.evaluation.guard import Evaluating
from smd_evo.evaluation.heads import Heads
from smd_evo.evaluation.limit import BatchLimit
from smd_evo.evaluation.probe import probe
from smd_evo.evaluation.sharing import Deltas, Sharing, Visitor
from smd_evo.evaluation.together import Several, Together
from smd_evo.evaluation.turns import Turns
from smd_evo.evaluation.work import Work

__all__ = ["Visitor", "shares_of", "visit"]


def visit(
    space: ParameterSpace,
    children: Iterable[Child],
    batches: Batches,
    function: Visitor,
    limit: BatchLimit,
    work: Work,
    *,
    free: bool,
    reuse: bool | str = "auto",
    features: Features | None = None,
    progress: Callable[[], object] | None = None,
    together: int | None = None,
    function_of_several: Several | None = None,
) -> None:
    """Call a function with each child and its batches, in eval and inference mode, no other thread at it meanwhile.

    Children of integers share nothing, as what is watched and stacked are parameters.

    Args:
        space: the parent's.
        children: of those in memory each meets all batches in turn; of a stream each batch meets all children.
        batches: at least one.
        function: where memory was short it is called again, with smaller batches: until it returns it must do nothing
            for good.
        limit: of the samples in a forward pass.
        work: takes note of what is computed; of a function of the network nothing is known.
        free: whether the function may switch the network's modes.
        reuse: whether children have from their parent what they share with it: see
            :class:`smd_evo.evaluation.sharing.Sharing`.
        features: of the batches, for children that touch only the head.
        progress: called as often as there are children.
        together: how many children share a forward pass where they share nothing else; None: each has its own.
        function_of_several: instead of the function where they do, if it can be.
    """
    if not isinstance(batches, MemoryBatches):
        children = list(children)  # each batch meets all of them
        if not children:
            return
    guard = Evaluating(space, free=free)
    several = not isinstance(batches, MemoryBatches)

    def meet() -> None:
        turns = Turns(guard, several)
        option = False if free or space.integers else reuse
        sharing = Sharing(guard, turns, option, Work() if free else work)
        heads = Heads(features, guard, turns, option, limit, work)
        group = Together(None if space.integers else together, guard, turns, limit, work)
        groups = partial(group.rest, function=function, several=function_of_several, progress=progress)
        act = partial(
            _meet, free, space, turns, sharing, heads, group, groups, children, batches, function, limit, progress
        )
        within(sharing, lambda: within(group, act))

    within(guard, meet)


def shares_of(space: ParameterSpace, touched: Sequence[int], batches: Batches, reuse: bool | str) -> list[float]:
    """Which share of a forward pass children have from their parent, by what they touch: see :func:`.touched_by`.

    Found out by a pass of a few samples, once for each network.
    """
    found: list[float] = []
    guard = Evaluating(space)

    def look() -> None:
        sharing = Sharing(guard, Turns(guard, False), reuse, Work())
        first = next(iter(batches.chunks()))[0]
        within(sharing, lambda: found.extend(sharing.shares(touched, first)))

    within(guard, look)
    return found


def _meet(
    free: bool,
    space: ParameterSpace,
    turns: Turns,
    sharing: Sharing,
    heads: Heads,
    together: Together,
    groups: Callable[..., Iterable[tuple[int, Deltas]]],
    children: Iterable[Child],
    batches: Batches,
    function: Visitor,
    limit: BatchLimit,
    progress: Callable[[], object] | None,
) -> None:
    def turn(number: int, deltas: Deltas, function: Visitor, some: Sequence[Batch]) -> None:
        if not heads.turn(number, deltas, function, some):
            sharing.turn(number, deltas, function, some)

    done = 0
    for number_of_chunk, chunk in enumerate(batches.chunks()):
        if not free:
            probe(space, chunk[0], turns.fresh, limit.samples)
        if number_of_chunk == 0:
            children = heads.begin(children, chunk)
            children = children if heads.on else sharing.among(children, chunk[0])
            if not (heads.on or sharing.on):
                together.begin(chunk, unlike=_unlike(turns, free))
        if turns.several or (sharing.on and len(chunk) > 1):  # each batch meets all children
            turns.several, children = True, list(children)
        for some, completed in sharing.portions(chunk, limit.samples):
            sharing.record(some, limit.samples)
            replayed = (
                sharing.kept(children) if sharing.on and isinstance(children, list) else space.replayed(children)
            )
            for number, deltas in groups(enumerate(replayed), batches=some):
                with space.applied(deltas):
                    limit.within(partial(turn, number, deltas, function), some)
                    turns.end(number)
                done += completed
                if progress and completed and done % len(batches) == 0:
                    progress()


def _unlike(turns: Turns, free: bool) -> str:
    """Why children are not evaluated together, whatever their network."""
    if turns.several:
        return "samples that are read again"
    return "a fitness of the network itself" if free else ""
