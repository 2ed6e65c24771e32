"""Batches: what an evaluator reads, in a fixed order, again and again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from smd_evo.core.blocks import Inference, within
from smd_evo.errors import InvalidType, InvalidValue

__all__ = ["Batch", "Batches", "MemoryBatches", "changed", "lengths_of", "pieces", "sorted_numbers", "tensors_of"]

_writes: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
"""Whether a network writes to its inputs; those that do are given copies."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some consecutive samples.

    Attributes:
        inputs: a tensor, or several by position or by name.
        targets: the same.
        count: how many samples.
        start: number of the first.
    """

    inputs: Any
    targets: Any
    count: int
    start: int

    @classmethod
    def of(cls, inputs: Any, targets: Any, start: int = 0, number: int = 0) -> Batch:
        """A batch of these, if they can be one; errors call it by its number."""
        count = _length(targets)
        if _length(inputs) != count:
            raise InvalidValue(f"data: expected as many targets as inputs, got {count} and {_length(inputs)}")
        for tensor in tensors_of(inputs):
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise InvalidValue(f"data: expected finite inputs, got NaN or infinity in batch {number}")
        return cls(inputs, targets, count, start)

    def outputs(self, module: nn.Module) -> Any:
        """What the network returns for the inputs, which are there for others, too, and stay as they are.

        Raises:
            InvalidValue: it has written to them, though it did not at its first pass.
        """
        writes = _writes.get(module) if isinstance(module, nn.Module) else False
        given = self if writes is False else self.copy()
        before = _versions(given.inputs)
        found = _called(module, given.inputs)
        wrote = _versions(given.inputs) != before
        if writes is None or wrote:
            _writes[module] = wrote
        if wrote and given is self:
            raise InvalidValue(
                f"parent: expected a forward pass that leaves its inputs as they are, got {type(module).__name__}, "
                f"which has written to those of samples {self.start} to {self.start + self.count - 1}; let it begin "
                "with a copy (x = x.clone()), and load the data anew"
            )
        return found

    def copy(self) -> Batch:
        """The same samples, of which the inputs may be written to; such changes are counted."""
        return within(
            Inference(False), lambda: replace(self, inputs=changed(self.inputs, lambda t: t.detach().clone()))
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same samples on a device."""
        inputs, targets = (changed(part, lambda t: t.to(device)) for part in (self.inputs, self.targets))
        return Batch(inputs, targets, self.count, self.start)

    def split(self, size: int) -> list[Batch]:
        """The same samples, at most ``size`` at a time, without a copy."""
        if self.count <= size:
            return [self]
        both = pieces(self.inputs, self.targets, self.count, size)
        return [Batch(*pair, _length(pair[1]), self.start + number * size) for number, pair in enumerate(both)]


class Batches(Protocol):
    """Samples in a fixed order, however often they are read. ``len()`` is the number of batches."""

    @property
    def samples(self) -> int:
        """Number of samples."""

    def __len__(self) -> int: ...

    def chunks(self) -> Iterator[Sequence[Batch]]:
        """All batches, in portions that are in memory together: all children meet one before the next is read."""

    def targets(self) -> Tensor:
        """Targets of all samples, on the CPU."""

    def take(self, numbers: Tensor) -> Batches:
        """Some of the samples, in their order, as batches of the same size.

        Args:
            numbers: distinct numbers of samples, int64 [at least one], in any order.

        Raises:
            InvalidValue: the numbers are not as above.
        """

    def to(self, device: torch.device | str) -> Batches:
        """The same samples for a network on a device."""


