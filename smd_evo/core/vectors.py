"""Sparse Gaussian noise of plain vectors: numbers that are no network's parameters, one genome or a population."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smd_evo.core import fast
from smd_evo.core.keys import Key
from smd_evo.core.layout import Layout
from smd_evo.core.mutation import sample_words
from smd_evo.core.noise import gaussian, permutation, rounds_of
from smd_evo.core.subspace import Dense, PartitionSubspace, RandomSubspace, Subspace, share
from smd_evo.errors import InvalidType, shown

__all__ = ["add_noise", "check_vector_subspace", "sparse_noise"]

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
    sigma: float | Tensor,
    generation: int = 0,
    low: Tensor | None = None,
    high: Tensor | None = None,
) -> None:
    """Add ``sigma * eps_S`` to each row, in place, on a subspace S of its own: O(k) a row.

    The sum is made in the wider of float32 and the values' type, and rounded once.

    Args:
        values: [N, L], of a floating dtype, contiguous.
        key, subspace, generation: of the N mutations, as in :func:`smd_evo.core.mutation.sample_mutations`.
        sigma: standard deviation of the noise, > 0; or float64 [N], one for each row.
        low, high: bounds of the values, 0-d or [L]; what is not touched is not looked at.

    Example:
        >>> values = torch.zeros(3, 10)
        >>> add_noise(values, 1, subspace=RandomSubspace(0.2), sigma=0.5)
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
        strengths = sigma if isinstance(sigma, float) else sigma.to(device)[rows][numbers]
        noise = gaussian(keys[rows][numbers], coordinates, torch.float64).mul_(strengths)
        elements, places = values[rows].view(-1), numbers * layout.size + coordinates
        old = elements.index_select(0, places)  # several times faster than values[numbers, coordinates]
        wide = torch.promote_types(old.dtype, torch.float32)
        new = (old.to(wide) + noise.to(wide)).to(old.dtype)
        for bound, limit in zip(bounds, (torch.maximum, torch.minimum), strict=True):
            if bound is not None:
                new = limit(new, bound[coordinates].to(new))
        elements.index_copy_(0, places, new)


def sparse_noise(
    rule: RandomSubspace, draw: int, key: Key, size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The coordinates of a draw in a vector of ``size`` numbers, and the Gaussian field there.

    To the same bits what ``rule.coordinates(draw, Layout.flat(size))`` and ``gaussian`` of them are, but by arrays:
    of ten numbers, tensors cost more than the noise.

    Args:
        rule: of the coordinates.
        draw: from ``rule.draw``.
        key: of the field.
        size: length of the vector, at least 1 and at most 2**40.

    Returns:
        Sorted distinct coordinates in [0, size), and a value for each.

    Example:
        >>> places, noise = sparse_noise(RandomSubspace(0.3), 5, 7, 10)
        >>> places.tolist(), noise.round(4).tolist() == gaussian(7, torch.tensor([0, 2, 6])).numpy().round(4).tolist()
        ([0, 2, 6], True)
    """
    places = np.arange(share(rule.density, size))
    if len(places) < size:
        moved = fast.images(draw, places, size, rounds_of(size))
        places = permutation(draw, torch.from_numpy(places), size).numpy() if moved is None else moved
        places.sort()
    noise = fast.field(key, places)
    return places, gaussian(key, torch.from_numpy(places)).numpy() if noise is None else noise
