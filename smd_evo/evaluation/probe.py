"""Probe: whether the weights that are mutated are those that a network answers with.

Weights may be merged into others (adapters), cached (``parametrize.cached()``, a cache built by ``eval()``) or copied
into something compiled. Then all children are the parent, and nothing fails.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from smd_evo.core.blocks import within
from smd_evo.core.delta import SparseValues
from smd_evo.core.exclusive import memory_of
from smd_evo.core.parameters import ParameterSpace
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.batches import Batch
from smd_evo.evaluation.carried import Carried, check_attributes
from smd_evo.evaluation.differing import distance, size
from smd_evo.evaluation.dispatch import DispatchBlock
from smd_evo.evaluation.fitness import WORST, described

__all__ = ["is_compiled", "probe", "say_if_alike", "tensors_in"]

_SAMPLES = 8
"""Samples of the batch that a network is tried with."""

_PLACES = 1024
"""Coordinates of a tensor that are changed, at equal distances."""

_FEW = 8
"""Children that may all be as good as their parent without a word."""

_NAMED = 4
"""Tensors that a message names."""

_OF_TORCH = (RuntimeError, IndexError, TypeError)
"""Errors of torch's own by which a forward pass fails."""

tried: weakref.WeakSet[ParameterSpace] = weakref.WeakSet()
"""The spaces whose weights have been tried."""

_told: weakref.WeakKeyDictionary[nn.Module, set[tuple[str, ...]]] = weakref.WeakKeyDictionary()
"""The selections of a network of which it has been said that some do not matter."""


def probe(space: ParameterSpace, batch: Batch, fresh: Callable[[], object], most: int | None = None) -> None:
    """Try once, for a space, that its patches change its outputs and leave nothing behind.

    It takes four or five forward passes of at most eight samples, whatever the network's size: as it is; again, with
    an eye on the memory that operations read; with some elements of every selected tensor changed; with only those
    changed that nothing has read, if there are such; and as it is once more. A tensor that is read and changes
    nothing (of a dead unit, before a zero) counts as one that matters: a child may wake it.

    Args:
        space: the parent's, had by this thread, in the modes in which children are evaluated.
        batch: samples.
        fresh: puts back what a forward pass may have changed, before each.
        most: samples that fit into memory, where that is known to be little.

    Raises:
        InvalidValue: no selected tensor matters, the network keeps something of a patch that was taken back, or what
            it answers depends on passes before, by tensors that nobody puts back.

    Warns:
        UserWarning: some of the selected tensors do not matter, or answers depend on the batch before.
    """
    if space in tried or batch.inputs is None:
        return
    fresh()
    carried = Carried(space.module, space.tensors)
    found = _asker(space.module, batch, fresh, min(_SAMPLES, most or _SAMPLES))
    if found is None:
        return  # the evaluation itself will say what is wrong
    asked, before, ask = found
    read = _reads(space, asked)
    again = asked() if read is None else read[1]
    most_noise = 1e-3 * size(before)
    if carried:
        carried.say(fresh, ask, lambda after: distance(before, after) > max(most_noise, distance(before, again)))
    if distance(before, again) > most_noise:
        check_attributes(space.module, asked)
    noise = 4 * distance(before, again)  # of kernels that do not add up in a fixed order
    reached = _changes(space, space.names, asked, before, noise)
    sizes = {slot.name: slot.size for slot in space.layout.slots}
    unread = [name for name in space.names if sizes[name] and read is not None and name not in read[0]]
    if reached and unread and _changes(space, unread, asked, before, noise):
        unread = []  # read past PyTorch's operations
    _check_after(before, asked, noise)
    if not reached and (read is None or not read[0]):
        raise InvalidValue(
            f"parent: expected outputs that change with the selected weights ({_some(space.names)}), got the same; "
            "they are merged, cached or frozen into others: unmerge adapters (unmerge_adapter(), "
            "merge_weights=False), leave parametrize.cached(), drop what eval() caches, or select the weights in use"
        )
    tried.add(space)
    if reached and unread:
        _say_unread(space, unread)


def say_if_alike(fitness: Sequence[float], parent: float) -> bool:
    """Warn where all of many children are exactly as good as their parent; whether they are."""
    if len(fitness) < _FEW or abs(parent) >= WORST or any(value != parent for value in fitness):
        return False
    warnings.warn(
        f"all {len(fitness)} children have exactly the fitness of their parent, {parent:g}: sigma is too small for "
        "this fitness on so few samples, or what is mutated does not matter; try a larger sigma",
        RuntimeWarning,
        stacklevel=3,
    )
    return True


