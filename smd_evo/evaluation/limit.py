"""Limit: batches that do not fit into a device's memory are halved, for good."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch

from smd_evo.errors import OutOfMemory
from smd_evo.evaluation.batches import Batch

__all__ = ["BatchLimit"]


class BatchLimit:
    """How many samples fit into one forward pass, found where a device runs out of memory.

    Then batches are halved until they fit, what was being done is done again, and a ``RuntimeWarning`` says so. From
    then on all batches are as small, so that it happens once. Other batch sizes round differently: fitness may
    differ in its last bits from that of a run whose batches fitted, and so may the ranks of nearly equal children.

    Attributes:
        samples: at most so many in a forward pass; None while all batches have fitted.

    Example:
        >>> limit = BatchLimit()
        >>> limit.within(lambda batches: print(len(batches)), [Batch(torch.zeros(4), torch.zeros(4), 4, 0)])
        1
        >>> limit.samples = 3
        >>> limit.within(lambda batches: print(len(batches)), [Batch(torch.zeros(4), torch.zeros(4), 4, 0)])
        2
    """

    def __init__(self) -> None:
        self.samples: int | None = None

    def within(self, function: Callable[[Sequence[Batch]], object], batches: Sequence[Batch]) -> None:
        """Call a function with batches, again with halves of them until the memory suffices.

        Args:
            function: of all the batches; where it runs out of memory, it must leave nothing behind.
            batches: at least one; those without inputs, of a fitness of the network itself, cannot be halved.

        Raises:
            OutOfMemory: one sample is too many.
        """
        size, failed = self.samples, 0
        while True:
            some = batches if size is None else [piece for batch in batches for piece in batch.split(size)]
            try:
                function(some)
                break
            except torch.cuda.OutOfMemoryError as error:  # any device's: torch 2.5 renamed it
                if some[0].inputs is None:
                    raise
                reason = str(error).partition("\n")[0]
            # Only here the traceback is gone, and with it what the network had made of the batch.
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            most = max(batch.count for batch in some)
            if most == 1:
                raise OutOfMemory(f"memory: expected room for one sample, got {reason}; free some, or try 'cpu'")
            size, failed = (most + 1) // 2, failed or most
        if size is not None:
            self.lower(size, f"out of memory with {failed} samples a batch")

    def lower(self, samples: int, why: str) -> None:
        """Go on with at most so many samples in a forward pass, and say so, if that is less than before."""
        if self.samples is not None and samples >= self.samples:
            return
        self.samples = samples
        warnings.warn(
            f"{why}; from now on at most {samples}: fitness may differ in its last bits from a run whose batches "
            "fitted, and so may the ranks of nearly equal children",
            RuntimeWarning,
            stacklevel=3,
        )
