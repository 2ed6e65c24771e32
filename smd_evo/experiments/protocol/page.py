"""What a page says of one experiment over several networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smd_evo.experiments.protocol.results import CANDIDATES, Architecture, Gain, Summary, labels
from smd_evo.experiments.protocol.table import protocol_verdict
from smd_evo.experiments.record import RunRecord
from smd_evo.experiments.sections import Cell, Group, Section, Table, estimate, figure, gain
from smd_evo.experiments.tables import p_text

__all__ = ["protocol_section"]


def protocol_section(record: RunRecord) -> Section:
    """All networks together, then each run."""
    rows = [_architecture(row) for row in record.results["rows"]]
    summary = Summary(rows, record.results["overall"])
    names = list(rows[0].against) if rows else []
    networks = list(dict.fromkeys(row.name.removeprefix("timm:") for row in rows))
    seeds = list(dict.fromkeys(str(row.seed) for row in rows))
    return Section(
        title=f"Fine-tuning {len(networks)} network{'s' if len(networks) != 1 else ''} on {_data(record)}",
        folder=record.name,
        verdict=protocol_verdict(summary),
        facts={
            "Protocol": "each network is fine-tuned on its own, with a sigma of its own; the sections below say how",
            "Networks": ", ".join(networks),
            **({"Seeds": ", ".join(seeds)} if len(seeds) > 1 else {}),
        },
        tables=[_gains(summary), *([_controls(summary, names)] if names else [])],
        figure=figure(record, "Gains of each network.", "Gains of each network."),
    )


def _data(record: RunRecord) -> str:
    return ", ".join(dict.fromkeys(str(part.config["data"]) for part in record.parts))


def _architecture(row: Mapping[str, Any]) -> Architecture:
    parts = {
        part: {name: Gain(**each | {"value": estimate(each["value"])}) for name, each in row[part].items()}
        for part in ("gains", "against")
    }
    return Architecture(**{**row, **parts})


def _cells(found: Gain) -> list[Cell]:
    return [gain(found.value), Cell(p_text(found.adjusted))]


def _gains(summary: Summary) -> Table:
    lines = [
        [
            Cell(label),
            Cell(f"{row.parameters / 1e6:,.{1 if row.parameters >= 1e6 else 3}f}"),
            Cell(f"{100 * row.accuracy:.1f}"),
            *(cell for name in CANDIDATES for cell in _cells(row.gains[name])),
        ]
        for row, label in zip(summary.rows, labels(summary.rows), strict=True)
    ]
    return Table(
        title="Gains over the parent",
        columns=["network", "millions", "parent, %", *(column for name in CANDIDATES for column in (name, "p"))],
        groups=[Group(lines)],
        note="Millions: of parameters that may be mutated. Best child and ensemble: difference of the sparse ones to "
        "the parent, in points of test accuracy, with 95 % paired bootstrap intervals, each by itself, not "
        "corrected. p: exact McNemar test, "
        f"adjusted by Holm for the {len(lines) * len(CANDIDATES)} gains of this table.",
    )


def _controls(summary: Summary, names: list[str]) -> Table:
    lines = [
        [Cell(label), *(cell for name in names for cell in _cells(row.against[name]))]
        for row, label in zip(summary.rows, labels(summary.rows), strict=True)
    ]
    return Table(
        title="Sparse ensemble against controls",
        columns=["network", *(column for name in names for column in (name, "p"))],
        groups=[Group(lines)],
        note="Differences in points of test accuracy, with 95 % paired bootstrap intervals, each by itself, not "
        "corrected. p: exact McNemar test, "
        f"adjusted by Holm for the {len(lines) * len(names)} comparisons of this table.",
    )
