"""The directory of a comparison: a file for each run, so that one that was stopped goes on where it was."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import yaml

from smd_evo.atomic import write_whole
from smd_evo.errors import InvalidValue, OutputExists
from smd_evo.experiments.compare import PARENT, Comparison, Job, Point, Run, Score
from smd_evo.experiments.compare_results import CompareResult, best_trial, summarise
from smd_evo.experiments.config import CompareConfig, load_settings
from smd_evo.experiments.methods.registry import REFERENCE, find_method
from smd_evo.experiments.progress import Progress
from smd_evo.report.compare_plot import plot_compare
from smd_evo.runs.folder import CONFIG, PLOT, RESULTS, described, read_results, write_results

__all__ = ["POINTS", "compare", "finished"]

POINTS = "points.csv"
_RUNS = "runs"
_TUNING = 0
"""The seed of tuning runs; reported ones count from 1."""
_MAY_CHANGE = ("methods", "seeds")
"""Settings of which a comparison that goes on may have others: more of them."""

_comparison: Comparison | None = None
"""A worker process's own."""


def compare(config: CompareConfig, folder: Path, workers: int, progress: Progress) -> CompareResult:
    """Make all runs that are not there yet, and write what they say together.

    Args:
        config: the settings.
        folder: of the comparison, new or one that was begun with these settings.
        workers: processes that make runs side by side.
        progress: told of the runs.

    Raises:
        OutputExists: the folder holds something else.
        InvalidValue, InvalidType: settings that the network or the data cannot have, or other ones than before.
    """
    names = [REFERENCE, *(name for name in config.methods if name != REFERENCE)]
    for name in names:
        tries = len(find_method(name).grid)
        if tries < config.trials:
            raise InvalidValue(
                f"trials: expected at most the {tries} settings that {name} has to try, got {config.trials}; all "
                "methods get as many"
            )
    _open(folder, config)
    with _Runner(config, folder, workers, progress) as runner:
        tuning = {name: [Job(name, _TUNING, trial, False) for trial in range(config.trials)] for name in names}
        runner.make([Job(PARENT, _TUNING, 0, True), *(job for own in tuning.values() for job in own)])
        trials = {name: [runner.done[job] for job in own] for name, own in tuning.items()}
        chosen = {name: best_trial(own, config.metric) for name, own in trials.items()}
        seeds = range(1, config.seeds + 1)
        reported = {name: [Job(name, seed, chosen[name], True) for seed in seeds] for name in names}
        runner.make([job for own in zip(*reported.values(), strict=True) for job in own])  # each seed of all methods
        data, parameters = runner.facts()
        runs = {name: [runner.done[job] for job in own] for name, own in reported.items()}
        parent = runner.done[Job(PARENT, _TUNING, 0, True)]
    result = summarise(config, parameters, parent, trials, runs)
    everything = [parent, *(run for own in (*trials.values(), *runs.values()) for run in own)]
    _write(folder, result, everything, data)
    return result


def finished(folder: Path) -> int:
    """How many runs are there."""
    return len(list((folder / _RUNS).glob("*/*.json")))


class _Runner:
    """Makes the runs that are missing, here or in worker processes, and keeps each as soon as it is there.

    Attributes:
        done: the runs of all jobs so far.
    """

    def __init__(self, config: CompareConfig, folder: Path, workers: int, progress: Progress) -> None:
        self.done: dict[Job, Run] = {}
        self._config, self._folder, self._progress, self._workers = config, folder, progress, workers
        self._comparison: Comparison | None = None
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        if kind is not None:  # workers would end their runs first
            for child in multiprocessing.active_children():
                child.terminate()
        self._pool.shutdown(cancel_futures=True)

    def make(self, jobs: Sequence[Job]) -> None:
        """Make the runs of these jobs that are not there."""
        missing = []
        for job in jobs:
            run = _stored(self._folder, job)
            if run is None:
                missing.append(job)
            else:
                self.done[job] = run
        for run in self._made(missing):
            write_results(_file(self._folder, run.job), "compare-run", dataclasses.asdict(run))
            self.done[run.job] = run

    def facts(self) -> tuple[dict[str, Any], int]:
        """What the data is, and how many parameters may be mutated; stored, for a comparison that is finished."""
        file = self._folder / _RUNS / "data.json"
        if not file.is_file():
            here = self._here()
            write_results(file, "compare-data", {"data": described(here.data), "parameters": here.parameters})
        stored = read_results(file, "compare-data")
        return stored["data"], stored["parameters"]

    def _made(self, jobs: Sequence[Job]) -> Iterator[Run]:
        if self._workers == 1 or len(jobs) < 2:
            for number, job in enumerate(jobs, start=1):
                here = self._here()
                name = job.method if job.method == PARENT else f"{job.method}, {_what(job)}"
                self._progress.start(f"run {number} of {len(jobs)}: {name}", here.steps)
                yield here.run(job)
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers,
                multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(self._config, self._workers),
            )
        self._progress.start("runs", len(jobs))
        for future in as_completed([self._pool.submit(_work, job) for job in jobs]):
            self._progress.advance()
            yield future.result()

    def _here(self) -> Comparison:
        if self._comparison is None:
            self._comparison = Comparison(self._config, self._progress)
        return self._comparison


