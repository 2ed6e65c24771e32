"""What holds over networks, each of which counts once: differences, trends, densities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smd_evo.experiments.protocol.networks import CANDIDATES, MATCHED, Network
from smd_evo.experiments.shortlists import SPARSE

if TYPE_CHECKING:
    from smd_evo.experiments.protocol.networks import Gain, Run
    from smd_evo.statistics.tests import Estimate

__all__ = ["PARENT", "Density", "Overall", "Trend", "densities_of", "mean_gains", "over_networks", "trends_of"]

PARENT = "the parent"

_HEAD = "head-tuned"
_FEW = 5
"""Networks that a rank correlation takes at least."""


@dataclass(frozen=True)
class Overall:
    """A difference over networks, each of which counts once.

    Attributes:
        mean: with Student's interval.
        better: networks on which it is above zero.
        networks: how many there are.
        wilcoxon, sign: p values of these tests, two-sided.
    """

    mean: Estimate
    better: int
    networks: int
    wilcoxon: float
    sign: float


@dataclass(frozen=True)
class Trend:
    """How a difference goes with something else over networks: Spearman's rank correlation and its p value."""

    of: str
    by: str
    rho: float
    p_value: float
    networks: int


@dataclass(frozen=True)
class Density:
    """What groups of a density are worth on validation beside dense ones of their norm.

    Attributes:
        density: median over networks.
        gain: how much better the ensemble's fitness is, over networks.
    """

    density: float
    gain: Overall


def over_networks(networks: Sequence[Network]) -> dict[str, dict[str, Overall]]:
    """Of each sparse candidate: its gain over the parent, and over what it is compared with on every network."""
    found: dict[str, dict[str, Overall]] = {}
    for name in CANDIDATES:
        every = [{PARENT: each.gains[SPARSE][name], **each.against[name]} for each in networks]
        common = [other for other in every[0] if all(other in own for own in every)]
        found[name] = {other: _overall([own[other].value.value for own in every]) for other in common}
    return found


def mean_gains(networks: Sequence[Network]) -> dict[str, dict[str, Estimate]]:
    """Gains over the parent of what every network has, by arm and candidate: means, and Student's intervals."""
    from smd_evo.statistics.tests import t_interval

    found: dict[str, dict[str, Estimate]] = {}
    for method, own in networks[0].gains.items():
        for name in own:
            gains = [each.gains.get(method, {}).get(name) for each in networks]
            if None not in gains:
                found.setdefault(method, {})[name] = t_interval([gain.value.value for gain in gains if gain])
    return found


def _overall(differences: Sequence[float]) -> Overall:
    from smd_evo.statistics.tests import sign_test, t_interval, wilcoxon

    none = [0.0] * len(differences)
    return Overall(
        mean=t_interval(differences),
        better=sum(each > 0 for each in differences),
        networks=len(differences),
        wilcoxon=wilcoxon(differences, none),
        sign=sign_test(differences, none),
    )


_Number = Callable[[Network], float | None]


def trends_of(networks: Sequence[Network]) -> list[Trend]:
    """What the sparse ensemble gains, and gains over dense ones, against size and against what a new head gains."""
    from smd_evo.experiments.finetune.results import NEARLY_FREE
    from smd_evo.statistics.tests import rank_correlation

    of: dict[str, _Number] = {
        "gain of the sparse ensemble": lambda each: _value(each.gains[SPARSE]["ensemble"]),
        f"sparse ensemble less {MATCHED}": lambda each: _value(each.against["ensemble"].get(MATCHED)),
    }
    by: dict[str, _Number] = {
        "parameters": lambda each: float(each.parameters),
        f"gain of {_HEAD}": lambda each: _value(each.gains.get(NEARLY_FREE, {}).get(_HEAD)),
    }
    found = []
    for what, gain in of.items():
        for other, number in by.items():
            pairs = [(gain(each), number(each)) for each in networks]
            known = [(one, two) for one, two in pairs if one is not None and two is not None]
            ones, twos = ([pair[place] for pair in known] for place in (0, 1))
            if len(set(ones)) > 1 and len(set(twos)) > 1 and len(known) >= _FEW:
                found.append(Trend(what, other, *rank_correlation(ones, twos), len(known)))
    return found


def _value(gain: Gain | None) -> float | None:
    return None if gain is None else gain.value.value


def densities_of(networks: Sequence[Sequence[Run]]) -> list[Density]:
    """Each density beside the dense groups of its norm."""
    runs = [run for own in networks for run in own]
    counts = {len(run.groups.get(arm, ())) for run in runs for arm in (SPARSE, MATCHED)}
    if len(counts) > 1 or counts <= {0, 1}:
        return []
    found = []
    for place in range(counts.pop()):
        gains = []
        for own in networks:
            each = [
                (run.groups[SPARSE][place][1] - run.groups[MATCHED][place][1]) * (-1 if run.sense == "min" else 1)
                for run in own
            ]
            gains.append(sum(each) / len(each))
        density = float(np.median([run.groups[SPARSE][place][0] for run in runs]))
        found.append(Density(density, _overall(gains)))
    return found
