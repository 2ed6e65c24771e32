"""Another data set for the same network, to see what is forgotten of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smd_evo.core.keys import derive
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.stream import Stream
from smd_evo.zoo.data import Data, Samples
from smd_evo.zoo.decoding import Decoder
from smd_evo.zoo.own import Splits
from smd_evo.zoo.sources import open_source

__all__ = ["Others", "open_also", "with_also"]


@dataclass(frozen=True, eq=False)
class Others:
    """Images of another data set that the network has outputs for, before they are decoded.

    Attributes:
        name: of the data set.
        images: map-style data set of (PIL image or tensor, class): the test part where there is one, else all.
        targets: class of each image as the number of an output, int64 [n].
        numbers: images of classes that have outputs, int64 [m].
    """

    name: str
    images: Any
    targets: NDArray[np.int64]
    numbers: NDArray[np.int64]


def open_also(
    name: str,
    data: str,
    classes: tuple[str, ...],
    kept: NDArray[np.int64] | None,
    data_dir: str | Path = "data",
    download: bool = False,
) -> Others:
    """The test images of another data set, or all of them where it has one part.

    Args:
        name: see :func:`smd_evo.zoo.sources.open_source`.
        data: name of the data set that goes before it.
        classes: names of that data set's classes, all of them.
        kept: which of these the network has outputs for, ascending; None: all.
        data_dir, download: for data sets that torchvision knows.

    Raises:
        InvalidValue, InvalidType: an unknown name, a folder that is not there, other classes, no image of these.
    """
    if name == "digits":
        raise InvalidValue(f"also: expected another set of images for {data}, got digits, the demo's; name a folder")
    try:
        source = open_source(name, data_dir, download)
    except (InvalidType, InvalidValue) as error:
        raise type(error)(str(error).replace("data:", "also:", 1)) from None
    if isinstance(source, Splits):
        raise InvalidValue(
            f"also: expected a set of images, got {name}, samples of its own kind; return (train, test)"
        )
    if source.classes != classes:
        differ = sorted(set(source.classes) ^ set(classes)) or ["their order"]
        raise InvalidValue(
            f"also: expected the {len(classes)} classes of {data}, got {len(source.classes)} in {name}, which differ "
            f"({', '.join(differ[:3])}); name a data set of the same classes"
        )
    images, targets = source.testing
    if kept is None:
        return Others(name, images, targets, np.arange(len(targets)))
    numbers = np.isin(targets, kept).nonzero()[0]
    if not len(numbers):
        raise InvalidValue(
            f"also: expected images in {name} of the {len(kept)} classes that {data} has, got none; "
            "leave --outputs, outputs= out"
        )
    return Others(name, images, np.searchsorted(kept, targets), numbers)


def with_also(data: Data, others: Others, decoder: Decoder, seed: int = 0) -> Data:
    """The data with the other set's images, decoded: at most as many as the test split has, drawn with the seed.

    Raises:
        InvalidValue, InvalidType: they cannot be decoded, or are of another size or type than the data's.
    """
    before = len(decoder.unreadable)
    drawn = np.random.default_rng(derive(seed, "also") % 2**32).permutation(others.numbers)
    numbers = np.sort(drawn[: data.sizes["test"]])
    samples, numbers = decoder.samples(others.images, others.targets, numbers)
    found, expected = (_first(each) for each in (samples, data.fitness))
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        raise InvalidValue(
            f"also: expected images {list(expected.shape[1:])} of {_name(expected)} as {data.name} has, got "
            f"{list(found.shape[1:])} of {_name(found)} in {others.name}; resize them"
        )
    return replace(
        data,
        also=samples,
        indices=data.indices | {"also": numbers},
        unreadable=[*data.unreadable, *decoder.unreadable[before:]],
    )


def _first(samples: Samples) -> Any:
    return samples.first() if isinstance(samples, Stream) else samples[0][:1]


def _name(images: Any) -> str:
    return str(images.dtype).removeprefix("torch.")
