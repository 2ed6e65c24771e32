"""Stream: more samples than memory holds, read again whenever they are needed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from smd_evo.core.blocks import Inference, within
from smd_evo.errors import InvalidType, InvalidValue, check_count
from smd_evo.evaluation.batches import Batch, sorted_numbers
from smd_evo.evaluation.reader import Reader

__all__ = ["Stream", "StreamBatches"]


class Stream:
    """Samples that are read from a data set at each use: images too many to be held decoded, for instance.

    An evaluator reads each batch once and evaluates all children on it, so that a generation costs one pass over
    the data, however many children there are, to the same bits as from memory.

    Args:
        inputs: map-style data set: one tensor for each index, the same and of the same shape whenever it is asked
            for. Not scaled pixels, uint8 [3, height, width], cost least, if the network scales them itself.
        targets: [n], int64 class numbers for the built-in fitnesses.
        workers: processes that read ahead; they are started at the first use, kept for the next, and serve
            all streams made of this one. With 0 the calling process reads.

    Raises:
        InvalidType, InvalidValue: not a data set, or not as many targets as inputs.

    Example:
        >>> images = torch.eye(4)  # a tensor is a data set, too
        >>> stream = Stream(images, torch.arange(4))
        >>> mirrored = stream.mapped(lambda batch: batch.flip(1)).take(torch.tensor([3, 0]))
        >>> [batch.inputs.tolist() for batch in mirrored.batches(1)]
        [[[1.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 1.0]]]
        >>> mirrored.targets.tolist(), len(mirrored)
        ([3, 0], 2)
    """

    def __init__(
        self, inputs: Dataset[Tensor] | Sequence[Tensor] | Tensor, targets: Tensor, workers: int = 0
    ) -> None:
        if not (isinstance(inputs, Sized) and hasattr(inputs, "__getitem__")):
            raise InvalidType(f"inputs: expected a map-style Dataset with a length, got {type(inputs).__name__}")
        if not isinstance(targets, Tensor):
            raise InvalidType(f"targets: expected a tensor, got {type(targets).__name__}; use torch.as_tensor")
        if len(targets) != len(inputs):
            raise InvalidValue(f"data: expected as many targets as inputs, got {len(targets)} and {len(inputs)}")
        self.targets = targets
        self._numbers = torch.arange(len(targets), device="cpu")
        self._functions: tuple[Callable[[Tensor], Any], ...] = ()
        self._reader = Reader(inputs, check_count("workers", workers, low=0))

    def __len__(self) -> int:
        return len(self.targets)

    def mapped(self, function: Callable[[Tensor], Any]) -> Stream:
        """The same samples, each batch of inputs [b, ...] passed through a function, on the network's device."""
        other = copy.copy(self)
        other._functions = (*self._functions, function)
        return other

    def take(self, numbers: Tensor) -> Stream:
        """Some of the samples.

        Args:
            numbers: int64 [m] in [0, n), in the order in which they are to be read.

        Raises:
            InvalidValue: other numbers.
        """
        numbers = numbers.cpu()
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(self):
            raise InvalidValue(f"numbers: expected them in [0, {len(self)}), got {numbers.tolist()[:9]}")
        other = copy.copy(self)
        other.targets, other._numbers = self.targets[numbers.to(self.targets.device)], self._numbers[numbers]
        return other

    def batches(self, size: int, device: torch.device | str = "cpu") -> StreamBatches:
        """The samples for an evaluator, ``size`` at a time."""
        return StreamBatches(self, size, torch.device(device))

    def first(self) -> Any:
        """Inputs of the first sample [1, ...], read by this process."""
        return self._passed(self._reader.sample(int(self._numbers[0]))[None])

    def read(self, size: int, device: torch.device) -> Iterator[Any]:
        """Inputs of all samples in order, ``size`` at a time."""
        for inputs in self._reader.read(self._numbers, size, device.type == "cuda"):
            yield within(Inference(False), partial(self._moved, inputs, device))  # what is kept is for training, too

    def _moved(self, inputs: Tensor, device: torch.device) -> Any:
        return self._passed(inputs.to(device, non_blocking=device.type == "cuda"))

    def _passed(self, inputs: Any) -> Any:
        for function in self._functions:
            inputs = function(inputs)
        return inputs


@dataclass(frozen=True, eq=False)
class StreamBatches:
    """Batches of a stream: see :class:`smd_evo.evaluation.batches.Batches`."""

    stream: Stream
    size: int
    device: torch.device

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.stream)

    def __len__(self) -> int:
        return math.ceil(len(self.stream) / self.size)

    def __iter__(self) -> Iterator[Batch]:
        pieces = self.stream.targets.split(self.size)
        inputs = self.stream.read(self.size, self.device)
        for number, pair in enumerate(zip(inputs, pieces, strict=True)):
            yield Batch.of(pair[0], pair[1].to(self.device), number * self.size, number)

    def chunks(self) -> Iterator[Sequence[Batch]]:
        """One batch at a time."""
        return ([batch] for batch in self)

    def targets(self) -> Tensor:
        """Targets of all samples, on the CPU."""
        return self.stream.targets.cpu()

    def take(self, numbers: Tensor) -> StreamBatches:
        """Some of the samples."""
        return replace(self, stream=self.stream.take(sorted_numbers(numbers, self.samples)))

    def to(self, device: torch.device | str) -> StreamBatches:
        """The same samples for a network on a device."""
        return replace(self, device=torch.device(device))
