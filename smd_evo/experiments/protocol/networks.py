"""What the runs of a network say together: its gains over its parent, and over other arms.

The mean over its seeds, with an interval and an exact McNemar test over the images of all of them, each drawn once
however many seeds have seen it, and Holm's correction over networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

__all__ = ["CANDIDATES", "MATCHED", "Gain", "Network", "Run", "adjusted", "network_of"]

CANDIDATES = ("best child", "ensemble")
MATCHED = DENSE_ARMS["matched-norm"]

_Key = TypeVar("_Key")

_RESAMPLES = 1999


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
        samples: which samples of the data set these are, [n]: those of another seed may be the same ones.
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
    samples: NDArray[np.int64]
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


def network_of(runs: Sequence[Run]) -> Network:
    """The line of a network, of all of its runs; its p values are not adjusted yet.

    Raises:
        InvalidValue: see :func:`~smd_evo.experiments.protocol.results.summarise`.
    """
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
    from smd_evo.statistics.repeated import repeated_difference

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
    samples = np.concatenate([run.samples for run in runs])
    value, p_value = repeated_difference(one, two, samples, resamples=_RESAMPLES)
    return Gain(value, p_value, p_value)


def adjusted(networks: Sequence[Network]) -> list[Network]:
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
    from smd_evo.statistics.tests import holm

    values = iter(holm([gain.p_value for row in rows for gain in row.values()]))
    return [{name: replace(gain, adjusted=next(values)) for name, gain in row.items()} for row in rows]
