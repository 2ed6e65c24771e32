"""Data: from what users have (tensors, data sets, loaders, streams) to batches in a fixed order."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data import default_collate as collate

from smd_evo.core.keys import Key, derive
from smd_evo.core.noise import permutation
from smd_evo.errors import InvalidType, InvalidValue, check_count, shown
from smd_evo.evaluation.batches import Batch, Batches, MemoryBatches, changed, lengths_of, pieces, tensors_of
from smd_evo.evaluation.records import records_of, with_labels_apart
from smd_evo.evaluation.stream import Stream

__all__ = ["check_batch_size", "make_batches", "minibatch", "share_of"]

_AUTO_BYTES = 2**20


def make_batches(data: Any, batch_size: int | str, device: torch.device, pad: int = 0) -> Batches:
    """All of the data as batches in a fixed order, held in memory on ``device`` unless it is a stream.

    Args:
        data: ``(inputs, targets)``, where inputs are a tensor [n, ...], or a tuple, list or dict of such; a
            map-style ``Dataset`` of (input, target) samples, or a list of such with a number as target; an
            iterable of (inputs, targets) batches, such as a ``DataLoader``, which is read once and keeps its own
            batch sizes (a list of pairs of tensors is one); or a :class:`smd_evo.evaluation.stream.Stream`, which
            is read in each evaluation. Samples or batches may also be mappings that hold their labels: see
            :func:`smd_evo.evaluation.records.records_of`.
        batch_size: samples a batch, or "auto": as many as make up 1 MiB of inputs on a CPU, 32 to 512 (bigger
            batches leave its caches), and 512 elsewhere. Bytes count as the float32 that the network makes of them.
        device: where the batches are to be.
        pad: the token that samples of named fields are padded with.

    Raises:
        InvalidValue: no samples, lengths that differ, NaN or infinite inputs, bad batch size.
        InvalidType: data of another kind.
    """
    batch_size = check_batch_size(batch_size)
    if isinstance(data, Stream):
        if not len(data):
            raise InvalidValue("data: expected at least one sample, got none")
        return data.batches(_size(batch_size, data.first, device), device)
    batches, start = MemoryBatches(), 0
    for number, pair in enumerate(_pairs(data, batch_size, device, pad)):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InvalidType(
                f"data: expected (inputs, targets) in batch {number}, got {_kind(pair)}; two tensors are given as a "
                "tuple, other samples through a DataLoader that makes such batches of them"
            )
        inputs, targets = (changed(part, lambda tensor: tensor.to(device)) for part in pair)
        batch = Batch.of(inputs, targets, start, number)
        if batch.count:
            batches.append(batch)
            start += batch.count
    if not batches:
        raise InvalidValue("data: expected at least one sample, got none")
    return batches


def _pairs(data: Any, batch_size: int | str, device: torch.device, pad: int) -> Iterable[Any]:
    """(Inputs, targets) of each batch, of data of any kind but a stream's."""
    if (records := records_of(data)) is not None:
        return records.batches(_size(batch_size, records.first, device), pad)
    if isinstance(data, Mapping):
        return _split(with_labels_apart(data), batch_size, device)
    if isinstance(data, tuple) and len(data) == 2:
        return _split(data, batch_size, device)
    if (isinstance(data, Dataset) and isinstance(data, Sized)) or _holds_samples(data):
        return _load(data, batch_size, device) if len(data) else iter(())
    if isinstance(data, IterableDataset):
        raise InvalidType(
            f"data: expected to know whether it gives samples or batches, got {type(data).__name__}, an "
            "IterableDataset; give DataLoader(data, 64) if it gives samples, DataLoader(data, None) if batches"
        )
    if isinstance(data, Iterable) and not isinstance(data, str | Tensor):
        return map(with_labels_apart, data)
    mend = "give data.fitness" if hasattr(data, "fitness") else "the order is parent, data, fitness"  # a Splits
    raise InvalidType(
        f"data: expected (inputs, targets), a Dataset, a Stream or an iterable of batches, "
        f"got {shown(data) if isinstance(data, str) else type(data).__name__}; {mend}"
    )


