"""The plot of a comparison: learning curves."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smd_evo.experiments.compare.methods.registry import REFERENCE
from smd_evo.experiments.compare.results import MEASURES, CompareResult

__all__ = ["plot_compare"]

_UNITS = {"evaluations": "image evaluations", "forwards": "forward passes of an image"}
_STYLES = ("-", "--", ":", "-.")


def plot_compare(result: CompareResult, file: Path | IO[bytes]) -> None:
    """Validation accuracy and loss of each method over what they took; bands are t intervals over seeds.

    Over image evaluations, and in a second row over forward passes, where all runs count them.

    Args:
        result: the comparison.
        file: PNG file to write.
    """
    with matplotlib.rc_context({"font.size": 11.5}):
        units = [unit for unit in _UNITS if unit == "evaluations" or result.counted]
        height = 4.6 * len(units) + 1 + 0.25 * (len(result.methods) // 4)
        figure = Figure(figsize=(11, height), layout="constrained")
        for unit, (left, right) in zip(units, figure.subplots(len(units), 2, squeeze=False), strict=True):
            _curves(left, result, unit, "accuracy", 100)
            _curves(right, result, unit, "loss", 1)
            left.set_ylabel("validation accuracy, %")
            right.set_ylabel("validation cross-entropy")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        seeds = result.config.seeds
        figure.suptitle(f"{result.config.model}: means of {seeds} seeds, bands: 95 % intervals")
        figure.savefig(file, dpi=120, format="png")


def _curves(axes: Axes, result: CompareResult, unit: str, measure: str, scale: float) -> None:
    ends = []
    for number, method in enumerate(result.methods):
        curve, low, high = (
            [scale * getattr(each, name) for each in getattr(method.curve, measure)]
            for name in ("value", "low", "high")
        )
        colour, style = f"C{number % 10}", _STYLES[number // 10 % len(_STYLES)]
        width = 2.4 if method.method == REFERENCE else 1.4
        spent = getattr(method.curve, unit)
        axes.plot(spent, curve, style, color=colour, linewidth=width, label=method.method)
        axes.fill_between(spent, low, high, color=colour, alpha=0.12, linewidth=0)
        ends += curve
    parent = scale * getattr(result.parent["validation"], measure)
    axes.axhline(parent, color="0.3", linestyle="--", linewidth=1, label="parent")
    # By the means, and without the worst twentieth: a wide band, or a method that diverges, would flatten all others.
    ordered, worst = sorted([*ends, parent]), len(ends) // 20
    kept = ordered[worst:] if MEASURES[measure] == "max" else ordered[: len(ordered) - worst]
    margin = 0.1 * (kept[-1] - kept[0] or 1)
    axes.set_ylim(kept[0] - margin, kept[-1] + margin)
    axes.set_xlabel(_UNITS[unit])
    axes.set_xlim(0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
    axes.spines[["top", "right"]].set_visible(False)
