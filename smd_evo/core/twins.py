"""Copies of a network that share its memory, but for what is to differ."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from smd_evo.core.exclusive import memory_of
from smd_evo.core.integers import INTEGERS

__all__ = ["sharing"]


def sharing(module: nn.Module, apart: Iterable[Tensor] = ()) -> dict[int, Any]:
    """A memo by which ``copy.deepcopy`` of a network copies everything but the memory of its weights.

    Parameters become others in the same memory, tied ones one other. Copied all the same are buffers, which forward
    passes write to (but for integers of 8 bits, which are weights where they are many), and what is no plain tensor.

    Args:
        module: the network, or what holds it is copied.
        apart: tensors of it that are copied, with all that lies in their memory.

    Example:
        >>> import copy
        >>> network = nn.Linear(3, 2)
        >>> twin = copy.deepcopy(network, sharing(network, [network.bias]))
        >>> [own.data_ptr() == other.data_ptr() for own, other in zip(network.parameters(), twin.parameters())]
        [True, False]
    """
    taken = {memory_of(tensor) for tensor in apart}
    memo: dict[int, Any] = {}
    for tensor in chain(module.parameters(), module.buffers()):
        if memory_of(tensor) in taken or tensor.is_inference() or not _plain(tensor):
            continue
        if type(tensor) is nn.Parameter:
            memo[id(tensor)] = nn.Parameter(tensor.data, tensor.requires_grad)
        elif type(tensor) is Tensor and tensor.dtype in INTEGERS:
            memo[id(tensor)] = tensor.data
    return memo


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor's memory is all that there is to it."""
    return type(tensor.data) is Tensor and tensor.layout is torch.strided and not tensor.is_quantized