class MemoryBatches(list[Batch]):
    """Batches that are in memory, on the network's device: see :class:`Batches`."""

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(batch.count for batch in self)

    def chunks(self) -> Iterator[Sequence[Batch]]:
        """All at once."""
        yield self

    def targets(self) -> Tensor:
        """Targets of all samples, on the CPU."""
        return torch.cat([batch.targets for batch in self]).cpu()

    def take(self, numbers: Tensor) -> MemoryBatches:
        """Some of the samples."""
        numbers = sorted_numbers(numbers, self.samples)
        taken = MemoryBatches()
        for batch in self:
            own = numbers[(numbers >= batch.start) & (numbers < batch.start + batch.count)] - batch.start
            if len(own):
                inputs, targets = (
                    changed(part, lambda tensor, own=own: tensor.index_select(0, own.to(tensor.device)))
                    for part in (batch.inputs, batch.targets)
                )
                taken.append(Batch(inputs, targets, len(own), taken.samples))
        try:
            inputs, targets = (_joined([getattr(batch, name) for batch in taken]) for name in ("inputs", "targets"))
        except RuntimeError:  # batches of other lengths than each other, of padded text for instance
            return taken
        size = max(batch.count for batch in self)
        return MemoryBatches(Batch(inputs, targets, len(numbers), 0).split(size))

    def to(self, device: torch.device | str) -> MemoryBatches:
        """The same samples on a device."""
        return MemoryBatches(batch.to(device) for batch in self)


def sorted_numbers(numbers: Tensor, total: int) -> Tensor:
    """Numbers of some of ``total`` samples, in order, if they are that."""
    numbers = numbers.sort().values
    if not (len(numbers) and 0 <= int(numbers[0]) <= int(numbers[-1]) < total and bool(numbers.diff().all())):
        raise InvalidValue(
            f"numbers: expected at least one, distinct and in [0, {total}), got {numbers.tolist()[:9]}"
        )
    return numbers


def pieces(inputs: Any, targets: Any, total: int, size: int) -> Iterator[tuple[Any, Any]]:
    """Inputs and targets of ``total`` samples, ``size`` at a time."""
    for start in range(0, total, size):
        piece = slice(start, start + size)
        yield changed(inputs, lambda t, p=piece: t[p]), changed(targets, lambda t, p=piece: t[p])


def changed(part: Any, function: Callable[..., Any]) -> Any:
    """``function`` of every tensor of inputs or targets, in their own structure."""
    if isinstance(part, Tensor):
        return function(part)
    if isinstance(part, Mapping):
        return {name: changed(value, function) for name, value in part.items()}
    if isinstance(part, tuple | list):
        return tuple(changed(value, function) for value in part)
    raise InvalidType(f"data: expected tensors, got {type(part).__name__}; convert with torch.as_tensor")


def _called(module: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return module(**inputs)
    if isinstance(inputs, tuple | list):
        return module(*inputs)
    return module(inputs)


def _versions(inputs: Any) -> list[int]:
    """Counts of changes in place; of what is made in inference mode there are none."""
    return [tensor._version for tensor in tensors_of(inputs) if not tensor.is_inference()]


def tensors_of(part: Any) -> list[Tensor]:
    """The tensors of inputs or targets."""
    found: list[Tensor] = []
    changed(part, found.append)
    return found


def _joined(parts: Sequence[Any]) -> Any:
    """Inputs or targets of several batches as one, in their own structure."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    if isinstance(parts[0], Mapping):
        return {name: _joined([part[name] for part in parts]) for name in parts[0]}
    return tuple(_joined(part) for part in zip(*parts, strict=True))


def lengths_of(part: Any) -> set[int]:
    """How many samples the tensors of inputs or targets hold."""
    tensors = tensors_of(part)
    if any(not tensor.dim() for tensor in tensors):
        raise InvalidValue(
            "data: expected tensors [n, ...] of n samples, got a single number; DataLoader(data, 64) makes batches "
            "of samples"
        )
    return {len(tensor) for tensor in tensors}


def _length(part: Any) -> int:
    lengths = lengths_of(part)
    if len(lengths) != 1:
        raise InvalidValue(f"data: expected tensors of one length in a batch, got {sorted(lengths)}")
    return lengths.pop()
