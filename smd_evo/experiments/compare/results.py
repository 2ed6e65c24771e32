"""What the runs of a comparison say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from smd_evo.experiments.compare.methods.registry import CONTROLS, REFERENCE, find_method
from smd_evo.experiments.compare.run import Run, Score
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.statistics.tests import Estimate, holm, paired_t, t_interval, wilcoxon

__all__ = [
    "MEASURES",
    "CompareResult",
    "Curve",
    "Difference",
    "MethodResult",
    "ToTarget",
    "Trial",
    "best_trial",
    "summarise",
]

MEASURES = {"accuracy": "max", "loss": "min"}
"""What runs are measured by, and whether it is to be high or low."""

_RANGES = {"accuracy": (0.0, 1.0), "loss": (0.0, math.inf)}
_DIFFERENCES = {"accuracy": (-1.0, 1.0), "loss": (-math.inf, math.inf)}
"""What a measure, and a difference of two, can be: no interval goes beyond."""

_RESAMPLES = 2000

_Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A method's validation score at each checkpoint: the mean over seeds with its t interval.

    Attributes:
        evaluations: images evaluated by then, at most.
        accuracy, loss: on validation.
        forwards: forward passes of an image by then, of the seeds' mean; none in runs of older versions.
    """

    evaluations: tuple[int, ...]
    accuracy: tuple[Estimate, ...]
    loss: tuple[Estimate, ...]
    forwards: tuple[float, ...] = ()


@dataclass(frozen=True)
class Difference:
    """A method's test score minus the reference's, over seeds in pairs.

    Attributes:
        value: the mean with its t interval, of this one alone: no correction for several methods.
        p_value: of the paired t test.
        adjusted: the same after Holm's correction for all methods of this measure.
        wilcoxon: p of the signed-rank test, which n seeds cannot bring below 2 / 2**n.
        better: how many seeds are better than the reference's.
    """

    value: Estimate
    p_value: float
    adjusted: float
    wilcoxon: float
    better: int


@dataclass(frozen=True)
class ToTarget:
    """What it takes until the mean curve is where the reference's ends, and stays there; None: not reached.

    Counted in forward passes where all runs count those, as children that share layers need fewer of them than of
    image evaluations; else in the latter.

    Both curves are made monotone first (isotonic regression): or one lucky checkpoint would count as having arrived,
    and the reference itself, once it makes no more progress, at any time.

    Attributes:
        evaluations: in that unit, of all seeds' mean curve, between checkpoints by a straight line.
        low, high: percentile bootstrap over seeds, drawn in pairs with the reference's.
        p_value: of the same bootstrap, two-sided, that it takes as much as the reference's whole run, or more; 1 for
            the reference itself.
        adjusted: the same after Holm's correction for all methods of this measure.
    """

    evaluations: float | None
    low: float | None
    high: float | None
    p_value: float
    adjusted: float


@dataclass(frozen=True)
class MethodResult:
    """One method over its seeds.

    Attributes:
        method: its name.
        about: what it is.
        settings: the chosen ones.
        accuracy, loss: on the test split.
        against: differences to the reference for each measure; none for the reference itself.
        to_target: for each measure.
        curve: on validation.
        evaluations: images that a run evaluated.
        calibration: images that finding its strength took, once, outside of the budget.
        seconds: mean of the method's own time a run.
        memory: the largest peak of a run in bytes, or None.
        calibrated: accuracy and loss on the test split once outputs are calibrated on the fitness split; empty where
            runs of an older version are among them.
        calibrated_against: differences of these to the reference's.
        forwards: forward passes of an image that a run took at most; None in runs of older versions.
        against_control: differences to the best control: in accuracy as it is, in loss as calibrated, so that none is
            one of calibration alone.
    """

    method: str
    about: str
    settings: dict[str, Any]
    accuracy: Estimate
    loss: Estimate
    against: dict[str, Difference]
    to_target: dict[str, ToTarget]
    curve: Curve
    evaluations: int
    calibration: int
    seconds: float
    memory: int | None
    calibrated: dict[str, Estimate] = field(default_factory=dict)
    calibrated_against: dict[str, Difference] = field(default_factory=dict)
    against_control: dict[str, Difference] = field(default_factory=dict)
    forwards: float | None = None


@dataclass(frozen=True)
class Trial:
    """Settings that a method tried, and the validation score that they ended with."""

    settings: dict[str, Any]
    score: Score


