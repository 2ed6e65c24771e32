"""The plot of a run over generations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from smd_evo.experiments.generations.run import Validation
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.experiments.generations.table import kept_generation
from smd_evo.experiments.settings import fitness_name, in_percent

__all__ = ["plot_evolution"]

_Records = Sequence[Mapping[str, Any]]
_NOISY = {"median": ("median child", "C1"), "fitness": ("best child", "C2"), "parent": ("parent", "0.6")}
_MEASURES = {"cross_entropy": "loss", "accuracy": "accuracy"}
"""Fitnesses that every validation of a classifier tells under another name."""
_MARKED = 60
"""Validations that have room for a mark each."""
_THIN = 300
"""Generations from which on their lines would cover each other."""


def plot_evolution(records: _Records, start: Validation, config: EvolutionConfig, file: Path | IO[bytes]) -> None:
    """Left: fitness on minibatches and on validation. Right: the other measure on validation, and what changes.

    Args:
        records: the lines of metrics.jsonl, at least one, the last one of them validated.
        start: the pre-trained parent on validation.
        config: the run's settings.
        file: PNG file to write.
    """
    classes = start.accuracy is not None
    measure = _MEASURES.get(config.fitness, "fitness") if classes else "fitness"
    other, other_label = ("accuracy", "accuracy, %") if measure == "loss" else ("loss", "cross-entropy")
    other, other_label = (other, other_label) if classes else ("fitness", fitness_name(config.fitness))
    scale = 100 if classes and in_percent(config.fitness) else 1
    label = fitness_name(config.fitness) + (", %" if scale == 100 else "")
    changing = [name for name in ("sigma", "images") if len({record[name] for record in records}) > 1]
    with matplotlib.rc_context({"font.size": 11.5}):
        figure = Figure(figsize=(11, 5.6 + 0.6 * len(changing)), layout="constrained")
        grid = figure.add_gridspec(1 + len(changing), 2, height_ratios=[2.5, *(1 for _ in changing)])
        left = figure.add_subplot(grid[:, 0])
        right, *below = (figure.add_subplot(grid[row, 1], sharex=left) for row in range(1 + len(changing)))
        _minibatches(left, records, scale)
        _validations(left, records, start, measure, scale)
        _validations(right, records, start, other, 100 if other == "accuracy" else 1)
        for axes, name in zip(below, changing, strict=True):
            _course(axes, records, name)
        left.set_ylabel(label)
        right.set_ylabel(f"validation {other_label}")
        _finish(left, right, *below)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        figure.suptitle(f"{config.model}, {config.searcher} searcher, {config.children} children a generation")
        figure.savefig(file, dpi=120, format="png")


def _minibatches(axes: Axes, records: _Records, scale: float) -> None:
    """What ranked the children: each generation on other images, so the lines are light."""
    generations = [record["generation"] for record in records]
    width = 1 if len(records) < _THIN else 0.4
    for name, (label, colour) in _NOISY.items():
        values = [scale * record[name] for record in records]
        axes.plot(generations, values, color=colour, linewidth=width, alpha=0.7, label=f"{label}, minibatches")


def _validations(axes: Axes, records: _Records, start: Validation, measure: str, scale: float) -> None:
    """The parents that were validated, the pre-trained one first, and which of them was kept."""
    later = [(record["generation"], record["validation"]) for record in records if record["validation"]]
    found = [(0, asdict(start)), *later]
    places, values = [place for place, _ in found], [scale * each[measure] for _, each in found]
    marker = "o" if len(found) <= _MARKED else ""
    axes.plot(places, values, color="C0", linewidth=2, marker=marker, markersize=5, label="parent, validation")
    kept = kept_generation(records)
    label, value = f"kept: generation {kept}" if kept else "kept: the pre-trained parent", values[places.index(kept)]
    axes.plot([kept], [value], "*", color="C3", markersize=16, markeredgecolor="white", zorder=4, label=label)


def _course(axes: Axes, records: _Records, name: str) -> None:
    """A setting that is another one in other generations."""
    axes.step([record["generation"] for record in records], [record[name] for record in records], "0.3", where="mid")
    axes.set_ylabel(name)
    if name == "sigma":
        _logarithmic(axes, (1, 2, 5))
    else:
        axes.set_ylim(bottom=0)


def _finish(left: Axes, *right: Axes) -> None:
    """What all axes have."""
    for axes in (left, *right):
        axes.spines[["top", "right"]].set_visible(False)
        if "entropy" in axes.get_ylabel():
            _logarithmic(axes, (1, 2, 3, 5, 7))
        elif axes.get_yscale() == "linear":
            axes.yaxis.set_major_locator(MaxNLocator(3 if axes.get_ylabel() == "images" else 6, steps=[1, 2, 5, 10]))
        if axes in (left, right[-1]):
            axes.set_xlabel("generation")
        else:
            axes.tick_params(labelbottom=False)
    left.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))


def _logarithmic(axes: Axes, digits: Sequence[float]) -> None:
    """An axis of plain numbers that start with these digits; of powers of ten where there are many."""
    if not math.isfinite(axes.dataLim.minposy):  # nothing is positive
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=digits if math.log10(high / low) < 2 else (1,)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
