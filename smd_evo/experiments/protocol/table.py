"""The table over architectures, and what it says in words."""

from __future__ import annotations

from rich.table import Table

from smd_evo.experiments.protocol.results import CANDIDATES, Gain, Summary, labels
from smd_evo.experiments.tables import new_table, p_text, points, versus

__all__ = ["protocol_table", "protocol_verdict"]


def protocol_table(summary: Summary) -> Table:
    """Accuracy of each parent, and gains of its best child and of its ensemble."""
    count, runs = len({row.name for row in summary.rows}), len(summary.rows)
    several = f", {runs} runs" if runs != count else ""
    tests = sum(len(row.gains) for row in summary.rows)
    table = new_table(
        title=f"{count} network{'s' if count != 1 else ''}{several}, each on its test split, read once",
        caption="acc.: the parent's accuracy in %; gains in points with 95 % paired bootstrap intervals,\n"
        "each by itself, not corrected;\n"
        f"p: exact McNemar test, adjusted by Holm for the {tests} gains of this table;\n"
        "d: parameters, in millions.",
        names=["network"],
        numbers=["d", "acc.", *(name for candidate in CANDIDATES for name in (candidate, "p"))],
        edge=True,
    )
    for column in table.columns[1:]:
        column.no_wrap = True
    for row, label in zip(summary.rows, labels(summary.rows), strict=True):
        gains = [text for name in CANDIDATES for text in _cells(row.gains[name])]
        size = f"{row.parameters / 1e6:.{1 if row.parameters >= 1e6 else 2}f}"
        table.add_row(label, size, f"{100 * row.accuracy:.1f}", *gains)
    return table


def protocol_verdict(summary: Summary) -> list[str]:
    """What the table shows, in sentences that claim no more than their tests."""
    rows, lines = summary.rows, []
    for name in CANDIDATES:
        lines.append(f"Sparse {name} against the parent: {_counted([row.gains[name] for row in rows])}")
    for name in rows[0].against if rows else ():
        gains = [row.against[name] for row in rows]
        lines.append(f"{versus(name)}: {_counted(gains)}")
    for place, name in enumerate(summary.overall):
        lines[place] += f" Over networks: p = {p_text(summary.overall[name])} (Wilcoxon)."
    return lines


def _counted(gains: list[Gain]) -> str:
    stand = [gain for gain in gains if gain.adjusted < 0.05]
    better = sum(gain.value.value > 0 for gain in stand)
    mean = sum(gain.value.value for gain in gains) / len(gains)
    return (
        f"mean {100 * mean:+.2f} points; better on {better}, worse on {len(stand) - better} of {len(gains)} "
        "after Holm's correction."
    )


def _cells(gain: Gain) -> tuple[str, str]:
    return points(gain.value), p_text(gain.adjusted)