@dataclass(frozen=True)
class CompareResult:
    """A finished comparison.

    Attributes:
        config: the settings.
        parameters: of the parent that may be mutated.
        parent: its scores on validation and test.
        methods: in the order asked for.
        trials: for each method, what it tried, in the grid's order.
        control: the best of the controls among them, by validation; None where there is none.
    """

    config: CompareConfig
    parameters: int
    parent: dict[str, Score]
    methods: tuple[MethodResult, ...]
    trials: dict[str, tuple[Trial, ...]]
    control: str | None = None

    @property
    def reference(self) -> MethodResult:
        """What the others are compared with."""
        return next(each for each in self.methods if each.method == REFERENCE)

    @property
    def counted(self) -> bool:
        """Whether all runs count forward passes."""
        return all(method.curve.forwards for method in self.methods)

    @property
    def whole(self) -> float:
        """What the reference's run took: forward passes where all runs count those, else image evaluations."""
        return self.reference.curve.forwards[-1] if self.counted else float(self.config.budget)


def best_trial(runs: Sequence[Run], metric: str) -> int:
    """Number of the settings that were best on validation at the end; the first of equals, never one that failed."""
    losses = [_loss(run.points[-1].score, metric) for run in runs]
    return min(range(len(runs)), key=lambda number: (math.isnan(losses[number]), losses[number]))


def _loss(score: Score, metric: str) -> float:
    """Of which less is better."""
    return -score.accuracy if metric == "accuracy" else score.loss


def summarise(
    config: CompareConfig,
    parameters: int,
    parent: Run,
    tuning: Mapping[str, Sequence[Run]],
    runs: Mapping[str, Sequence[Run]],
) -> CompareResult:
    """All runs as one result.

    Args:
        config: the settings.
        parameters: of the parent that may be mutated.
        parent: the parent's own run.
        tuning: the trials of each method in the grid's order.
        runs: the reported runs of each method, in the order of the seeds; the reference's among them.
    """
    assert parent.test is not None
    differences = {measure: _differences(runs, measure, REFERENCE) for measure in MEASURES}
    whole = all(run.calibrated is not None for own in runs.values() for run in own)
    calibrated = (
        {measure: _differences(runs, measure, REFERENCE, "calibrated") for measure in MEASURES} if whole else {}
    )
    control = _best_control(runs, config.metric)
    beyond: dict[str, dict[str, Difference]] = {}
    if control is not None:
        others = {name: own for name, own in runs.items() if name == control or name not in CONTROLS}
        beyond = {
            "accuracy": _differences(others, "accuracy", control),
            "loss": _differences(others, "loss", control, "calibrated" if whole else "test"),
        }
    targets = {measure: _targets(runs, measure, config.seed) for measure in MEASURES}
    methods = []
    for name, own in runs.items():
        memory = [run.memory for run in own]
        methods.append(
            MethodResult(
                method=name,
                about=find_method(name).about,
                settings=own[0].settings,
                accuracy=t_interval(_tests(own, "accuracy"), within=_RANGES["accuracy"]),
                loss=t_interval(_tests(own, "loss"), within=_RANGES["loss"]),
                against=_of(name, differences),
                to_target={measure: found[name] for measure, found in targets.items()},
                curve=_curve(own),
                evaluations=max(run.evaluations for run in own),
                calibration=max(run.calibration for run in own),
                seconds=float(np.mean([run.seconds for run in own])),
                memory=None if None in memory else max(each for each in memory if each is not None),
                calibrated={
                    measure: t_interval(_tests(own, measure, "calibrated"), within=_RANGES[measure])
                    for measure in MEASURES
                    if whole
                },
                calibrated_against=_of(name, calibrated),
                against_control=_of(name, beyond),
                forwards=max((run.forwards for run in own if run.forwards is not None), default=None),
            )
        )
    return CompareResult(
        config=config,
        parameters=parameters,
        parent={"validation": parent.points[0].score, "test": parent.test},
        methods=tuple(methods),
        trials={
            name: tuple(Trial(run.settings, run.points[-1].score) for run in own) for name, own in tuning.items()
        },
        control=control,
    )


def _of(name: str, differences: Mapping[str, Mapping[str, Difference]]) -> dict[str, Difference]:
    return {measure: found[name] for measure, found in differences.items() if name in found}


def _best_control(runs: Mapping[str, Sequence[Run]], metric: str) -> str | None:
    """The control whose seeds are best at their ends on validation; the first of equals."""
    means = {
        name: float(np.mean([_loss(run.points[-1].score, metric) for run in own]))
        for name, own in runs.items()
        if name in CONTROLS
    }
    return min(means, key=lambda name: (math.isnan(means[name]), means[name]), default=None)


def _tests(runs: Sequence[Run], measure: str, which: str = "test") -> list[float]:
    return [getattr(getattr(run, which), measure) for run in runs]


