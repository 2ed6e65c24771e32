"""Images of a data set as the samples of an experiment: drawn, decoded, held where memory allows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smd_evo.evaluation.stream import Stream
from smd_evo.zoo.data import SPLITS, Data, Samples
from smd_evo.zoo.pixels import Pixels, decoded, workers
from smd_evo.zoo.preprocessing import Preprocessing
from smd_evo.zoo.sources import Source
from smd_evo.zoo.splits import split

__all__ = ["Decoder", "splits_of"]


@dataclass(eq=False)
class Decoder:
    """Decodes images, and keeps account of the memory that is left for them.

    Attributes:
        preprocessing: what the network wants done to a picture.
        memory: bytes that decoded images may still take.
        progress: called after each image.
        skip_unreadable: whether unreadable images are left out, however many there are.
        unreadable: those that were left out, by their names.
    """

    preprocessing: Preprocessing
    memory: int
    progress: Callable[[], object] | None = None
    skip_unreadable: bool = False
    unreadable: list[str] = field(default_factory=list)

    def samples(
        self, images: Any, targets: NDArray[np.int64], numbers: NDArray[np.int64]
    ) -> tuple[Samples, NDArray[np.int64]]:
        """Some of a data set's images, in memory if they fit, and which of them are readable.

        Args:
            images: map-style data set of (PIL image or tensor, class).
            targets: class of each of them, int64 [n].
            numbers: which ones, int64 [m].

        Raises:
            InvalidValue, InvalidType: see :func:`smd_evo.zoo.pixels.decoded`.
        """
        pixels = Pixels(images, numbers, self.preprocessing)
        held, good, bad = decoded(pixels, self.memory, self.progress, self.skip_unreadable)
        self.unreadable += bad
        numbers = numbers[good]
        classes = torch.from_numpy(targets[numbers])
        if held is not None:
            self.memory -= held.nbytes
            return (held, classes), numbers
        readable = Pixels(images, numbers, self.preprocessing)
        return Stream(readable, classes, workers=workers(readable[0])), numbers


def splits_of(source: Source, sizes: Mapping[str, int], seed: int, decoder: Decoder) -> Data:
    """Draw the splits, and decode their images, the fitness split's first.

    Args:
        source: the data set.
        sizes: samples of the splits whose sizes are given.
        seed: of the draw.
        decoder: for its images.

    Raises:
        InvalidValue, InvalidType: too few samples, or images that cannot be decoded.
    """
    indices = _drawn(source, sizes, seed)
    samples: dict[str, Samples] = {}
    for name in SPLITS:
        images, targets = source.testing if name == "test" else (source.train, source.train_targets)
        samples[name], indices[name] = decoder.samples(images, targets, indices[name])
    bad = list(decoder.unreadable)
    lost = f"; {len(bad)} unreadable images left out" if bad else ""
    return Data(
        name=source.name,
        description=source.description + lost,
        classes=source.classes,
        **samples,
        indices=indices,
        unreadable=bad,
    )


def _drawn(source: Source, sizes: Mapping[str, int], seed: int) -> dict[str, NDArray[np.int64]]:
    """Which samples each split has; "test" of the test set if there is one, else what is left."""
    wanted = {name: sizes.get(name) for name in ("fitness", "validation")}
    if source.test_targets is not None:
        every = len(source.test_targets)
        tested = {"test": sizes.get("test", every)}
        return split(source.train_targets, wanted, seed=seed) | split(source.test_targets, tested, seed=seed)
    if "test" in sizes:
        return split(source.train_targets, wanted | {"test": sizes["test"]}, seed=seed)
    return split(source.train_targets, wanted, "test", seed=seed)
