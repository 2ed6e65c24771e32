"""What tables have in common: how they look, and numbers in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.table import Table

from smd_evo.experiments.scores import Row
from smd_evo.experiments.settings import fitness_name
from smd_evo.statistics.tests import Estimate

__all__ = [
    "BEST_FREE",
    "claim",
    "interval",
    "last_column",
    "new_table",
    "own_table",
    "own_verdict",
    "p_text",
    "percent",
    "points",
    "short",
    "versus",
]

BEST_FREE = "the best of what is free"
"""What a run's ensemble is compared with beside those of dense children."""


def new_table(title: str, caption: str, names: Sequence[str], numbers: Sequence[str], *, edge: bool = False) -> Table:
    """An empty table as all of them look: columns of names, then columns of numbers."""
    table = Table(
        title=title or None,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=edge,
        collapse_padding=True,
    )
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def claim(difference: Estimate, p_value: float) -> str:
    """A difference in accuracy in words; a claim needs both its p value and its interval."""
    if p_value < 0.05 and (difference.low > 0 or difference.high < 0):
        word = "better" if difference.value > 0 else "worse"
    else:
        word = "no difference shown"
    return f"accuracy {points(difference)} points, p = {p_text(p_value)}: {word}."


def versus(name: str) -> str:
    """Whom a sparse ensemble is compared with, by a control's name."""
    return f"Sparse ensemble against {name if name == BEST_FREE else f'that of {name}'}"


def points(difference: Estimate) -> str:
    """A difference in points with its interval."""
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def interval(estimate: Estimate, scale: float, digits: int, around: int, between: str = " ") -> str:
    """A number and its interval times ``scale``, of so many digits each."""
    low, high = (f"{scale * number:.{around}f}" for number in (estimate.low, estimate.high))
    return f"{scale * estimate.value:.{digits}f}{between}[{low}, {high}]"


def p_text(value: float) -> str:
    """A p value."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def percent(share: float | None) -> str:
    """A share in percent; nothing where there is none."""
    return "" if share is None else f"{100 * share:.1f}"


def short(value: float | None) -> str:
    """A number; nothing where there is none.

    >>> short(0.25), short(None), short(-math.inf)
    ('0.250', '', 'not finite')
    """
    if value is None:
        return ""
    return "not finite" if not math.isfinite(value) else f"{value:.3f}" if abs(value) < 1e4 else f"{value:.4g}"


def last_column(rows: Sequence[Row], fitness: str, sense: str) -> tuple[str, str]:
    """Head of a classifiers' table's last column, and what it is: the run's own fitness, or the loss.

    Args:
        rows: of the table; they have a fitness where it is neither loss nor accuracy.
        fitness: its name.
        sense: "min" or "max".
    """
    if rows[0].fitness is None:
        return "loss", "negative log-likelihood"
    return "fitness", f"{fitness_name(fitness)}, {'lower' if sense == 'min' else 'higher'} is better"


def own_table(rows: Sequence[Row], fitness: str, sense: str) -> Table:
    """Networks by the run's own fitness, where samples have no classes.

    Args:
        rows: the parent's, and those of others.
        fitness: its name.
        sense: "min" or "max".
    """
    known = any(row.fitness_gain for row in rows)
    table = new_table(
        title="On the test split, read once" if known else "As the fitness has it",
        caption=f"{fitness_name(fitness)}, {'lower' if sense == 'min' else 'higher'} is better"
        + ("; difference: to the parent, with its 95 %\npaired bootstrap interval" if known else ""),
        names=["method", "network"],
        numbers=["fitness", *(["difference"] if known else [])],
        edge=True,
    )
    for row in rows:
        name = row.candidate if row.members == 1 else f"{row.candidate} ({row.members})"
        gain = interval(row.fitness_gain, 1, 3, 3) if row.fitness_gain else ""
        table.add_row(row.method, name, short(row.fitness), *([gain] if known else []))
    return table


def own_verdict(rows: Sequence[Row], fitness: str, sense: str) -> list[str]:
    """What :func:`own_table` shows, in sentences that claim no more than their intervals."""
    lines = []
    for row in rows:
        if (gain := row.fitness_gain) and row.candidate != "median child":
            clear = gain.low > 0 or gain.high < 0
            word = ("better" if (gain.value > 0) == (sense == "max") else "worse") if clear else "no difference shown"
            name = f"{row.method}, {row.candidate}" if row.density is not None else row.candidate
            lines.append(f"The {name} against the parent: {fitness_name(fitness)} {interval(gain, 1, 3, 3)}: {word}.")
    return lines