def check_batch_size(value: object) -> int | str:
    """Return a whole number of samples, or "auto", or raise."""
    return (
        "auto" if isinstance(value, str) and value == "auto" else check_count("batch_size", value, mend='try "auto"')
    )


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
    size, total, number = check_count("size", size), check_count("total", total), check_count("number", number, low=0)
    if size > total:
        raise InvalidValue(f"size: expected at most the {total} samples that there are, got {size}")
    epoch, place = divmod(number, total // size)
    positions = torch.arange(place * size, (place + 1) * size, device="cpu")
    return permutation(derive(key, "minibatch", epoch), positions, total)


def share_of(key: Key, number: int, shares: int, total: int) -> Tensor:
    """Numbers of the samples in one of some disjoint shares, which are everything and even to within one.

    Args:
        key: the run's key.
        number: of the share, from 0.
        shares: how many there are, at most ``total``.
        total: samples in all.

    Raises:
        InvalidValue, InvalidType: there is no such share.

    Example:
        >>> share_of(7, 0, 2, 5).tolist(), share_of(7, 1, 2, 5).tolist()
        ([2, 3], [1, 0, 4])
    """
    shares, total, number = (
        check_count("shares", shares),
        check_count("total", total),
        check_count("number", number, low=0),
    )
    if not number < shares <= total:
        raise InvalidValue(f"share: expected number < shares <= {total} samples, got {number}, {shares}")
    start, end = (place * total // shares for place in (number, number + 1))
    return permutation(derive(key, "shares"), torch.arange(start, end, device="cpu"), total)


def _split(data: Sequence[Any], batch_size: int | str, device: torch.device) -> Iterator[tuple[Any, Any]]:
    lengths = set().union(*map(lengths_of, data))
    if len(lengths) != 1:
        raise InvalidValue(f"data: expected as many targets as inputs, got lengths {sorted(lengths)}")
    (inputs, targets), total = data, lengths.pop()
    first = changed(inputs, lambda tensor: tensor[:1])
    return pieces(inputs, targets, total, _size(batch_size, lambda: first, device))


def _holds_samples(data: Any) -> bool:
    """Whether a list holds pairs of an input and a number: single samples, and not batches."""
    first = data[0] if isinstance(data, list) and data else None
    if not isinstance(first, tuple | list) or len(first) != 2:
        return False
    target = first[1]
    return target.dim() == 0 if isinstance(target, Tensor) else isinstance(target, numbers.Real)


def _load(data: Any, batch_size: int | str, device: torch.device) -> Iterator[Any]:
    size = _size(batch_size, lambda: collate([data[0]])[0], device)
    with torch.device("cpu"):  # where the loader's own numbers are, whatever the default device
        pairs = iter(DataLoader(data, size, shuffle=False, generator=torch.Generator()))  # not torch's global one
    while True:
        with torch.device("cpu"):
            pair = next(pairs, None)
        if pair is None:
            return
        yield pair


def _size(batch_size: int | str, first: Callable[[], Any], device: torch.device) -> int:
    """Samples a batch; the first of them, as inputs [1, ...], is only asked for where it matters."""
    if isinstance(batch_size, int):
        return batch_size
    if device.type != "cpu":
        return 512
    return int(min(512, max(32, _AUTO_BYTES // max(1, _bytes(first())))))


def _bytes(part: Any) -> int:
    """Bytes of inputs, those of pixels as if they were float32."""
    return sum(t.numel() * (4 if t.dtype == torch.uint8 else t.element_size()) for t in tensors_of(part))


def _kind(thing: Any) -> str:
    return type(thing).__name__ + (f" of {len(thing)}" if isinstance(thing, tuple | list) else "")
