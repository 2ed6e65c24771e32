"""CIFAR-10 as JPEG, as it is and with corruptions on top: tasks for networks that were trained on clean CIFAR-10.

The ten thousand test images, which no parent has seen: 5,000 rank, 1,000 choose, 4,000 are reported. Corruptions are
those of torchvision's transforms, the same for every image and run. SMD_EVO_DATA is the folder with the extracted
images (``test/<class>/*.jpg``). As names for a command, with this folder on PYTHONPATH:

    smd-evo compare --model cifar-resnet20 --checkpoint FILE --data tasks:blur
"""

import os
from pathlib import Path

import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import smd_evo

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLUR, NOISE, CONTRAST = 0.8, 0.04, 0.35


def images():
    """All of them, float32 [10000, 3, 32, 32] in [0, 1], and their classes."""
    to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    found = ImageFolder(Path(os.environ["SMD_EVO_DATA"]) / "test", to_tensor)
    return torch.stack([image for image, _ in found]), torch.tensor(found.targets)


def split(corrupt):
    """The three splits of the corrupted images."""
    pictures, classes = images()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pictures = corrupt(pictures).clamp(0, 1)
    inputs = v2.functional.normalize(pictures, list(MEAN), list(DEVIATION))
    return smd_evo.split((inputs, classes), fitness=5000, validation=1000, seed=0)


def jpeg():
    """As they are."""
    return split(lambda pictures: pictures)


def blur():
    """A Gaussian blur."""
    return split(v2.GaussianBlur(5, BLUR))


def noise():
    """Noise of a sensor."""
    return split(v2.GaussianNoise(0.0, NOISE))


def contrast():
    """Little contrast."""
    return split(lambda pictures: v2.functional.adjust_contrast(pictures, CONTRAST))
