"""The plot of a fine-tuning run."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from smd_evo.experiments.finetune.results import FinetuneResult
from smd_evo.experiments.settings import FITNESSES

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
    better = "lower" if result.config.fitness == "cross_entropy" else "higher"
    left.set_ylabel(f"{FITNESSES[result.config.fitness]} on the fitness split ({better} is better)")
    if result.config.fitness == "cross_entropy":
        left.set_yscale("log")
        left.yaxis.set_major_formatter(ScalarFormatter())
        left.yaxis.set_minor_formatter(ScalarFormatter())
    left.set_title(f"{result.config.children} children of each method's chosen group")
    left.legend(frameon=False)

    parent = result.rows[0].accuracy
    for offset, (candidate, marker) in enumerate(_MARKERS.items(), start=-1):
        rows = [row for row in result.rows if row.candidate == candidate and row.accuracy_gain]
        for place, row in zip(places, rows, strict=True):
            gain = row.accuracy_gain
            assert gain is not None
            low, high = 100 * (gain.value - gain.low), 100 * (gain.high - gain.value)
            right.errorbar(
                place + 0.2 * offset,
                100 * row.accuracy,
                yerr=[[max(low, 0)], [max(high, 0)]],
                fmt=marker,
                color=colours[place],
                capsize=3,
                markersize=6,
            )
        right.plot([], [], marker, color="0.3", label=candidate)
    right.axhline(100 * parent, color="0.3", linestyle="--", linewidth=1, label="parent")
    right.set_ylabel("test accuracy, %")
    right.set_title(f"{result.data.sizes['test']:,} test images; bars: 95 % intervals of the gain")
    right.legend(frameon=False, fontsize="small")
    for axes in (left, right):
        axes.set_xticks(places, names)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120, format="png")
