"""The paper's set-up over many architectures: one generation each, sigma calibrated for each, one summary.

The statistics are ours. Of a network: the mean over its seeds, with an interval and an exact McNemar test over the
images of all of them, each drawn once, and Holm's correction over networks. Over networks, which count alike:
Student's interval of the mean, Wilcoxon's signed-rank test, a sign test. The question of such a study is what sparse
mutations gain *over dense ones at matched norm*: that a child is better than its parent is true of dense ones, too.

Reference: Whitaker & Whitley, arXiv 2302.05832.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smd_evo.experiments.protocol.across import (
    Density,
    Overall,
    Trend,
    densities_of,
    mean_gains,
    over_networks,
    trends_of,
)
from smd_evo.experiments.protocol.networks import MATCHED, Network, Run, adjusted, network_of

if TYPE_CHECKING:
    from smd_evo.statistics.tests import Estimate

__all__ = ["Summary", "summarise"]


@dataclass(frozen=True)
class Summary:
    """All networks, and what holds over them.

    Attributes:
        networks: one line each; p values adjusted over all sparse gains, and for each candidate over all comparisons.
        gains: over the parent, mean over networks, by arm and candidate; of two networks or more.
        overall: by sparse candidate and what it is compared with; of two networks or more.
        question: p values of Wilcoxon's test of each candidate against dense ones at matched norm, adjusted by Holm.
        trends: with five networks or more.
        densities: where there are several, and dense groups at matched norm.
    """

    networks: list[Network]
    gains: dict[str, dict[str, Estimate]]
    overall: dict[str, dict[str, Overall]]
    question: dict[str, float]
    trends: list[Trend]
    densities: list[Density]


def summarise(runs: Sequence[Run]) -> Summary:
    """What runs say together.

    Args:
        runs: one or more; those of a network have its name.

    Raises:
        InvalidValue: several runs of a network of which one has not kept which samples are right, or runs of other
            arms.
    """
    from smd_evo.statistics.tests import holm

    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    networks = adjusted([network_of(own) for own in by_name.values()])
    several = len(networks) > 1
    overall = over_networks(networks) if several else {}
    matched = {name: each[MATCHED].wilcoxon for name, each in overall.items() if MATCHED in each}
    return Summary(
        networks=networks,
        gains=mean_gains(networks) if several else {},
        overall=overall,
        question=dict(zip(matched, holm([*matched.values()]), strict=True)),
        trends=trends_of(networks),
        densities=densities_of([*by_name.values()]) if several else [],
    )
