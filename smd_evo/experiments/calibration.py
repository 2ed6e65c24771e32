"""The samples that calibrations look at."""

from __future__ import annotations

import torch

from smd_evo.evaluation.evaluator import Evaluator

__all__ = ["CALIBRATION", "on_few"]

CALIBRATION = 500
"""As many at most: a calibration's children are many, and its answer is a median."""


def on_few(evaluator: Evaluator) -> Evaluator:
    """The same evaluator, on the first of its samples."""
    if evaluator.samples <= CALIBRATION:
        return evaluator
    return evaluator.on_samples(torch.arange(CALIBRATION, device="cpu"))
