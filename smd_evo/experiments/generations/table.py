"""The table of a run over generations, and what it says in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from smd_evo.experiments.scores import Row
from smd_evo.experiments.tables import (
    claim,
    interval,
    last_column,
    new_table,
    own_table,
    own_verdict,
    p_text,
    percent,
    points,
    short,
)

__all__ = ["evolution_table", "evolution_verdict", "kept_generation"]


def evolution_table(rows: Sequence[Row], fitness: str = "fitness", sense: str = "min") -> Table:
    """The pre-trained parent, the best network and the ensemble on the test split.

    Args:
        rows: of them.
        fitness, sense: of the run's own, which stands for the loss if it is another one.
    """
    if rows[0].accuracy is None:
        return own_table(rows, fitness, sense)
    last, meaning = last_column(rows, fitness, sense)
    table = new_table(
        title="On the test split, read once",
        caption=f"acc.: accuracy in %; {last}: {meaning}; differences: to the parent,\n"
        "with 95 % paired bootstrap intervals; p: exact McNemar test; neither is\n"
        "corrected for the number of lines. They know the chance of the test images, not\n"
        "that of the run: another seed finds another network. Network and ensemble were\n"
        "chosen on validation.",
        names=["network"],
        numbers=["acc.", "difference", "p", last, "difference"],
        edge=True,
    )
    for row in rows:
        name = row.candidate if row.members == 1 else f"{row.candidate} ({row.members})"
        value, gain = (row.loss, row.loss_gain) if row.fitness is None else (row.fitness, row.fitness_gain)
        cells = ["", ""]
        if row.accuracy_gain and row.p_value is not None:
            cells = [points(row.accuracy_gain), p_text(row.p_value)]
        table.add_row(name, percent(row.accuracy), *cells, short(value), interval(gain, 1, 3, 3) if gain else "")
    return table


def evolution_verdict(rows: Sequence[Row], fitness: str = "fitness", sense: str = "min") -> list[str]:
    """What the table shows, in sentences that claim no more than their intervals."""
    return [
        f"The {row.candidate} against the parent: {claim(row.accuracy_gain, row.p_value)}"
        for row in rows
        if row.accuracy_gain and row.p_value is not None
    ] + own_verdict(rows, fitness, sense)


def kept_generation(records: Sequence[Mapping[str, Any]]) -> int:
    """The generation whose parent was best on validation, of the lines of metrics.jsonl; 0: none beat the first.

    >>> kept_generation([{"generation": 1, "validation": None}, {"generation": 2, "validation": {"best": True}}])
    2
    """
    best = [record["generation"] for record in records if record["validation"] and record["validation"]["best"]]
    return int(best[-1]) if best else 0
