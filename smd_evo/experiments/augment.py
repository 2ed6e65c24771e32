"""Test-time augmentation: the forward passes of an ensemble, spent on views of the images by one network.

An ensemble of M members costs M forward passes an image. Its control at equal compute is the parent alone, whose
answers for M views of the image vote.

Reference: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks",
NeurIPS 2012, section 4.1 (shifted crops and their reflections, averaged). The order of the views is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count as numbers
from itertools import islice

import torch
from torch import Tensor

from smd_evo.errors import InvalidValue, check_count

__all__ = ["views"]


def views(images: Tensor, count: int, flips: bool) -> Iterator[Tensor]:
    """The first views of a fixed endless list: the images, then shifts of them, the smallest first.

    Pixels that a shift brings in repeat the edge. The shifts are ordered by their distance: 1 pixel (4 of them),
    1 and 1 (4), 2 (4), 2 and 1 (8), 2 and 2 (4), ... With flips each is followed by its mirror image.

    Args:
        images: [n, c, h, w] of any type.
        count: how many views, the images themselves included.
        flips: whether a mirrored image has the same label: true of animals, not of digits.

    Returns:
        Tensors [n, c, h, w], made one at a time; the first is ``images`` itself.

    Raises:
        InvalidValue: not four dimensions, or so many views that nothing is left of the image in some.

    Example:
        >>> [view.flatten().tolist() for view in views(torch.tensor([[[[1, 2], [3, 4]]]]), 4, flips=True)]
        [[1, 2, 3, 4], [2, 1, 4, 3], [1, 2, 1, 2], [2, 1, 2, 1]]
    """
    check_count("count", count)
    if images.dim() != 4:
        raise InvalidValue(f"images: expected [n, channels, height, width], got {list(images.shape)}")
    height, width = images.shape[2:]
    shifts = list(islice(_shifts(), math.ceil(count / 2) if flips else count))
    if any(abs(down) >= height or abs(right) >= width for down, right in shifts):
        raise InvalidValue(
            f"count: expected fewer views of images of {height} x {width} pixels, got {count}; "
            "some would be shifted out of sight"
        )

    def every() -> Iterator[Tensor]:
        for down, right in shifts:
            view = _shifted(images, down, right)
            yield view
            if flips:
                yield view.flip(3)

    return islice(every(), count)


def _shifts() -> Iterator[tuple[int, int]]:
    """All pairs of whole numbers (down, right) by their distance to (0, 0)."""
    for square in numbers():
        reach = range(-math.isqrt(square), math.isqrt(square) + 1)
        yield from ((-up, -left) for up in reach for left in reach if up * up + left * left == square)


def _shifted(images: Tensor, down: int, right: int) -> Tensor:
    if not down and not right:
        return images
    # By indices, not by torch's padding, which knows no integer images.
    rows, columns = (
        (torch.arange(size, device=images.device) - shift).clamp(0, size - 1)
        for size, shift in zip(images.shape[2:], (down, right), strict=True)
    )
    return images[:, :, rows[:, None], columns]
