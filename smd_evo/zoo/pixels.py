"""From image files to uint8 pixels in memory, and from these to what a network takes.

Pixels stay uint8, a quarter of float32; the network itself normalises a batch, in a hook that runs before its
forward pass and that has no place in its state.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from smd_evo.errors import InvalidValue

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Normalize", "Pixels", "Preprocessing", "decoded", "normalizing"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

UNREADABLE = 0.01
"""Share of a split's images that may be unreadable; one always may."""

_SMALL = 64 * 64
_WORKERS = 8


@dataclass(frozen=True)
class Preprocessing:
    """What a network wants done to a picture.

    Attributes:
        pixels: from a PIL image to uint8 [channels, height, width]; must be picklable.
        mean, std: of each channel on a scale from 0 to 1.
        channels: 1 or 3; None: as the picture has them.
    """

    pixels: Callable[[Any], Tensor]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: int | None = None

    def __call__(self, image: Any) -> Tensor:
        """The pixels of a picture, or a tensor as it is."""
        if isinstance(image, Tensor):
            return image
        mode = {1: "L", 3: "RGB", None: "L" if image.mode == "L" else "RGB"}[self.channels]
        return self.pixels(image if image.mode == mode else image.convert(mode))


class Normalize:
    """A forward pre-hook: uint8 pixels become what the network was trained on; other inputs pass as they are.

    Args:
        mean, std: of each channel on a scale from 0 to 1.

    Example:
        >>> network = nn.Identity()
        >>> _ = network.register_forward_pre_hook(Normalize((0.5,), (0.5,)))
        >>> network(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).tolist()
        [[[[-1.0, 1.0]]]]
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.scale = torch.tensor(std).mul(255).reciprocal()[:, None, None]
        self.shift = -(torch.tensor(mean) / torch.tensor(std))[:, None, None]

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs of the network's forward."""
        images = inputs[0] if inputs else None
        if not (isinstance(images, Tensor) and images.dtype == torch.uint8):
            return inputs
        layout = torch.channels_last if images.shape[1] > 1 else torch.contiguous_format
        scale, shift = self.scale.to(images.device), self.shift.to(images.device)
        return torch.addcmul(shift, images.float().to(memory_format=layout), scale), *inputs[1:]


def normalizing(network: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """The network itself, which from now on takes uint8 pixels, too."""
    network.register_forward_pre_hook(Normalize(preprocessing.mean, preprocessing.std))
    return network


class Pixels(Dataset[Tensor]):
    """Some images of a data set as the network wants them, decoded when they are asked for.

    Args:
        images: map-style data set of (PIL image or tensor, class).
        numbers: which of them, int64 [n].
        preprocessing: what the network wants.
    """

    def __init__(self, images: Any, numbers: NDArray[np.int64], preprocessing: Preprocessing) -> None:
        self.images, self.numbers, self.preprocessing = images, numbers, preprocessing

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Tensor:
        return self.preprocessing(self.images[int(self.numbers[index])][0])

    def name(self, index: int) -> str:
        """A name to find the image by."""
        number = int(self.numbers[index])
        samples = getattr(self.images, "samples", None)
        return str(samples[number][0]) if samples else f"number {number}"


class _Attempts(Dataset[Any]):
    """Each image's pixels, or why there are none; errors of other processes would stop the loader."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return self.pixels[index]
        # What PIL and its plug-ins raise for files that are no images, are cut short or damaged.
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
            return str(error) or type(error).__name__


def workers(sample: Tensor) -> int:
    """Processes that decode such images: none for small ones, which take less time than to be sent."""
    return 0 if sample[0].numel() <= _SMALL else min(_WORKERS, os.cpu_count() or 1)


def decoded(
    pixels: Pixels, memory: int, progress: Callable[[], object] | None = None
) -> tuple[Tensor | None, NDArray[np.int64], list[str]]:
    """All images in memory, or the knowledge which of them can be read.

    Args:
        pixels: the images.
        memory: bytes that they may take.
        progress: called after each image.

    Returns:
        The pixels [n, ...], or None if they take more memory than that; which images are readable, int64 [n]; the
        names of the others.

    Raises:
        InvalidValue: more than 1 % of the images are unreadable, or they differ in size.
    """
    limit = max(1, int(UNREADABLE * len(pixels)))
    held: Tensor | None = None
    sample: Tensor | None = None
    good: list[int] = []
    bad: list[str] = []
    loader = DataLoader(
        _Attempts(pixels),
        batch_size=64,
        collate_fn=list,
        num_workers=workers(_first(pixels, limit)),
        generator=torch.Generator(),  # else it draws from the global one
    )
    for number, image in enumerate(image for batch in loader for image in batch):
        if progress:
            progress()
        if isinstance(image, str):
            bad.append(pixels.name(number))
            if len(bad) > limit:
                raise _unreadable(bad, limit, len(pixels), image)
            continue
        if sample is None:
            sample = image
            if image.nbytes * len(pixels) <= memory:
                held = image.new_empty((len(pixels), *image.shape))
        if image.shape != sample.shape or image.dtype != sample.dtype:
            raise InvalidValue(
                f"data: expected images of one size, {list(sample.shape)}, got {list(image.shape)} "
                f"({pixels.name(number)}); give a model that resizes them"
            )
        if held is not None:
            held[len(good)] = image
        good.append(number)
    return None if held is None else held[: len(good)], np.array(good, dtype=np.int64), bad


def _first(pixels: Pixels, limit: int) -> Tensor:
    """The first image that can be read."""
    attempts, reason = _Attempts(pixels), ""
    bad: list[str] = []
    for number in range(min(len(pixels), limit + 1)):
        image = attempts[number]
        if isinstance(image, Tensor):
            return image
        bad.append(pixels.name(number))
        reason = image
    raise _unreadable(bad, limit, len(pixels), reason)


def _unreadable(names: list[str], limit: int, total: int, reason: str) -> InvalidValue:
    some = ", ".join(names[:3])
    return InvalidValue(
        f"data: expected at most {limit} unreadable of {total} images, got {len(names)} or more ({some}; the last: "
        f"{' '.join(reason.split())}); mend or remove them"
    )
