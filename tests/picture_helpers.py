"""Tiny pictures of three classes and networks that know them, for whole command lines."""

import numpy as np
from PIL import Image

NETWORKS = """
import torch
from torch import nn

class Colours(nn.Module):
    '''The mean of each channel, weighted: a picture's class is its strongest colour.'''

    def __init__(self, classes, strength):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.head = nn.Linear(16, classes)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
                parameter.copy_(0.1 * noise)
            for colour in range(3):
                self.conv.weight[colour, colour, 1, 1] += strength
                self.head.weight[colour, colour] += strength

    def forward(self, images):
        return self.head(self.conv(images).mean((2, 3)))

def first(classes): return Colours(classes, 3)
def second(classes): return Colours(classes, 2)
def five(classes): return Colours(5, 2)
def broken(classes): raise RuntimeError("no such luck")
"""
SMALL = ["--children", "6", "--density", "0.1", "--sigma", "0.1", "--data", "imagefolder:pictures"]


def write_place(folder):
    """A folder with pictures of three classes, one of them damaged, and a module of networks."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 20)):
        for colour, name in enumerate(("blue", "green", "red")):
            (folder / "pictures" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 200, (8, 8, 3))
                pixels[:, :, colour] += 8
                picture = Image.fromarray(pixels.astype(np.uint8))
                picture.save(folder / "pictures" / part / name / f"{number:02}.png")
    (folder / "pictures" / "test" / "red" / "07.png").write_bytes(b"not a picture")
    (folder / "nets.py").write_text(NETWORKS)


def written(folder):
    return {file.relative_to(folder): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
