"""Data: from what users have (tensors, data sets, loaders) to a fixed list of batches in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data import default_collate as collate

from smd_evo.errors import InvalidType, InvalidValue, check_count

__all__ = ["Batch", "make_batches"]

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


def _split(data: Sequence[Any], batch_size: int | str, device: torch.device) -> Iterator[tuple[Any, Any]]:
    lengths = {len(tensor) for part in data for tensor in _tensors(part)}
    if len(lengths) != 1:
        raise InvalidValue(f"data: expected as many targets as inputs, got lengths {sorted(lengths)}")
    (inputs, targets), total = data, lengths.pop()
    size = batch_size if isinstance(batch_size, int) else _auto_size(_bytes(inputs) / max(1, total), device)
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


def _to_device(part: Any, device: torch.device) -> Any:
    return _map(part, lambda tensor: tensor.to(device))


def _length(part: Any) -> int:
    lengths = {len(tensor) for tensor in _tensors(part)}
    if len(lengths) != 1:
        raise InvalidValue(f"data: expected tensors of one length in a batch, got {sorted(lengths)}")
    return lengths.pop()


def _bytes(part: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(part))
