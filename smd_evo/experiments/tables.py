"""What tables have in common: how they look, and numbers in words."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from smd_evo.statistics.tests import Estimate

__all__ = ["claim", "interval", "new_table", "p_text", "points"]


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
