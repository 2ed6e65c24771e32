"""Test-time augmentation: the forward passes of an ensemble, spent on views of the images by one network.

An ensemble of M members costs M forward passes an image. Its control at equal compute is the parent alone, whose
answers for M views of the image vote.

Reference: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks",
NeurIPS 2012, section 4.1 (shifted crops and their reflections, averaged). The order of the views is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as numbers
from itertools import islice

import torch
from torch import Tensor, nn

from smd_evo.core.mutation import Lineage
from smd_evo.ensemble.combine import combined
from smd_evo.errors import InvalidValue, check_count
from smd_evo.evaluation.classification import logits_of
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.stream import Stream
from smd_evo.zoo.data import Samples

__all__ = ["Change", "Viewed", "are_images", "changes", "views", "voted_views"]


@dataclass(frozen=True)
class Change:
    """Images [n, c, h, w] of any type -> a view of them, of the same shape and type.

    Pixels that a shift brings in repeat the edge.

    Args:
        down: shift in pixels; up if it is negative.
        right: the same, to the right.
        mirrored: whether left and right are exchanged afterwards.

    Example:
        >>> Change(1, 0, mirrored=True)(torch.tensor([[[[1, 2], [3, 4]]]])).tolist()
        [[[[2, 1], [2, 1]]]]
    """

    down: int
    right: int
    mirrored: bool

    def __call__(self, images: Tensor) -> Tensor:
        """The view.

        Raises:
            InvalidValue: not four dimensions, or nothing of the images would be left in sight.
        """
        _check(images, self.down, self.right, f"a shift of {self.down}, {self.right}")
        shifted = _shifted(images, self.down, self.right) if self.down or self.right else images
        return shifted.flip(3) if self.mirrored else shifted


def changes(count: int, flips: bool) -> list[Change]:
    """The first views of a fixed endless list, as functions of images: none, then shifts, the smallest first.

    The shifts are ordered by their distance: 1 pixel (4 of them), 1 and 1 (4), 2 (4), 2 and 1 (8), 2 and 2 (4), ...
    With flips each is followed by its mirror image. For a stream: ``stream.mapped(change)``.

    Args:
        count: how many views, the images themselves included.
        flips: whether a mirrored image has the same label: true of animals, not of digits.

    Example:
        >>> [(change.down, change.right, change.mirrored) for change in changes(4, flips=True)]
        [(0, 0, False), (0, 0, True), (1, 0, False), (1, 0, True)]
    """
    count = check_count("count", count)
    every = (Change(*shift, mirrored) for shift in _shifts() for mirrored in ((False, True) if flips else (False,)))
    return list(islice(every, count))


def are_images(samples: Samples) -> bool:
    """Whether there are views of them."""
    first = samples[0] if isinstance(samples, tuple | list) else samples.first()
    return isinstance(first, Tensor) and first.dim() == 4


def voted_views(judge: Evaluator, samples: Samples, wanted: Sequence[Change], combine: str) -> Tensor:
    """The parent's combined prediction for several views of each image.

    Args:
        judge: of the parent.
        samples: images.
        wanted: the views, of :func:`changes`.
        combine: see :data:`smd_evo.ensemble.combine.COMBINES`.
    """
    if isinstance(samples, Stream):
        seen: Iterable[Samples] = (samples.mapped(change) for change in wanted)
    else:
        seen = ((change(samples[0]), samples[1]) for change in wanted)
    return combined((judge.on(view).predict([Lineage()])[0] for view in seen), None, combine)


class Viewed(nn.Module):
    """A network that looks at several views of each image: it returns their combined prediction.

    Args:
        network: it becomes a part, not a copy.
        wanted: the views, of :func:`changes`.
        combine: see :data:`smd_evo.ensemble.combine.COMBINES`.
    """

    def __init__(self, network: nn.Module, wanted: Sequence[Change], combine: str) -> None:
        super().__init__()
        self.network, self._wanted, self._combine = network, list(wanted), combine

    def forward(self, images: Tensor) -> Tensor:
        """Of images [n, c, h, w]."""
        return combined((logits_of(self.network(change(images))) for change in self._wanted), None, self._combine)


def views(images: Tensor, count: int, flips: bool) -> Iterator[Tensor]:
    """The views of :func:`changes` of images in memory.

    Args:
        images: [n, c, h, w] of any type.
        count, flips: as there.

    Returns:
        Tensors [n, c, h, w], made one at a time; the first is ``images`` itself.

    Raises:
        InvalidValue: not four dimensions, or so many views that nothing is left of the image in some.

    Example:
        >>> [view.flatten().tolist() for view in views(torch.tensor([[[[1, 2], [3, 4]]]]), 4, flips=True)]
        [[1, 2, 3, 4], [2, 1, 4, 3], [1, 2, 1, 2], [2, 1, 2, 1]]
    """
    wanted = changes(count, flips)
    down, right = max(abs(change.down) for change in wanted), max(abs(change.right) for change in wanted)
    _check(images, down, right, f"{count} views")
    return (change(images) for change in wanted)


def _check(images: Tensor, down: int, right: int, what: str) -> None:
    if images.dim() != 4:
        raise InvalidValue(f"images: expected [n, channels, height, width], got {list(images.shape)}")
    height, width = images.shape[2:]
    if abs(down) >= height or abs(right) >= width:
        raise InvalidValue(
            f"count: expected fewer views of images of {height} x {width} pixels, got {what}; "
            "some would be shifted out of sight"
        )


def _shifts() -> Iterator[tuple[int, int]]:
    """All pairs of whole numbers (down, right) by their distance to (0, 0)."""
    for square in numbers():
        reach = range(-math.isqrt(square), math.isqrt(square) + 1)
        yield from ((-up, -left) for up in reach for left in reach if up * up + left * left == square)


def _shifted(images: Tensor, down: int, right: int) -> Tensor:
    # By indices, not by torch's padding, which knows no integer images.
    rows, columns = (
        (torch.arange(size, device=images.device) - shift).clamp(0, size - 1)
        for size, shift in zip(images.shape[2:], (down, right), strict=True)
    )
    return images[:, :, rows[:, None], columns]
