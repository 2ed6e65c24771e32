"""ResNets for 32 x 32 images, with shortcuts that have no parameters.

Reference: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, section 4.2, option A.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from smd_evo.errors import InvalidValue

__all__ = ["CifarResNet"]


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels, n = (depth - 2) / 6 blocks each; global mean; a linear head.

    Names of its state: ``conv1``, ``bn1``, ``layer{1,2,3}.{0..n-1}.{conv1,bn1,conv2,bn2}``, ``linear``.

    Args:
        depth: 6 n + 2 layers: 20, 32, 44, 56, 110.
        classes: outputs.

    Raises:
        InvalidValue: another depth.

    Example:
        >>> import torch
        >>> network = CifarResNet(20)
        >>> sum(parameter.numel() for parameter in network.parameters())
        269722
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, depth: int, classes: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise InvalidValue(f"depth: expected 6 n + 2 such as 20, 32, 44, 56 or 110, got {depth}")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, blocks)
        self.layer2 = _stage(16, 32, 2, blocks)
        self.layer3 = _stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, classes] of images [n, 3, height, width]."""
        features = functional.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.linear(features.mean((2, 3)))  # type: ignore[no-any-return]


def _stage(before: int, after: int, stride: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(_Block(before, after, stride), *(_Block(after, after, 1) for _ in range(blocks - 1)))


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; where shapes change, that subsamples and pads with zero channels."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.padding = stride, (after - before) // 2

    def forward(self, features: Tensor) -> Tensor:
        """Features [n, after, height / stride, width / stride]."""
        changed = functional.relu(self.bn1(self.conv1(features)))
        changed = self.bn2(self.conv2(changed))
        if self.padding:
            features = features[:, :, :: self.stride, :: self.stride]
            features = functional.pad(features, (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(changed + features)
