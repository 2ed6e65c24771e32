"""ResNet-20 and the JPEG copy of CIFAR-10 for what is quantised: a float parent that fits its data, and the splits.

The published network was trained on the images without JPEG's losses. Before anything is quantised its float weights
are fine-tuned with gradients on the copy's training images, so that what is lost and won back here is the
quantisation's alone. Of the ten thousand test images 5,000 rank, 1,000 choose, 4,000 are reported.

WORK holds ``train/`` and ``test/`` of cifar10-jpeg.tar.xz and cifar10-resnet20.safetensors; the parent is kept there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from frame import Task, once
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import smd_evo
from smd_evo.zoo.cifar_resnet import CifarResNet

__all__ = ["Images", "descend", "scores"]

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STEP = 2  # every other training image
EPOCHS, BATCH, RATE = 2, 100, 1e-3


def pictures(folder: Path, step: int = 1) -> tuple[Tensor, Tensor]:
    """Images of a folder, normalised, and their classes; every step-th of them."""
    change = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, DEVIATION)])
    found = ImageFolder(folder, change)
    some = range(0, len(found), step)
    return torch.stack([found[number][0] for number in some]), torch.tensor(
        [found.targets[number] for number in some]
    )


def descend(
    network: nn.Module,
    samples: tuple[Tensor, Tensor],
    epochs: int,
    rate: float,
    seed: int = 0,
    rates: Mapping[str, float] | None = None,
) -> None:
    """Adam on everything with a falling rate and mirrored images, in place; statistics of normalisations stay.

    ``rates``: those of parameters with other names.
    """
    rates = rates or {}
    named = [(name.rpartition(".")[2], each) for name, each in network.named_parameters() if each.requires_grad]
    optimizer = torch.optim.Adam([{"params": [each], "lr": rates.get(name, rate)} for name, each in named])
    draws = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(samples[1]) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for numbers in torch.randperm(len(samples[1]), generator=draws).split(BATCH):
            mirrored = torch.rand(len(numbers), generator=draws) < 0.5
            images = samples[0][numbers]
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
            optimizer.zero_grad()
            cross_entropy(network(images), samples[1][numbers]).backward()
            optimizer.step()
            schedule.step()


def descended(
    network: nn.Module,
    task: Task,
    rate: float,
    seed: int,
    surrogates: Sequence[Any] = (),
    rates: Mapping[str, float] | None = None,
) -> tuple[nn.Module, int]:
    """A network after gradients within the task's budget, at three forward passes an image, and how many these were.

    Meanwhile each of ``surrogates``, what rounds in it, has a slope that is not its own.
    """
    passes = 3 * len(task.data.fitness[1])
    epochs = task.forwards // passes
    for each in surrogates:
        each.surrogate = True
    descend(network, task.data.fitness, epochs, rate, seed, rates)
    for each in surrogates:
        each.surrogate = False
    return network, passes * epochs


@torch.no_grad()
def scores(module: nn.Module, samples: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Accuracy in %, and loss."""
    logits = torch.cat([module(images) for images in samples[0].split(500)])
    right = (logits.argmax(1) == samples[1]).double().mean()
    return {"accuracy, %": 100 * float(right), "loss": float(cross_entropy(logits, samples[1]))}


def _save_images(work: Path, file: Path) -> None:
    inputs, classes = pictures(work / "test")
    save_file({"inputs": inputs, "classes": classes}, file)


def _save_parent(work: Path, file: Path) -> None:
    parent = CifarResNet(20).eval()
    parent.load_state_dict(load_file(work / "cifar10-resnet20.safetensors"))
    descend(parent, pictures(work / "train", STEP), EPOCHS, RATE)
    save_file(parent.state_dict(), file)


class Images:
    """The splits and the float parent, from files in WORK or made there."""

    def __init__(self, work: Path) -> None:
        tensors = load_file(once(work / "images.safetensors", lambda file: _save_images(work, file)))
        self.data = smd_evo.split((tensors["inputs"], tensors["classes"]), fitness=5000, validation=1000, seed=0)
        self.parent = CifarResNet(20).eval()
        self.parent.load_state_dict(
            load_file(once(work / "parent.safetensors", lambda file: _save_parent(work, file)))
        )

    def cost(self, module: nn.Module, numbers: Tensor) -> float:
        """Mean cross-entropy of some fitness images."""
        inputs, classes = self.data.fitness
        return float(cross_entropy(module(inputs[numbers]), classes[numbers]))

    def validate(self, module: nn.Module) -> float:
        """Less loss is better."""
        return -scores(module, self.data.validation)["loss"]

    def test(self, module: nn.Module) -> dict[str, float]:
        """Accuracy and loss on test."""
        return scores(module, self.data.test)
