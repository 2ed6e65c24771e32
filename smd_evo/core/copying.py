"""Copies of networks, also of those that keep what a forward pass with gradients has left."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import nn

__all__ = ["whole_copy", "without_graphs"]

_Module = TypeVar("_Module", bound=nn.Module)


def whole_copy(module: _Module) -> _Module:
    """A deep copy, whose buffers are what they are now.

    Spiking networks that were just trained keep membrane potentials in buffers, with the graph that they came from,
    and PyTorch copies no tensor that has one.

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
    """What ``deepcopy`` is to put in the place of a network's buffers that have a graph."""
    graphs = (buffer for buffer in module.buffers() if not buffer.is_leaf)
    memo.update({id(buffer): buffer.detach().clone() for buffer in graphs if id(buffer) not in memo})
    return memo
