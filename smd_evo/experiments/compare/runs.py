"""The runs of a comparison as files: one each, and all of their points as a table."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from smd_evo.errors import InvalidValue, shown
from smd_evo.experiments.compare.run import PARENT, Job, Point, Run, Score, settings_of
from smd_evo.experiments.folders.content import read_results, write_results
from smd_evo.experiments.folders.rescue import Files, reason, rescued

__all__ = ["RUNS", "file_of", "points_table", "store_run", "stored_run", "what"]

_NEW = ("calibrated", "forwards")
"""What runs of older versions do not say."""

RUNS = "runs"
"""The folder that holds them."""


def what(job: Job) -> str:
    """Which of a method's runs it is."""
    return f"seed {job.seed}" if job.reported else f"trial {job.trial + 1}"


def file_of(folder: Path, job: Job) -> Path:
    """Where its run is kept."""
    name = what(job).replace(" ", "-") if job.method != PARENT else PARENT
    return folder / RUNS / job.method.replace(":", "-") / f"{name}.json"


def store_run(folder: Path, run: Run) -> None:
    """Keep a run.

    Raises:
        OSError: it cannot be written there; it says where it is.
    """
    file = file_of(folder, run.job)
    files: Files = {file.name: lambda place: write_results(place, "compare-run", dataclasses.asdict(run))}
    try:
        file.parent.mkdir(exist_ok=True)
        files[file.name](file)
    except OSError as error:
        elsewhere, _ = rescued(file, files)
        what = f"this run is in {elsewhere}, to be copied there" if elsewhere else "this run is lost"
        raise OSError(
            f"{file}: {reason(error)}; {what}; those before are kept, and the same command goes on"
        ) from error


def stored_run(folder: Path, job: Job) -> Run | None:
    """The run of a job, if it is there and was made with the settings that the method has today."""
    file = file_of(folder, job)
    if not file.is_file():
        return None
    stored = read_results(file, "compare-run")
    try:
        run = _decoded(stored)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidValue(
            f"out: expected a run of a comparison in {file}, got something else ({type(error).__name__}: "
            f"{shown(str(error))}); delete that file, and it is made again"
        ) from error
    settings = json.loads(json.dumps(settings_of(job)))
    return run if run.job == job and run.settings == settings else None


def _decoded(stored: Mapping[str, Any]) -> Run:
    values = {field.name: stored[field.name] for field in dataclasses.fields(Run) if field.name not in _NEW}
    points = tuple(
        Point(_number(each["evaluations"], int), _score(each["score"]), _forwards(each)) for each in stored["points"]
    )
    test, calibrated = (None if each is None else _score(each) for each in (stored["test"], stored.get("calibrated")))
    for name in ("evaluations", "calibration"):
        _number(stored[name], int)
    _number(stored["seconds"], int, float)
    _number(stored["memory"], int, type(None))
    if not points or not isinstance(stored["settings"], dict):
        raise ValueError("no points, or no settings")
    return Run(
        **{
            **values,
            "job": Job(**stored["job"]),
            "points": points,
            "test": test,
            "calibrated": calibrated,
            "forwards": _forwards(stored),
        }
    )


def _score(stored: Mapping[str, Any]) -> Score:
    """A loss that was not finite is None in a file."""
    loss = math.nan if stored["loss"] is None else _number(stored["loss"], int, float)
    return Score(_number(stored["accuracy"], int, float), loss)


def _forwards(stored: Mapping[str, Any]) -> float | None:
    found: float | None = _number(stored.get("forwards"), int, float, type(None))
    return found


def _number(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise TypeError(f"no number: {shown(value)}")
    return value


def points_table(runs: Iterable[Run]) -> str:
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
            "forwards",
            "accuracy",
            "loss",
            "seconds",
            "memory",
        ]
    )
    for run in runs:
        job = run.job
        begin = [job.method, job.reported, job.seed, job.trial, json.dumps(run.settings)]
        ends = ("test", run.test), ("test, calibrated", run.calibrated)
        points = [("validation", point) for point in run.points]
        points += [(split, Point(run.evaluations, score, run.forwards)) for split, score in ends if score]
        for split, point in points:
            spent = point.evaluations, point.forwards
            score = point.score.accuracy, point.score.loss
            writer.writerow([*begin, split, *spent, *score, round(run.seconds, 3), run.memory])
    return text.getvalue()
