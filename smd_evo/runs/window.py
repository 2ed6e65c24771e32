"""The run directory of a mutation window."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from smd_evo.experiments.window import WindowResult
from smd_evo.report.window_plot import plot_window
from smd_evo.runs.folder import PLOT, RESULTS, described, write_config, write_results
from smd_evo.zoo.data import Data

__all__ = ["write_window"]


def write_window(folder: Path, result: WindowResult, data: Data, seconds: float) -> None:
    """Everything of a mutation window: settings, numbers, the plot."""
    write_config(folder, result.config)
    results = dataclasses.asdict(result) | {"data": described(data)}
    write_results(folder / RESULTS, "window", results, seconds)
    plot_window(result, folder / PLOT)
