"""Makes the runs of a comparison, in this process or in several."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from smd_evo.errors import InvalidValue
from smd_evo.experiments.compare.run import PARENT, Comparison, Job, Run
from smd_evo.experiments.compare.runs import store_run, stored_run, what
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.folders.survival import STOPPING
from smd_evo.experiments.parent import NAMED, Source
from smd_evo.experiments.progress import Progress

__all__ = ["Runner"]

_comparison: Comparison | None = None
"""A worker process's own."""


class Runner:
    """Makes the runs that are missing, here or in worker processes, and keeps each as soon as it is there.

    Attributes:
        done: the runs of all jobs so far.
    """

    def __init__(
        self, config: CompareConfig, folder: Path, workers: int, progress: Progress, source: Source = NAMED
    ) -> None:
        self.done: dict[Job, Run] = {}
        self._config, self._folder, self._progress, self._workers = config, folder, progress, workers
        self._source = source
        self._comparison: Comparison | None = None
        self._pool: ProcessPoolExecutor | None = None
        self._may_freeze = False

    def __enter__(self) -> Runner:
        self._may_freeze = gc.get_freeze_count() == 0  # else thawing would thaw what others have frozen
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._may_freeze:
            gc.unfreeze()
        if self._pool is None:
            return
        if kind is not None:  # workers would end their runs first
            for worker in list((self._pool._processes or {}).values()):  # there is no other way to know its own
                worker.terminate()
        self._pool.shutdown(cancel_futures=True)

    def make(self, jobs: Sequence[Job]) -> None:
        """Make the runs of these jobs that are not there."""
        missing = []
        for job in jobs:
            run = stored_run(self._folder, job)
            if run is None:
                missing.append(job)
            else:
                self.done[job] = run
        for run in self._made(missing):
            store_run(self._folder, run)
            self.done[run.job] = run

    def here(self) -> Comparison:
        """The parent and the data in this process."""
        if self._comparison is None:
            self._comparison = Comparison(self._config, self._progress, self._source)
        return self._comparison

    def _freeze(self) -> None:
        """What there is between two runs: each run's collection would look at all imports again, for 0.3 s.

        While a run is at work this would keep its own cycles alive to the end.
        """
        if self._may_freeze:
            gc.collect()
            gc.freeze()

    def _made(self, jobs: Sequence[Job]) -> Iterator[Run]:
        if self._workers == 1 or len(jobs) < 2:
            for number, job in enumerate(jobs, start=1):
                here = self.here()
                if number <= 2:  # the first run imports what the others use
                    self._freeze()
                name = job.method if job.method == PARENT else f"{job.method}, {what(job)}"
                self._progress.start(f"run {number} of {len(jobs)}: {name}", here.steps)
                yield here.run(job)
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers,
                multiprocessing.get_context("spawn"),
                initializer=_enter,
                initargs=(self._config, self._workers, self._source),
            )
        self._progress.start("runs", len(jobs))
        try:
            for future in as_completed([self._pool.submit(_work, job) for job in jobs]):
                self._progress.advance()
                yield future.result()
        except BrokenProcessPool:
            raise InvalidValue(
                f"jobs: expected {self._workers} processes to live, one was killed, perhaps for want of memory; "
                "what is finished is kept, try fewer"
            ) from None


def _enter(config: CompareConfig, workers: int, source: Source) -> None:
    """A worker process: the parent and the data, once."""
    global _comparison  # noqa: PLW0603  # an initializer hands nothing else to the work that follows
    for number in set(STOPPING) - {signal.SIGTERM}:  # the main process ends its workers, by that one
        signal.signal(number, signal.SIG_IGN)
    main = multiprocessing.parent_process()
    assert main is not None
    threading.Thread(target=_end_with, args=(main,), daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    _comparison = Comparison(config, source=source)


def _end_with(process: BaseProcess) -> None:
    """Nobody would wait for this process's work."""
    process.join()
    os._exit(1)


def _work(job: Job) -> Run:
    assert _comparison is not None
    return _comparison.run(job)
