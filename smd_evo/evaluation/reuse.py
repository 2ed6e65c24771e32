"""Reuse: what a child shares with its parent is computed once for all children.

For each batch the parent's forward pass is recorded once. A child's forward pass then returns the recorded output
of every call of a submodule that depends on no tensor the child has changed, and whose inputs are the recorded ones
to the bit. Nothing is assumed about the order of the layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from smd_evo.core.blocks import Inference, within
from smd_evo.evaluation.batches import Batch
from smd_evo.evaluation.probe import is_compiled
from smd_evo.evaluation.recording import Limits, Met, Parts, Record, Recorder, Replayer
from smd_evo.evaluation.watching import Refused

__all__ = ["Reuse", "Way", "unfit"]

T = TypeVar("T")

Way = Callable[[int, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""What is done instead of calling a module: of its number, its forward, and the arguments by place and by name."""


class Reuse:
    """A block in which a network's calls may be recorded and returned again; see :mod:`smd_evo.core.blocks`.

    From the first use to the end of the block each submodule has a ``forward`` of its own; then it is taken away.

    Args:
        module: the network, in the modes in which children are evaluated.
        names: of the selected tensors, whose bits are 2, 4, ... in the order of their names.
        fresh: puts back what a forward pass may have changed, before each that is recorded.
        state: what a forward pass may change besides: random states, buffers.
    """

    def __init__(
        self,
        module: nn.Module,
        names: Sequence[str],
        fresh: Callable[[], object] = lambda: None,
        state: Callable[[], object] = lambda: None,
    ) -> None:
        self._module, self._names, self._fresh, self._state = module, names, fresh, state
        self._parts: Parts | None = None
        self._undo: list[tuple[nn.Module, bool, Any]] = []
        self._way: Way | None = None
        self.records: list[Record] = []

    def enter(self) -> None:
        """Nothing yet: most networks are never recorded."""

    def leave(self) -> None:
        """Take the forwards away; once more does no harm."""
        self._way = None
        for part, had, forward in self._undo:
            if had:
                vars(part)["forward"] = forward
            else:
                vars(part).pop("forward", None)
        self._undo, self._parts, self.records = [], None, []

    @property
    def parts(self) -> Parts:
        """The modules, whose calls may go another way from now on."""
        return self._wrapped()

    def by(self, way: Way, function: Callable[[], T]) -> T:
        """What a function returns while every call of a module goes a way of one's own."""
        self._wrapped()
        return self._by(way, function)

    def survey(self, batch: Batch) -> list[Met]:
        """The calls of a forward pass, none of which is kept.

        Raises:
            Refused: the network does what no record can stand for.
        """
        return self._recorded(batch, Limits(None, 0)).met

    def record(self, batches: Sequence[Batch], wanted: Collection[tuple[int, int]], nbytes: int) -> None:
        """Record some calls of the parent's forward pass of each of these batches, instead of what was recorded.

        Raises:
            Refused: see :meth:`survey`.
            TooLarge: it would take more bytes.
        """
        self.records = []
        found = [self._recorded(batch, Limits(wanted, nbytes // len(batches))).finish() for batch in batches]
        self.records = found

    def replay(self, touched: int, function: Callable[[], T]) -> tuple[T, Replayer]:
        """What a function returns whose forward passes are those of a child; and which calls were not made.

        Args:
            touched: bits of the selected tensors that the child has not from its parent.
            function: calls the network once for each recorded batch.
        """
        replayer = Replayer(self.records, touched)
        return self._by(replayer.call, function), replayer

    def _recorded(self, batch: Batch, limits: Limits) -> Recorder:
        """A forward pass; a second one that looks at each call, where the first has not left all as it was."""
        parts = self._wrapped()

        def state() -> object:
            return self._state(), parts.attributes()

        for careful in (False, True):
            self._fresh()
            before = state()
            recorder = Recorder(parts, limits, state if careful else None)
            within(Inference(False), functools.partial(self._pass, recorder, batch))
            if recorder.watching.refused:
                raise Refused(recorder.watching.refused)
            if not careful and state() == before:
                break
        return recorder

    def _pass(self, recorder: Recorder, batch: Batch) -> None:
        torch.set_grad_enabled(False)  # not inference mode, in which nobody counts changes of what is recorded
        torch.clear_autocast_cache()
        within(recorder.watching, lambda: self._by(recorder.call, lambda: batch.outputs(self._module)))

    def _by(self, way: Way, function: Callable[[], T]) -> T:
        try:
            self._way = way
            return function()
        finally:
            self._way = None

    def _wrapped(self) -> Parts:
        if self._parts is None:
            self._parts = Parts(self._module, self._names)
            for number, part in enumerate(self._parts.all):
                self._wrap(number, part)
        return self._parts

    def _wrap(self, number: int, part: nn.Module) -> None:
        own = vars(part)
        forward = part.forward
        self._undo.append((part, "forward" in own, own.get("forward")))  # first: an interrupt may come in between

        @functools.wraps(forward)
        def called(*arguments: Any, **keywords: Any) -> Any:
            way = self._way
            return forward(*arguments, **keywords) if way is None else way(number, forward, arguments, keywords)

        own["forward"] = called


def unfit(module: nn.Module) -> str:
    """Why a network's calls cannot be recorded, if that is known beforehand."""
    for part in module.modules():
        if is_compiled(part):
            return "compiled modules"
        if isinstance(part, torch.jit.ScriptModule):
            return "scripted modules"
        if isinstance(part, nn.DataParallel):
            return "nn.DataParallel"
    return ""
