"""Outputs of several children for all samples, gathered batch by batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smd_evo.core.blocks import Inference, within
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.batches import Batch
from smd_evo.evaluation.classification import logits_of

__all__ = ["Outputs"]


class Outputs:
    """A place for the outputs of so many children for so many samples.

    Args:
        children: N.
        samples: n.
        most: bytes that they may take, None for any.
    """

    def __init__(self, children: int, samples: int, most: int | None = None) -> None:
        self._children, self._samples, self._most = children, samples, most
        self._found: Tensor | None = None

    def keep(self, number: int, batch: Batch, outputs: Any) -> None:
        """What a child has returned for a batch.

        Raises:
            InvalidValue: it is not of the shape that the first was, or too much.
        """
        found = logits_of(outputs)
        if self._found is None:
            shape = self._children, self._samples, *found.shape[1:]
            nbytes = 4 * torch.Size(shape).numel()
            if self._most is not None and nbytes > self._most:
                raise InvalidValue(
                    f"outputs: expected at most {self._most / 2**30:.3g} GiB of {self._children} networks for "
                    f"{self._samples} samples, got {nbytes / 2**30:.3g}; give a smaller minibatch_size or popsize"
                )
            self._found = within(Inference(False), lambda: torch.empty(shape, dtype=torch.float32, device="cpu"))
        place = self._found[number, batch.start : batch.start + batch.count]
        if found.shape != place.shape:
            raise InvalidValue(f"outputs: expected {list(place.shape)} for a batch, got {list(found.shape)}")
        place.copy_(found)

    def all(self) -> Tensor:
        """Float32 [N, n, ...] on the CPU."""
        assert self._found is not None
        return self._found
