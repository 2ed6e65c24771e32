"""Attributes: what a network keeps beside its parameters and buffers, such as masks that its first pass computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from smd_evo.core.blocks import Inference, within

__all__ = ["OF_MODULES", "Attributes"]

OF_MODULES = frozenset(vars(nn.Module()))
"""Names of what every module has."""

_FEW = 1000
"""Entries of a list or dict that is looked into: no vocabulary."""


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
            own = vars(part)
            for name, value in [*own.items()]:
                if name in OF_MODULES:
                    continue
                if isinstance(value, Tensor):
                    if value.is_inference():
                        yield own, name, value
                elif isinstance(value, list | dict) and len(value) <= _FEW:
                    for key, each in [*(value.items() if isinstance(value, dict) else enumerate(value))]:
                        if isinstance(each, Tensor) and each.is_inference():
                            yield value, key, each
