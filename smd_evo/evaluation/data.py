"""Data: from what users have (tensors, data sets, loaders) to a fixed list of batches in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data import default_collate as collate

from smd_evo.core.keys import Key, derive
from smd_evo.core.noise import permutation
from smd_evo.errors import InvalidType, InvalidValue, check_count

__all__ = ["Batch", "make_batches", "minibatch", "take_samples"]

_AUTO_BYTES = 2**20


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs (a tensor, or several by position or by name), targets, and the number of samples."""

    inputs: Any
    targets: Any
    count: int

    def outputs(self, module: nn.Module) -> Any:
        """What the network returns for the inputs."""
        if isinstance(self.inputs, Mapping):
            return module(**self.inputs)
        if isinstance(self.inputs, tuple | list):
            return module(*self.inputs)
        return module(self.inputs)

    def to(self, device: torch.device | str) -> Batch:
        """The same samples on a device."""
        return Batch(_to_device(self.inputs, device), _to_device(self.targets, device), self.count)


def make_batches(data: Any, batch_size: int | str, device: torch.device) -> list[Batch]:
    """All of the data as batches in a fixed order, held in memory on ``device``.

    Args:
        data: ``(inputs, targets)``, where inputs are a tensor [n, ...], or a tuple, list or dict of such; a
            map-style ``Dataset`` of (input, target) samples; or an iterable of (inputs, targets) batches,
            such as a ``DataLoader``, which is read once and keeps its own batch sizes.
        batch_size: samples a batch, or "auto": as many as make up 1 MiB of inputs on a CPU, 32 to 512 (bigger
            batches leave its caches), and 512 elsewhere.
        device: where the batches are to be.

    Raises:
        InvalidValue: no samples, lengths that differ, NaN or infinite inputs, bad batch size.
        InvalidType: data of another kind.
    """
    if batch_size != "auto":
        check_count("batch_size", batch_size, mend='or give "auto"')
    if isinstance(data, tuple) and len(data) == 2:
        pairs = _split(data, batch_size, device)
    elif isinstance(data, Dataset) and isinstance(data, Sized):
        pairs = _load(data, batch_size, device) if len(data) else iter(())
    elif isinstance(data, Iterable) and not isinstance(data, str | Tensor | Mapping):
        pairs = iter(data)
    else:
        raise InvalidType(
            f"data: expected (inputs, targets), a Dataset or an iterable of batches, got {type(data).__name__}"
        )
    batches = []
    for number, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InvalidType(f"data: expected (inputs, targets) in batch {number}, got {type(pair).__name__}")
        inputs, targets = (_to_device(part, device) for part in pair)
        count = _length(targets)
        if _length(inputs) != count:
            raise InvalidValue(f"data: expected as many targets as inputs, got {count} and {_length(inputs)}")
        for tensor in _tensors(inputs):
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise InvalidValue(f"data: expected finite inputs, got NaN or infinity in batch {number}")
        if count:
            batches.append(Batch(inputs, targets, count))
    if not batches:
        raise InvalidValue("data: expected at least one sample, got none")
    return batches


