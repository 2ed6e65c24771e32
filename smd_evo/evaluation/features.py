"""Features: what the head is given, computed once for each sample, for children that touch only the head.

The layers before the head are the same for all of these, and for every parent that they lead to. What they make of a
sample, its features, is kept from one evaluation to the next; minibatches take rows of the same features.

Features are computed in the batches of all of the data, never in those of a minibatch. So they do not depend on what
was asked before, and a run that is resumed has the same bits. A child's outputs for all samples are those of full
forward passes to the bit. For a minibatch they are so but for rounding, as the same sample among others may be
added up in another order: see :data:`smd_evo.evaluation.trunk.TOLERANCE`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from smd_evo.core.blocks import Inference, within
from smd_evo.evaluation.batches import Batch, Batches, MemoryBatches, sorted_numbers, tensors_of

__all__ = ["Features", "Kept", "joined"]

_LOOKED_AT = 1000
"""Values of a batch's inputs that tell whether somebody has written to them."""


class Features:
    """Features of samples in memory; there are none before they are asked for, and none in a copy or a pickle.

    Args:
        batches: of all samples.

    Attributes:
        kept: what is shared with the features of some of the samples.
        numbers: of the samples, int64, ascending.

    Example:
        >>> features = Features(MemoryBatches(Batch(torch.arange(4.0), torch.zeros(4), 4, 0).split(2)))
        >>> features.take(torch.tensor([3, 1])).rows(0, 2, lambda batch: 10 * batch.inputs)
        tensor([10., 30.])
        >>> features.rows(0, 4, lambda batch: batch.inputs)  # they are there
        tensor([ 0., 10., 20., 30.])
    """

    def __init__(self, batches: MemoryBatches) -> None:
        self.kept = Kept(batches)
        self.numbers = torch.arange(batches.samples, device="cpu")

    @classmethod
    def of(cls, batches: Batches) -> Features | None:
        """Those of batches that are in memory and have inputs."""
        held = isinstance(batches, MemoryBatches) and bool(batches) and batches[0].inputs is not None
        return cls(cast(MemoryBatches, batches)) if held else None

    def take(self, numbers: Tensor) -> Features:
        """Those of some of the samples, by their numbers."""
        other = copy.copy(self)
        other.numbers = self.numbers[sorted_numbers(numbers.cpu(), len(self.numbers))]
        return other

    def to(self, device: torch.device | str) -> Features:
        """Those of the same samples on a device."""
        other = Features(self.kept.batches.to(device))
        other.numbers = self.numbers
        return other

    def rows(self, start: int, count: int, compute: Callable[[Batch], Tensor]) -> Tensor:
        """Features [count, ...] of consecutive ones of these samples.

        Args:
            start: place of the first.
            count: how many.
            compute: features of a batch, where there are none yet.
        """
        numbers, begin, found = self.numbers[start : start + count], 0, []
        owners, counts = torch.bucketize(numbers, self.kept.ends, right=True).unique_consecutive(return_counts=True)
        for owner, several in zip(owners.tolist(), counts.tolist(), strict=True):
            block = self.kept.block(owner, compute)
            places = numbers[begin : begin + several] - self.kept.batches[owner].start
            begin += several
            whole = several == len(block)
            found.append(block if whole else _counted(partial(block.index_select, 0, places.to(block.device))))
        return joined(found)


class Kept:
    """The features of some data by the numbers of its batches, as long as the layers before the head are the same.

    Attributes:
        batches: of all samples.
        off: whether there are to be none, as they do not fit.
        layers: what stands for these layers.
        counted: numbers of the first samples of the batches that some account holds already: a run that is resumed
            computes them again, and is to have the numbers of one that was not interrupted.
    """

    def __init__(self, batches: MemoryBatches) -> None:
        self.batches = batches
        self.ends = torch.tensor([batch.start + batch.count for batch in batches], device="cpu")
        self.off = False
        self.layers: object = None
        self.counted: set[int] = set()
        self.drop(None)

    def drop(self, layers: object) -> None:
        """Forget them: from now on they are those of these layers."""
        if self.layers is not None:
            self.counted = set()
        self.layers = layers
        self._blocks: dict[int, tuple[object, Tensor]] = {}

    def block(self, number: int, compute: Callable[[Batch], Tensor]) -> Tensor:
        """Features of one batch: kept, or computed where its inputs are not those of before."""
        batch = self.batches[number]
        inputs = [
            (each.data_ptr(), None if each.is_inference() else each._version, _looked_at(each))
            for each in tensors_of(batch.inputs)
        ]
        held = self._blocks.get(number)
        if held is None or held[0] != inputs:
            held = self._blocks[number] = inputs, compute(batch)
        return held[1]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"layers": None, "_blocks": {}}


def _looked_at(samples: Tensor) -> object:
    """Some values of all over a tensor: NumPy writes into memory that it shares without raising the version."""
    if samples.device.type != "cpu" or not samples.is_contiguous():
        return None
    flat = samples.detach().view(-1)
    return flat[:: max(1, len(flat) // _LOOKED_AT)].contiguous().view(torch.uint8).numpy().tobytes()


def joined(parts: list[Tensor]) -> Tensor:
    """Rows one below the other, in memory whose changes are counted."""
    return parts[0] if len(parts) == 1 else _counted(lambda: torch.cat(parts))


def _counted(function: Callable[[], Tensor]) -> Tensor:
    """A tensor that is made outside of inference mode, so that changes of it are counted."""
    return within(Inference(False), function)
