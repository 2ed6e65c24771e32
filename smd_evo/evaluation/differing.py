"""How far outputs of a network differ from others of it."""

from __future__ import annotations

import torch
from torch import Tensor

from smd_evo.evaluation.buffers import same_bits

__all__ = ["distance", "size"]


def size(outputs: list[Tensor]) -> float:
    """The largest value of all."""
    return max((float(_wide(one).abs().nan_to_num(0, 0, 0).max()) for one in outputs if one.numel()), default=0.0)


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    """Largest difference of outputs; 0 for the same bits, infinity where they are not comparable."""
    if [(part.shape, part.dtype) for part in one] != [(part.shape, part.dtype) for part in other]:
        return float("inf")
    found = 0.0
    for mine, yours in zip(one, other, strict=True):
        if not same_bits(mine, yours):
            mine, yours = _wide(mine), _wide(yours)
            same = (mine == yours) | (mine.isnan() & yours.isnan())
            difference = (mine - yours).abs().masked_fill(same, 0)
            found = max(found, float(difference.nan_to_num(float("inf")).max()))
    return found


def _wide(tensor: Tensor) -> Tensor:
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double()
