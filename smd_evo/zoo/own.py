"""Samples that a program has, in the three roles that an experiment gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smd_evo.core.keys import check_key
from smd_evo.errors import InvalidType, InvalidValue, check_count, kept, shown
from smd_evo.evaluation.batches import MemoryBatches, changed, lengths_of
from smd_evo.evaluation.data import make_batches
from smd_evo.evaluation.records import Records, records_of, with_labels_apart
from smd_evo.evaluation.stream import Stream
from smd_evo.zoo import splits
from smd_evo.zoo.data import Data

__all__ = ["Splits", "data_of", "no_data", "split"]

_NAMES = ("fitness", "validation", "test")


@dataclass(frozen=True, eq=False)
class Splits:
    """Samples in three roles, none of which should be in two of them.

    Each is of whatever kind :class:`smd_evo.Evaluator` takes: ``(inputs, targets)``, a ``Dataset``, a ``DataLoader``,
    which is read once, or a ``Stream``.

    Args:
        fitness: they rank children.
        validation: they choose strengths, sizes, networks.
        test: they are reported, once.

    Raises:
        InvalidType, InvalidValue: one of them is no samples.

    Example:
        >>> images, classes = torch.rand(30, 4), torch.arange(30) % 3
        >>> Splits((images[:10], classes[:10]), (images[10:20], classes[10:20]), (images[20:], classes[20:]))
        Splits(fitness: 10, validation: 10, test: 10 samples)
    """

    fitness: Any
    validation: Any
    test: Any
    indices: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """For each of them, which samples of the whole they are, where that is known."""

    def __post_init__(self) -> None:
        found = {name: _held(getattr(self, name), name) for name in _NAMES}
        counts = {name: np.arange(_count(samples)) for name, samples in found.items()}
        kept(self, **found, indices={**counts, **self.indices})

    def __repr__(self) -> str:
        return f"Splits({', '.join(f'{name}: {len(self.indices[name]):,}' for name in _NAMES)} samples)"


def split(
    train: Any, test: Any = None, *, fitness: int | None = None, validation: int | None = None, seed: int = 0
) -> Splits:
    """Samples drawn for the roles of an experiment: disjoint, and stratified by class where there are classes.

    Args:
        train: samples as :class:`Splits` takes them.
        test: those that are reported; None: what the others leave of ``train``.
        fitness, validation: how many of ``train`` rank and choose; None: 5,000, at most a third of it.
        seed: of the draw.

    Raises:
        InvalidType, InvalidValue: no samples, or fewer than are asked for.

    Example:
        >>> split((torch.rand(90, 4), torch.arange(90) % 3), fitness=40)
        Splits(fitness: 40, validation: 16, test: 34 samples)
    """
    if isinstance(train, Tensor) and isinstance(test, Tensor):
        raise InvalidType("train: expected inputs and targets as one thing, got two tensors; write split((X, Y))")
    whole = _held(train, "train")
    sizes = {
        name: None if size is None else check_count(name, size)
        for name, size in (("fitness", fitness), ("validation", validation))
    }
    numbers = splits.split(_strata(whole), sizes, "test" if test is None else None, seed=check_key(seed, "seed"))
    numbers = {name: np.sort(chosen) for name, chosen in numbers.items()}
    parts = {name: _taken(whole, chosen) for name, chosen in numbers.items()}
    return Splits(**({"test": test} | parts), indices=numbers)


def data_of(given: Any) -> Data:
    """What an experiment reads, of the splits that a program gives.

    Raises:
        InvalidType: they are none.
    """
    if isinstance(given, Data):
        return given
    if not isinstance(given, Splits):
        raise InvalidType(
            f"data: expected smd_evo.Splits(fitness, validation, test), got {_kind(given)}; smd_evo.split(samples) "
            "draws them"
        )
    parts = {name: getattr(given, name) for name in _NAMES}
    highest = [int(targets.max()) for each in parts.values() if _are_classes(targets := _targets(each))]
    count = 1 + max(highest) if len(highest) == len(parts) else 0
    return Data(
        name="samples",
        description="samples that a program gave",
        classes=tuple(map(str, range(count))),
        **parts,
        indices=dict(given.indices),
    )


def no_data() -> Data:
    """Of an experiment whose fitness brings what samples it needs: it counts as one."""
    nothing: Any = None
    one = {name: np.zeros(1, dtype=np.int64) for name in _NAMES}
    return Data("none", "none: the fitness is of the network", (), nothing, nothing, nothing, one)


def _held(data: Any, name: str) -> Any:
    """Samples that can be read again and taken apart: a pair, a stream, records, or a list of batches."""
    if isinstance(data, Stream):
        return data
    try:
        if (records := records_of(data)) is not None:
            _batches(records)
            return records
        if isinstance(data, Mapping):
            data = with_labels_apart(data)
        if isinstance(data, tuple) and len(data) == 2:
            _count(data)
            _batches(tuple(changed(part, lambda tensor: tensor[:1]) for part in data))
            return data
        return [(batch.inputs, batch.targets) for batch in _batches(data)]
    except (InvalidType, InvalidValue) as error:
        raise type(error)(str(error).replace("data:", f"{name}:", 1)) from None


def _count(samples: Any) -> int:
    if isinstance(samples, Stream | Records):
        return len(samples)
    if isinstance(samples, list):
        return sum(lengths_of(targets).pop() for _, targets in samples)
    lengths = set().union(*map(lengths_of, samples))
    if len(lengths) != 1:
        raise InvalidValue(f"data: expected as many targets as inputs, got lengths {sorted(lengths)}")
    return lengths.pop()


def _targets(samples: Any) -> Any:
    if isinstance(samples, Stream):
        return samples.targets
    if isinstance(samples, Records):
        return samples.targets()
    return torch.cat([targets for _, targets in samples]) if isinstance(samples, list) else samples[1]


def _are_classes(targets: Any) -> bool:
    return isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point()


def _strata(samples: Any) -> NDArray[np.int64]:
    """What the samples of all splits are to have the same shares of."""
    targets = _targets(samples) if not isinstance(samples, list) or isinstance(samples[0][1], Tensor) else None
    if targets is not None and _are_classes(targets):
        return np.asarray(targets.cpu().numpy(), dtype=np.int64)
    return np.zeros(_count(samples), dtype=np.int64)


def _taken(samples: Any, numbers: NDArray[np.int64]) -> Any:
    """Some samples."""
    chosen = torch.from_numpy(numbers)
    if isinstance(samples, Stream):
        return samples.take(chosen)
    if isinstance(samples, Records):
        return samples.take(numbers.tolist())
    if isinstance(samples, tuple):
        return tuple(changed(part, lambda tensor: tensor[chosen.to(tensor.device)]) for part in samples)
    some: MemoryBatches = _batches(samples).take(chosen)
    return [(batch.inputs, batch.targets) for batch in some]


def _batches(samples: Any) -> MemoryBatches:
    found = make_batches(samples, "auto", torch.device("cpu"))
    assert isinstance(found, MemoryBatches)
    return found


def _kind(given: Any) -> str:
    return shown(given) if isinstance(given, str | int | float | None) else type(given).__name__
