"""Reader: samples by their numbers, by worker processes that are kept from one pass to the next."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import default_collate as collate

from smd_evo.core.blocks import Inference, within
from smd_evo.errors import InvalidType, SmdEvoError

__all__ = ["Reader"]


class Reader:
    """Reads a data set through torch's loader, whose workers start at the first pass and wait for the next one.

    Args:
        data: map-style data set of tensors of one shape.
        workers: processes; with 0 the calling one reads.
    """

    def __init__(self, data: Any, workers: int) -> None:
        self.data = data
        self.workers = workers
        self._idle: dict[int, DataLoader[Any]] = {}  # of each process: a forked one must leave its parent's alone
        weakref.finalize(self, _stop_idle, self._idle)

    def __reduce__(self) -> tuple[Any, ...]:
        return Reader, (self.data, self.workers)  # a copy starts its own

    def sample(self, number: int) -> Tensor:
        """One sample, read by this process."""
        return _samples(self.data, [number])[0]

    def read(self, numbers: Tensor, size: int, pinned: bool) -> Iterator[Tensor]:
        """Samples in the order of their numbers, ``size`` at a time."""
        loader = self._idle.pop(os.getpid(), None)  # whoever reads meanwhile gets another one
        if loader is None or loader.pin_memory != pinned:
            loader = self._loader(pinned)
        plan = loader.batch_sampler
        assert isinstance(plan, _Plan)
        plan.numbers, plan.size = numbers, size
        try:
            batches = within(
                Inference(False), lambda: within(_InterruptsWait(), lambda: _on_cpu(lambda: iter(loader)))
            )
            while True:  # what a data set keeps is for training, too
                inputs = within(Inference(False), lambda: _on_cpu(lambda: next(batches, None)))
                if inputs is None:
                    break
                if isinstance(inputs, SmdEvoError):
                    raise inputs
                yield inputs
        except BaseException:  # also where no more batches are wanted: its workers may still be at it
            _stop(loader)
            raise
        self._idle[os.getpid()] = loader

    def _loader(self, pinned: bool) -> DataLoader[Any]:
        daemon = multiprocessing.current_process().daemon  # which may have no children
        workers = 0 if daemon else self.workers
        return DataLoader(
            _Fallible(self.data),  # type: ignore[arg-type]
            batch_sampler=_Plan(),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pinned,
            collate_fn=_collate,
            generator=torch.Generator(),  # the global one stays where it is
        )


class _Plan:
    """Which samples are the batches of the next pass: a loader's sampler, to be set before each."""

    def __init__(self) -> None:
        self.numbers, self.size = torch.empty(0, dtype=torch.int64, device="cpu"), 1

    def __iter__(self) -> Iterator[list[int]]:
        return (piece.tolist() for piece in self.numbers.split(self.size))


class _Fallible:
    """A data set whose errors of this package are values: out of a worker they would come with its traceback."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitems__(self, numbers: list[int]) -> list[Tensor] | SmdEvoError:
        try:
            return _samples(self.data, numbers)
        except SmdEvoError as error:
            return error


def _collate(samples: list[Tensor] | SmdEvoError) -> Any:
    return samples if isinstance(samples, SmdEvoError) else collate(samples)


def _samples(data: Any, numbers: list[int]) -> list[Tensor]:
    """Some samples, which are tensors."""
    many = getattr(data, "__getitems__", None)
    found = list(many(numbers)) if many else [data[number] for number in numbers]
    for number, sample in zip(numbers, found, strict=True):
        if not isinstance(sample, Tensor):
            raise InvalidType(
                f"inputs: expected one tensor a sample, got {type(sample).__name__} as number {number}; "
                "a stream gets its targets apart"
            )
    return found


def _on_cpu(function: Callable[[], Any]) -> Any:
    """What a function returns where new tensors are on the CPU, whatever the default device."""
    with torch.device("cpu"):
        return function()


class _InterruptsWait:
    """Ctrl-C waits until the workers have started, where torch would leave a muddle; and it is never for them."""

    def __init__(self) -> None:
        self._caught: list[tuple[int, FrameType | None]] = []
        self._before: Any = None

    def enter(self) -> None:
        """Wait."""
        if threading.current_thread() is not threading.main_thread():  # where none arrives
            return
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is not None:  # else it is not Python's
            signal.signal(signal.SIGINT, lambda *arguments: self._caught.append(arguments))

    def leave(self) -> None:
        """Go on, with one that has come."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            before, self._before = self._before, None
            if self._caught and callable(before):
                before(*self._caught[0])


def _stop_idle(idle: dict[int, DataLoader[Any]]) -> None:
    """End the workers of this process, while their queues still work, also where Python collects a cycle."""
    loader = idle.pop(os.getpid(), None)
    if loader is not None:
        _stop(loader)


def _stop(loader: DataLoader[Any]) -> None:
    """End a loader's workers now, and not when the last traceback that knows them is forgotten."""
    shutdown = getattr(loader._iterator, "_shutdown_workers", None)
    if shutdown is not None:
        shutdown()
