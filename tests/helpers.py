"""Small networks, and comparisons bit for bit."""

from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent


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


def state_bits(module):
    """All parameters and buffers as bytes, to compare bit for bit (NaN included)."""
    return {
        name: tensor.detach().cpu().contiguous().flatten().view(torch.uint8).clone()
        for name, tensor in module.state_dict().items()
    }


def same_bits(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
