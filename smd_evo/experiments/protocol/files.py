"""A folder of fine-tuning runs, one for each architecture and seed, and what they say together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smd_evo.experiments.finetune.files import stored_config
from smd_evo.experiments.folders.content import RESULTS, SUMMARY, read_results, write_results, wrong_state
from smd_evo.experiments.protocol.results import CANDIDATES, Architecture, Gain, Summary, summarise
from smd_evo.experiments.shortlists import SPARSE
from smd_evo.statistics.tests import Estimate

__all__ = ["SUMMARY", "write_summary"]


def write_summary(folder: Path, runs: Mapping[str, str], command: Mapping[str, Any] | None = None) -> Summary:
    """Gather finished runs in a folder, over their architectures.

    Args:
        folder: where they are.
        runs: the name of each one's network by that of its folder.
        command: what asked for them; see :meth:`smd_evo.experiments.protocol.plan.Plan.command`.
    """
    summary = summarise([_architecture(folder / run, name) for run, name in runs.items()])
    results = {"runs": list(runs), "command": command, **dataclasses.asdict(summary)}
    write_results(folder / SUMMARY, "protocol", results)
    return summary


def _architecture(run: Path, name: str) -> Architecture:
    with wrong_state(f"the results in {run}"):
        return _read(run, name)


def _read(run: Path, name: str) -> Architecture:
    results = read_results(run / RESULTS, "finetune")
    gains = {
        row["candidate"]: _gain(row["accuracy_gain"], row["p_value"])
        for row in results["rows"]
        if row["method"] == SPARSE and row["candidate"] in CANDIDATES
    }
    against = {
        control: _gain(each["accuracy_gain"], each["p_value"])
        for control, each in results["sparse_ensemble_against"].items()
    }
    config = stored_config(run)
    return Architecture(
        name=name,
        seed=config.seed,
        model=config.model,
        parameters=results["parameters"],
        accuracy=results["rows"][0]["accuracy"],
        gains=gains,
        against=against,
    )


def _gain(value: dict[str, float], p_value: float) -> Gain:
    return Gain(Estimate(**{name: float(number) for name, number in value.items()}), float(p_value), float(p_value))
