"""Watching: what the operations of a forward pass read and write, and what that comes from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from smd_evo.core.exclusive import memory_of
from smd_evo.evaluation.calls import Call, is_plain
from smd_evo.evaluation.dispatch import DispatchBlock
from smd_evo.evaluation.probe import tensors_in

__all__ = ["DATA", "Frame", "Refused", "Watching"]

DATA = 1
"""The bit of what comes from the samples, or from chance."""

_PER_ELEMENT = 32
"""Floating point operations that take as long as to write one element."""

_STATISTICS = "running_mean", "running_var"

_SWITCHES = "training", "train"


class Refused(Exception):
    """A network does what no record can stand for."""


class Frame:
    """A call that has begun, as operations see it.

    Attributes:
        call: what is recorded of it.
        start: number of the operation before its first.
        first: how many memories had been made before.
        memory: of its inputs.
        cost: of all operations before it began; later of its own.
    """

    def __init__(self, call: Call, start: int, first: int, memory: set[int], cost: float) -> None:
        self.call, self.start, self.first, self.memory, self.cost = call, start, first, memory, cost


class Watching(DispatchBlock):
    """Follows memory through a forward pass: a block.

    Of each memory it knows what it comes from, as bits: one for each selected tensor, and one for the samples. So it
    knows of each call what it depends on, be it by a way that is not among its arguments, and whether it writes to
    anything but its own.

    Args:
        sources: bits of the memory of the parameters.
        fixed: memory that must not be written to: of parameters.
        counting: whether operations are counted.

    Attributes:
        frames: the calls that have begun, the innermost last.
        cost: of all operations, in floating point operations.
        refused: why the network cannot be recorded.
        paused: whether the operations are nothing to do with the network.
    """

    def __init__(self, sources: Mapping[int, int], fixed: set[int], counting: bool) -> None:
        super().__init__()
        self.frames: list[Frame] = []
        self.cost = 0.0
        self.refused = ""
        self.paused = False
        self._fixed, self._counting = set(fixed), counting
        self._comes_from = dict(sources)
        self._made: dict[int, int] = {}  # by which operation
        self._told = 0  # what numbers of Python come from, which may have got anywhere
        self._storages: dict[int, StorageWeakRef] = {}  # of what is made, which may be gone by now
        self._order: list[int] = []  # of what is made
        self._inside: defaultdict[int, list[Call]] = defaultdict(list)  # calls that have made and not returned it
        self._held: defaultdict[int, list[tuple[Call, list[Any], int]]] = defaultdict(list)
        self._now = 0

    def begin(self, call: Call) -> Frame:
        """A call begins."""
        tensors = [leaf for leaf in call.inputs if isinstance(leaf, Tensor)]
        memory = {memory_of(tensor) for tensor in tensors}
        call.usable = all(map(is_plain, call.inputs))
        call.sources |= self._of(memory) | self._told
        self.frames.append(Frame(call, self._now, len(self._order), memory, self.cost))
        return self.frames[-1]

    def give(self, inputs: list[Any]) -> None:
        """These are samples."""
        for tensor in tensors_in(inputs):
            self._comes_from[memory_of(tensor)] = DATA
            self._fixed.add(memory_of(tensor))

    def end(self) -> Frame:
        """The innermost call ends; its outputs are noted."""
        frame = self.frames.pop()
        frame.cost = self.cost - frame.cost
        call = frame.call
        tensors = [leaf for leaf in call.outputs if isinstance(leaf, Tensor)]
        returned = {memory_of(tensor) for tensor in tensors}
        own = all(self._made.get(memory, -1) > frame.start for memory in returned)
        for memory in returned:
            self._find(memory)
        for memory in {*self._order[frame.first :]} - returned:
            self._inside[memory].append(call)
        call.usable &= own and all(map(is_plain, call.outputs)) and not any(t.requires_grad for t in tensors)
        return frame

    def hold(self, call: Call) -> None:
        """What a call was given and returned is kept as it is now."""
        for leaves in (call.inputs, call.outputs):
            for number, leaf in enumerate(leaves):
                if isinstance(leaf, Tensor):
                    self._held[memory_of(leaf)].append((call, leaves, number))

    def is_fixed(self, tensor: Tensor) -> bool:
        """Whether it lies in memory of parameters or samples, which is there anyway."""
        return memory_of(tensor) in self._fixed

    def _of(self, memory: set[int]) -> int:
        found = 0
        for each in memory:
            found |= self._comes_from.get(each, 0)
        return found

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        keywords = keywords or {}
        if self.paused:
            return function(*arguments, **keywords)
        self._now += 1
        before = {memory_of(tensor) for tensor in tensors_in((arguments, keywords))}
        if function is torch.ops.aten.lift_fresh.default:  # of torch.tensor, in memory of no operation's
            self._lift(arguments[0])
        written = {memory_of(tensor) for tensor in tensors_in(_written(function, arguments, keywords))}
        for memory in written:
            self._write(memory)
        if not getattr(function, "is_view", False):
            for memory in before:
                self._read(memory)
        seeded = torch.Tag.nondeterministic_seeded in getattr(function, "tags", ())
        states = _states(arguments, keywords) if seeded else None
        result = function(*arguments, **keywords)
        source = self._of(before)
        if seeded and (states is None or not all(map(torch.equal, states, _states(arguments, keywords) or ()))):
            source |= DATA
            for frame in self.frames:
                frame.call.usable = False
        made = self._note(result, before, source)
        for memory in written:
            self._comes_from[memory] = self._comes_from.get(memory, 0) | source
        if self._counting:
            self.cost += _PER_ELEMENT * made + _operations(function, arguments, keywords, result)
        return result

    def _note(self, result: Any, before: set[int], source: int) -> int:
        """What comes of an operation; the number of elements that it has made."""
        if isinstance(result, bool | int | float | complex):
            self._told |= source & ~DATA
        new = [tensor for tensor in tensors_in(result) if memory_of(tensor) not in before]
        for tensor in new:
            self._make(tensor, source)
        return sum(tensor.numel() for tensor in new)

    def _lift(self, tensor: Tensor) -> None:
        storage = self._storages.get(memory_of(tensor))
        if storage is not None and storage.expired():  # not that of an array in a tensor's memory
            self._make(tensor, 0)

    def _make(self, tensor: Tensor, source: int) -> None:
        memory = memory_of(tensor)
        self._made[memory], self._comes_from[memory] = self._now, source
        self._storages.pop(memory, None)
        if memory != id(tensor):
            self._storages[memory] = StorageWeakRef(tensor.untyped_storage())
        self._order.append(memory)
        self._inside.pop(memory, None)

    def _find(self, memory: int) -> None:
        """Somebody has this: the calls that have made it without returning it have left it somewhere."""
        if self._comes_from.get(memory, 0):  # what is always the same may stay
            for call in self._inside.get(memory, ()):
                call.usable = False

    def _read(self, memory: int) -> None:
        self._find(memory)
        source = self._comes_from.get(memory, 0)
        made = self._made.get(memory, -1)
        for frame in self.frames:
            if made > frame.start or memory in frame.memory:
                continue
            if source & DATA and frame.call.usable:
                self.refused = "modules that read what others leave behind, not only what they are given"
            frame.call.sources |= source

    def _write(self, memory: int) -> None:
        if memory in self._fixed:
            self.refused = "a forward pass that writes to its inputs or weights"
            raise Refused(self.refused)
        made = self._made.get(memory, -1)
        for frame in self.frames:
            if made <= frame.start:
                frame.call.usable = False
        for call, leaves, number in self._held.pop(memory, ()):
            if leaves is call.outputs:
                call.copied.add(number)
                alike = [leaf for leaf in leaves if isinstance(leaf, Tensor) and memory_of(leaf) == memory]
                call.usable &= len(alike) == 1  # copies would no longer share it
            leaves[number] = leaves[number].clone()


def _states(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[Tensor] | None:
    """The random states that tell whether an operation has drawn numbers; None where they do not.

    Attention is said to draw some, and does so only where it drops some.
    """
    devices = {tensor.device.type for tensor in tensors_in((arguments, list(keywords.values())))}
    own = any(isinstance(value, torch.Generator) for value in (*arguments, *keywords.values()))
    if own or not devices or not devices <= {"cpu", "cuda"}:
        return None
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *cuda]


@cache
def _places_written(function: Any) -> tuple[tuple[int, str], ...]:
    """Places and names of the arguments that an operation writes to, as it says."""
    return tuple(
        (place, argument.name)
        for place, argument in enumerate(_arguments(function))
        if argument.alias_info is not None and argument.alias_info.is_write
    )


@cache
def _places_of_statistics(function: Any) -> tuple[tuple[int, str], ...]:
    """The same of those that normalise, of which not all say so; and last, what tells them to, if there is that."""
    named = [(place, argument.name) for place, argument in enumerate(_arguments(function))]
    found = [each for each in named if each[1] in _STATISTICS]
    if not found or "no_update" in str(function):
        return ()
    return (*found, *(each for each in named if each[1] in _SWITCHES))


def _arguments(function: Any) -> Any:
    schema = getattr(function, "_schema", None)
    return () if schema is None else schema.arguments


def _written(function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[Any]:
    """The arguments that an operation writes to."""

    def of(places: tuple[tuple[int, str], ...]) -> list[Any]:
        return [arguments[place] if place < len(arguments) else keywords.get(name) for place, name in places]

    statistics = _places_of_statistics(function)
    if statistics:
        found = of(statistics)
        return [] if found[-1] is False else found
    return of(_places_written(function))


def _operations(function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> float:
    """Floating point operations of those of PyTorch's that have many."""
    from torch.utils.flop_counter import flop_registry  # imports half of PyTorch's compiler

    count = flop_registry.get(getattr(function, "_overloadpacket", None))
    if count is None:
        return 0.0
    try:
        return float(count(*arguments, **keywords, out_val=result))
    except Exception:  # a formula is no reason to fail
        return 0.0
