"""The embedded demo: real scans of digits, a small CNN trained on them, and a camera-like shift.

Data: the 1,797 8x8 scans of the UCI optical recognition set that scikit-learn ships (Alpaydin & Kaynak 1998).
The parent sees 697 of them as they are. Everything after that sees other digits through a simulated camera:
contrast times 0.8, a 3x3 Gaussian blur of 0.45 pixels, then sensor noise of standard deviation 0.1 on a
scale from 0 to 1, clipped. The parent is right about nearly all clean digits and loses much of that here.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from smd_evo.atomic import write_whole
from smd_evo.core.keys import derive, folded
from smd_evo.core.noise import gaussian
from smd_evo.zoo.data import Data

__all__ = ["DemoCNN", "camera", "shifted_digits", "trained_cnn"]

_CONTRAST, _BLUR, _NOISE = 0.8, 0.45, 0.1
_SIZES = {"test": 500, "validation": 300, "fitness": 300}
_PARENT = Path(__file__).with_name("demo-cnn.safetensors")
_EPOCHS, _BATCH, _RATE, _MOMENTUM, _DECAY = 30, 64, 0.2, 0.9, 5e-4


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
        features = functional.max_pool2d(functional.relu(self.bn2(self.conv2(features))), 2)
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
    """The demo's data: 697 clean scans for the parent, 300 / 300 / 500 shifted ones, stratified by class."""
    images, targets, indices = _clean(seed)
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


def _clean(seed: int) -> tuple[Tensor, Tensor, dict[str, NDArray[np.int64]]]:
    """All scans [n, 1, 8, 8] as they are, their digits, and who gets which; "source" is the parent's part."""
    digits = load_digits()
    images = torch.tensor(digits.images / digits.images.max(), dtype=torch.float32, device="cpu")[:, None]
    rest, indices = np.arange(len(images)), {}
    for split, size in _SIZES.items():
        rest, indices[split] = train_test_split(
            rest, test_size=size, stratify=digits.target[rest], random_state=folded(seed)
        )
    targets = torch.tensor(digits.target, dtype=torch.int64, device="cpu")
    return images, targets, {"source": rest, **indices}


def trained_cnn(seed: int, cache: Path | None = None) -> DemoCNN:
    """The demo's parent, trained by SGD on the clean scans: for seed 0 a file of the package, else made here.

    Training makes much of the last bit, in which kernels of different processors differ: one seed trains networks
    that have 66, 68 or 70 % on the test split. The file's is the same everywhere. It was trained by :func:`_train`
    with PyTorch's plainest kernels (``ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41``).

    Args:
        seed: of the demo's data, the initial weights and the order of the samples.
        cache: folder of parents trained here, each in a few seconds; by default ``smd_evo`` in torch hub's.
    """
    network = _untrained(0)
    if seed == 0:
        network.load_state_dict(load_file(_PARENT))
        return network.eval()
    folder = cache or Path(torch.hub.get_dir()) / "smd_evo"
    # Another version of this file may train another parent.
    version = hashlib.blake2b(Path(__file__).read_bytes(), digest_size=4).hexdigest()
    file = folder / f"demo-cnn-{version}-{torch.__version__}-{seed}.safetensors"
    try:
        network.load_state_dict(_cached(file))
    except (OSError, SafetensorError, RuntimeError):  # absent or damaged: trained anew
        network = _train(seed)
        # Without a writable cache the demo only takes longer.
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(file, save(network.state_dict(), {"checksum": _checksum(network.state_dict())}))
    return network.eval()


def _cached(file: Path) -> dict[str, Tensor]:
    """The weights in a file of the cache; SafetensorError if they are not those that were written."""
    with safe_open(file, "pt") as opened:
        expected = (opened.metadata() or {}).get("checksum")
    weights = load_file(file)
    if _checksum(weights) != expected:
        raise SafetensorError("checksum")
    return weights


def _checksum(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of several threads depend on how many they are; training makes a lot of the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _untrained(seed: int) -> DemoCNN:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return DemoCNN()


def _train(seed: int) -> DemoCNN:
    images, targets, indices = _clean(seed)
    images, targets = images[indices["source"]], targets[indices["source"]]
    network = _untrained(derive(seed, "parent") >> 1)
    order = torch.Generator().manual_seed(derive(seed, "order") >> 1)
    with _one_thread():
        optimizer = torch.optim.SGD(
            network.parameters(), lr=_RATE, momentum=_MOMENTUM, weight_decay=_DECAY, nesterov=True
        )
        steps = len(targets) // _BATCH
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_EPOCHS * steps)
        for _ in range(_EPOCHS):
            for chosen in torch.randperm(len(targets), generator=order)[: steps * _BATCH].split(_BATCH):
                loss = functional.cross_entropy(network(images[chosen]), targets[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return network