def _begin(config: CompareConfig, workers: int) -> None:
    """A worker process: the parent and the data, once."""
    global _comparison  # noqa: PLW0603  # an initializer hands nothing else to the work that follows
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends its workers
    main = multiprocessing.parent_process()
    assert main is not None
    threading.Thread(target=_end_with, args=(main,), daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    _comparison = Comparison(config)


def _end_with(process: BaseProcess) -> None:
    """Nobody would wait for this process's work."""
    process.join()
    os._exit(1)


def _work(job: Job) -> Run:
    assert _comparison is not None
    return _comparison.run(job)


def _what(job: Job) -> str:
    return f"seed {job.seed}" if job.reported else f"trial {job.trial + 1}"


def _file(folder: Path, job: Job) -> Path:
    name = _what(job).replace(" ", "-") if job.method != PARENT else PARENT
    return folder / _RUNS / job.method.replace(":", "-") / f"{name}.json"


def _stored(folder: Path, job: Job) -> Run | None:
    """The run of a job, if it is there and was made with the settings that the method has today."""
    file = _file(folder, job)
    if not file.is_file():
        return None
    run = _decoded(read_results(file, "compare-run"))
    settings = {} if job.method == PARENT else json.loads(json.dumps(dict(find_method(job.method).grid[job.trial])))
    return run if run.job == job and run.settings == settings else None


def _decoded(stored: Mapping[str, Any]) -> Run:
    values = {field.name: stored[field.name] for field in dataclasses.fields(Run)}
    points = tuple(Point(each["evaluations"], Score(**each["score"])) for each in stored["points"])
    test = stored["test"] and Score(**stored["test"])
    return Run(**{**values, "job": Job(**stored["job"]), "points": points, "test": test})


def _open(folder: Path, config: CompareConfig) -> None:
    """Begin a folder, or go on with one of the same settings."""
    settings = config.as_dict()
    if (folder / CONFIG).is_file():
        there = load_settings(folder / CONFIG)
        differ = [
            f"{name} {there.get(name)!r} instead of {value!r}"
            for name, value in settings.items()
            if there.get(name) != value and name not in _MAY_CHANGE
        ]
        if differ:
            raise InvalidValue(
                f"out: expected a comparison of the same settings but for {' and '.join(_MAY_CHANGE)}, got {folder} "
                f"with {', '.join(differ)}; choose another"
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExists(
            f"out: expected a new or empty folder, or a comparison to go on with, got {folder}; choose another"
        )
    try:
        (folder / _RUNS).mkdir(parents=True, exist_ok=True)
        for name in (PARENT, REFERENCE, *config.methods):
            (folder / _RUNS / name.replace(":", "-")).mkdir(exist_ok=True)
    except OSError as error:
        raise InvalidValue(f"out: expected a place that can be written to, got {folder} ({error.strerror})") from None
    write_whole(folder / CONFIG, yaml.safe_dump(settings, sort_keys=False).encode())


def _write(folder: Path, result: CompareResult, runs: Iterable[Run], data: Mapping[str, Any]) -> None:
    results = {name: value for name, value in dataclasses.asdict(result).items() if name != "config"}
    seconds = sum(run.seconds for run in runs)
    write_results(folder / RESULTS, "compare", {**results, "data": dict(data)}, seconds)
    write_whole(folder / POINTS, _table(runs).encode())
    plot_compare(result, folder / PLOT)


def _table(runs: Iterable[Run]) -> str:
    """Every point of every run as CSV; those of the test split are called so."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "method",
            "reported",
            "seed",
            "trial",
            "settings",
            "split",
            "evaluations",
            "accuracy",
            "loss",
            "seconds",
            "memory",
        ]
    )
    for run in runs:
        job = run.job
        begin = [job.method, job.reported, job.seed, job.trial, json.dumps(run.settings)]
        scores = [("validation", point.evaluations, point.score) for point in run.points]
        scores += [("test", run.evaluations, run.test)] if run.test else []
        for split, evaluations, score in scores:
            writer.writerow(
                [*begin, split, evaluations, score.accuracy, score.loss, round(run.seconds, 3), run.memory]
            )
    return text.getvalue()
