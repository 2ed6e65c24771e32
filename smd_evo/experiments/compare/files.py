"""The directory of a comparison: a file for each run, so that one that was stopped goes on where it was."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smd_evo.atomic import write_whole
from smd_evo.errors import InvalidValue
from smd_evo.experiments.compare.counts import compare_workload, votes_of
from smd_evo.experiments.compare.methods.registry import CONTROLS, REFERENCE, check_trials, find_method, tries
from smd_evo.experiments.compare.place import check_comparison
from smd_evo.experiments.compare.plot import plot_compare
from smd_evo.experiments.compare.results import CompareResult, best_trial, summarise
from smd_evo.experiments.compare.run import PARENT, Comparison, Job, Run
from smd_evo.experiments.compare.runner import Runner
from smd_evo.experiments.compare.runs import RUNS, file_of, points_table, stored_run
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.folders.content import (
    CONFIG,
    PLOT,
    RESULTS,
    described,
    differing,
    digest,
    read_results,
    write_config,
    write_plot,
    write_results,
    wrong_state,
)
from smd_evo.experiments.folders.rescue import reason
from smd_evo.experiments.folders.take import usable, working_in
from smd_evo.experiments.parent import NAMED, Source
from smd_evo.experiments.progress import Progress
from smd_evo.experiments.settings import load_settings
from smd_evo.experiments.workload import Workload

__all__ = ["POINTS", "compare", "finished"]

_log = logging.getLogger(__name__)

POINTS = "points.csv"
_DATA = f"{RUNS}/data.json"
_TUNING = 0
"""The seed of tuning runs; reported ones count from 1."""
_MAY_CHANGE = ("methods", "seeds")
"""Settings of which a comparison that goes on may have others: more of them."""


def compare(
    config: CompareConfig, folder: Path, workers: int, progress: Progress, source: Source = NAMED
) -> CompareResult:
    """Make all runs that are not there yet, and write what they say together.

    Args:
        config: the settings.
        folder: of the comparison, new or one that was begun with these settings.
        workers: processes that make runs side by side.
        progress: told of the runs.
        source: of the parent, the data and the fitness; by default the settings name them.

    Raises:
        OutputExists: the folder holds something else.
        InvalidValue, InvalidType: settings that the network or the data cannot have, or other ones than before.
    """
    names = [REFERENCE, *(name for name in config.methods if name != REFERENCE)]
    for name in names:
        check_trials(name, len(find_method(name).grid), config.trials)
    with usable(folder):
        _check(folder, config)
    with working_in(folder), Runner(config, folder, workers, progress, source) as runner:
        _check(folder, config)  # nobody else changes it from now on
        # Settings that cannot be are found before anything is written.
        new = None if (folder / _DATA).is_file() else runner.here()
        names += _controls(config, folder, names, new)
        workload = _workload(config, folder, names, runner, workers)
        if new is None and (workload.parts or source is not NAMED):
            _check_same(folder, runner.here())
        progress.expect(workload)
        if new is not None:
            write_config(folder, config)
            (folder / RUNS).mkdir(exist_ok=True)
            known = {"data": described(new.data), "parameters": new.parameters, "refused": new.refused_controls}
            write_results(folder / _DATA, "compare-data", known | _identity(new))
        tuning = {name: _tuning(name, config) for name in names}
        runner.make([Job(PARENT, _TUNING, 0, True), *(job for own in tuning.values() for job in own)])
        trials = {name: [runner.done[job] for job in own] for name, own in tuning.items()}
        chosen = {name: best_trial(own, config.metric) if own else 0 for name, own in trials.items()}
        seeds = range(1, config.seeds + 1)
        reported = {name: [Job(name, seed, chosen[name], True) for seed in seeds] for name in names}
        runner.make([job for own in zip(*reported.values(), strict=True) for job in own])  # each seed of all methods
        runs = {name: [runner.done[job] for job in own] for name, own in reported.items()}
        parent = runner.done[Job(PARENT, _TUNING, 0, True)]
        facts = read_results(folder / _DATA, "compare-data")
        with wrong_state(f"the runs in {folder}"):
            result = summarise(config, facts["parameters"], parent, trials, runs)
        everything = [parent, *(run for own in (*trials.values(), *runs.values()) for run in own)]
        try:
            _write(folder, result, everything, facts["data"])
        except OSError as error:
            raise OSError(
                f"{folder}: {reason(error)}; all runs are kept, and once it can be written to, the same command "
                "puts them together"
            ) from error
    return result


def _controls(config: CompareConfig, folder: Path, names: Sequence[str], new: Comparison | None) -> list[str]:
    """The controls that are made besides; those of a network for which they make no sense are told once."""
    if not config.controls:
        return []
    if new is not None:
        refused = new.refused_controls
        for name, why in refused.items():
            _log.info("control %s is left out: %s", name, why)
    else:
        refused = read_results(folder / _DATA, "compare-data").get("refused", dict.fromkeys(CONTROLS, ""))
    return [name for name in CONTROLS if name not in refused and name not in names]


def _workload(config: CompareConfig, folder: Path, names: Sequence[str], runner: Runner, workers: int) -> Workload:
    """What is not there yet."""
    trials, reported, strengths = [], [], 0
    for name in names:
        grid = [dict(settings) for settings in find_method(name).grid[: tries(name, config.trials)]]
        missing = [grid[job.trial] for job in _tuning(name, config) if stored_run(folder, job) is None]
        runs = [
            seed for seed in range(1, config.seeds + 1) if not file_of(folder, Job(name, seed, 0, True)).is_file()
        ]
        trials += missing
        reported += [max(grid, key=votes_of)] * len(runs)
        strengths += len(missing) + (len(missing) < len(grid) and bool(runs))
    begun = (folder / _DATA).is_file()
    sizes = read_results(folder / _DATA, "compare-data")["data"]["samples"] if begun else runner.here().data.sizes
    parent = stored_run(folder, Job(PARENT, _TUNING, 0, True)) is None
    found = compare_workload(config, sizes, trials, reported, workers * strengths, parent)
    if not found.parts:  # then the parent is not loaded
        return found
    return runner.here().timed(found, f"in one process, which {workers} share" if workers > 1 else "")


def _tuning(name: str, config: CompareConfig) -> list[Job]:
    """A method's trials: none where there is nothing to choose."""
    count = tries(name, config.trials)
    return [Job(name, _TUNING, trial, False) for trial in range(count)] if count > 1 else []


