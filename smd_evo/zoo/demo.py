"""The embedded demo: real scans of digits, a small CNN trained on them, and a camera-like shift.

Data: the 1,797 8x8 scans of the UCI optical recognition set that scikit-learn ships (Alpaydin & Kaynak 1998).
The parent sees 697 of them as they are. Everything after that sees other digits through a simulated camera:
contrast times 0.8, a 3x3 Gaussian blur of 0.45 pixels, then sensor noise of standard deviation 0.1 on a
scale from 0 to 1, clipped. The parent is right about nearly all clean digits and loses much of that here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from smd_evo.core.keys import derive, folded
from smd_evo.core.noise import gaussian
from smd_evo.zoo.data import Data

__all__ = ["DemoCNN", "camera", "clean_digits", "shifted_digits", "split_digits", "trained_cnn"]

_CONTRAST, _BLUR, _NOISE = 0.8, 0.45, 0.1
_SIZES = {"test": 500, "validation": 300, "fitness": 300}
_PARENT = Path(__file__).with_name("demo-cnn.safetensors")


class DemoCNN(nn.Module):
    """Three 3x3 convolutions with batch normalisation, mean pooling, a linear head: 14,458 parameters.

    Example:
        >>> DemoCNN()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, 10] of images [n, 1, 8, 8]."""
        features = functional.relu(self.bn1(self.conv1(images)))
        features = functional.relu(self.bn2(self.conv2(features)))
        # The largest of 2 x 2 pixels; `max_pool2d`, which also notes where they are, would take as long as all else.
        rows = torch.maximum(features[:, :, ::2], features[:, :, 1::2])
        features = torch.maximum(rows[..., ::2], rows[..., 1::2])
        features = functional.relu(self.bn3(self.conv3(features)))
        return self.head(features.mean((2, 3)))  # type: ignore[no-any-return]


def camera(images: Tensor, key: int) -> Tensor:
    """Images [n, 1, h, w] on a scale from 0 to 1 as the simulated camera sees them."""
    profile = torch.exp(-images.new_tensor([1.0, 0.0, 1.0]) / (2 * _BLUR**2))
    profile /= profile.sum()
    kernel = (profile[:, None] * profile)[None, None]
    blurred = functional.conv2d(functional.pad(images * _CONTRAST, (1, 1, 1, 1), "replicate"), kernel)
    noise = gaussian(key, torch.arange(images.numel(), device=images.device)).view_as(images)
    return (blurred + _NOISE * noise).clamp(0, 1)


def shifted_digits(seed: int) -> Data:
    """The demo's data: 697 clean scans that the parent saw, and 300 / 300 / 500 shifted ones, stratified by class.

    The parent's are the same for every seed; which of the others are for what depends on it, as does the noise.
    """
    images, targets = clean_digits()
    indices = split_digits(targets, seed)
    shifted = camera(images, derive(seed, "camera"))
    splits = {split: (shifted[indices[split]], targets[indices[split]]) for split in _SIZES}
    return Data(
        name="digits",
        description="scikit-learn's digits through a simulated camera (contrast, blur, sensor noise)",
        classes=tuple(map(str, range(10))),
        fitness=splits["fitness"],
        validation=splits["validation"],
        test=splits["test"],
        indices=indices,
    )


def clean_digits() -> tuple[Tensor, Tensor]:
    """All 1,797 scans as they are, [n, 1, 8, 8] from 0 to 1, and their digits."""
    digits = load_digits()
    images = torch.tensor(digits.images / digits.images.max(), dtype=torch.float32, device="cpu")[:, None]
    return images, torch.tensor(digits.target, dtype=torch.int64, device="cpu")


def split_digits(targets: Tensor, seed: int) -> dict[str, NDArray[np.int64]]:
    """Which scans are in which split; "source" is the parent's part."""
    source, splits = _dealt(targets, np.arange(len(targets)), _SIZES, 0)
    if seed:
        others = np.setdiff1d(np.arange(len(targets)), source)
        splits["fitness"], chosen = _dealt(targets, others, {"test": 500, "validation": 300}, seed)
        splits |= chosen
    return {"source": source, **splits}


def _dealt(
    targets: Tensor, rest: NDArray[np.int64], sizes: Mapping[str, int], seed: int
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]:
    """What is left when splits of these sizes have been drawn, and them."""
    splits = {}
    for split, size in sizes.items():
        rest, splits[split] = train_test_split(
            rest, test_size=size, stratify=targets[rest], random_state=folded(seed)
        )
    return rest, splits


def trained_cnn() -> DemoCNN:
    """The demo's parent: a file of the package, as other processors would train others.

    Training makes much of the last bit, in which kernels differ: one recipe trained networks that have 66, 68 or 70 %
    on the test split. ``benchmarks/demo_parent.py`` trained this one, by SGD on the clean scans.
    """
    with torch.random.fork_rng(devices=[]):
        network = DemoCNN()
    network.load_state_dict(load_file(_PARENT))
    return network.eval()
