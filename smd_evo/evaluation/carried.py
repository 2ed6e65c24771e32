"""Carried: what a network keeps from one forward pass to the next, such as membrane potentials of spiking neurons.

Buffers are put back before each child, so in these nothing gets from one child to the next, but it does from one
batch of a child to its next one. Tensors and numbers that are mere attributes nobody puts back, so there children
would depend on each other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

from torch import Tensor, nn

from smd_evo.core.blocks import Inference, within
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.attributes import attributes_of
from smd_evo.evaluation.buffers import same_bits, words_of
from smd_evo.evaluation.calls import copied, is_simple, same

__all__ = ["Carried", "check_attributes"]

_NAMED = 3
"""Names that a message tells."""


class Carried:
    """A look at what a forward pass leaves in a network's buffers.

    Args:
        module: the network, with its buffers as everybody first finds them.
        weights: those of its buffers that are weights, which stay out of this.
    """

    def __init__(self, module: nn.Module, weights: Collection[Tensor]) -> None:
        self._module, self._weights = module, {id(tensor) for tensor in weights}
        self._first = {name: tensor.detach().clone() for name, tensor in self._buffers()}

    def __bool__(self) -> bool:
        return bool(self._first)

    def say(self, fresh: Callable[[], object], ask: Callable[[], object], differs: Callable[[Any], bool]) -> None:
        """Say so, once, where the pass that was just made changes what the next one answers.

        Args:
            fresh: puts back what a pass may have changed, random numbers included.
            ask: a pass, without that.
            differs: whether its outputs are others than the first ones.

        Warns:
            UserWarning: they are.
        """
        left = {
            name: tensor.detach().clone()
            for name, tensor in self._buffers()
            if name not in self._first or not _same(self._first[name], tensor)
        }
        if not left:
            return
        fresh()

        def put() -> None:
            for name, tensor in left.items():
                path, _, own = name.rpartition(".")
                self._module.get_submodule(path)._buffers[own] = tensor

        within(Inference(True), put)
        try:
            carries = differs(ask())
        finally:
            fresh()
        if carries:
            warnings.warn(
                f"parent: what it answers depends on the batch before, by {_some(left)}: fitness depends on batch "
                "size and the order of samples; reset that at the start of forward (snnTorch: layer.reset_mem())",
                UserWarning,
                stacklevel=2,
            )

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._module.named_buffers():
            if id(tensor) not in self._weights and words_of(tensor) is not None:  # else its bits are not comparable
                yield name, tensor


def check_attributes(module: nn.Module, ask: Callable[[], object]) -> None:
    """Refuse a network that answers otherwise each time, if what it keeps as attributes is something else by then.

    Args:
        module: the network.
        ask: a pass, from what everybody first finds.

    Raises:
        InvalidValue: there are such attributes.
    """
    before = {place: copied(value) for place, value in _attributes(module)}
    ask()
    places = [place for place, now in _attributes(module) if place not in before or not _alike(before[place], now)]
    changed = dict.fromkeys(name for name, _ in places)
    if changed:
        raise InvalidValue(
            "parent: expected the same outputs for the same samples, got others, as it keeps "
            f"{_some(changed)} from one forward pass to the next; reset that at the start of forward, or make it a "
            "buffer (register_buffer), which is put back before each child"
        )


def _attributes(module: nn.Module) -> Iterator[tuple[tuple[str, Any], Any]]:
    """Tensors and mere values that modules keep: the attribute's name, the one within it, and the value."""
    for path, part in module.named_modules():
        for name, _, key, value in attributes_of(part):
            if words_of(value) is not None if isinstance(value, Tensor) else is_simple(value):
                yield (f"{path}.{name}" if path else name, key), value


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _same(one, other)
    return same(one, other)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and same_bits(one, other)


def _some(names: Collection[str]) -> str:
    return ", ".join([*names][:_NAMED]) + (", ..." if len(names) > _NAMED else "")
