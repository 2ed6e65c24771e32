"""The paper's set-up over many architectures: one generation each, sigma calibrated for each, one table.

The tests are ours: whether a gain is the rule over architectures (Wilcoxon), and which single gains stand when all of
them are tested (Holm).

Reference: Whitaker & Whitley, arXiv 2302.05832.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smd_evo.statistics.tests import Estimate

__all__ = ["CANDIDATES", "Architecture", "Gain", "Summary", "labels", "summarise"]

CANDIDATES = ("best child", "ensemble")


@dataclass(frozen=True)
class Gain:
    """A difference in accuracy, the p value of its exact McNemar test, and the same adjusted by Holm."""

    value: Estimate
    p_value: float
    adjusted: float


@dataclass(frozen=True)
class Architecture:
    """The line of a run: a network with a seed.

    Attributes:
        name: of the network among those of the protocol.
        seed: of the run.
        model: what the network is.
        parameters: how many may be mutated.
        accuracy: of the parent on the test split.
        gains: of the sparse best child and the sparse ensemble over the parent.
        against: of the sparse ensemble over that of each dense control, and over the best of what is free.
    """

    name: str
    seed: int
    model: str
    parameters: int
    accuracy: float
    gains: dict[str, Gain]
    against: dict[str, Gain]


@dataclass(frozen=True)
class Summary:
    """All architectures, and what holds over them.

    Attributes:
        rows: one for each run; p values adjusted over all of their gains, and apart from these over all
            comparisons with controls.
        overall: two-sided Wilcoxon signed-rank p value over the architectures, by candidate and by control.
    """

    rows: list[Architecture]
    overall: dict[str, float]


def labels(rows: Sequence[Architecture]) -> list[str]:
    """What each row is called: its network, and its seed where there are several."""
    several = len({row.seed for row in rows}) > 1
    return [row.name.removeprefix("timm:") + (f", seed {row.seed}" if several else "") for row in rows]


def summarise(rows: Sequence[Architecture]) -> Summary:
    """Adjust p values over all rows, and test over architectures.

    Args:
        rows: with any ``adjusted``.
    """
    from smd_evo.statistics.tests import wilcoxon

    gains, against = (_adjusted([row.gains for row in rows]), _adjusted([row.against for row in rows]))
    overall = {}
    for each in (gains, against):
        for name in each[0] if len(rows) > 1 else ():
            overall[name] = wilcoxon([row[name].value.value for row in each], [0.0] * len(rows))
    rows = [replace(row, gains=gains[place], against=against[place]) for place, row in enumerate(rows)]
    return Summary(rows, overall)


def _adjusted(rows: Sequence[Mapping[str, Gain]]) -> list[dict[str, Gain]]:
    from smd_evo.statistics.tests import holm

    adjusted = iter(holm([gain.p_value for row in rows for gain in row.values()]))
    return [{name: replace(gain, adjusted=next(adjusted)) for name, gain in row.items()} for row in rows]
