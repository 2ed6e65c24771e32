"""The picture of a study: what sparse and dense children and what is free gain, network by network."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smd_evo.experiments.finetune.results import NEARLY_FREE
from smd_evo.experiments.protocol.networks import CANDIDATES, MATCHED, Gain, Network
from smd_evo.experiments.protocol.results import Summary
from smd_evo.experiments.shortlists import SPARSE
from smd_evo.experiments.tables import BEST_FREE
from smd_evo.statistics.tests import Estimate

__all__ = ["plot_summary"]

_ARMS = {
    (SPARSE, "ensemble"): ("sparse, ensemble", "C0", "D"),
    (MATCHED, "ensemble"): ("dense at matched norm, ensemble", "C1", "o"),
    (NEARLY_FREE, BEST_FREE): (BEST_FREE, "0.4", "s"),
}
_CANDIDATES = {"best child": ("C2", "o"), "ensemble": ("C0", "D")}


def plot_summary(summary: Summary, file: Path | IO[bytes]) -> None:
    """Left: gains over the parent. Right: sparse less dense at matched norm. Below: means over networks.

    Args:
        summary: of one network or more.
        file: PNG file to write.
    """
    networks = sorted(summary.networks, key=lambda each: each.parameters)
    asked = all(MATCHED in each.against[name] for each in networks for name in CANDIDATES)
    rows = len(networks) + (1 if summary.gains else 0)
    figure = Figure(figsize=(11 if asked else 7, 1.6 + 0.42 * rows), layout="constrained")
    axes = figure.subplots(1, 2 if asked else 1, squeeze=False, sharey=True)[0]
    heights = {each.name: len(networks) - 1 - place for place, each in enumerate(networks)}
    _gains(axes[0], summary, networks, heights)
    if asked:
        _differences(axes[1], summary, networks, heights)
    names: dict[float, str] = {
        height: each.name.removeprefix("timm:") for each, height in zip(networks, heights.values(), strict=True)
    }
    if rows > len(networks):
        names[-1.5] = "mean over networks"
    axes[0].set_yticks(list(names), list(names.values()))
    for each in axes:
        each.axvline(0, color="0.6", linewidth=1, zorder=0)
        each.spines[["top", "right"]].set_visible(False)
        each.grid(axis="y", color="0.93")
        each.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, ncols=2, fontsize="small")
    figure.savefig(file, dpi=120, format="png")


def _gains(axes: Axes, summary: Summary, networks: list[Network], heights: dict[str, int]) -> None:
    for number, ((method, name), (label, colour, marker)) in enumerate(_ARMS.items()):
        shift = 0.22 * (1 - number)
        for each in networks:
            gain: Gain | None = each.gains.get(method, {}).get(name)
            if gain is not None:
                _point(axes, gain.value, heights[each.name] + shift, colour, marker, label)
                label = ""
        if name in summary.gains.get(method, {}):
            _point(axes, summary.gains[method][name], shift - 1.5, colour, marker)
    axes.set_xlabel("gain over the parent, points of test accuracy")


def _differences(axes: Axes, summary: Summary, networks: list[Network], heights: dict[str, int]) -> None:
    for number, name in enumerate(CANDIDATES):
        colour, marker = _CANDIDATES[name]
        label, shift = name, 0.11 - 0.22 * number
        for each in networks:
            _point(axes, each.against[name][MATCHED].value, heights[each.name] + shift, colour, marker, label)
            label = ""
        if MATCHED in summary.overall.get(name, {}):
            _point(axes, summary.overall[name][MATCHED].mean, shift - 1.5, colour, marker)
    axes.set_xlabel("sparse less dense at matched norm, points")


def _point(axes: Axes, value: Estimate, height: float, colour: str, marker: str, label: str = "") -> None:
    below, above = max(value.value - value.low, 0), max(value.high - value.value, 0)
    axes.errorbar(
        100 * value.value,
        height,
        xerr=[[100 * below], [100 * above]],
        fmt=marker,
        color=colour,
        capsize=2,
        markersize=5,
        linewidth=1,
        label=label or None,
    )
