"""The plot of mutation windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smd_evo.experiments.window.results import WindowResult

__all__ = ["plot_window"]

_STYLES = {"partition": "--", "neuron": ":"}
_EDGES = {0.99: "white", 0.9: "black"}
"""Fill of the marks: what the median child keeps."""
_COLUMNS = 20
"""Cells in a row that have room for their number and their strength."""


def plot_window(result: WindowResult, file: Path | IO[bytes]) -> None:
    """Top: the median accuracy of each cell. Below: the same against sigma, and against sigma at matched norm.

    Args:
        result: measured windows.
        file: PNG file to write.
    """
    with matplotlib.rc_context({"font.size": 11.5, "hatch.linewidth": 0.6}):
        height = max(0.45 * len(result.profiles), 0.9) + 0.9
        figure = Figure(figsize=(10.7, height + 5), layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=(height, 4))
        top, left = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, 0])
        right = figure.add_subplot(grid[1, 1], sharey=left)
        _heat_map(figure, top, result)
        _curves(left, result, matched=False)
        _curves(right, result, matched=True)
        left.set_ylabel("median accuracy, %")
        right.tick_params(labelleft=False)
        (lines, names), (marks, shares) = left.get_legend_handles_labels(), top.get_legend_handles_labels()
        figure.legend([*lines, *marks], [*names, *shares], loc="outside lower center", ncols=4, frameon=False)
        images = f"{result.samples['fitness']:,} images"
        figure.suptitle(f"{result.config.model}, {images}: median child, bands: its 95 % interval")
        figure.savefig(file, dpi=120, format="png")


def _heat_map(figure: Figure, axes: Axes, result: WindowResult) -> None:
    """A row a rule, a column a strength; what was not sampled is hatched, the edges of windows are marked."""
    sigmas = sorted({cell.sigma for profile in result.profiles for cell in profile.cells})
    medians = np.full((len(result.profiles), len(sigmas)), np.nan)
    for row, profile in enumerate(result.profiles):
        for cell in profile.cells:
            medians[row, sigmas.index(cell.sigma)] = 100 * cell.median.value
    top = max(100 * result.parent, float(np.nanmax(medians)))
    axes.patch.set(facecolor="0.97", edgecolor="0.85", hatch="////")
    image = axes.pcolormesh(medians, cmap="viridis", vmin=0, vmax=top, edgecolors="white", linewidth=0.5)
    figure.colorbar(image, ax=axes, pad=0.01, label="median acc., %")
    roomy = len(sigmas) <= _COLUMNS
    for (row, column), value in np.ndenumerate(medians):
        if roomy and np.isfinite(value):
            colour = "black" if value > 0.6 * top else "white"
            axes.text(column + 0.5, row + 0.4, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=10)
    for share, fill in _EDGES.items():
        places = _edges(result, share, sigmas)
        label = f"keeps {100 * share:.0f} %"
        # None at all would take up all of the layout.
        axes.plot(*places, "^", color=fill, mec="black", ms=8, label=label, clip_on=False, in_layout=False)
    every = 2 if roomy else 1 + len(sigmas) // 12
    axes.set_xticks(np.arange(0, len(sigmas), every) + 0.5, [f"{sigma:.2g}" for sigma in sigmas[::every]])
    axes.set_yticks(np.arange(len(result.profiles)) + 0.5, [profile.rule for profile in result.profiles])
    axes.invert_yaxis()
    axes.set_xlabel("sigma")


def _edges(result: WindowResult, share: float, sigmas: Sequence[float]) -> tuple[list[float], list[float]]:
    """Where the edges of that share are in the heat map: columns and rows."""
    across, down = [], []
    for row, profile in enumerate(result.profiles):
        for window in profile.windows:
            if window.share == share and window.sigma.value is not None:
                middles = np.arange(len(sigmas)) + 0.5
                across.append(float(np.interp(np.log(window.sigma.value), np.log(sigmas), middles)))
                down.append(row + 0.85)
    return across, down


def _curves(axes: Axes, result: WindowResult, *, matched: bool) -> None:
    """Medians with their intervals against sigma, or against sigma * sqrt(density)."""
    densities = np.log(result.config.density)
    for profile in result.profiles:
        # A colour for each density and a style for each kind.
        colour = f"C{int(np.abs(densities - np.log(profile.density)).argmin()) % 10}"
        places = [cell.norm if matched else cell.sigma for cell in profile.cells]
        medians, low, high = (
            [100 * getattr(cell.median, name) for cell in profile.cells] for name in ("value", "low", "high")
        )
        style = _STYLES.get(profile.kind, "-")
        axes.plot(places, medians, style, color=colour, marker=".", label=profile.rule)
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.vlines(places, low, high, color=colour, alpha=0.3, linewidth=1)
    levels = {
        "parent": (result.parent, "--"),
        "90 % of it": (0.9 * result.parent, "-."),
        "chance": (result.chance, ":"),
    }
    for name, (level, style) in levels.items():
        axes.axhline(100 * level, color="0.4", linestyle=style, linewidth=1, label=name, zorder=0)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("sigma · √density (matched norm)" if matched else "sigma")
    axes.spines[["top", "right"]].set_visible(False)