def tensors_in(part: Any) -> Iterator[Tensor]:
    """The tensors of outputs or arguments of any structure."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, Mapping):
        yield from tensors_in(list(part.values()))
    elif isinstance(part, list | tuple):
        for value in part:
            yield from tensors_in(value)


def _asker(
    module: nn.Module, batch: Batch, fresh: Callable[[], object], most: int
) -> tuple[Callable[[], list[Tensor]], list[Tensor], Callable[[], list[Tensor]]] | None:
    """What asks the network about a few samples, or the batch if it takes no fewer; its answer; what asks at once."""

    def ask_now(some: Batch) -> list[Tensor]:
        torch.clear_autocast_cache()
        same = some.copy()  # a child may write to its inputs, where the parent does not
        return [output.clone() for output in tensors_in(same.outputs(module))]

    def ask(some: Batch) -> list[Tensor]:
        fresh()
        return ask_now(some)

    compiled = any(is_compiled(part) for part in module.modules())  # for the shapes that it meets
    failed: Exception | None = None
    for some in (batch,) if compiled else (batch.split(most)[0], batch):
        try:
            if outputs := ask(some):
                return partial(ask, some), outputs, partial(ask_now, some)
        except Exception as error:
            failed = error
    if type(failed) in _OF_TORCH and "memory" not in str(failed).lower():
        raise _refusal(module, batch, failed) from failed
    return None


def _refusal(module: nn.Module, batch: Batch, error: Exception | None) -> InvalidValue:
    """The error for samples with which a network fails, in a line, with what they are."""
    given = list(tensors_in(batch.inputs))
    own = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()}
    mend = ""
    if len(own) == 1 and "type" in str(error) and any(tensor.dtype not in own for tensor in given):
        mend = f"; its parameters are {str(next(iter(own))).removeprefix('torch.')}: give inputs of that type"
    return InvalidValue(
        f"data: expected inputs that the network takes, got {', '.join(map(described, given)) or 'no tensors'}, with "
        f"which it fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}{mend}"
    )


class _Reading(DispatchBlock):
    """Notes the memory that operations read; making a view reads nothing, if it makes one (``to`` may). A block."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        found = function(*arguments, **(keywords or {}))
        given = {memory_of(tensor) for tensor in tensors_in((arguments, keywords or {}))}
        if not getattr(function, "is_view", False) or not given.issuperset(map(memory_of, tensors_in(found))):
            self.memory |= given
        return found


def _reads(space: ParameterSpace, asked: Callable[[], list[Tensor]]) -> tuple[set[str], list[Tensor]] | None:
    """Names of the selected tensors that a forward pass reads, and its outputs; None where that cannot be seen."""
    if any(is_compiled(part) for part in space.module.modules()):
        return None
    reading = _Reading()
    try:
        outputs = within(reading, asked)
    except Exception:  # of an operation that bears no such mode
        return None
    selected = zip(space.names, space.tensors, strict=True)
    return {name for name, tensor in selected if memory_of(tensor) in reading.memory}, outputs


def _changes(
    space: ParameterSpace, names: Iterable[str], asked: Callable[[], list[Tensor]], before: list[Tensor], noise: float
) -> bool:
    """Whether other values in some tensors change the outputs."""
    with space.applied(_other_values(space, set(names))):
        try:
            return distance(before, asked()) > noise
        except Exception:  # it has noticed
            return True


def _other_values(space: ParameterSpace, names: set[str]) -> SparseValues:
    """Some elements of these tensors moved by their standard deviation; integers at least by one, and inwards."""
    layout, places = space.layout, []
    for slot, offset in zip(layout.slots, layout.offsets, strict=False):
        if slot.name in names and slot.size:
            places.append(offset + torch.arange(0, slot.size, -(-slot.size // _PLACES), device=space.device))
    indices = torch.cat(places)
    wide = torch.promote_types(space.dtype, torch.float32)
    values, steps = space.values_at(indices, wide), layout.scales(indices).to(wide)
    inwards = torch.where(values > 0, -1.0, 1.0).to(wide) * steps.clamp(min=1)
    return SparseValues(indices, values + torch.where(space.are_integers(indices), inwards, steps))


def _check_after(before: list[Tensor], asked: Callable[[], list[Tensor]], noise: float) -> None:
    """Refuse a network that goes on answering otherwise after a patch."""
    after = asked()
    # Its operations may have been tuned meanwhile, and round otherwise.
    if distance(before, after) > max(noise, 1e-3 * size(before)) and distance(after, asked()) <= noise:
        raise InvalidValue(
            "parent: expected the outputs of before once a patch is taken back, got others, though all weights are "
            "as they were; it keeps what it computes from its weights: drop that cache, and load the network anew"
        )


def is_compiled(part: nn.Module) -> bool:
    """Whether a module is what ``torch.compile`` makes."""
    return hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None


def _say_unread(space: ParameterSpace, unread: Sequence[str]) -> None:
    told = _told.setdefault(space.module, set())
    if tuple(unread) in told:
        return
    told.add(tuple(unread))
    sizes = {slot.name: slot.size for slot in space.layout.slots}
    share = sum(sizes[name] for name in unread) / space.size
    warnings.warn(
        f"select: {len(unread)} of {len(space.names)} tensors, {share:.1%} of the coordinates, do not reach the "
        f"outputs ({_some(unread)}): mutating them changes nothing; unmerge or uncache them, or select the others",
        UserWarning,
        stacklevel=2,
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
