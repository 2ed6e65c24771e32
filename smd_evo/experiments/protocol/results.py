"""The paper's set-up over many architectures: one generation each, sigma calibrated for each, one summary.

The statistics are ours. Of a network: the mean over its seeds, with an interval and an exact McNemar test over the
images of all of them, and Holm's correction over networks. Over networks, which count alike: Student's interval of
the mean, Wilcoxon's signed-rank test, a sign test. The question of such a study is what sparse mutations gain *over
dense ones at matched norm*: that a child is better than its parent is true of dense ones, too.

Reference: Whitaker & Whitley, arXiv 2302.05832.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from smd_evo.errors import InvalidValue
from smd_evo.experiments.finetune.settings import DENSE_ARMS
from smd_evo.experiments.shortlists import SPARSE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smd_evo.experiments.scores import Row
    from smd_evo.statistics.tests import Estimate

__all__ = [
    "CANDIDATES",
    "MATCHED",
    "PARENT",
    "Density",
    "Gain",
    "Network",
    "Overall",
    "Run",
    "Summary",
    "Trend",
    "summarise",
]

CANDIDATES = ("best child", "ensemble")
PARENT, MATCHED = "the parent", DENSE_ARMS["matched-norm"]

_Key = TypeVar("_Key")

_HEAD = "head-tuned"
_RESAMPLES = 1999
_FEW = 5
"""Networks that a rank correlation takes at least."""


@dataclass(frozen=True)
class Gain:
    """A difference in accuracy, the p value of its exact McNemar test, and the same adjusted by Holm."""

    value: Estimate
    p_value: float
    adjusted: float


@dataclass(frozen=True, eq=False)
class Run:
    """A network with a seed.

    Attributes:
        name: of the network among those of the protocol.
        seed: of the run.
        model: what the network is.
        parameters: how many may be mutated.
        rows: the run's table; what is nearly free last, the best on validation first.
        right: whether each row has each test sample right, [rows, n]; None of runs of before that was kept.
        against: the stored gain of the sparse ensemble over each other arm's, and over the best of what is free.
        groups: of each arm its groups' densities and fitness of their ensembles on validation.
        sense: of the fitness.
    """

    name: str
    seed: int
    model: str
    parameters: int
    rows: Sequence[Row]
    right: NDArray[np.bool_] | None
    against: Mapping[str, Gain]
    groups: Mapping[str, Sequence[tuple[float, float]]]
    sense: str = "min"


@dataclass(frozen=True)
class Network:
    """A network's line: all of its runs.

    Attributes:
        name, model, parameters: see :class:`Run`.
        seeds: of its runs.
        accuracy: of the parent, mean over runs.
        gains: over the parent, by arm and candidate; of what is nearly free by control.
        against: of the sparse candidate over that of each other arm, and over the best of what is free.
    """

    name: str
    model: str
    parameters: int
    seeds: tuple[int, ...]
    accuracy: float
    gains: dict[str, dict[str, Gain]]
    against: dict[str, dict[str, Gain]]


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


@dataclass(frozen=True)
class Summary:
    """All networks, and what holds over them.

    Attributes:
        networks: one line each; p values adjusted over all sparse gains, and for each candidate over all comparisons.
        overall: by sparse candidate and what it is compared with; of two networks or more.
        question: p values of Wilcoxon's test of each candidate against dense ones at matched norm, adjusted by Holm.
        trends: with five networks or more.
        densities: where there are several, and dense groups at matched norm.
    """

    networks: list[Network]
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
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    networks = _adjusted([_network(own) for own in by_name.values()])
    several = len(networks) > 1
    overall = _over_networks(networks) if several else {}
    matched = {name: each[MATCHED].wilcoxon for name, each in overall.items() if MATCHED in each}
    return Summary(
        networks=networks,
        overall=overall,
        question=dict(zip(matched, _holm(matched.values()), strict=True)),
        trends=_trends(networks) if len(networks) >= _FEW else [],
        densities=_densities([*by_name.values()]) if several else [],
    )


def _network(runs: Sequence[Run]) -> Network:
    from smd_evo.experiments.finetune.results import NEARLY_FREE
    from smd_evo.experiments.tables import BEST_FREE

    first = runs[0]
    places = [_places(run) for run in runs]
    arms = [{key for key in own if key[0] != NEARLY_FREE} for own in places]
    if any(own != arms[0] for own in arms):
        odd = next(run for run, own in zip(runs, arms, strict=True) if own != arms[0])
        raise InvalidValue(
            f"run: expected the same arms with every seed, got others of {first.name} with seed {odd.seed}; "
            "run it again"
        )
    accuracies = [run.rows[0].accuracy for run in runs]
    if None in accuracies:
        raise InvalidValue(f"run: expected classifiers, got {first.name} on samples without classes; see each run")
    gains: dict[str, dict[str, Gain]] = {}
    against: dict[str, dict[str, Gain]] = {name: {} for name in CANDIDATES}
    for (method, candidate), place in places[0].items():
        if method != NEARLY_FREE and candidate not in CANDIDATES:
            continue
        if not all((method, candidate) in own for own in places):  # a control that one of them left out
            continue
        now = [own[method, candidate] for own in places]
        if len(runs) == 1:  # as its own table says
            row = first.rows[place]
            assert row.accuracy_gain is not None
            assert row.p_value is not None
            found = Gain(row.accuracy_gain, row.p_value, row.p_value)
        else:
            found = _pooled(runs, now, [0] * len(runs))
        gains.setdefault(method, {})[candidate] = found
        if method == SPARSE:
            continue
        for name in CANDIDATES:
            if candidate in (name, BEST_FREE):
                shown = BEST_FREE if candidate == BEST_FREE else method
                if len(runs) == 1 and name == "ensemble" and shown in first.against:
                    against[name][shown] = first.against[shown]
                elif len(runs) > 1 or first.right is not None:
                    against[name][shown] = _pooled(runs, [own[SPARSE, name] for own in places], now)
    return Network(
        name=first.name,
        model=first.model,
        parameters=first.parameters,
        seeds=tuple(run.seed for run in runs),
        accuracy=float(np.mean(np.array(accuracies, float))),
        gains=gains,
        against=against,
    )


def _places(run: Run) -> dict[tuple[str, str], int]:
    """The row of each classifier, and of the best of what is free."""
    from smd_evo.experiments.finetune.results import NEARLY_FREE
    from smd_evo.experiments.tables import BEST_FREE

    found = {(row.method, row.candidate): place for place, row in enumerate(run.rows) if place}
    free = [place for (method, _), place in found.items() if method == NEARLY_FREE]
    return found | ({(NEARLY_FREE, BEST_FREE): free[0]} if free else {})


def _pooled(runs: Sequence[Run], now: Sequence[int], before: Sequence[int]) -> Gain:
    """The difference of two rows of each run, over the samples of all of them."""
    from smd_evo.statistics.bootstrap import paired_difference
    from smd_evo.statistics.tests import mcnemar_exact

    for run in runs:
        if run.right is None:
            raise InvalidValue(
                f"run: expected results that say which samples are right, got older ones of {run.name} with seed "
                f"{run.seed}; run it again"
            )
    one, two = (
        np.concatenate([run.right[place] for run, place in zip(runs, places, strict=True) if run.right is not None])
        for places in (now, before)
    )
    p_value = mcnemar_exact(one, two)
    return Gain(paired_difference(one, two, resamples=_RESAMPLES), p_value, p_value)


def _adjusted(networks: Sequence[Network]) -> list[Network]:
    """The same with Holm's p values: of all sparse gains, of all others, and of each candidate's comparisons."""
    gains = [
        {(method, name): gain for method, own in each.gains.items() for name, gain in own.items()}
        for each in networks
    ]
    sparse, others = (
        _corrected([{key: gain for key, gain in own.items() if (key[0] == SPARSE) == ours} for own in gains])
        for ours in (True, False)
    )
    compared = {name: _corrected([each.against[name] for each in networks]) for name in CANDIDATES}
    found = []
    for number, each in enumerate(networks):
        own = {**sparse[number], **others[number]}
        found.append(
            replace(
                each,
                gains={method: {name: own[method, name] for name in each.gains[method]} for method in each.gains},
                against={name: compared[name][number] for name in CANDIDATES},
            )
        )
    return found


def _corrected(rows: Sequence[Mapping[_Key, Gain]]) -> list[dict[_Key, Gain]]:
    adjusted = iter(_holm(gain.p_value for row in rows for gain in row.values()))
    return [{name: replace(gain, adjusted=next(adjusted)) for name, gain in row.items()} for row in rows]


def _holm(p_values: Iterable[float]) -> list[float]:
    from smd_evo.statistics.tests import holm

    return holm([*p_values])


def _over_networks(networks: Sequence[Network]) -> dict[str, dict[str, Overall]]:
    """Of each sparse candidate: its gain over the parent, and over what it is compared with on every network."""
    found: dict[str, dict[str, Overall]] = {}
    for name in CANDIDATES:
        every = [{PARENT: each.gains[SPARSE][name], **each.against[name]} for each in networks]
        common = [other for other in every[0] if all(other in own for own in every)]
        found[name] = {other: _overall([own[other].value.value for own in every]) for other in common}
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


def _trends(networks: Sequence[Network]) -> list[Trend]:
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


def _densities(networks: Sequence[Sequence[Run]]) -> list[Density]:
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
