"""Arithmetic that gives the same bits on every processor and device, where PyTorch's own does not.

IEEE 754 fixes additions, multiplications, divisions, square roots and conversions to the last bit, and PyTorch
computes most of them so. Not: square roots on a CPU (a vector library's, wrong in the last place for one float64 in
eighty and one float32 in six), sums and means (their order follows the width of vectors and the number of threads),
and ``add(alpha=)``, ``addcmul`` and ``lerp``, which round once or twice, as the processor has fused multiply-adds
or not.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

__all__ = ["deviation", "norm", "power", "sqrt_", "total"]

_PIECE = 2**20


def sqrt_(values: Tensor) -> Tensor:
    """Square root in place, rounded as IEEE 754 says.

    Example:
        >>> import torch
        >>> sqrt_(torch.tensor([4.0, 2.0], dtype=torch.float64)).tolist()
        [2.0, 1.4142135623730951]
    """
    if values.device.type != "cpu":
        return values.sqrt_()  # CUDA's sqrt.rn
    array = values.numpy()
    np.sqrt(array, out=array)
    return values


def total(values: Tensor) -> float:
    """Sum of a tensor's elements in float64, in a fixed order: by halves, and exactly over pieces of 2**20.

    Example:
        >>> import torch
        >>> total(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
        0.6000000000000001
    """
    return math.fsum(_by_halves(piece.double()) for piece in values.detach().reshape(-1).split(_PIECE))


def deviation(values: Tensor) -> float:
    """Standard deviation of all elements, in float64; 0 if there are none.

    Example:
        >>> import torch
        >>> deviation(torch.tensor([1.0, 3.0]))
        1.0
    """
    count = values.numel()
    if not count:
        return 0.0
    flat = values.detach().reshape(-1)
    mean = total(flat) / count
    squares = (_by_halves((piece.double() - mean).square()) for piece in flat.split(_PIECE))
    return math.sqrt(math.fsum(squares) / count)


def norm(values: Tensor) -> float:
    """Euclidean length, in float64.

    Example:
        >>> import torch
        >>> norm(torch.tensor([3.0, 4.0]))
        5.0
    """
    pieces = (piece.double() for piece in values.detach().reshape(-1).split(_PIECE))
    return math.sqrt(math.fsum(_by_halves(piece.square()) for piece in pieces))


def power(base: float, exponent: int) -> float:
    """``base ** exponent`` for exponents >= 0 by squarings: a C library's powers differ in the last place.

    Example:
        >>> power(0.5, 3)
        0.125
    """
    result = 1.0
    while exponent > 0:
        if exponent % 2:
            result *= base
        base, exponent = base * base, exponent // 2
    return result


def _by_halves(values: Tensor) -> float:
    """The second half is added to the first until one number is left."""
    while len(values) > 1:
        half = (len(values) + 1) // 2
        head = values[:half].clone()
        head[: len(values) - half] += values[half:]
        values = head
    return float(values[0]) if len(values) else 0.0
