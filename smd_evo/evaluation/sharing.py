"""Sharing: where it pays, children have from their parent what they share with it; otherwise nothing is done."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from smd_evo.core.delta import SparseDelta, SparseValues
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.evaluation.batches import Batch, tensors_of
from smd_evo.evaluation.calls import Call, Key, alike, autocast_now, bits_of, copied
from smd_evo.evaluation.guard import Evaluating
from smd_evo.evaluation.recording import Met, Spoiled, TooLarge
from smd_evo.evaluation.reuse import Reuse, unfit
from smd_evo.evaluation.turns import Turns
from smd_evo.evaluation.watching import Refused
from smd_evo.evaluation.work import Work
from smd_evo.evaluation.worth import pays, seems_hopeless, shared_calls, touched_by

__all__ = ["Deltas", "Sharing", "Visitor", "room", "state_of"]

_log = logging.getLogger(__name__)

Visitor = Callable[[int, nn.Module, Sequence[Batch]], object]
"""What is done with a child's number, the parent turned into it, and some batches."""

Deltas = tuple[SparseDelta | SparseValues, ...]

_SAMPLES = 8
"""Samples of the batch that a network is surveyed with."""

_FIRST = 8
"""Children whose deltas are looked at, and kinds of children that are compared with full forward passes.

Of inputs of other shapes than the first it is one kind.
"""

_COORDINATES = 2**22
"""Coordinates that are kept from one batch to the next, so that they need not be replayed."""

_BYTES = 2**30
"""What may always be recorded."""


@dataclass
class _Known:
    """What was found out about a network.

    Attributes:
        off: why nothing is shared, if so.
        met: the calls of its forward pass.
        checked: for each kind of computation and shape of inputs, the bits of children whose outputs were found to be
            those of full forward passes.
        told: whether the user has been told.
    """

    off: str = ""
    met: list[Met] | None = None
    checked: dict[Any, dict[Any, set[int]]] = field(default_factory=dict)
    told: bool = False


_known: weakref.WeakKeyDictionary[ParameterSpace, _Known] = weakref.WeakKeyDictionary()