def _differences(
    runs: Mapping[str, Sequence[Run]], measure: str, other: str, which: str = "test"
) -> dict[str, Difference]:
    """Of all methods to another one, adjusted together."""
    sign = 1 if MEASURES[measure] == "max" else -1
    reference = _tests(runs[other], measure, which)
    names = [name for name in runs if name != other]
    tests = {name: _tests(runs[name], measure, which) for name in names}
    found = {name: paired_t(tests[name], reference, within=_DIFFERENCES[measure]) for name in names}
    adjusted = holm([p_value for _, p_value in found.values()])
    return {
        name: Difference(
            value=value,
            p_value=p_value,
            adjusted=corrected,
            wilcoxon=wilcoxon(tests[name], reference),
            better=sum(sign * (a - b) > 0 for a, b in zip(tests[name], reference, strict=True)),
        )
        for (name, (value, p_value)), corrected in zip(found.items(), adjusted, strict=True)
    }


def _curve(runs: Sequence[Run]) -> Curve:
    evaluations = tuple(
        max(each) for each in zip(*([point.evaluations for point in run.points] for run in runs), strict=True)
    )
    accuracy, loss = (
        tuple(t_interval(column, within=_RANGES[measure]) for column in _curves(runs, measure).T)
        for measure in ("accuracy", "loss")
    )
    return Curve(evaluations, accuracy, loss, tuple(_forwards(runs).tolist()) if _counted(runs) else ())


def _counted(runs: Sequence[Run]) -> bool:
    """Whether all of them count forward passes at each point."""
    return all(point.forwards is not None for run in runs for point in run.points)


def _forwards(runs: Sequence[Run]) -> _Numbers:
    """Of each point, the mean over seeds."""
    means: _Numbers = np.array([[point.forwards for point in run.points] for run in runs], dtype=np.float64).mean(0)
    return means


def _curves(runs: Sequence[Run], measure: str) -> _Numbers:
    """[seeds, points]."""
    return np.array([[getattr(point.score, measure) for point in run.points] for run in runs])


def _targets(runs: Mapping[str, Sequence[Run]], measure: str, seed: int) -> dict[str, ToTarget]:
    """Of all methods, adjusted together; the reference's own is no test."""
    counted = all(map(_counted, runs.values()))
    found = {name: _to_target(own, runs[REFERENCE], measure, seed, counted) for name, own in runs.items()}
    names = [name for name in runs if name != REFERENCE]
    adjusted = dict(zip(names, holm([found[name].p_value for name in names]), strict=True))
    found[REFERENCE] = replace(found[REFERENCE], p_value=1.0)
    return {name: replace(own, adjusted=adjusted.get(name, 1.0)) for name, own in found.items()}


def _to_target(runs: Sequence[Run], reference: Sequence[Run], measure: str, seed: int, counted: bool) -> ToTarget:
    sign = 1 if MEASURES[measure] == "max" else -1
    own, theirs = sign * _curves(runs, measure), sign * _curves(reference, measure)
    marks, whole = (
        _forwards(each) if counted else np.array(_curve(each).evaluations, dtype=np.float64)
        for each in (runs, reference)
    )

    def reached(chosen: NDArray[np.int64]) -> float:
        # Both means are made alike: the reference reaches its own to the last bit.
        return crossing(marks, rising(own[chosen].mean(0)), float(rising(theirs[chosen].mean(0))[-1]))

    draws = np.random.default_rng(seed).integers(len(runs), size=(_RESAMPLES, len(runs)))
    # Of two seeds there are four sets, of three 27.
    distinct, which = np.unique(draws, axis=0, return_inverse=True)
    found = np.sort(np.array([reached(chosen) for chosen in distinct])[which.reshape(-1)])
    low, high = found[int(0.025 * _RESAMPLES)], found[int(0.975 * _RESAMPLES)]
    value = reached(np.arange(len(runs)))
    p_value = min(1.0, 2 * float(1 + (found >= whole[-1]).sum()) / (1 + _RESAMPLES))
    places = [float(place) if np.isfinite(place) else None for place in (value, low, high)]
    return ToTarget(places[0], places[1], places[2], p_value, p_value)


def rising(curve: _Numbers) -> _Numbers:
    """The nearest curve that never falls (isotonic regression): where it levels off, the mean of its plateau.

    >>> rising(np.array([1.0, 4.0, 2.0, 3.0])).tolist()
    [1.0, 3.0, 3.0, 3.0]
    """
    fitted: _Numbers = isotonic_regression(curve).x
    return fitted


def crossing(marks: _Numbers, curve: _Numbers, target: float) -> float:
    """Where a rising curve reaches a target, between its points by a straight line; inf if nowhere.

    >>> crossing(np.array([0.0, 10.0, 20.0]), np.array([1.0, 2.0, 4.0]), 3.0)
    15.0
    """
    above = np.flatnonzero(curve >= target)
    if not len(above):
        return math.inf
    place = int(above[0])
    if place == 0:
        return float(marks[0])
    share = (target - curve[place - 1]) / (curve[place] - curve[place - 1])
    return float(marks[place - 1] + share * (marks[place] - marks[place - 1]))
