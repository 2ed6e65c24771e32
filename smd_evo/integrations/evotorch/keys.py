"""Keys from EvoTorch's random numbers."""

from __future__ import annotations

import torch
from evotorch import Problem

from smd_evo.core.keys import Key

__all__ = ["draw_key"]


def draw_key(problem: Problem) -> Key:
    """A key from the problem's generator, or from torch's global one if it has none, as EvoTorch does it."""
    return int(problem.make_randint((), n=2**63 - 1, dtype=torch.int64))
