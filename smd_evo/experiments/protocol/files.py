"""A folder of fine-tuning runs, one for each architecture, and what they say together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from smd_evo.experiments.finetune.files import stored_config
from smd_evo.experiments.folders.content import RESULTS, SUMMARY, read_results, write_results, wrong_state
from smd_evo.experiments.protocol.results import CANDIDATES, Architecture, Gain, Summary, summarise
from smd_evo.experiments.shortlists import SPARSE
from smd_evo.statistics.tests import Estimate

__all__ = ["SUMMARY", "write_summary"]


def write_summary(folder: Path, runs: Sequence[str]) -> Summary:
    """Gather the finished runs in a folder, over their architectures."""
    summary = summarise([_architecture(folder / name) for name in runs])
    write_results(folder / SUMMARY, "protocol", {"runs": list(runs), **dataclasses.asdict(summary)})
    return summary


def _architecture(run: Path) -> Architecture:
    with wrong_state(f"the results in {run}"):
        return _read(run)


def _read(run: Path) -> Architecture:
    results = read_results(run / RESULTS, "finetune")
    gains = {
        row["candidate"]: _gain(row["accuracy_gain"], row["p_value"])
        for row in results["rows"]
        if row["method"] == SPARSE and row["candidate"] in CANDIDATES
    }
    against = {
        name: _gain(each["accuracy_gain"], each["p_value"])
        for name, each in results["sparse_ensemble_against"].items()
    }
    return Architecture(
        model=stored_config(run).model,
        parameters=results["parameters"],
        accuracy=results["rows"][0]["accuracy"],
        gains=gains,
        against=against,
    )


def _gain(value: dict[str, float], p_value: float) -> Gain:
    return Gain(Estimate(**{name: float(number) for name, number in value.items()}), float(p_value), float(p_value))
