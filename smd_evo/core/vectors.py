"""Sparse Gaussian mutation of plain vectors: populations of numbers that are no network's parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from smd_evo.core.keys import Key
from smd_evo.core.layout import Layout
from smd_evo.core.mutation import sample_words
from smd_evo.core.noise import gaussian
from smd_evo.core.subspace import Dense, PartitionSubspace, RandomSubspace, Subspace
from smd_evo.errors import InvalidType, shown

__all__ = ["add_noise", "check_vector_subspace"]

_ROWS_TIMES_K = 2**22
"""Coordinates that are mutated in one go: they take about 100 bytes each while they are made."""


def check_vector_subspace(subspace: Subspace) -> Subspace:
    """The subspace, or an error if it is one of neurons, tensors or layers, which a plain vector has not."""
    if not isinstance(subspace, RandomSubspace | PartitionSubspace | Dense):
        raise InvalidType(
            f"subspace: expected a RandomSubspace, PartitionSubspace or Dense, got {shown(subspace)}; a plain "
            "vector has no neurons or tensors"
        )
    return subspace


def add_noise(
    values: Tensor,
    key: Key,
    *,
    subspace: Subspace,
    stdev: float | Tensor,
    generation: int = 0,
    low: Tensor | None = None,
    high: Tensor | None = None,
) -> None:
    """Add ``stdev * eps_S`` to each row, in place, on a subspace S of its own: O(k) a row.

    The sum is made in the wider of float32 and the values' type, and rounded once.

    Args:
        values: [N, L], of a floating dtype, contiguous.
        key, subspace, generation: of the N mutations, as in :func:`smd_evo.core.mutation.sample_mutations`.
        stdev: standard deviation of the noise, > 0; or float64 [N], one for each row.
        low, high: bounds of the values, 0-d or [L]; what is not touched is not looked at.

    Example:
        >>> values = torch.zeros(3, 10)
        >>> add_noise(values, 1, subspace=RandomSubspace(0.2), stdev=0.5)
        >>> (values != 0).sum(1).tolist()
        [2, 2, 2]
    """
    if not values.numel():
        return
    device, layout = values.device, Layout.flat(values.shape[1])
    keys, draws, _ = sample_words(key, len(values), subspace, generation, antithetic=False)
    keys, draws = keys.to(device), draws.to(device)
    bounds = [bound if bound is None else bound.to(device).expand(layout.size) for bound in (low, high)]
    step = max(1, _ROWS_TIMES_K // len(subspace.coordinates(0, layout)))
    for start in range(0, len(values), step):
        rows = slice(start, start + step)
        numbers, coordinates = subspace.coordinates_of(draws[rows], layout)
        strengths = stdev if isinstance(stdev, float) else stdev.to(device)[rows][numbers]
        noise = gaussian(keys[rows][numbers], coordinates, torch.float64).mul_(strengths)
        elements, places = values[rows].view(-1), numbers * layout.size + coordinates
        old = elements.index_select(0, places)  # several times faster than values[numbers, coordinates]
        wide = torch.promote_types(old.dtype, torch.float32)
        new = (old.to(wide) + noise.to(wide)).to(old.dtype)
        for bound, limit in zip(bounds, (torch.maximum, torch.minimum), strict=True):
            if bound is not None:
                new = limit(new, bound[coordinates].to(new))
        elements.index_copy_(0, places, new)