def minibatch(key: Key, number: int, size: int, total: int) -> Tensor:
    """Numbers of the samples of one minibatch, int64 [size]: epoch after epoch, each in an order of its own.

    Any minibatch is had without those before it. What is left over at the end of an epoch is left out.

    Args:
        key: the run's key.
        number: number of the minibatch, from 0.
        size: samples a minibatch, at most ``total``.
        total: samples in all.

    Raises:
        InvalidValue, InvalidType: bad size.

    Example:
        >>> minibatch(7, 0, 2, 5).tolist(), minibatch(7, 1, 2, 5).tolist()
        ([2, 3], [1, 0])
    """
    if check_count("size", size) > total:
        raise InvalidValue(f"size: expected at most the {total} samples that there are, got {size}")
    epoch, place = divmod(number, total // size)
    return permutation(derive(key, "minibatch", epoch), torch.arange(place * size, (place + 1) * size), total)


def take_samples(batches: Sequence[Batch], numbers: Tensor) -> list[Batch]:
    """Some of the samples, by their numbers, as batches of the same size.

    Args:
        batches: what :func:`make_batches` returned.
        numbers: distinct numbers of samples, int64 [at least one], in any order.

    Raises:
        InvalidValue: the numbers are not as above.
    """
    numbers, total = numbers.sort().values, sum(batch.count for batch in batches)
    if not (len(numbers) and 0 <= int(numbers[0]) <= int(numbers[-1]) < total and bool(numbers.diff().all())):
        raise InvalidValue(
            f"numbers: expected at least one, distinct and in [0, {total}), got {numbers.tolist()[:9]}"
        )
    taken, start = [], 0
    for batch in batches:
        own = numbers[(numbers >= start) & (numbers < start + batch.count)] - start
        start += batch.count
        if len(own):
            inputs, targets = (
                _map(part, lambda tensor, own=own: tensor.index_select(0, own.to(tensor.device)))
                for part in (batch.inputs, batch.targets)
            )
            taken.append(Batch(inputs, targets, len(own)))
    try:
        inputs, targets = (_joined([getattr(batch, name) for batch in taken]) for name in ("inputs", "targets"))
    except RuntimeError:  # batches of other lengths than each other, of padded text for instance
        return taken
    size = max(batch.count for batch in batches)
    return [Batch(*pair, _length(pair[1])) for pair in _pieces(inputs, targets, len(numbers), size)]


def _joined(parts: Sequence[Any]) -> Any:
    """Inputs or targets of several batches as one, in their own structure."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    if isinstance(parts[0], Mapping):
        return {name: _joined([part[name] for part in parts]) for name in parts[0]}
    return tuple(_joined(part) for part in zip(*parts, strict=True))


def _split(data: Sequence[Any], batch_size: int | str, device: torch.device) -> Iterator[tuple[Any, Any]]:
    lengths = {len(tensor) for part in data for tensor in _tensors(part)}
    if len(lengths) != 1:
        raise InvalidValue(f"data: expected as many targets as inputs, got lengths {sorted(lengths)}")
    (inputs, targets), total = data, lengths.pop()
    size = batch_size if isinstance(batch_size, int) else _auto_size(_bytes(inputs) / max(1, total), device)
    return _pieces(inputs, targets, total, size)


def _pieces(inputs: Any, targets: Any, total: int, size: int) -> Iterator[tuple[Any, Any]]:
    for start in range(0, total, size):
        piece = slice(start, start + size)
        yield _map(inputs, lambda t, p=piece: t[p]), _map(targets, lambda t, p=piece: t[p])


def _load(data: Dataset[Any], batch_size: int | str, device: torch.device) -> Iterator[Any]:
    size = batch_size if isinstance(batch_size, int) else _auto_size(_bytes(collate([data[0]])[0]), device)
    return iter(DataLoader(data, size, shuffle=False))


def _auto_size(sample_bytes: float, device: torch.device) -> int:
    if device.type != "cpu":
        return 512
    return int(min(512, max(32, _AUTO_BYTES // max(1, sample_bytes))))


def _map(part: Any, function: Any) -> Any:
    """``function`` of every tensor of inputs or targets, in their own structure."""
    if isinstance(part, Tensor):
        return function(part)
    if isinstance(part, Mapping):
        return {name: _map(value, function) for name, value in part.items()}
    if isinstance(part, tuple | list):
        return tuple(_map(value, function) for value in part)
    raise InvalidType(f"data: expected tensors, got {type(part).__name__}; convert with torch.as_tensor")


def _tensors(part: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _map(part, found.append)
    return found


def _to_device(part: Any, device: torch.device | str) -> Any:
    return _map(part, lambda tensor: tensor.to(device))


def _length(part: Any) -> int:
    lengths = {len(tensor) for tensor in _tensors(part)}
    if len(lengths) != 1:
        raise InvalidValue(f"data: expected tensors of one length in a batch, got {sorted(lengths)}")
    return lengths.pop()


def _bytes(part: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(part))
