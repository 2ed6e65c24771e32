"""The run directory of a mutation window."""

from __future__ import annotations

import dataclasses

from smd_evo.experiments.folders.content import (
    CONFIG,
    PLOT,
    RESULTS,
    TABLE,
    described,
    write_config,
    write_plot,
    write_results,
    write_table,
)
from smd_evo.experiments.folders.rescue import Files
from smd_evo.experiments.window.plot import plot_window
from smd_evo.experiments.window.run import WindowResult
from smd_evo.zoo.data import Data

__all__ = ["window_files"]


def window_files(result: WindowResult, data: Data, seconds: float) -> Files:
    """What writes everything of a mutation window: settings, numbers, the plot."""
    rows = [
        {"rule": profile.rule, "density": profile.density}
        | dataclasses.asdict(cell)
        | {"accuracies": len(cell.accuracies)}
        for profile in result.profiles
        for cell in profile.cells
    ]
    results = dataclasses.asdict(result) | {"data": described(data)}
    return {
        CONFIG: lambda file: write_config(file.parent, result.config),
        TABLE: lambda file: write_table(file, rows),
        RESULTS: lambda file: write_results(file, "window", results, seconds),
        PLOT: lambda file: write_plot(file, lambda picture: plot_window(result, picture)),
    }
