"""A folder of fine-tuning runs, one for each architecture and seed, and what they say together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smd_evo.experiments.facts import stored_rows
from smd_evo.experiments.finetune.files import stored_config
from smd_evo.experiments.folders.content import (
    PLOT,
    RESULTS,
    SUMMARY,
    TABLE,
    read_results,
    write_plot,
    write_results,
    write_table,
    wrong_state,
)
from smd_evo.experiments.protocol.networks import Gain, Run
from smd_evo.experiments.protocol.plot import plot_summary
from smd_evo.experiments.protocol.results import Summary, summarise
from smd_evo.experiments.sections import estimate

__all__ = ["SUMMARY", "read_run", "write_summary"]


def write_summary(folder: Path, runs: Mapping[str, str], command: Mapping[str, Any] | None = None) -> Summary:
    """Gather finished runs in a folder: what they say together, every row of each, and a picture.

    Args:
        folder: where they are.
        runs: the name of each one's network by that of its folder.
        command: what asked for them; see :meth:`smd_evo.experiments.protocol.plan.Plan.command`.
    """
    found = [read_run(folder / run, name) for run, name in runs.items()]
    summary = summarise(found)
    write_table(
        folder / TABLE,
        [
            {"network": run.name, "parameters": run.parameters, "seed": run.seed, **dataclasses.asdict(row)}
            for run in found
            for row in run.rows
        ],
    )
    write_plot(folder / PLOT, lambda picture: plot_summary(summary, picture))
    results = {"runs": list(runs), "command": command, **dataclasses.asdict(summary)}
    write_results(folder / SUMMARY, "protocol", results)
    return summary


def read_run(run: Path, name: str) -> Run:
    """A finished run, as the summary needs it.

    Args:
        run: its folder.
        name: of its network.

    Raises:
        InvalidValue: there are no results, or others than this version writes.
    """
    with wrong_state(f"the results in {run}"):
        results, config = read_results(run / RESULTS, "finetune"), stored_config(run)
        against = {
            other: Gain(estimate(each["accuracy_gain"]), float(each["p_value"]), float(each["p_value"]))
            for other, each in results["sparse_ensemble_against"].items()
        }
        return Run(
            name=name,
            seed=config.seed,
            model=config.model,
            parameters=int(results["parameters"]),
            rows=stored_rows(results),
            right=_right(results),
            samples=np.array(results["splits"]["test"], dtype=np.int64),
            against=against,
            groups={
                arm: [(float(group["density"]), float(group["validation"])) for group in each["groups"]]
                for arm, each in results["arms"].items()
            },
            sense=results.get("sense", "min"),
        )


def _right(results: Mapping[str, Any]) -> NDArray[np.bool_] | None:
    rows = results.get("right")
    if not rows:
        return None
    bits = [np.unpackbits(np.frombuffer(bytes.fromhex(row), np.uint8)) for row in rows]
    return np.stack(bits)[:, : results["data"]["samples"]["test"]].astype(bool)
