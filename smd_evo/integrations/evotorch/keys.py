"""Keys from EvoTorch's random numbers."""

from __future__ import annotations

import torch
from evotorch import Problem

from smd_evo.core.keys import Key, derive, folded

__all__ = ["draw_key", "generator_seed"]


def draw_key(problem: Problem) -> Key:
    """A key from the problem's generator, or from torch's global one if it has none, as EvoTorch does it.

    Of its seed torch's generator of the CPU takes the low 32 bits. It remembers the others, and they count here: for
    each number drawn, keys of different high halves differ (:func:`derive` is a bijection).
    """
    word = torch.empty((), dtype=torch.int64, device=problem.device)
    drawn = int(word.random_(generator=problem.generator))  # make_randint moves the global generator besides
    high = (problem.generator or torch.default_generator).initial_seed() >> 32
    return derive(drawn, high) if high else drawn


def generator_seed(seed: Key) -> Key:
    """The seed for a problem's generator: that of the CPU shall draw other numbers where the high half differs, too.

    >>> generator_seed(5), generator_seed(2**40 + 5) >> 32 == 2**8
    (5, True)
    """
    return (seed >> 32) << 32 | folded(seed)
