"""Attributes: what a network keeps beside its parameters and buffers, such as masks that its first pass computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from smd_evo.core.blocks import Inference, within

__all__ = ["FEW", "Attributes", "attributes_of"]

_OF_MODULES = frozenset(vars(nn.Module()))
"""Names of what every module has."""

FEW = 1000
"""Entries of a list or dict that is looked into: no vocabulary."""


def attributes_of(part: nn.Module) -> Iterator[tuple[str, Any, Any, Any]]:
    """What a module keeps as attributes, and in a list, tuple or dict that is one.

    Returns:
        The attribute's name; what holds the value: the module's ``vars``, or the list, tuple or dict; its name or
        number there; and the value.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.masks = [3, 4]
        >>> [(name, key, value) for name, _, key, value in attributes_of(layer)][-2:]
        [('masks', 0, 3), ('masks', 1, 4)]
    """
    own = vars(part)
    for name, value in [*own.items()]:
        if name in _OF_MODULES:
            continue
        yield name, own, name, value
        if isinstance(value, list | tuple | dict) and len(value) <= FEW:
            for key, each in [*(value.items() if isinstance(value, dict) else enumerate(value))]:
                yield name, value, key, each


class Attributes:
    """Tensors that a network keeps as attributes, or in a list or dict that is one.

    Those that it makes while it is evaluated are made in inference mode. In a network that is trained afterwards they
    would be an error (*Inference tensors cannot be saved for backward*), so ordinary ones take their places.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._before = {id(tensor) for _, _, tensor in self._made()}

    def restore(self) -> None:
        """Ordinary copies in the place of those that have come since."""
        new = [(place, key, tensor) for place, key, tensor in self._made() if id(tensor) not in self._before]
        copies: dict[int, Tensor] = {}
        for place, key, tensor in new:
            if id(tensor) not in copies:
                copies[id(tensor)] = within(Inference(False), tensor.clone)
            place[key] = copies[id(tensor)]

    def _made(self) -> Iterator[tuple[Any, Any, Tensor]]:
        """Where each inference tensor is, under which name or number, and the tensor."""
        for part in self._module.modules():
            for _, place, key, value in attributes_of(part):
                if isinstance(value, Tensor) and value.is_inference() and not isinstance(place, tuple):
                    yield place, key, value
