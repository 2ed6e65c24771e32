"""Several children of one parent as three tensors, as modules and files hold them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from smd_evo.core.delta import SparseValues
from smd_evo.errors import InvalidType, InvalidValue

__all__ = ["pack", "unpack"]


def pack(children: Sequence[SparseValues]) -> tuple[Tensor, Tensor, Tensor]:
    """Indices and values of all children, one behind the other, and how many are of each: int64 [N]."""
    indices = torch.cat([child.indices for child in children])
    values = torch.cat([child.values for child in children])
    lengths = torch.tensor([len(child) for child in children], dtype=torch.int64, device=indices.device)
    return indices, values, lengths


def unpack(indices: Tensor, values: Tensor, lengths: Tensor, size: int) -> list[SparseValues]:
    """Inverse of :func:`pack`, of values in any floating type; views where that is possible.

    Args:
        indices, values, lengths: from anywhere; nothing of what they hold is trusted.
        size: D, the number of coordinates of the parent.

    Raises:
        InvalidValue, InvalidType: they do not fit each other or the parent.
    """
    if lengths.dtype != torch.int64:
        raise InvalidType(f"lengths: expected int64, got {lengths.dtype}")
    counts = lengths.tolist()
    if min(counts, default=0) < 0 or not sum(counts) == len(indices) == len(values):
        raise InvalidValue(
            f"lengths: expected numbers >= 0 that add up to {len(indices)} indices and {len(values)} values, "
            f"got the sum {sum(counts)} and the smallest {min(counts, default=0)}"
        )
    if len(indices) and int(indices.max()) >= size:
        raise InvalidValue(f"indices: expected numbers below D = {size}, got {int(indices.max())}")
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    return [SparseValues(*piece) for piece in zip(indices.split(counts), wide.split(counts), strict=True)]
