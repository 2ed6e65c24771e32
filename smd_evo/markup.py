"""Tables in HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["html_table"]


def html_table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; all text is plain.

    Example:
        >>> html_table("D = 2", ["name"], [["<b>"]])
        '<table><caption>D = 2</caption><tr><th>name</th></tr><tr><td>&lt;b&gt;</td></tr></table>'
    """

    def line(kind: str, cells: Iterable[object]) -> str:
        return f"<tr>{''.join(f'<{kind}>{escape(str(cell))}</{kind}>' for cell in cells)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><caption>{escape(caption)}</caption>{line('th', columns)}{body}</table>"
