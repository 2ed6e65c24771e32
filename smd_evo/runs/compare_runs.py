"""The runs of a comparison as files: one each, and all of their points as a table."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from smd_evo.experiments.compare import PARENT, Job, Point, Run, Score, settings_of
from smd_evo.runs.folder import read_results, write_results
from smd_evo.runs.rescue import Files, reason, rescued

__all__ = ["RUNS", "file_of", "points_table", "store_run", "stored_run", "what"]

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
    run = _decoded(read_results(file, "compare-run"))
    settings = json.loads(json.dumps(settings_of(job)))
    return run if run.job == job and run.settings == settings else None


def _decoded(stored: Mapping[str, Any]) -> Run:
    values = {field.name: stored[field.name] for field in dataclasses.fields(Run)}
    points = tuple(Point(each["evaluations"], Score(**each["score"])) for each in stored["points"])
    test = stored["test"] and Score(**stored["test"])
    return Run(**{**values, "job": Job(**stored["job"]), "points": points, "test": test})


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
