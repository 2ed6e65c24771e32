"""Recording: the parent's forward pass, call by call, and a child's that returns what was recorded."""

from __future__ import annotations

import operator
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from smd_evo.core.exclusive import memory_of
from smd_evo.evaluation.attributes import FEW
from smd_evo.evaluation.calls import Call, Key, autocast_now, is_counted, is_simple
from smd_evo.evaluation.keeping import sets_attributes
from smd_evo.evaluation.watching import Frame, Watching

__all__ = ["Limits", "Met", "Parts", "Record", "Recorder", "Replayer", "Spoiled", "TooLarge"]


class TooLarge(Exception):
    """What is recorded does not fit."""


class Spoiled(Exception):
    """Something has written to what was recorded."""


@dataclass(frozen=True)
class Met:
    """A call that a forward pass has met.

    Attributes:
        key: which.
        parent: number of the call that it was made in, in the order of their beginnings; -1 for the network's own.
        sources: bits of the selected tensors that it depends on.
        usable: whether it may be returned again.
        cost: in floating point operations.
    """

    key: Key
    parent: int
    sources: int
    usable: bool
    cost: float


class Parts:
    """The modules of a network by their numbers, the network itself being 0, and what is fixed of each.

    Args:
        module: the network.
        names: of the selected tensors.

    Attributes:
        all: the modules.
        bits: of the selected tensors in each, one for each of ``names`` from 2 on.
        whole: whether a call of each may be left out: no hooks run inside of it, and no attributes are set.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self.all = list(module.modules())
        numbers = {name: number for number, name in enumerate(names)}
        self.memory: dict[int, int] = {}
        for name, tensor in module.named_parameters(remove_duplicate=False):
            memory = memory_of(tensor)
            bit = 2 << numbers[name] if name in numbers else 0
            self.memory[memory] = self.memory.get(memory, 0) | bit
        every = any(vars(nn.modules.module).get(f"_global_forward_{kind}") for kind in ("hooks", "pre_hooks"))
        known: dict[nn.Module, tuple[int, bool]] = {}

        def look(part: nn.Module) -> tuple[int, bool]:
            if part not in known:
                bits, whole = 0, not sets_attributes(part)
                for tensor in part._parameters.values():
                    bits |= 0 if tensor is None else self.memory[memory_of(tensor)]
                for child in part.children():
                    inside, is_whole = look(child)
                    bits, whole = bits | inside, whole and is_whole and not (every or _has_hooks(child))
                known[part] = bits, whole
            return known[part]

        self.bits, self.whole = zip(*map(look, self.all), strict=True)

    def attributes(self) -> _Kept:
        """What modules keep besides their tensors."""
        values: list[Any] = []
        things: list[Any] = []
        for part in self.all:
            for name, value in vars(part).items():
                if is_simple(value):
                    values += name, value
                elif name in _REGISTERED:
                    things += value.values()
                elif name != "forward":
                    things.append(value)
                    if isinstance(value, list | dict) and len(value) <= FEW:
                        things += value.values() if isinstance(value, dict) else value
        return _Kept(values, things)


_REGISTERED = frozenset(("_buffers", "_parameters", "_modules"))


class _Kept:
    """Mere values, which are to be equal; and things, each the same as long as it is itself and has not grown.

    What is in a list or dict is a thing, numbers, too: one that is put there anew is another one, if an equal one.
    """

    def __init__(self, values: list[Any], things: list[Any]) -> None:
        self._values, self._things = values, things
        self._lengths = [len(thing) if isinstance(thing, list | dict | set) else 0 for thing in things]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Kept)
            and (self._values, self._lengths) == (other._values, other._lengths)
            and all(map(operator.is_, self._things, other._things))
        )

    __hash__ = None  # type: ignore[assignment]


Record = dict[Key, Call]
"""The calls of one forward pass that may be returned again."""


@dataclass(frozen=True)
class Limits:
    """What is recorded: calls of these keys, or all without their tensors; at most so many bytes."""

    wanted: Collection[Key] | None
    nbytes: int


class Recorder:
    """Records one forward pass of the parent.

    Args:
        parts: of the network.
        limits: of what is recorded; without wanted keys nothing is kept but what is :attr:`met`.
        state: what a call must leave as it was, if it was seen that some do not; compared around each.

    Attributes:
        record: the calls that may be returned again.
    """

    def __init__(self, parts: Parts, limits: Limits, state: Callable[[], object] | None) -> None:
        self.record: Record = {}
        self.watching = Watching(parts.memory, set(parts.memory), counting=limits.wanted is None)
        self._parts, self._limits, self._state = parts, limits, state
        self._thread = threading.get_ident()
        self._counts: Counter[int] = Counter()
        self._seen: list[tuple[Frame, int]] = []
        self._open: list[int] = []
        self._kept: dict[int, int] = {}

    def call(
        self, number: int, forward: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Any:
        """Call a module, and record that."""
        if threading.get_ident() != self._thread:
            self.watching.refused = "a forward pass in several threads"
            return forward(*arguments, **keywords)
        key = number, self._counts[number]
        self._counts[number] += 1
        if number and self._limits.wanted is not None and key not in self._limits.wanted:
            return forward(*arguments, **keywords)
        inputs, given = tree_flatten((arguments, keywords))
        call = Call(key, inputs, given, autocast_now(), sources=self._parts.bits[number])
        if number == 0:
            self.watching.give(inputs)
        before, counts = self._state_now(), self._counts.copy()
        self._seen.append((self.watching.begin(call), self._open[-1] if self._open else -1))
        self._open.append(len(self._seen) - 1)
        result = forward(*arguments, **keywords)
        call.outputs, call.returned = tree_flatten(result)
        self.watching.end()
        self._open.pop()
        call.usable &= self._parts.whole[number] and before == self._state_now()
        if call.usable and key in (self._limits.wanted or ()):
            call.inside = self._counts - counts
            self._keep(call)
        else:
            call.inputs, call.outputs = [], []
        return result

    def _state_now(self) -> object:
        self.watching.paused = True
        state = self._state() if self._state else None
        self.watching.paused = False
        return state

    def _keep(self, call: Call) -> None:
        self.record[call.key] = call
        self.watching.hold(call)
        for tensor in call.tensors():
            if not self.watching.is_fixed(tensor):
                self._kept[memory_of(tensor)] = tensor.untyped_storage().nbytes()
        if sum(self._kept.values()) > self._limits.nbytes:
            raise TooLarge

    @property
    def met(self) -> list[Met]:
        """The calls that the forward pass has met, once it has ended: what one leaves behind is read later."""
        return [
            Met(frame.call.key, parent, frame.call.sources, frame.call.usable, frame.cost)
            for frame, parent in self._seen
        ]

    def finish(self) -> Record:
        """The record, once the forward pass has ended."""
        self.record = {key: call for key, call in self.record.items() if call.usable}
        numbers = {number for number, _ in self.record}
        for call in self.record.values():
            call.inside = {number: times for number, times in call.inside.items() if number in numbers}
            if call.key[0] == 0:  # whoever gets the network's own outputs may do with them what they like
                call.copied.update(place for place, leaf in enumerate(call.outputs) if isinstance(leaf, Tensor))
            call.seal()
        return self.record


class Replayer:
    """A forward pass of a child that returns what was recorded where it may.

    Args:
        records: of the forward passes, in their order.
        touched: bits of the selected tensors that the child has not from its parent.

    Attributes:
        returned: the calls that were not made.

    Raises:
        Spoiled: at the end of a forward pass that has written to what was recorded.
    """

    def __init__(self, records: Sequence[Record], touched: int) -> None:
        self.returned: list[Call] = []
        self._records, self._touched = records, touched
        self._thread = threading.get_ident()
        self._counts: Counter[int] = Counter()
        self._passes = 0
        self._record: Record = {}

    def call(
        self, number: int, forward: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Any:
        """Call a module, or return what it returned to the same arguments."""
        if threading.get_ident() != self._thread:
            return forward(*arguments, **keywords)
        if number == 0:
            self._record = self._records[self._passes] if self._passes < len(self._records) else {}
            self._passes += 1
            self._counts.clear()
            inputs = [leaf for leaf in tree_flatten((arguments, keywords))[0] if is_counted(leaf)]
            versions = [leaf._version for leaf in inputs]
        key = number, self._counts[number]
        self._counts[number] += 1
        call = self._record.get(key)
        if call is None or call.sources & self._touched or not call.is_of(arguments, keywords):
            result = forward(*arguments, **keywords)
            if number == 0 and (
                versions != [leaf._version for leaf in inputs] or not all(call.intact for call in self.returned)
            ):
                raise Spoiled("a child that writes to what its parent was given or has computed")
            return result
        self._counts.update(call.inside)
        self.returned.append(call)
        return call.again()


def _has_hooks(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks)
