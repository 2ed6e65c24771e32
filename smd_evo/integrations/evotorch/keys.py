"""Keys from EvoTorch's random numbers."""

from __future__ import annotations

import torch
from evotorch import Problem

from smd_evo.core.keys import Key

__all__ = ["draw_key"]


def draw_key(problem: Problem) -> Key:
    """A key from the problem's generator, or from torch's global one if it has none, as EvoTorch does it."""
    word = torch.empty((), dtype=torch.int64, device=problem.device)
    return int(word.random_(generator=problem.generator))  # make_randint moves the global generator besides
