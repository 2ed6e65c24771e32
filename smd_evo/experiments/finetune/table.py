"""The table of a fine-tuning run, and what it says in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.table import Table

from smd_evo.experiments.finetune.results import NEARLY_FREE, RACED, UNRACED, FinetuneResult
from smd_evo.experiments.scores import Row
from smd_evo.experiments.shortlists import SPARSE
from smd_evo.experiments.tables import (
    BEST_FREE,
    claim,
    last_column,
    new_table,
    own_table,
    own_verdict,
    p_text,
    percent,
    points,
    short,
    versus,
)
from smd_evo.statistics.tests import Estimate

__all__ = ["against_controls", "finetune_table", "finetune_verdict", "forgotten", "raced", "told", "without"]


def finetune_table(result: FinetuneResult) -> Table:
    """Parent, median child, best child and ensemble of each arm on the test split."""
    if result.rows[0].accuracy is None:
        return own_table(result.rows, result.config.fitness, result.sense)
    last, meaning = last_column(result.rows, result.config.fitness, result.sense)
    table = new_table(
        title=f"{result.config.model} on {result.config.data}, {result.data.sizes['test']:,} test images, read once",
        caption="acc.: accuracy in %; difference: to the parent, in points, with its 95 %\n"
        "paired bootstrap interval; p: exact McNemar test, not corrected for the\n"
        f"{len(result.rows) - 1} lines; {last}: {meaning}. All of it speaks of these very\n"
        "children: another seed draws others. Dense controls match the sparse groups\n"
        "one by one; each method chooses its own group on validation. In parentheses:\n"
        "forward passes of an image.",
        names=["method", "candidate"],
        numbers=["acc.", "difference", "p", last],
        edge=True,
    )
    for method, rows in groupby(result.rows, key=lambda row: row.method):
        for place, row in enumerate(members := list(rows)):
            candidate, *numbers = _cells(row)
            # A method's first row names it, the others say how it mutates; what is free has one row each.
            how = dict(enumerate([method, f"  density {row.density or 0:.3g}", f"  sigma {row.sigma or 0:.3g}"]))
            label, name = (
                (candidate, "" if place else NEARLY_FREE)
                if method == NEARLY_FREE
                else (how.get(place, ""), candidate)
            )
            table.add_row(label, name, *numbers, end_section=place == len(members) - 1)
    return table


def finetune_verdict(result: FinetuneResult) -> list[str]:
    """What the table shows, in sentences that claim no more than their intervals."""
    lines = own_verdict(told(result.rows), result.config.fitness, result.sense)
    for row in result.rows:
        if row.method == SPARSE and row.candidate != "median child" and row.accuracy_gain and row.p_value is not None:
            lines.append(f"Sparse {row.candidate} against the parent: {claim(row.accuracy_gain, row.p_value)}")
    lines += against_controls(result.against, result.free)
    lines += forgotten(result.also, result.config.also)
    lines += without(result.left_out)
    lost = sum(group.result.nonfinite for arm in result.arms for group in arm.groups)
    if lost:
        lines.append(f"{lost} children had a non-finite fitness and were ranked last.")
    lines += raced(result.evaluations)
    if unreadable := result.data.unreadable:
        lines.append(f"{len(unreadable)} unreadable images were left out: {', '.join(unreadable[:3])} ...")
    return lines


def told(rows: Sequence[Row]) -> list[Row]:
    """Those whose own fitness is told in words: of classifiers, sparse ones; the table has the others."""
    return [row for row in rows if row.accuracy is None or row.method == SPARSE]


def against_controls(against: Mapping[str, tuple[Estimate, float]], free: Mapping[str, Any]) -> list[str]:
    """The sparse ensemble beside dense ones, and beside the best of what is free."""
    lines = [f"{versus(name)}: {claim(*found)}" for name, found in against.items()]
    return [line.replace(BEST_FREE, f"{next(iter(free), '')}, {BEST_FREE} on validation") for line in lines]


def forgotten(rows: Sequence[Row], data: str | None) -> list[str]:
    """What the best child and the ensemble of the sparse arm, and the best of what is free, do on other data."""
    shown = [row for row in rows if row.method == SPARSE and row.candidate in ("best child", "ensemble")]
    shown += [row for row in rows if row.method == NEARLY_FREE][:1]
    names = {SPARSE: "Sparse ", NEARLY_FREE: "What is free, "}
    return [
        f"{names[row.method]}{row.candidate} against the parent on {data}: {claim(row.accuracy_gain, row.p_value)}"
        for row in shown
        if row.accuracy_gain and row.p_value is not None
    ]


def without(left_out: Mapping[str, str]) -> list[str]:
    """Which controls make no sense here."""
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        reasons.setdefault(reason, []).append(name)
    return [f"Left out of what is free: {', '.join(names)} ({reason})." for reason, names in reasons.items()]


def raced(evaluations: Mapping[str, int]) -> list[str]:
    """What a race has saved, if there was one."""
    if RACED not in evaluations:
        return []
    took, whole = evaluations[RACED], evaluations[UNRACED]
    return [f"The race took {took:,} of {whole:,} image evaluations of the sparse children, {took / whole:.0%}."]


def _cells(row: Row) -> list[str]:
    last = short(row.loss if row.fitness is None else row.fitness)
    if row.accuracy_gain is None or row.p_value is None:
        return ["", percent(row.accuracy), "", "", last]
    return [
        row.candidate if row.members == 1 else f"{row.candidate} ({row.members})",
        percent(row.accuracy),
        points(row.accuracy_gain),
        p_text(row.p_value),
        last,
    ]
