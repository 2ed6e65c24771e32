"""ResNet-20 with weights of few bits: how much of what quantisation costs comes back without a gradient.

    python benchmarks/gradient_free/quantised.py WORK [--seeds 0,1,2] [--methods ...] [--forwards N]

WORK: see ``cifar``. Plain int8 with a scale for each channel loses nothing (``--losses`` prints what codes lose),
so the levels are those of int3, in int8. Our methods mutate the int8 levels themselves, or what is float beside them;
the rivals, which know only floats, a float copy of the levels that is rounded in each forward pass.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import ours
import rivals
from cifar import Images, descended
from codes import Quantised, quantised
from frame import Task, main
from torch import nn

from smd_evo import Evaluator, Lineage
from smd_evo.controls.outputs import Scaled, fit_scaling

BITS, FORWARDS, MINIBATCH = 3, 50_000, 64
FLOATS = "norm,bias"
LEVELS_RATE = 0.03
MADE: dict[str, Any] = {}


def prepare(work: Path) -> None:
    MADE["images"] = Images(work)


def task(seed: int) -> Task:
    """Seeds are of children and minibatches; images and parent are the same."""
    images: Images = MADE["images"]
    return Task(
        quantised(images.parent, BITS, floats=True),
        images.cost,
        samples=5000,
        minibatch=MINIBATCH,
        validate=images.validate,
        select="*.levels",
        data=images.data,
        own=quantised(images.parent, BITS, floats=False),
        own_select="*.levels",
    )


def test(module: nn.Module) -> dict[str, float]:
    return MADE["images"].test(module)


def outputs(network: nn.Module, samples: Any) -> Any:
    return Evaluator(network, samples).predict([Lineage()])[0]


def float_network(task: Task, seed: int) -> tuple[nn.Module, int]:
    """What was quantised."""
    return MADE["images"].parent, 0


def calibrated_outputs(task: Task, seed: int) -> tuple[nn.Module, int]:
    """Free: a temperature and class biases, of 1,000 images."""
    inputs, classes = (part[:1000] for part in task.data.fitness)
    return Scaled(task.network, fit_scaling(outputs(task.network, (inputs, classes)), classes)), 1000


def batchnorm(task: Task, seed: int) -> tuple[nn.Module, int]:
    """Free: statistics of the quantised network's own features in its normalisations; labels choose their share."""
    return ours.adapted(task), task.samples


def adam_then_quantised(task: Task, seed: int) -> tuple[nn.Module, int]:
    """A gradient on the float network, the same images, and quantised again: three forward passes an image."""
    network, passes = descended(copy.deepcopy(MADE["images"].parent), task, 3e-4, seed)
    return quantised(network, BITS, floats=True), passes


def adam_beside(task: Task, seed: int) -> tuple[nn.Module, int]:
    """A gradient on what is float in the quantised network: norms and biases."""
    return descended(quantised(MADE["images"].parent, BITS, floats=False), task, 3e-3, seed)


def adam_surrogate(task: Task, seed: int) -> tuple[nn.Module, int]:
    """A gradient on everything in the quantised network, straight through what is rounded; levels are in steps."""
    network = copy.deepcopy(task.network)
    through = [each for each in network.modules() if isinstance(each, Quantised)]
    return descended(network, task, 3e-3, seed, through, {"levels": LEVELS_RATE})


METHODS = {
    **rivals.methods(),
    "int8-es": (ours.SparseSearch, ours.sparse()),
    "norm-es": ours.dense_of(FLOATS),
    "adapted-norm-es": ours.dense_of(FLOATS, 0.25, ours.adapted),
    "adapted-newton": ours.newton_of(FLOATS, ours.adapted, images=200),
}
SPECIAL = {
    "float": float_network,
    "calibrated": calibrated_outputs,
    "batchnorm": batchnorm,
    "adam-quantised": adam_then_quantised,
    "adam-norms": adam_beside,
    "adam-surrogate": adam_surrogate,
}


def losses() -> None:
    """What each code loses."""
    print("| bits | accuracy, % | loss |\n| --- | --- | --- |")
    for bits in (32, 8, 6, 5, 4, 3, 2):
        parent = MADE["images"].parent
        found = test(parent if bits == 32 else quantised(parent, bits, floats=False))
        print(f"| {bits} | {' | '.join(f'{value:.4g}' for value in found.values())} |", flush=True)


if __name__ == "__main__":
    if "--losses" in sys.argv:
        prepare(Path(sys.argv[1]))
        losses()
    else:
        main("quantised", task, test, FORWARDS, METHODS, prepare=prepare, special=SPECIAL)
