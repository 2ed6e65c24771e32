"""Images of a data set as uint8 pixels: all of them in memory, or one after the other as they are needed."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.zoo.preprocessing import Preprocessing

__all__ = ["Pixels", "decoded", "workers"]

UNREADABLE = 0.01
"""Share of a split's images that may be unreadable; one always may."""

# What PIL raises for files that are not there, are no images, are cut short or damaged.
_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
_BATCH = 64
_SMALL = 3 * 64 * 64
_WORKERS = 8

_Attempt = Tensor | str | InvalidType


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
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # about metadata, say, of an image that can be read
            sample = self.images[int(self.numbers[index])]
            if not isinstance(sample, tuple | list):
                raise InvalidType(f"data: expected samples (image, class), got {type(sample).__name__}")
            return self.preprocessing(sample[0])

    def name(self, index: int) -> str:
        """A name to find the image by."""
        from torchvision.datasets import DatasetFolder

        number = int(self.numbers[index])
        return str(self.images.samples[number][0]) if isinstance(self.images, DatasetFolder) else f"number {number}"


def workers(sample: Tensor) -> int:
    """Processes to decode such images: none for small ones, which take less time than to be sent."""
    if sample.numel() <= _SMALL or multiprocessing.current_process().daemon:  # which may have no children
        return 0
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_WORKERS, allowed)


def decoded(
    pixels: Pixels, memory: int, progress: Callable[[], object] | None = None, skip_unreadable: bool = False
) -> tuple[Tensor | None, NDArray[np.int64], list[str]]:
    """All images in memory, or the knowledge which of them can be read.

    Args:
        pixels: the images.
        memory: bytes that they may take.
        progress: called after each image.
        skip_unreadable: leave out any number of unreadable images, but for the last one.

    Returns:
        The pixels [n, ...], or None if they take more memory than that; which images are readable, int64 [n]; the
        names of the others.

    Raises:
        InvalidValue: none is readable, more than 1 % are not, or they differ in size.
        InvalidType: an image holds numbers of an unknown scale.
    """
    sample: Tensor | None = None
    held: Tensor | None = None
    good: list[int] = []
    bad: list[str] = []
    with closing(_attempts(pixels)) as attempts:
        for number, image in enumerate(attempts):
            if progress:
                progress()
            if isinstance(image, str):
                bad.append(pixels.name(number))
                _check_unreadable(bad, len(pixels), image, skip_unreadable)
                continue
            if isinstance(image, InvalidType):
                raise InvalidType(f"{image} ({pixels.name(number)})")
            if sample is None:
                sample = image
                if image.nbytes * len(pixels) <= memory:
                    held = image.new_empty((len(pixels), *image.shape))
            if (image.shape, image.dtype) != (sample.shape, sample.dtype):
                raise InvalidValue(
                    f"data: expected images of one size and type, {_described(sample)}, got {_described(image)} "
                    f"({pixels.name(number)}); resize them"
                )
            if held is not None:
                held[len(good)] = image
            good.append(number)
    return None if held is None else held[: len(good)], np.array(good, dtype=np.int64), bad


class _Tried(Dataset[Any]):
    """Each image's pixels, or why there are none: text, or an error that is not of a single image."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> _Attempt:
        try:
            return self.pixels[index]
        except InvalidType as error:  # as a value: out of another process it would come with its traceback
            return error
        except _ERRORS as error:
            return str(error) or type(error).__name__


def _attempts(pixels: Pixels) -> Generator[_Attempt, None, None]:
    """Each image's pixels, or why there are none, in order: the first ones here, the rest by several processes."""
    tried, sample = _Tried(pixels), None
    here = min(_BATCH, len(tried))
    for number in range(here):
        image = tried[number]
        sample = image if isinstance(image, Tensor) else sample
        yield image
    if here == len(tried):
        return
    loader = DataLoader(
        Subset(tried, range(here, len(tried))),
        _BATCH,
        collate_fn=_collate,
        num_workers=0 if sample is None else workers(sample),
        generator=torch.Generator(),  # else it draws from the global one
    )
    batches = iter(loader)
    try:
        for reasons, images in batches:
            readable = iter(images)
            for reason in reasons:
                yield next(readable) if reason is None else reason
    finally:  # after an error, too: processes end now, and not when the last traceback that knows them is forgotten
        getattr(batches, "_shutdown_workers", lambda: None)()


def _collate(attempts: list[_Attempt]) -> tuple[list[str | InvalidType | None], Tensor | list[Tensor]]:
    """Images as one tensor if they allow it: a process has to send each tensor by a file handle of its own."""
    images = [image for image in attempts if isinstance(image, Tensor)]
    reasons = [None if isinstance(image, Tensor) else image for image in attempts]
    alike = len({(image.shape, image.dtype) for image in images}) == 1
    return reasons, torch.stack(images) if alike else images


def _check_unreadable(names: list[str], total: int, reason: str, skip: bool) -> None:
    limit = total if skip else max(1, int(UNREADABLE * total))
    if len(names) > limit or len(names) == total:
        mend = (
            "mend them"
            if skip or len(names) == total
            else "mend them, or leave them out: --skip-unreadable, skip_unreadable=True"
        )
        raise InvalidValue(
            f"data: expected at most {min(limit, total - 1)} unreadable of {total} images, got at least {len(names)} "
            f"({', '.join(names[:3])}; the last: {' '.join(reason.split())}); {mend}"
        )


def _described(image: Tensor) -> str:
    return f"{list(image.shape)} of {str(image.dtype).removeprefix('torch.')}"
