"""From a picture to uint8 pixels, and from these to what a network was trained on.

Pixels stay uint8, a quarter of float32; the network itself normalises a batch, in a hook that runs before its
forward pass and that has no place in its state.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor, nn

from smd_evo.errors import InvalidType

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Normalize", "Preprocessing", "eight_bit", "upright"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_SIXTEEN_BITS = ("PNG", "PPM")
"""Formats whose gray pictures PIL gives as 32-bit integers up to 65,535."""


@dataclass(frozen=True)
class Preprocessing:
    """What a network wants done to a picture.

    Attributes:
        pixels: from a PIL image to uint8 [channels, height, width]; must be picklable.
        mean, std: of each channel on a scale from 0 to 1.
        channels: 1 or 3; None: as the picture has them.
        channels_last: memory layout of the batches: most convolutions compute faster on it, while the ``view`` of
            a network that was never given it may fail.
        is_asked: whether a user asked for it; then tensors, which pass as they are, are refused.
    """

    pixels: Callable[[Any], Tensor]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: int | None = None
    channels_last: bool = False
    is_asked: bool = False

    def __call__(self, image: Any) -> Tensor:
        """The pixels of a picture, or a tensor as it is.

        Raises:
            InvalidType: neither of them, or a picture whose scale is not known.
        """
        if isinstance(image, Tensor):
            if self.is_asked:
                raise InvalidType("preprocessing: expected none for data of tensors, taken as they are; leave it out")
            return image
        if not isinstance(image, Image.Image):
            raise InvalidType(f"data: expected PIL images or tensors, got {type(image).__name__}; convert them")
        image = upright(eight_bit(image))
        mode = {1: "L", 3: "RGB", None: "L" if image.mode == "L" else "RGB"}[self.channels]
        return self.pixels(image if image.mode == mode else image.convert(mode))


def eight_bit(image: Image.Image) -> Image.Image:
    """A picture of at most 8 bits a channel: one of 16 bits is put on that scale, which PIL would cut off instead.

    Raises:
        InvalidType: the picture holds numbers of another scale.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BITS):
        values = np.asarray(image).astype(np.uint32)
        scaled = Image.fromarray(((values + 128) // 257).astype(np.uint8))
        scaled.info = image.info
        return scaled
    kind = "floats" if image.mode.startswith("F") else "integers of 32 bits"
    raise InvalidType(
        f"data: expected images of 8 or 16 bits a channel, got {kind} (PIL's mode {image.mode}), whose scale is not "
        "known; save them as one of these"
    )


def upright(image: Image.Image) -> Image.Image:
    """A picture as it is to be seen, where its metadata (EXIF) says that it was taken with a turned camera."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # damaged metadata of a picture that can be read
        return image


class Normalize:
    """A forward pre-hook: batches of uint8 images are normalised; other inputs pass as they are.

    Args:
        preprocessing: its mean, std and layout; one-channel images become as many channels as the mean has.

    Example:
        >>> network = nn.Identity()
        >>> _ = network.register_forward_pre_hook(Normalize(Preprocessing(torch.as_tensor, (0.5,), (0.5,))))
        >>> network(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).tolist()
        [[[[-1.0, 1.0]]]]
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        mean, std = (
            torch.tensor(numbers, dtype=torch.float32, device="cpu")[:, None, None]
            for numbers in (preprocessing.mean, preprocessing.std)
        )
        self.mean, self.std = 255 * mean, 255 * std
        self.channels_last = preprocessing.channels_last
        self._last: tuple[Any, Any, tuple[int, int]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_last": None}

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs of the network's forward."""
        images = inputs[0] if inputs else None
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.dim() != 4:
            return inputs
        own = (each.dtype for each in module.parameters() if each.is_floating_point() and each.element_size() > 1)
        return self._normalised(images, next(own, torch.float32)), *inputs[1:]

    def _normalised(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """The pixels in units of their standard deviation, in the type of the network's parameters.

        Children that share layers come one after the other, with the batch that their parent's pass was recorded on.
        They have the tensor that the record holds, as long as it does and nobody has written to either; what is made
        in inference mode has no count of that.
        """
        if self._last is not None:
            of, made, versions = self._last
            found: Tensor | None = made()
            there = of() is images and found is not None and found.dtype == dtype
            if there and found is not None and versions == (images._version, found._version):
                return found
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        floats = images.float().contiguous(memory_format=layout)
        found = ((floats - self.mean.to(images.device)) / self.std.to(images.device)).to(dtype)
        if not (images.is_inference() or found.is_inference()):
            self._last = weakref.ref(images), weakref.ref(found), (images._version, found._version)
        return found
