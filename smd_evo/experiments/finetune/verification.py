"""Children of a fine-tuning run checked: their fitness comes out again, but for rounding.

Another processor, or another number of threads, adds in another order. In float32 that changes outputs by some 1e-6
of their size (a unit roundoff of 6e-8, times what hundreds of additions and dozens of layers make of it), and the
cross-entropy of a sample by at most twice the change of its outputs. Convolutions on CUDA devices may round their
inputs to 11 bits (TensorFloat-32), autocast to bfloat16 rounds to 8, which is 1e-3 and 4e-3 of each product; most of
it averages out. Accuracy is a count: it changes where two outputs are as good as equal, by whole samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smd_evo.ensemble.files import load_children
from smd_evo.errors import NotReproduced
from smd_evo.evaluation.fitness import ACCURACY, BALANCED_ACCURACY, MACRO_F1
from smd_evo.evaluation.metrics import metric_of
from smd_evo.evaluation.race import finalists
from smd_evo.experiments.finetune.files import CHILDREN, read_config
from smd_evo.experiments.finetune.run import ranker_of
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.folders.content import CONFIG
from smd_evo.experiments.parent import in_precision
from smd_evo.experiments.progress import Logged, Progress
from smd_evo.experiments.settings import load_settings
from smd_evo.experiments.speed import timed
from smd_evo.experiments.workload import Part, workload

__all__ = ["Verified", "verify_children", "verify_run"]

_ALLOWED = {"float32": (1e-4, 1e-3), "cuda": (2e-3, 1e-2), "bfloat16": (2e-2, 5e-2)}
"""How far a loss may be off, in nats and of itself, and of how many samples the class may be another."""

_FEW = 2
"""Samples that may be of another class however few there are."""


@dataclass(frozen=True)
class Verified:
    """What came out.

    Attributes:
        children: how many were evaluated again.
        worst: the largest difference of a fitness to the stored one.
        allowed: what may be rounding, in words.
    """

    children: int
    worst: float
    allowed: str


def verify_children(
    config: FinetuneConfig, path: Path, progress: Progress | None = None, device: str = "cpu"
) -> Verified:
    """Apply the children of a file to their parent and evaluate them again.

    Args:
        config: settings of the run that wrote the file.
        path: the children file.
        progress: told of each child.
        device: where the run computed; it may be another one than that of the settings, where that is not there.

    Raises:
        ChildrenFileError, WrongParent: see :func:`smd_evo.ensemble.files.load_children`.
        NotReproduced: a fitness differs by more than what rounding can do.
    """
    progress = progress or Logged()
    _, ranker = ranker_of(config, progress)
    children = load_children(path, ranker.space)
    if config.race:  # the others have not seen all samples
        whole = finalists(len(children.members))
        children = replace(children, members=children.members[:whole], fitness=children.fitness[:whole])
    with in_precision(config):
        progress.expect(timed(workload([Part("children", len(children.members), ranker.samples)]), ranker))
        progress.start("children", len(children.members))
        again = ranker.evaluate(children.members, progress.advance).fitness
    rounding = "cuda" if "cuda" in f"{config.device} {device}" else "float32"
    limits, allowed = tolerance(
        children.fitness, config.fitness, ranker.samples, "bfloat16" if config.precision == "bfloat16" else rounding
    )
    differences = (again - children.fitness).abs()
    found = Verified(len(differences), float(differences.max()), allowed)
    if beyond := (~(differences <= limits)).nonzero().flatten().tolist():  # a NaN is beyond
        first = beyond[0]
        raise NotReproduced(
            f"{path}: expected the stored {config.fitness} of all {len(differences)} children again, but for "
            f"rounding ({allowed}), got {float(again[first]):.6g} instead of {float(children.fitness[first]):.6g} "
            f"for child {first + 1}, one of {len(beyond)} that differ; the file, the data or the network was changed"
        )
    return found


def tolerance(fitness: Tensor, name: str, samples: int, rounding: str) -> tuple[Tensor, str]:
    """How far each fitness may be from a stored one, float64 [N], and that in words.

    Args:
        fitness: the stored ones.
        name: the fitness's.
        samples: that it is the mean of.
        rounding: "float32", "cuda" (which may be TensorFloat-32) or "bfloat16".

    Example:
        >>> tolerance(torch.tensor([1.0, 9.0], dtype=torch.float64), "cross_entropy", 300, "float32")
        (tensor([0.0002, 0.0010], dtype=torch.float64), '1e-04 x (1 + the stored loss), in float32')
        >>> tolerance(torch.tensor([0.9], dtype=torch.float64), "accuracy", 5000, "float32")
        (tensor([0.0011], dtype=torch.float64), '5 of 5,000 samples, in float32')
    """
    share, flips = _ALLOWED[rounding]
    where = "on a CUDA device" if rounding == "cuda" else f"in {rounding}"
    if name in (ACCURACY.name, BALANCED_ACCURACY.name, MACRO_F1.name) or metric_of(name):  # ranks and thresholds jump
        count = max(_FEW, round(flips * samples))
        return torch.full_like(fitness, (count + 0.5) / samples), f"{count:,} of {samples:,} samples, {where}"
    return share * (1 + fitness.abs()), f"{share:.0e} x (1 + the stored loss), {where}"


def verify_run(
    run: Path, progress: Progress | None = None, trust: bool = False, given: Mapping[str, Any] | None = None
) -> Verified:
    """Evaluate the children of a run of a single generation again.

    Args:
        run: the run directory.
        progress: told of each child.
        trust: whether functions that the folder names may be imported.
        given: where its parent, data and fitness are now.

    Raises:
        NotReproduced: the fitness of a child differs from the stored one by more than rounding.
        InvalidValue, ChildrenFileError, WrongParent: ``run`` is no such run, or damaged, or of another parent.
    """
    config = read_config(run, trust, given)
    return verify_children(config, run / CHILDREN, progress, str(load_settings(run / CONFIG).get("device")))
