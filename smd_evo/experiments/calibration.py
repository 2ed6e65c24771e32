"""The samples that calibrations look at."""

from __future__ import annotations

from smd_evo.core.keys import derive
from smd_evo.evaluation.data import minibatch
from smd_evo.evaluation.evaluator import Evaluator

__all__ = ["few", "on_few"]

_MOST = 500
"""A calibration's children are many, and its answer is a median."""

_KEY = derive(0, "samples of calibrations")


def few(samples: int, race: bool = False) -> int:
    """How many of so many samples calibrations look at; half in a race, where they would cost most otherwise.

    >>> few(300), few(5000), few(300, race=True)
    (300, 500, 150)
    """
    return min(_MOST, -(-samples // 2) if race else samples)


def on_few(evaluator: Evaluator, race: bool = False) -> Evaluator:
    """The same evaluator, on some of its samples: drawn, as the first ones may all be of one class."""
    count, samples = few(evaluator.samples, race), evaluator.samples
    return evaluator if count == samples else evaluator.on_samples(minibatch(_KEY, 0, count, samples))
