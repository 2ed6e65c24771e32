"""Sparse noise of a plain vector, for genomes so small that tensors cost more than their numbers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from smd_evo.core import fast
from smd_evo.core.keys import Key
from smd_evo.core.noise import gaussian, permutation, rounds_of
from smd_evo.core.subspace import RandomSubspace, share

__all__ = ["sparse_noise"]


def sparse_noise(
    rule: RandomSubspace, draw: int, key: Key, size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The coordinates of a draw in a vector of ``size`` numbers, and the Gaussian field there.

    To the same bits what ``rule.coordinates(draw, Layout.flat(size))`` and ``gaussian`` of them are.

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
