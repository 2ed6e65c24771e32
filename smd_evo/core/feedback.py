"""Steps of a parent whose parameters are too coarse for them: what is rounded away is carried to the next step.

References:
    Seide, Fu, Droppo, Li, Yu, "1-Bit Stochastic Gradient Descent", Interspeech 2014 (error feedback).
    Karimireddy, Rebjock, Stich, Jaggi, "Error Feedback Fixes SignSGD", arXiv 1901.09847.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smd_evo.core.delta import SparseValues
from smd_evo.core.parameters import ParameterSpace

__all__ = ["take_step"]


def take_step(space: ParameterSpace, coordinates: Tensor, step: Tensor, rest: Tensor | None = None) -> Tensor:
    """Move the parent by ``step + rest`` as far as its parameters can, and return the rest that is left.

    Integers, float16 and bfloat16 leave a rest: at most half a step of the quantisation, or half the distance to the
    next number. What the end of an integer's range holds back is lost, or it would take as long to come back.

    Args:
        space: the parent's; no child is applied.
        coordinates: int64 [k], sorted, distinct.
        step: float32 [k].
        rest: float32 [k], what the last step returned for the same coordinates; None for nothing.

    Returns:
        float32 [k], 0 for parameters of 32 and 64 bits.

    Example:
        >>> from torch import nn
        >>> layer = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
        >>> _ = nn.init.ones_(layer.weight)
        >>> space, place, rest = ParameterSpace(layer), torch.tensor([0]), None
        >>> for _ in range(30):  # 1 is followed by 1.0078
        ...     rest = take_step(space, place, torch.tensor([0.001]), rest)
        >>> layer.weight.item(), round(layer.weight.item() + rest.item(), 4)
        (1.03125, 1.03)
    """
    left = step.clone() if rest is None else step + rest
    wide = torch.promote_types(space.dtype, torch.float32)
    before = space.values_at(coordinates, wide)
    space.fold(SparseValues(coordinates, before + left))
    left -= space.values_at(coordinates, wide).sub_(before)
    left[~left.isfinite()] = 0
    for start, end, most in space.coarseness(coordinates):
        left[start:end].clamp_(-most, most)
    return left
