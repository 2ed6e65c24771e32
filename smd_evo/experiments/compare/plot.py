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

_STYLES = ("-", "--", ":", "-.")


def plot_compare(result: CompareResult, file: Path | IO[bytes]) -> None:
    """Validation accuracy and loss of each method over image evaluations; bands are t intervals over seeds.

    Args:
        result: the comparison.
        file: PNG file to write.
    """
    with matplotlib.rc_context({"font.size": 11.5}):
        figure = Figure(figsize=(11, 5.6 + 0.25 * (len(result.methods) // 4)), layout="constrained")
        left, right = figure.subplots(1, 2)
        _curves(left, result, "accuracy", 100)
        _curves(right, result, "loss", 1)
        left.set_ylabel("validation accuracy, %")
        right.set_ylabel("validation cross-entropy")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        seeds = result.config.seeds
        figure.suptitle(f"{result.config.model}: means of {seeds} seeds, bands: 95 % intervals")
        figure.savefig(file, dpi=120, format="png")


def _curves(axes: Axes, result: CompareResult, measure: str, scale: float) -> None:
    ends = []
    for number, method in enumerate(result.methods):
        curve, low, high = (
            [scale * getattr(each, name) for each in getattr(method.curve, measure)]
            for name in ("value", "low", "high")
        )
        colour, style = f"C{number % 10}", _STYLES[number // 10 % len(_STYLES)]
        width = 2.4 if method.method == REFERENCE else 1.4
        axes.plot(method.curve.evaluations, curve, style, color=colour, linewidth=width, label=method.method)
        axes.fill_between(method.curve.evaluations, low, high, color=colour, alpha=0.12, linewidth=0)
        ends += curve
    parent = scale * getattr(result.parent["validation"], measure)
    axes.axhline(parent, color="0.3", linestyle="--", linewidth=1, label="parent")
    # By the means, and without the worst twentieth: a wide band, or a method that diverges, would flatten all others.
    ordered, worst = sorted([*ends, parent]), len(ends) // 20
    kept = ordered[worst:] if MEASURES[measure] == "max" else ordered[: len(ordered) - worst]
    margin = 0.1 * (kept[-1] - kept[0] or 1)
    axes.set_ylim(kept[0] - margin, kept[-1] + margin)
    axes.set_xlabel("image evaluations")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
    axes.spines[["top", "right"]].set_visible(False)