class Sharing:
    """What the children of one visit share with their parent: a block, see :mod:`smd_evo.core.blocks`.

    Args:
        guard: of the network, entered.
        turns: of the children.
        option: "auto", or whether to share however little there is to be shared.
        work: takes note of what is computed.
    """

    def __init__(self, guard: Evaluating, turns: Turns, option: bool | str, work: Work) -> None:
        self._space, self._guard, self._turns = guard.space, guard, turns
        self._option, self._work = option, work
        self._known = _known.setdefault(self._space, _Known())
        self._reuse = Reuse(self._space.module, self._space.names, turns.fresh, partial(state_of, guard))
        self._wanted: set[Key] = set()
        self._costs: dict[Key, float] = {}
        self._recorded = False

    def enter(self) -> None:
        """Nothing yet."""
        self._reuse.enter()

    def leave(self) -> None:
        """The network is as before; once more does no harm."""
        self._recorded = False
        self._reuse.leave()

    def among(self, children: Iterable[Child], batch: Batch) -> Iterable[Child]:
        """Find out whether it pays for these children.

        Returns:
            the same children; some as their deltas, which have been looked at.
        """
        if self._option is False or self._known.off or batch.inputs is None:
            return children
        waiting = iter(children)
        replayed: list[Deltas] = []
        shares: list[float] = []
        coordinates, ended = 0, False
        while len(replayed) < _FIRST and coordinates < _COORDINATES:
            some = list(islice(waiting, 1))
            if not some:
                ended = True
                break
            deltas = next(iter(self._space.replayed(some)))
            replayed.append(deltas)
            coordinates += sum(map(len, deltas))
            touched = touched_by(deltas, self._space.layout)
            if not touched:  # the parent
                continue
            if self._option == "auto" and self._known.met is None and seems_hopeless(self._space, touched):
                break
            share, keys = shared_calls(self._met(batch), touched)
            self._wanted |= keys
            shares.append(share)
            if self._option == "auto" and not pays([share], more=True):
                break  # it is like this with most, and they are not to be held up
        wanted = any(shares) if self._option is True else pays(shares, not ended)
        if not wanted:
            self._wanted = set()
            return chain(replayed, waiting)
        self._wanted |= shared_calls(self._met(batch), 0)[1]
        if not self._known.told:
            self._known.told = True
            _log.info(
                "reuse: %.0f %% of a child's forward pass is its parent's, computed once a batch for all children",
                100 * sum(shares) / len(shares),
            )
        return chain(replayed, waiting)

    def shares(self, touched: Sequence[int], batch: Batch) -> list[float]:
        """Which share of a forward pass children have from their parent, by the bits of what they touch."""
        if self._option is False or self._known.off or batch.inputs is None:
            return [0.0] * len(touched)
        return [shared_calls(self._met(batch), each)[0] for each in touched]

    @property
    def on(self) -> bool:
        """Whether it pays."""
        return bool(self._wanted)

    def portions(self, chunk: Sequence[Batch], most: int | None) -> Iterator[tuple[Sequence[Batch], int]]:
        """The batches that all children meet before the next, and how many batches that completes."""
        if not self.on or len(chunk) == 1:
            yield chunk, len(chunk)
            return
        for batch in chunk:
            *pieces, last = [batch] if most is None else batch.split(most)
            yield from (([piece], 0) for piece in pieces)
            yield [last], 1

    def kept(self, children: list[Child]) -> Iterator[Deltas]:
        """Deltas of children who come again: in the list, if they are few enough, recipes give way to them."""
        coordinates = 0
        for number, deltas in enumerate(self._space.replayed(children)):
            coordinates += sum(map(len, deltas))
            if coordinates < _COORDINATES:
                children[number] = deltas
            yield deltas

    def record(self, some: Sequence[Batch], most: int | None) -> None:
        """Record what there is to be shared on some batches, which are halved as the limit says."""
        self._recorded = False
        if not self.on:
            return
        self._costs = {call.key: call.cost for call in self._known.met or ()}
        pieces = some if most is None else [piece for batch in some for piece in batch.split(most)]
        try:
            self._reuse.record(pieces, self._wanted, room(self._space.device))
            self._recorded = True
            self._work.forwards += _samples(some)
        except (TooLarge, torch.cuda.OutOfMemoryError):
            self._give_up()
        except Exception as error:
            self._stop(error)

    def turn(self, number: int, deltas: Deltas, function: Visitor, some: Sequence[Batch]) -> None:
        """A child's turn on some batches: what the function does, its forward passes cut short.

        Args:
            number: the child's, which the network has been turned into.
            deltas: its own.
            function: calls the network once for each batch, and does nothing for good until it returns.
            some: the batches.
        """
        act = partial(function, number, self._space.module, some)
        if self._recorded and not self._turns.has_changed_buffers(number):
            touched = touched_by(deltas, self._space.layout)
            try:
                if self._is_right(number, touched, some):
                    self._turns.begin(number)
                    _, replayer = self._reuse.replay(touched, act)
                    self._work.count(_samples(some), 1 - self._saved(replayer.returned) / len(some))
                    return
            except torch.cuda.OutOfMemoryError:  # there may be enough without what was recorded
                self._give_up()
            except Spoiled as error:
                self._stop(error)
        self._turns.begin(number)
        act()
        self._work.count(_samples(some))

    def _saved(self, returned: Sequence[Call]) -> float:
        """Calls that were not made, in forward passes."""
        return sum(self._costs[call.key] for call in returned) / self._costs[0, 0] if returned else 0.0

    def _is_right(self, number: int, touched: int, some: Sequence[Batch]) -> bool:
        """Whether the outputs for such a child are those of full forward passes; of the first few kinds."""
        shapes = self._known.checked.setdefault((self._space.device, self._space.dtype, autocast_now()), {})
        shape = tuple((tensor.shape, tensor.dtype) for batch in some for tensor in tensors_of(batch.inputs))
        most = _FIRST if next(iter(shapes), shape) == shape else 1
        checked = shapes.setdefault(shape, set())
        if touched in checked or len(checked) >= most:
            return True

        def asked() -> tuple[list[Any], object]:
            self._turns.begin(number)
            outputs = [tree_map(copied, batch.outputs(self._space.module)) for batch in some]
            return outputs, state_of(self._guard)

        full = asked()
        try:
            cut = self._reuse.replay(touched, asked)[0]
        except (Spoiled, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            self._stop(error)
            return False
        if alike(full[0], cut[0]) and full[1] == cut[1]:
            checked.add(touched)
            return True
        self._stop(Refused("outputs that are not those of a full forward pass"))
        return False

    def _met(self, batch: Batch) -> list[Met]:
        if self._known.met is None:
            reason = unfit(self._space.module)
            found: list[Met] | Exception = Refused(reason) if reason else self._surveyed(batch.split(_SAMPLES)[0])
            if isinstance(found, Exception) and not isinstance(found, Refused):  # a network may take no fewer samples
                found = self._surveyed(batch)
            if isinstance(found, Exception):
                self._stop(found)
                found = []
            self._known.met = found
        return self._known.met

    def _surveyed(self, batch: Batch) -> list[Met] | Exception:
        try:
            return self._reuse.survey(batch)
        except Exception as error:
            failure = error.with_traceback(None)
        return failure

    def _give_up(self) -> None:
        """Nothing is shared in this visit: the next one may have smaller batches."""
        self._wanted, self._recorded = set(), False
        self._reuse.records = []
        _log.info("reuse: what children share does not fit into memory; each has a full forward pass")

    def _stop(self, error: Exception) -> None:
        """Nothing is shared from now on."""
        self._wanted, self._recorded = set(), False
        self._reuse.records = []
        if not self._known.off:
            self._known.off = str(error).partition("\n")[0] or type(error).__name__
            _log.info("reuse: each child has a full forward pass, because of %s", self._known.off)


def state_of(guard: Evaluating) -> object:
    """Random states and buffers of a network, to be compared."""
    changes = [
        (number, replaced, None if value is None else bits_of(value))
        for number, replaced, value in guard.buffers.changes()
    ]
    return guard.random.now(), changes


def _samples(some: Sequence[Batch]) -> int:
    return sum(batch.count for batch in some)


def room(device: torch.device) -> int:
    """Bytes that may be recorded: a quarter of what is free, if that is known and more than a little."""
    free = 0
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(_BYTES, free // 4)
