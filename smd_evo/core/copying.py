"""Copies of networks, also of those that keep what a forward pass with gradients has left."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["whole_copy", "without_graphs"]

_Module = TypeVar("_Module", bound=nn.Module)


def whole_copy(module: _Module) -> _Module:
    """A deep copy, whose buffers and attributes are what they are now.

    Spiking networks that were just trained keep membrane potentials in buffers, others their features in attributes,
    with the graph that they came from, and PyTorch copies no tensor that has one.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 2)
        >>> layer.register_buffer("mem", layer.weight * 2)
        >>> other = whole_copy(layer)
        >>> torch.equal(other.mem, layer.mem), other.mem.requires_grad
        (True, False)
    """
    return copy.deepcopy(module, without_graphs(module, {}))


def without_graphs(module: nn.Module, memo: dict[int, Any]) -> dict[int, Any]:
    """What ``deepcopy`` is to put in the place of tensors that have a graph: buffers, and what attributes hold."""
    waiting: list[Any] = [*module.buffers(), *(value for part in module.modules() for value in vars(part).values())]
    seen = set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            if not value.is_leaf and id(value) not in memo:
                memo[id(value)] = value.detach().clone()
        elif isinstance(value, list | tuple | dict) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value
    return memo
