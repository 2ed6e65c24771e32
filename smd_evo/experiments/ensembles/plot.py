"""The plot of a run's ensembles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smd_evo.experiments.ensembles.run import EnsembleResult
from smd_evo.experiments.scores import Curve
from smd_evo.statistics.tests import Estimate

__all__ = ["draw_curves", "plot_ensembles"]


def plot_ensembles(result: EnsembleResult, file: Path | IO[bytes]) -> None:
    """Accuracy and loss against the ensemble's size, and disagreement against accuracy of its members.

    Args:
        result: scored ensembles.
        file: PNG file to write.
    """
    samples = result.data.sizes["validation"]
    draw_curves(result.curves, f"{result.config.model}, {samples} validation images; bands: 95 % intervals", file)


def draw_curves(curves: Sequence[Curve], title: str, file: Path | IO[bytes]) -> None:
    """The same of any curves.

    Args:
        curves: one a method.
        title: what they are of.
        file: PNG file to write.
    """
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    accuracy, loss, members = figure.subplots(1, 3)
    for number, curve in enumerate(curves):
        colour = f"C{number}"
        _band(accuracy, curve.accuracy, colour, curve.method, 100)
        _band(loss, curve.nll, colour, curve.method, 1)
        points = [(100 * alone, 100 * apart) for alone, apart in curve.members]
        members.scatter(*zip(*points, strict=True), s=14, alpha=0.7, color=colour, linewidths=0)
    accuracy.set_ylabel("accuracy of the ensemble, %")
    loss.set_ylabel("negative log-likelihood of the ensemble, nats")
    for axes in (accuracy, loss):
        axes.set_xlabel("members, best by fitness first")
        axes.xaxis.get_major_locator().set_params(integer=True)
    members.set_xlabel("accuracy of a member alone, %")
    members.set_ylabel("mean disagreement with the others, %")
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=len(curves), frameon=False)
    for axes in (accuracy, loss, members):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(file, dpi=120, format="png")


def _band(axes: Axes, estimates: Sequence[Estimate], colour: str, label: str, scale: float) -> None:
    sizes = range(1, len(estimates) + 1)
    axes.plot(sizes, [scale * estimate.value for estimate in estimates], color=colour, label=label, marker=".")
    low, high = ([scale * getattr(estimate, end) for estimate in estimates] for end in ("low", "high"))
    axes.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
