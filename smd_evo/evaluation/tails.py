"""Tails: operations that compute the last elements of a tensor by other instructions than the ones before.

A CPU computes elements by so many at a time; what is left at the end of a tensor, or of a thread's share of it, goes
through scalar functions, whose last bits may differ. Where several children lie in one tensor, those are the last
child's. A trial need not show it: often the few bits agree by chance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from smd_evo.core.blocks import Inference, within
from smd_evo.evaluation.dispatch import DispatchBlock
from smd_evo.evaluation.probe import tensors_in

__all__ = ["tails_in"]

_BYTES = 128
"""PyTorch's loops take two of the widest vectors at a time."""

_GRAIN = 32768
"""Elements that one thread takes at least (``at::internal::GRAIN_SIZE``)."""

_SAME = frozenset(
    (
        *("abs", "add", "clamp", "clamp_min", "div", "mul", "neg", "relu", "sqrt", "sub", "threshold", "where"),
        *("_to_copy", "cat", "clone", "copy", "empty_like", "fill", "stack", "zeros_like"),
        *("_softmax", "_log_softmax", "addmm", "baddbmm", "bmm", "convolution", "mean", "mm", "sum"),
        *("_unsafe_view", "mkldnn_convolution", "native_batch_norm", "native_layer_norm", "repeat"),
        *("gather", "mse_loss", "nll_loss2d_forward", "nll_loss_forward"),
    )
)
"""Operations that are rounded correctly by any instruction, or go row by row, so that a trial shows what they do."""


def tails_in(function: Callable[[], object]) -> set[str]:
    """Names of the operations of a function whose last elements may have bits of their own."""
    tails = _Tails()

    def called() -> None:
        torch.set_grad_enabled(
            False
        )  # not inference mode, in which operations that are made of others are seen whole
        within(tails, function)

    within(Inference(False), called)
    return tails.found


class _Tails(DispatchBlock):
    """Notes them in ``found``."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(keywords or {}))
        name = str(getattr(function, "_overloadpacket", function)).rpartition(".")[2].rstrip("_")
        own = name in _SAME or not any(True for _ in tensors_in(arguments))  # or it makes a tensor of nothing
        if not own and not getattr(function, "is_view", False) and any(map(_has_tail, tensors_in(result))):
            self.found.add(name)
        return result


def _has_tail(tensor: Tensor) -> bool:
    if tensor.device.type != "cpu" or not tensor.is_floating_point():
        return False
    threads = min(torch.get_num_threads(), -(-tensor.numel() // _GRAIN)) or 1
    share = -(-tensor.numel() // threads)
    step = _BYTES // tensor.element_size()
    return any((end % step) != 0 for end in (tensor.numel(), share if threads > 1 else 0))
