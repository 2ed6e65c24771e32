"""What a page is made of: sections of sentences, facts, tables and plots.

All text is plain; the template escapes it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table as Printed

from smd_evo.experiments.record import RunRecord
from smd_evo.experiments.tables import new_table, points
from smd_evo.statistics.tests import Estimate

__all__ = [
    "Cell",
    "Figure",
    "Group",
    "Section",
    "Table",
    "against",
    "decimal",
    "estimate",
    "figure",
    "gain",
    "printed",
    "rich_table",
    "span",
]


@dataclass(frozen=True)
class Cell:
    """A number with its interval around it, or a name with what is to be known of it; ``link``: to that section."""

    text: str
    around: str = ""
    link: int | None = None


@dataclass(frozen=True)
class Group:
    """Rows of a table under a heading of their own; the first cell of a row names it."""

    rows: list[list[Cell]]
    heading: str = ""


@dataclass(frozen=True)
class Table:
    """A table; its first column holds names, the others numbers."""

    title: str
    columns: Sequence[str]
    groups: Sequence[Group]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A plot: a PNG file's content, what it shows for who cannot see it, what it shows for who can."""

    png: bytes
    alt: str
    caption: str

    @property
    def uri(self) -> str:
        """The image itself as an address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int.from_bytes(self.png[16:20], "big"), int.from_bytes(self.png[20:24], "big")


@dataclass(frozen=True)
class Section:
    """What a run, or an ensemble of it, has to say.

    Attributes:
        title: its heading.
        folder: name of the run directory.
        verdict: sentences that claim no more than the numbers show.
        facts: what was run: names and values.
        tables, figure: the numbers.
        parts: sections within.
        commands: how to repeat it.
        environment: with what it was made: names and values.
        unreadable: names of images that were left out.
    """

    title: str
    folder: str
    verdict: Sequence[str]
    facts: Mapping[str, str]
    tables: Sequence[Table]
    figure: Figure | None
    parts: Sequence[Section] = ()
    commands: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    unreadable: Sequence[str] = ()


def estimate(found: Mapping[str, float]) -> Estimate:
    """A number and its interval, as JSON holds them."""
    return Estimate(**found)


def against(found: Mapping[str, Any]) -> dict[str, tuple[Estimate, float]]:
    """Gains in accuracy over other classifiers and their p values, as JSON holds them."""
    return {name: (estimate(each["accuracy_gain"]), each["p_value"]) for name, each in found.items()}


def gain(difference: Estimate) -> Cell:
    """A difference in accuracy in points, and its interval.

    >>> gain(Estimate(0.02, -0.01, 0.05))
    Cell(text='+2.0', around='[-1.0, +5.0]', link=None)
    """
    value, _, around = points(difference).partition(" ")
    return Cell(value, around)


def span(found: Estimate, digits: int, scale: float = 1) -> Cell:
    """A number and its interval, times ``scale``.

    >>> span(Estimate(0.5, 0.25, 0.75), 1, scale=100)
    Cell(text='50.0', around='[25.0, 75.0]', link=None)
    """
    value, low, high = (f"{scale * number:.{digits}f}" for number in (found.value, found.low, found.high))
    return Cell(value, f"[{low}, {high}]")


def printed(table: Printed) -> Table:
    """The same table as on a terminal, where a row of a single cell is a heading and intervals are in the cells.

    >>> from rich.table import Table as Printed
    >>> table = Printed("", "gain", title="Gains")
    >>> for row in (["sparse"], ["best child", "+2.0 [-1.0, +5.0]"]):
    ...     table.add_row(*row)
    >>> [(group.heading, group.rows) for group in printed(table).groups]  # doctest: +NORMALIZE_WHITESPACE
    [('sparse', [[Cell(text='best child', around='', link=None),
                  Cell(text='+2.0', around='[-1.0, +5.0]', link=None)]])]
    """
    groups: list[Group] = []
    for name, *texts in zip(*(column.cells for column in table.columns), strict=True):
        if not any(texts):
            groups.append(Group([], str(name).strip()))
            continue
        if not groups:
            groups.append(Group([]))
        values = [Cell(text, f"[{rest}" if rest else "") for text, _, rest in (str(t).partition(" [") for t in texts)]
        groups[-1].rows.append([Cell(str(name).strip()), *values])
    title, note = (" ".join(str(text or "").split()) for text in (table.title, table.caption))
    note = note[:1].upper() + note[1:]
    return Table(title, [str(column.header) for column in table.columns], groups, note)


def rich_table(table: Table) -> Printed:
    """The same table for a terminal."""
    shown = new_table(table.title, table.note, [table.columns[0]], table.columns[1:])
    for group in table.groups:
        if group.heading:
            shown.add_row(group.heading)
        for row in group.rows:
            shown.add_row(*(f"{cell.text} {cell.around}".rstrip() for cell in row))
        shown.add_section()
    return shown


def decimal(number: float | None, digits: int = 3) -> str:
    """A number of so many digits; JSON has none for infinity.

    >>> decimal(0.25), decimal(None)
    ('0.250', 'not finite')
    """
    return "not finite" if number is None or not math.isfinite(number) else f"{number:.{digits}f}"


def figure(record: RunRecord, alt: str, caption: str) -> Figure | None:
    """The plot of a run, if it has one."""
    return None if record.plot is None else Figure(record.plot, alt, caption)
