"""Small networks, data, and comparisons bit for bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from smd_evo import gaussian

ROOT = Path(__file__).resolve().parent.parent

CARRIES = pytest.mark.filterwarnings("ignore:parent. what it answers depends on the batch before:UserWarning")
"""For tests of networks that keep numbers from one batch to the next on purpose, which is told."""


class SmallNet(nn.Module):
    """Convolution, batch normalisation, dropout, linear head: what a parent usually has."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4 * 16, 3)

    def forward(self, x):
        return self.head(self.drop(self.bn(self.conv(x)).relu().flatten(1)))


def blobs(count=60, shift=0.0, key=1):
    """Images [count, 1, 4, 4] of three classes, and which; ``shift`` adds one pattern to all of them."""
    targets = torch.arange(count) % 3
    patterns = gaussian(0, torch.arange(64)).view(4, 1, 4, 4)
    noise = gaussian(key, torch.arange(16 * count)).view(count, 1, 4, 4)
    return patterns[:3][targets] + 0.7 * noise + shift * patterns[3], targets


def trained():
    """A small network that knows blobs, and is right about two of three that are shifted by 2.5.

    Its weights are a file, the same everywhere; another processor would train others. They are those of 40 steps of
    Adam (rate 0.02) on the cross-entropy of ``blobs(120, key=2)``, from ``SmallNet()`` at seed 0.
    """
    with torch.random.fork_rng(devices=[]):
        network = SmallNet()
    network.load_state_dict(load_file(ROOT / "tests" / "trained.safetensors"))
    return network.eval()


def state_bits(module):
    """All parameters and buffers as bytes, to compare bit for bit (NaN included)."""
    return {
        name: tensor.detach().cpu().contiguous().flatten().view(torch.uint8).clone()
        for name, tensor in module.state_dict().items()
    }


def same_bits(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


class Counter:
    """A progress that remembers its phases."""

    def __init__(self):
        self.phases = []

    def expect(self, workload):
        self.workload = workload

    def start(self, description, total):
        self.phases.append([description, total, 0])

    def advance(self):
        self.phases[-1][2] += 1
