"""How fast a network is here and now, for rough times of what is to come."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace

import torch

from smd_evo.core.mutation import Lineage
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.experiments.workload import Workload

__all__ = ["seconds_per_image", "timed"]

_SLOWER = 1.2
"""Times as long, below which it may be chance."""

_FEW, _MORE, _LONG = 32, 256, 0.5
"""Images of the first timing and of the second, which is made unless the first took so many seconds."""


def timed(workload: Workload, evaluator: Evaluator, note: str = "") -> Workload:
    """The same with the time that it takes the evaluator's network, and what else there is to know of that.

    A low precision that is no faster here is warned of.
    """
    each = seconds_per_image(evaluator)
    kind = evaluator.space.device.type
    if torch.is_autocast_enabled(kind) and evaluator.samples:
        with torch.autocast(kind, enabled=False):
            whole = seconds_per_image(evaluator)
        if each > _SLOWER * whole:
            warnings.warn(
                f"precision: bfloat16 takes {each / whole:.1f} times as long as float32 on this device; leave it out",
                stacklevel=2,
            )
    return replace(workload, seconds=workload.evaluations * each, note=note)


def seconds_per_image(evaluator: Evaluator) -> float:
    """How long the parent takes for an image: timed on a few of its samples, after a first call.

    The noise of children comes on top, which counts only where a network is large and the images are few.
    """
    _timed(evaluator, 1)  # what PyTorch only does once, and the trial of the weights
    first = _timed(evaluator, _FEW)
    if not evaluator.samples:
        return first
    return first if first * min(_FEW, evaluator.samples) > _LONG else min(first, _timed(evaluator, _MORE))


def _timed(evaluator: Evaluator, count: int) -> float:
    if not evaluator.samples:  # a fitness of the network, which counts as one
        start = time.perf_counter()
        evaluator.evaluate([Lineage()])
        return time.perf_counter() - start
    some = evaluator.on_samples(torch.arange(min(count, evaluator.samples)))
    start = time.perf_counter()
    some.evaluate([Lineage()])
    return (time.perf_counter() - start) / some.samples
