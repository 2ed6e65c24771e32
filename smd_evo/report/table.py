"""The table of a fine-tuning run, and what it says in words."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from smd_evo.experiments.results import SPARSE, FinetuneResult, Row
from smd_evo.experiments.statistics import Estimate

__all__ = ["claim", "finetune_table", "finetune_verdict", "interval", "new_table", "p_text", "points"]


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


def finetune_table(result: FinetuneResult) -> Table:
    """Parent, median child, best child and ensemble of each arm on the test split."""
    table = new_table(
        title=f"{result.config.model} on {result.config.data}, {result.data.sizes['test']:,} test images, read once",
        caption="acc.: accuracy in %; difference: to the parent, in points, with its 95 %\n"
        "paired bootstrap interval; p: exact McNemar test, not corrected for the\n"
        f"{len(result.rows) - 1} lines; loss: negative log-likelihood. All of it speaks of these very\n"
        "children: another seed draws others. Controls match the sparse groups one by\n"
        "one; each method chooses its own group on validation.",
        names=["method", "candidate"],
        numbers=["acc.", "difference", "p", "loss"],
        edge=True,
    )
    for number, row in enumerate(result.rows):
        # A method has three rows: the first one names it, the others say how it mutates.
        place = (number - 1) % 3 if number else 0
        label = (row.method, f"  density {row.density or 0:.3g}", f"  sigma {row.sigma or 0:.3g}")[place]
        table.add_row(label, *_cells(row), end_section=number == 0 or place == 2)
    return table


def finetune_verdict(result: FinetuneResult) -> list[str]:
    """What the table shows, in sentences that claim no more than their intervals."""
    lines = []
    for row in result.rows:
        if row.method == SPARSE and row.candidate != "median child" and row.accuracy_gain and row.p_value is not None:
            lines.append(f"Sparse {row.candidate} against the parent: {claim(row.accuracy_gain, row.p_value)}")
    for name, (difference, p_value) in result.against_dense.items():
        lines.append(f"Sparse ensemble against that of {name}: {claim(difference, p_value)}")
    lost = sum(group.result.nonfinite for arm in result.arms for group in arm.groups)
    if lost:
        lines.append(f"{lost} children had a non-finite fitness and were ranked last.")
    if unreadable := result.data.unreadable:
        lines.append(f"{len(unreadable)} unreadable images were left out: {', '.join(unreadable[:3])} ...")
    return lines


def claim(difference: Estimate, p_value: float) -> str:
    """A difference in accuracy in words; a claim needs both its p value and its interval."""
    if p_value < 0.05 and (difference.low > 0 or difference.high < 0):
        word = "better" if difference.value > 0 else "worse"
    else:
        word = "no difference shown"
    return f"accuracy {points(difference)} points, p = {p_text(p_value)}: {word}."


def _cells(row: Row) -> list[str]:
    if row.accuracy_gain is None or row.p_value is None:
        return ["", f"{100 * row.accuracy:.1f}", "", "", f"{row.loss:.3f}"]
    return [
        row.candidate if row.members == 1 else f"{row.candidate} ({row.members})",
        f"{100 * row.accuracy:.1f}",
        points(row.accuracy_gain),
        p_text(row.p_value),
        f"{row.loss:.3f}",
    ]


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