def finished(folder: Path) -> int:
    """How many runs are there."""
    return len(list((folder / RUNS).glob("*/*.json")))


def _check(folder: Path, config: CompareConfig) -> None:
    """Raise if there is something else than a comparison of these settings."""
    check_comparison(folder)
    if not (folder / CONFIG).is_file():
        return
    wanted = {name: value for name, value in config.as_dict().items() if name not in _MAY_CHANGE}
    there = CompareConfig().as_dict() | load_settings(folder / CONFIG)  # an older version has not written all
    if differ := differing(there, wanted):
        raise InvalidValue(
            f"out: expected a comparison of the same settings but for {' and '.join(_MAY_CHANGE)}, got {folder} "
            f"with {differ}; choose another"
        )


def _identity(comparison: Comparison) -> dict[str, str]:
    """What must be the same whenever the comparison goes on."""
    return {"parent": comparison.fingerprint, "samples": digest(comparison.data)}


def _check_same(folder: Path, comparison: Comparison) -> None:
    """Raise InvalidValue if the runs that are there are of another parent or other data."""
    there = read_results(folder / _DATA, "compare-data")
    for name, value in _identity(comparison).items():
        if there.get(name, value) != value:  # an older version has not noted it
            raise InvalidValue(
                f"out: expected a comparison of the same {name}, got {folder} of others; choose another"
            )


def _write(folder: Path, result: CompareResult, runs: Sequence[Run], data: Mapping[str, Any]) -> None:
    results = {name: value for name, value in dataclasses.asdict(result).items() if name != "config"}
    seconds = sum(run.seconds for run in runs)
    write_config(folder, result.config)  # with results of fewer methods and seeds these were those of their settings
    write_results(folder / RESULTS, "compare", {**results, "data": dict(data)}, seconds)
    write_whole(folder / POINTS, points_table(runs).encode())
    write_plot(folder / PLOT, lambda file: plot_compare(result, file))
