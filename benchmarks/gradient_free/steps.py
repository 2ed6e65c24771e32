"""ResNet-20 whose layers are given activations of two bits: how much of that comes back without a gradient.

    python benchmarks/gradient_free/steps.py WORK [--seeds 0,1,2] [--methods ...] [--forwards N]

WORK: see ``cifar``. Inputs of all convolutions but the first, and of the head, are rounded to four levels, 0 to 3
times a scale for each layer, which is the one of least squared error on 200 fitness images. Weights stay float, and
all methods mutate them; what is before a step has no gradient, so beside them stands Adam with a straight-through
slope, a surrogate.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import ours
import rivals
import torch
from cifar import Images, descended
from frame import Task, main
from quantised import batchnorm
from torch import Tensor, nn

FORWARDS, MINIBATCH, LEVELS, IMAGES = 50_000, 64, 3, 200
MADE: dict[str, Any] = {}


class Steps:
    """A forward pre-hook that rounds a layer's input; the first time it is asked it takes its scale from that."""

    def __init__(self) -> None:
        self.scale: float | None = None
        self.surrogate = False

    def __call__(self, module: nn.Module, given: tuple[Tensor]) -> Tensor:
        (x,) = given
        if self.scale is None:
            tried = [float(x.max()) * number / 40 / LEVELS for number in range(1, 41)]
            self.scale = min(tried, key=lambda scale: float((self._rounded(x, scale) - x).square().mean()))
        stepped = self._rounded(x, self.scale)
        if not self.surrogate:
            return stepped
        held = x.clamp(0, LEVELS * self.scale)
        return held + (stepped - held).detach()

    @staticmethod
    def _rounded(x: Tensor, scale: float) -> Tensor:
        return (x / scale).round().clamp(0, LEVELS) * scale


def stepped(network: nn.Module, images: Tensor) -> nn.Module:
    """A copy of a network with such activations, layer by layer, each scale found behind those before it."""
    twin = copy.deepcopy(network)
    hooks = []
    for name, layer in twin.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and name != "conv1":
            hooks.append(Steps())
            layer.register_forward_pre_hook(hooks[-1])
    with torch.no_grad():
        twin(images)
    return twin.eval()


def prepare(work: Path) -> None:
    MADE["images"] = images = Images(work)
    MADE["parent"] = stepped(images.parent, images.data.fitness[0][:IMAGES])


def task(seed: int) -> Task:
    """Seeds are of children and minibatches; images and parent are the same."""
    images: Images = MADE["images"]
    return Task(
        copy.deepcopy(MADE["parent"]),
        images.cost,
        samples=5000,
        minibatch=MINIBATCH,
        validate=images.validate,
        data=images.data,
    )


def test(module: nn.Module) -> dict[str, float]:
    return MADE["images"].test(module)


def float_network(task: Task, seed: int) -> tuple[nn.Module, int]:
    """With activations as they were."""
    return MADE["images"].parent, 0


def surrogate(task: Task, seed: int) -> tuple[nn.Module, int]:
    """Adam on everything, by slopes that are not the network's: three forward passes an image."""
    network = copy.deepcopy(task.network)
    hooks = [hook for layer in network.modules() for hook in layer._forward_pre_hooks.values()]
    return descended(network, task, 3e-4, seed, hooks)


FEW = "norm,bias,head"
METHODS = {
    **rivals.methods(),
    "sparse-es": (ours.SparseSearch, ours.sparse()),
    "norm-es": ours.dense_of(FEW),
    "adapted-norm-es": ours.dense_of(FEW, 0.25, ours.adapted),
    "adapted-newton": ours.newton_of(FEW, ours.adapted, images=200),
}
SPECIAL = {"float": float_network, "batchnorm": batchnorm, "adam-surrogate": surrogate}

if __name__ == "__main__":
    main("steps", task, test, FORWARDS, METHODS, prepare=prepare, special=SPECIAL)
