"""The table over architectures, and what it says in words."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from smd_evo.experiments.protocol.across import PARENT, Overall
from smd_evo.experiments.protocol.networks import CANDIDATES, MATCHED, Gain, Network
from smd_evo.experiments.protocol.results import Summary
from smd_evo.experiments.sections import Cell, Group, span
from smd_evo.experiments.sections import Table as PageTable
from smd_evo.experiments.shortlists import SPARSE
from smd_evo.experiments.tables import BEST_FREE, new_table, p_text, points

__all__ = ["millions", "overall_table", "protocol_table", "protocol_verdict"]


def protocol_table(summary: Summary) -> Table:
    """Accuracy of each parent, and gains of its best child and of its ensemble."""
    networks = summary.networks
    count, runs = len(networks), sum(len(each.seeds) for each in networks)
    several = f", {runs} runs" if runs != count else ""
    table = new_table(
        title=f"{count} network{'s' if count != 1 else ''}{several}, each on its test split, read once",
        caption="acc.: the parent's accuracy in %; gains in points with 95 % paired bootstrap intervals,\n"
        "each by itself, not corrected"
        + ("; of several seeds the mean, over all of their images,\neach drawn once;\n" if several else ";\n")
        + f"p: exact McNemar test, adjusted by Holm for the {count * len(CANDIDATES)} gains of this table;\n"
        "d: parameters, in millions.",
        names=["network"],
        numbers=["d", "acc.", *(name for candidate in CANDIDATES for name in (candidate, "p"))],
        edge=True,
    )
    for column in table.columns[1:]:
        column.no_wrap = True
    for each in networks:
        gains = [text for name in CANDIDATES for text in _cells(each.gains[SPARSE][name])]
        name = each.name.removeprefix("timm:")
        table.add_row(name, millions(each.parameters), f"{100 * each.accuracy:.1f}", *gains)
    return table


def overall_table(summary: Summary) -> PageTable:
    """Each sparse candidate beside everything else, over networks."""
    groups = [
        Group([[Cell(other), *_over(found)] for other, found in each.items()], f"sparse {name} against")
        for name, each in summary.overall.items()
    ]
    return PageTable(
        title="Over networks",
        columns=["", "mean difference", "better on", "Wilcoxon, p", "sign test, p"],
        groups=groups,
        note="Each network counts once, with the mean of its seeds. Mean difference in points, with Student's 95 % "
        "interval. p values are two-sided and not corrected.",
    )


def _over(found: Overall) -> list[Cell]:
    share = Cell(f"{found.better} of {found.networks}")
    return [span(found.mean, 2, 100), share, Cell(p_text(found.wilcoxon)), Cell(p_text(found.sign))]


def protocol_verdict(summary: Summary) -> list[str]:
    """What the tables show, in sentences that claim no more than their tests: of the other arms they tell enough."""
    lines = []
    for name in CANDIDATES:
        own = [each.gains[SPARSE][name] for each in summary.networks]
        lines.append(f"Sparse {name} against the parent: {_counted(own)}{_rule(summary, name, PARENT)}")
    for name in CANDIDATES:
        for other in (each for each in _common(summary.networks, name) if each in (MATCHED, BEST_FREE)):
            versus = other if other == BEST_FREE else f"that of {other}"
            own = [each.against[name][other] for each in summary.networks]
            asked = ""
            if other == MATCHED and name in summary.question:
                asked = f", {p_text(summary.question[name])} after Holm's correction for both candidates"
            rule = _rule(summary, name, other, asked)
            lines.append(f"Sparse {name} against {versus}: {_counted(own)}{rule}")
    for trend in summary.trends:
        lines.append(
            f"The {trend.of} against {trend.by}: rank correlation {trend.rho:+.2f} over {trend.networks} networks, "
            f"p = {p_text(trend.p_value)}."
        )
    return lines


def millions(parameters: int) -> str:
    """A number of parameters in millions.

    >>> millions(25_557_032), millions(14_458)
    ('25.6', '0.01')
    """
    return f"{parameters / 1e6:,.{1 if parameters >= 1e6 else 2}f}"


def _common(networks: Sequence[Network], name: str) -> list[str]:
    """What the sparse candidate is compared with on every network."""
    return [other for other in networks[0].against[name] if all(other in each.against[name] for each in networks)]


def _counted(gains: list[Gain]) -> str:
    stand = [gain for gain in gains if gain.adjusted < 0.05]
    better = sum(gain.value.value > 0 for gain in stand)
    mean = sum(gain.value.value for gain in gains) / len(gains)
    return (
        f"mean {100 * mean:+.2f} points; better on {better}, worse on {len(stand) - better} of {len(gains)} "
        "after Holm's correction."
    )


def _rule(summary: Summary, name: str, other: str, asked: str = "") -> str:
    found: Overall | None = summary.overall.get(name, {}).get(other)
    if found is None:
        return ""
    interval = f"95 % interval [{100 * found.mean.low:+.2f}, {100 * found.mean.high:+.2f}]"
    return f" Over networks: {interval}, p = {p_text(found.wilcoxon)} (Wilcoxon){asked}."


def _cells(gain: Gain) -> tuple[str, str]:
    return points(gain.value), p_text(gain.adjusted)
