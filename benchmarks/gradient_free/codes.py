"""Weights as integers of few bits with a float scale for each output channel, in a few lines of plain PyTorch.

The integers are kept in int8, or, for methods that know only floats, as float parameters in steps of the code, which
are rounded in each forward pass: the same function. Levels beyond the code's are held at its end by the forward pass.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Quantised", "quantised", "rounded_levels"]

CLIPS = 20


def rounded_levels(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Levels, float, and the scale of each output channel that leaves the least squared error."""
    most, rows = 2 ** (bits - 1) - 1, weight.flatten(1)
    best = torch.full((len(rows), 1), float("inf"))
    scale = torch.ones(len(rows), 1)
    for number in range(CLIPS):
        tried = rows.abs().amax(1, keepdim=True).clamp(min=1e-8) * (1 - 0.7 * number / CLIPS) / most
        error = ((rows / tried).round().clamp(-most, most) * tried - rows).square().sum(1, keepdim=True)
        scale, best = torch.where(error < best, tried, scale), torch.minimum(error, best)
    scale = scale.view(-1, *[1] * (weight.dim() - 1))
    return (weight / scale).round().clamp(-most, most), scale


class Quantised(nn.Module):
    """A convolution or linear layer whose weights are levels times a scale.

    Args:
        layer: with float weights.
        bits: of the code: levels from -(2**(bits - 1) - 1) to as many.
        floats: keep levels as a float parameter.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, bits: int, floats: bool) -> None:
        super().__init__()
        levels, scale = rounded_levels(layer.weight.detach(), bits)
        if floats:
            self.levels = nn.Parameter(levels)
        else:
            self.register_buffer("levels", levels.to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        self.most, self.stride, self.padding = 2 ** (bits - 1) - 1, None, None
        self.surrogate = False
        if isinstance(layer, nn.Conv2d):
            self.stride, self.padding = layer.stride, layer.padding

    def forward(self, x: Tensor) -> Tensor:
        """As the layer's, with the weights that the levels stand for; a surrogate's slope is straight through."""
        levels = self.levels.float()
        rounded = levels.round().clamp(-self.most, self.most)
        weight = (levels + (rounded - levels).detach() if self.surrogate else rounded) * self.scale
        if self.stride is None:
            return functional.linear(x, weight, self.bias)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


def quantised(network: nn.Module, bits: int, floats: bool) -> nn.Module:
    """A copy of a network with all convolutions and linear layers quantised."""
    twin = copy.deepcopy(network)
    for module in list(twin.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                setattr(module, name, Quantised(layer, bits, floats))
    return twin.eval()
