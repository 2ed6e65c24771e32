"""The tables of a run's ensembles, and what they say in words."""

from __future__ import annotations

from itertools import groupby

from rich.table import Table

from smd_evo.experiments.ensembles.run import EnsembleResult
from smd_evo.experiments.tables import claim, interval, new_table, p_text, points

__all__ = ["ensemble_tables", "ensemble_verdict"]


def ensemble_tables(result: EnsembleResult) -> list[Table]:
    """Accuracy with its differences; likelihood and calibration; diversity."""
    samples = result.data.sizes["test"]
    gains = _table(
        f"{result.config.model} on {result.config.data}, {samples} test images",
        "acc.: accuracy in %; difference: to the parent, in points; brackets: 95 %\n"
        "bootstrap intervals; p: exact McNemar test against the parent, and against\n"
        "the method's best child; not corrected for the number of lines. In\n"
        "parentheses: forward passes an image. views: the parent's votes for as many\n"
        "views of the image.",
        "acc.",
        "difference",
        "p",
        "p, best",
    )
    quality = _table("", "nll: negative log-likelihood in nats; ece: calibration error in %", "nll", "ece", "Brier")
    for method, rows in groupby(result.scores, key=lambda row: row.method):
        for table in (gains, quality):
            table.add_row(method)
        for row in rows:
            name = f"  {row.candidate}" if row.passes == 1 else f"  {row.candidate} ({row.passes})"
            difference = points(row.over["parent"]) if row.over else ""
            p_values = [p_text(row.p_values[other]) if other in row.p_values else "" for other in _COMPARED]
            gains.add_row(name, interval(row.metrics["accuracy"], 100, 1, 1), difference, *p_values)
            quality.add_row(name, *(interval(row.metrics[key], *style) for key, style in _QUALITY.items()))
        for table in (gains, quality):
            table.add_section()
    differ = _table(
        "",
        "differ: pairs of members that predict different classes, %; KL: mean\n"
        "divergence of their probabilities, nats; Q: 1 where members err on the same\n"
        "images, 0 where independently; any: at least one member is right, %",
        "differ",
        "KL",
        "Q",
        "any",
    )
    for found in result.diversity:
        cells = (interval(found.measures[key], *style, between="\n") for key, style in _DIVERSITY.items())
        differ.add_row(f"{found.method}\n  {found.members} members", *cells, end_section=True)
    return [gains, quality, differ] if result.diversity else [gains, quality]


def ensemble_verdict(result: EnsembleResult) -> list[str]:
    """What the tables show, in sentences that claim no more than their intervals."""
    lines = [f"Sparse ensemble against {name}: {claim(*found)}" for name, found in result.against.items()]
    if len(result.ensemble) == 1:
        lines.insert(0, "The sparse ensemble is a single child: on validation no other one helped it.")
    return lines


_COMPARED = ("parent", "best child")
# Name, factor, digits of the value, digits of its interval.
_QUALITY = {"nll": (1, 3, 2), "calibration_error": (100, 1, 1), "brier": (1, 3, 2)}
_DIVERSITY = {"disagreement": (100, 1, 1), "kl": (1, 3, 2), "q": (1, 2, 2), "oracle": (100, 1, 1)}


def _table(title: str, caption: str, *numbers: str) -> Table:
    return new_table(title, caption, [""], numbers)
