"""Stack: the selected parameters of several children side by side, and a forward pass of all of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from smd_evo.core.delta import change
from smd_evo.core.exclusive import memory_of
from smd_evo.core.parameters import ParameterSpace
from smd_evo.evaluation.batches import Batch
from smd_evo.evaluation.keeping import sets_attributes
from smd_evo.evaluation.reuse import unfit
from smd_evo.evaluation.sharing import Deltas
from smd_evo.evaluation.watching import Refused

__all__ = ["Stack", "check_stackable"]

_functorch: Any = torch._C._functorch

_ALIGNED = 64
"""Bytes: all children lie alike, as kernels may round by where their operands lie."""


class Stack:
    """K rows, each with the selected parameters of a child, or of the parent until it is filled.

    Args:
        space: the parent's; the others of the network's tensors are shared.
        size: K.

    Attributes:
        values: [K, D and some more].
    """

    def __init__(self, space: ParameterSpace, size: int) -> None:
        self._space = space
        selected = [tensor for _, tensor in _selected(space)]
        self._parent = torch.cat([tensor.detach().reshape(-1) for tensor in selected])
        step = _ALIGNED // self._parent.element_size()
        self.values = self._parent.new_empty((size, -(-space.size // step) * step))
        self._rows = [row[: space.size] for row in self.values]
        for row in self._rows:
            row.copy_(self._parent)
        pieces = self.values[:, : space.size].split([tensor.numel() for tensor in selected], 1)
        self._stacked = [piece.view(size, *own.shape) for piece, own in zip(pieces, selected, strict=True)]
        numbers = {id(tensor): number for number, tensor in enumerate(selected)}
        self._places = [
            (part._parameters, name, tensor, numbers[id(tensor)])
            for part in space.module.modules()
            for name, tensor in part._parameters.items()
            if id(tensor) in numbers
        ]
        self._depth = _functorch.get_dynamic_layer_stack_depth()
        self._fallback = _functorch._is_vmap_fallback_enabled()

    def leave(self) -> None:
        """The network has its own parameters, also where a pass was cut short; once more does no harm."""
        for parameters, name, tensor, _ in self._places:
            parameters[name] = tensor
        _functorch._set_vmap_fallback_enabled(self._fallback)
        # Ctrl-C in vmap's own contexts. The function that goes to a depth goes one too far in torch 2.9.
        while _functorch.get_dynamic_layer_stack_depth() > self._depth:
            with suppress(RuntimeError):  # the layer was of another kind, and is gone, too
                _functorch._vmap_decrement_nesting()

    def fill(self, children: Sequence[Deltas]) -> None:
        """Turn the first rows into children."""
        for row, deltas in zip(self._rows, children, strict=False):
            for delta in deltas:
                self._space.check_coordinates(delta)
                change(row, delta)

    def clear(self, children: Sequence[Deltas]) -> None:
        """Turn them into the parent again."""
        for row, deltas in zip(self._rows, children, strict=False):
            if sum(map(len, deltas)) > len(row) // 4:
                row.copy_(self._parent)
                continue
            for delta in deltas:
                row.index_copy_(0, delta.indices, self._parent.index_select(0, delta.indices))

    def outputs(self, batch: Batch) -> Any:
        """What the network returns for each row, stacked: [K, samples, ...].

        It is ``torch.func.functional_call``, but each name is looked up only once: there may be thousands.
        """

        def of_one(own: Sequence[Tensor]) -> Any:
            for parameters, name, _, number in self._places:
                parameters[name] = own[number]  # type: ignore[assignment]
            return batch.outputs(self._space.module)

        outside = sys.exc_info()[1]  # what the caller is just handling
        try:
            return vmap(of_one, randomness="error")(self._stacked)
        except RuntimeError as error:
            before: BaseException | None = error
            while before and (before := before.__context__) is not outside:
                if isinstance(before, KeyboardInterrupt):  # which vmap's own cleaning up stumbles over
                    raise before from None
            raise
        finally:
            self.leave()

    def without_fallback(self, batch: Batch) -> Any:
        """The same, or an error where vmap would do an operation child by child."""
        try:
            _functorch._set_vmap_fallback_enabled(False)
            return self.outputs(batch)
        finally:
            self.leave()


def check_stackable(space: ParameterSpace, size: int, room: int) -> None:
    """Refuse a network that cannot be several at once, where that is known beforehand.

    Args:
        space: the parent's.
        size: how many children.
        room: bytes that their parameters may take.

    Raises:
        Refused: with the reason.
    """
    module, selected = space.module, _selected(space)
    if reason := unfit(module):
        raise Refused(reason)
    every = any(vars(nn.modules.module).get(f"_global_forward_{kind}") for kind in ("hooks", "pre_hooks"))
    for part in module.modules():
        if every or part._forward_hooks or part._forward_pre_hooks:
            raise Refused("hooks")
        if sets_attributes(part):
            raise Refused("modules that set attributes")
    if len({(tensor.dtype, tensor.device) for _, tensor in selected}) > 1:
        raise Refused("selected parameters of several types or devices")
    if [tuple(tensor.shape) for _, tensor in selected] != [slot.shape for slot in space.layout.slots]:
        raise Refused("parameters that have changed their shapes")
    own = {id(tensor) for _, tensor in selected}
    memory = {memory_of(tensor) for _, tensor in selected}
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) not in own and memory_of(tensor) in memory:
            raise Refused("tensors that lie in the memory of selected parameters")
    nbytes = size * sum(tensor.numel() * tensor.element_size() for _, tensor in selected)
    if nbytes > room:
        raise Refused(f"{size} children, whose parameters do not fit into memory")


def _selected(space: ParameterSpace) -> list[tuple[str, Tensor]]:
    found = dict(space.module.named_parameters(remove_duplicate=False))
    return [(name, found[name]) for name in space.names]
