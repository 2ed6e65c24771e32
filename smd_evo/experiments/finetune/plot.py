"""The plot of a fine-tuning run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from smd_evo.experiments.finetune.results import FinetuneResult
from smd_evo.experiments.scores import Row
from smd_evo.experiments.settings import fitness_name

__all__ = ["plot_finetune"]

_MARKERS = {"median child": "v", "best child": "o", "ensemble": "D"}


def plot_finetune(result: FinetuneResult, file: Path | IO[bytes]) -> None:
    """Left: fitness of all children of each arm's chosen group. Right: test accuracy and its gain's interval.

    Args:
        result: the finished run.
        file: PNG file to write.
    """
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [arm.name.replace(", ", ",\n") for arm in result.arms]
    places = list(range(len(names)))
    colours = [f"C{place}" for place in places]

    fitness = [arm.group.result.fitness.tolist() for arm in result.arms]
    for place, values, colour in zip(places, fitness, colours, strict=True):
        # Spread sideways by rank, so that the same run always gives the same picture.
        spread = [place + 0.6 * (number * 0.618 % 1 - 0.5) for number in range(len(values))]
        left.scatter(spread, values, s=9, alpha=0.5, color=colour, linewidths=0)
    left.axhline(result.parent_fitness, color="0.3", linestyle="--", linewidth=1, label="parent")
    better = "lower" if result.sense == "min" else "higher"
    measure = fitness_name(result.config.fitness)
    left.set_ylabel(f"{measure} on the fitness split ({better} is better)")
    if result.config.fitness == "cross_entropy":
        left.set_yscale("log")
        left.yaxis.set_major_formatter(ScalarFormatter())
        left.yaxis.set_minor_formatter(ScalarFormatter())
    left.set_title(f"{result.config.children} children of each method's chosen group")
    left.legend(frameon=False)

    scored = [_scored(row) for row in result.rows]
    for offset, (candidate, marker) in enumerate(_MARKERS.items(), start=-1):
        rows = [found for row, found in zip(result.rows, scored, strict=True) if row.candidate == candidate]
        for place, (value, below, above) in zip(places, rows, strict=True):
            right.errorbar(
                place + 0.2 * offset,
                value,
                yerr=[[below], [above]],
                fmt=marker,
                color=colours[place],
                capsize=3,
                markersize=6,
            )
        right.plot([], [], marker, color="0.3", label=candidate)
    right.axhline(scored[0][0], color="0.3", linestyle="--", linewidth=1, label="parent")
    for row, (value, _, _) in zip(result.rows, scored, strict=True):
        if row.candidate == next(iter(result.free), None):
            right.axhline(value, color="0.3", linestyle=":", linewidth=1, label=f"{row.candidate}, nearly free")
    right.set_ylabel(f"test {measure}" if result.rows[0].accuracy is None else "test accuracy, %")
    right.set_title(f"{result.data.sizes['test']:,} test images; bars: 95 % intervals of the gain")
    right.legend(frameon=False, fontsize="small")
    for axes in (left, right):
        axes.set_xticks(places, names)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120, format="png")


def _scored(row: Row) -> tuple[float, float, float]:
    """What a network is worth, and how far below and above that its gain's interval reaches."""
    scale, value, gain = 100, row.accuracy, row.accuracy_gain
    if value is None:
        scale, value, gain = 1, row.fitness, row.fitness_gain
    assert value is not None
    if not math.isfinite(value):  # then there is nothing to draw
        return math.nan, 0, 0
    below, above = (gain.value - gain.low, gain.high - gain.value) if gain else (0.0, 0.0)
    return scale * value, scale * max(below, 0), scale * max(above, 0)
