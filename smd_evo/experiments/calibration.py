"""The samples that calibrations look at."""

from __future__ import annotations

import torch

from smd_evo.evaluation.evaluator import Evaluator

__all__ = ["few", "on_few"]

_MOST = 500
"""A calibration's children are many, and its answer is a median."""


def few(samples: int, race: bool = False) -> int:
    """How many of so many samples calibrations look at; half in a race, where they would cost most otherwise.

    >>> few(300), few(5000), few(300, race=True)
    (300, 500, 150)
    """
    return min(_MOST, -(-samples // 2) if race else samples)


def on_few(evaluator: Evaluator, race: bool = False) -> Evaluator:
    """The same evaluator, on the first of its samples."""
    count = few(evaluator.samples, race)
    return evaluator if count == evaluator.samples else evaluator.on_samples(torch.arange(count, device="cpu"))
