"""What runs say together, from runs that are made by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smd_evo.experiments.compare.methods.registry import REFERENCE, find_method
from smd_evo.experiments.compare.results import Trial, best_trial, crossing, rising, summarise
from smd_evo.experiments.compare.run import PARENT, Job, Point, Run, Score
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.compare.table import compare_tables, compare_verdict
from smd_evo.statistics.tests import holm, paired_t, t_interval, wilcoxon

MARKS = np.arange(0, 11000, 1000)
"""Checkpoints: ten of a budget of 10,000."""
TEST = Score(0.5, 1.0)


def run_of(method, seed, accuracies, losses, test=TEST, **changes):
    """A run with that learning curve."""
    marks = MARKS.tolist()
    points = tuple(
        Point(mark, Score(float(accuracy), float(loss)))
        for mark, accuracy, loss in zip(marks, accuracies, losses, strict=False)
    )
    fields = {"settings": {}, "evaluations": 9900, "calibration": 0, "seconds": 1.0, "memory": None} | changes
    return Run(Job(method, seed, 0, test is not None), points=points, test=test, **fields)


def scored(method, accuracies, losses):
    """Runs with those scores on the test split."""
    return [
        run_of(method, seed, [0.5, 0.6], [1, 0.9], Score(accuracy, loss))
        for seed, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True))
    ]


def learned(method, speed, seeds, offsets=None, noise=0.0):
    """Runs whose loss falls like exp(-speed x budget share) from a seed's own offset; the accuracy is 1 - loss."""
    rng = np.random.default_rng(len(method))
    offsets = np.zeros(seeds) if offsets is None else offsets
    losses = offsets[:, None] + np.exp(-speed * MARKS / 10000) + noise * rng.normal(size=(seeds, len(MARKS)))
    return [run_of(method, seed, 1 - loss, loss) for seed, loss in enumerate(losses)]


def replace_point(run, place, accuracy):
    points = list(run.points)
    points[place] = replace(points[place], score=Score(accuracy, 1 - accuracy))
    return replace(run, points=tuple(points))


def counted(run, whole):
    """The same with forward passes in even steps; without, as of an older version."""
    count = len(run.points) - 1
    forwards = [None if whole is None else whole * number / count for number in range(count + 1)]
    points = zip(run.points, forwards, strict=True)
    return replace(run, points=tuple(replace(point, forwards=each) for point, each in points), forwards=whole)


def summarised(*runs, tuning=None):
    """The methods' results by their names, the first method's runs given first."""
    own = {each[0].job.method: each for each in runs}
    config = CompareConfig(methods=tuple(own), budget=10000, seeds=len(runs[0]))
    result = summarise(config, 99, run_of(PARENT, 0, [0.5], [1.0]), tuning or {}, own)
    assert [method.method for method in result.methods] == list(own)
    return {method.method: method for method in result.methods}


CURVES = st.lists(st.integers(-9, 9), min_size=2, max_size=8).map(lambda values: np.array(values, dtype=float))


class TestCrossing:
    @given(st.lists(st.integers(-99, 99), min_size=2, max_size=8, unique=True).map(sorted), st.floats(0, 1))
    def test_of_a_rising_curve_it_is_its_inverse(self, values, share):
        curve, marks = np.array(values, dtype=float), np.cumsum(np.arange(len(values)) + 1.0)
        target = curve[0] + share * (curve[-1] - curve[0])
        assert crossing(marks, curve, target) == pytest.approx(np.interp(target, curve, marks), abs=1e-9)

    @given(CURVES, st.integers(-19, 19).map(lambda doubled: doubled / 2))
    def test_it_is_the_first_place_that_is_as_high(self, curve, target):
        marks = 10.0 * np.arange(len(curve))
        place = crossing(marks, curve, target)
        if math.isinf(place):
            assert curve.max() < target
            return
        assert bool((curve[marks < place] < target).all())
        assert np.interp(place, marks, curve) == pytest.approx(target) or (place == 0 and curve[0] > target)

    @given(CURVES)
    def test_the_highest_point_is_reached_and_nothing_above(self, curve):
        marks = 10.0 * np.arange(len(curve))
        assert crossing(marks, curve, curve.max()) == 10.0 * curve.argmax()
        assert crossing(marks, curve, curve.max() + 0.1) == math.inf
        assert crossing(marks, curve, curve[0]) == 0


class TestRising:
    @given(CURVES)
    def test_it_never_falls_and_keeps_the_mean(self, curve):
        found = rising(curve)
        assert bool((np.diff(found) >= 0).all())
        assert found.mean() == pytest.approx(curve.mean())

    @given(CURVES)
    def test_no_other_rising_curve_is_nearer(self, curve):
        """By the min-max formula of isotonic regression (Barlow et al. 1972)."""
        count = range(len(curve))
        slow = [max(min(curve[i : j + 1].mean() for j in count if j >= k) for i in count if i <= k) for k in count]
        assert rising(curve).tolist() == pytest.approx(slow)

    @given(CURVES)
    def test_a_curve_that_rises_stays_as_it_is(self, curve):
        assert rising(np.sort(curve)).tolist() == np.sort(curve).tolist()


class TestToTarget:
    @pytest.mark.parametrize("measure", ["accuracy", "loss"])
    def test_one_lucky_checkpoint_is_no_arrival(self, measure):
        slow = [replace_point(run, 3, 0.9) for run in learned("smd", 2, 3)]
        found = summarised(learned(REFERENCE, 2, 3), slow)["smd"].to_target[measure]
        assert found.evaluations > 0.9 * MARKS[-1]

    @pytest.mark.parametrize("measure", ["accuracy", "loss"])
    def test_twice_as_fast_is_half_of_the_evaluations(self, measure):
        found = summarised(
            *(learned(method, speed, 5, noise=0.005) for method, speed in ((REFERENCE, 2), ("smd", 4)))
        )
        fast, own = found["smd"].to_target[measure], found[REFERENCE].to_target[measure]
        assert fast.evaluations == pytest.approx(5000, rel=0.1)
        assert 4000 < fast.low <= fast.evaluations <= fast.high < 6000
        assert fast.low < fast.high
        assert own.low <= own.evaluations <= own.high <= 10000
        assert fast.p_value == fast.adjusted < 0.002
        assert own.p_value == own.adjusted == 1

    @pytest.mark.parametrize("measure", ["accuracy", "loss"])
    def test_half_as_fast_is_never(self, measure):
        found = summarised(learned(REFERENCE, 2, 3), learned("smd", 1, 3))["smd"].to_target[measure]
        assert (found.evaluations, found.low, found.high) == (None, None, None)
        assert found.p_value == found.adjusted == 1

    def test_some_seeds_alone_reach_it(self):
        """The mean does not; of the seeds drawn again, some do."""
        offsets = np.array([-0.2, 0.1, 0.15])
        found = summarised(learned(REFERENCE, 2, 3), learned("smd", 2, 3, offsets))["smd"].to_target["loss"]
        assert found.evaluations is None
        assert 0 < found.low < 10000
        assert found.high is None

    @pytest.mark.parametrize("seeds", [2, 5, 8, 9, 16])
    def test_the_reference_reaches_its_own_target(self, seeds):
        """Whatever rounding does to a mean of so many."""
        offsets = np.random.default_rng(seeds).normal(size=seeds)
        for found in summarised(learned(REFERENCE, 2, seeds, offsets))[REFERENCE].to_target.values():
            assert (found.low, found.evaluations, found.high) == (10000, 10000, 10000)

    @pytest.mark.parametrize(("whole", "expected"), [(10000.0, 500), (None, 5000)])
    def test_forward_passes_count_where_all_runs_count_them(self, whole, expected):
        """A tenth of one for an image, and half of the images: a twentieth."""
        slow = [counted(run, whole) for run in learned(REFERENCE, 2, 3)]
        fast = [counted(run, 1000.0) for run in learned("smd", 4, 3)]
        found = summarised(slow, fast)
        for measure in ("accuracy", "loss"):
            assert found["smd"].to_target[measure].evaluations == pytest.approx(expected)
            assert found["smd"].to_target[measure].p_value < 0.01
        assert found["smd"].curve.forwards == pytest.approx(MARKS / 10)
        assert found[REFERENCE].curve.forwards == (() if whole is None else tuple(MARKS.tolist()))

    def test_several_methods_share_the_error(self):
        found = summarised(
            *(learned(method, speed, 5, noise=0.005) for method, speed in ((REFERENCE, 2), ("smd", 4), ("sgd", 1)))
        )
        assert found["smd"].to_target["loss"].adjusted == 2 * found["smd"].to_target["loss"].p_value

    def test_seeds_are_drawn_in_pairs(self):
        """What a seed does to both methods makes no difference; drawn apart it would be all there is."""
        offsets = np.array([-0.4, -0.1, 0.0, 0.2, 0.5])
        found = summarised(learned(REFERENCE, 2, 5, offsets), learned("smd", 4, 5, offsets))["smd"].to_target["loss"]
        assert found.low == pytest.approx(5000, rel=1e-6)
        assert found.high == pytest.approx(5000, rel=1e-6)


def three_methods():
    """Test scores: of a reference, a method that is better by much, one that is by little, one that is worse."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(2, 6))
    gains = {REFERENCE: 0.0, "smd": 4.0, "sparse-es": 0.5, "deep-ga": -1.0}
    accuracies = {name: common[0] + gain + rng.normal(size=6) for name, gain in gains.items()}
    losses = {name: common[1] - 2 * gain + rng.normal(size=6) for name, gain in gains.items()}
    return {"accuracy": accuracies, "loss": losses}


class TestDifferences:
    def test_they_are_those_of_the_statistics_adjusted_for_a_measures_methods(self):
        scores = three_methods()
        found = summarised(*(scored(name, scores["accuracy"][name], scores["loss"][name]) for name in scores["loss"]))
        assert found[REFERENCE].against == {}
        for measure, own in scores.items():
            names = [name for name in own if name != REFERENCE]
            within = (-1, 1) if measure == "accuracy" else (-math.inf, math.inf)
            expected = [paired_t(own[name], own[REFERENCE], within=within) for name in names]
            adjusted = holm([p_value for _, p_value in expected])
            assert adjusted != [p_value for _, p_value in expected]
            for name, (estimate, p_value), corrected in zip(names, expected, adjusted, strict=True):
                difference = found[name].against[measure]
                assert difference.value == estimate
                assert (difference.p_value, difference.adjusted) == (p_value, corrected)
                assert difference.wilcoxon == wilcoxon(own[name], own[REFERENCE])

    def test_their_sign_is_the_scores_and_better_is_better(self):
        """Higher accuracy, lower loss; a draw is not better."""
        reference = scored(REFERENCE, [0.5, 0.6, 0.7, 0.8], [1.0, 1.1, 1.2, 1.3])
        other = scored("smd", [0.6, 0.7, 0.7, 0.7], [0.5, 0.6, 0.7, 1.4])
        against = summarised(reference, other)["smd"].against
        assert against["accuracy"].value.value == pytest.approx(0.025)
        assert against["accuracy"].better == 2
        assert against["loss"].value.value == pytest.approx(-0.35)
        assert against["loss"].better == 3

    def test_equal_runs_do_not_differ(self):
        scores = [0.5, 0.6, 0.7], [1.0, 0.9, 0.8]
        for difference in summarised(scored(REFERENCE, *scores), scored("smd", *scores))["smd"].against.values():
            assert (difference.value.low, difference.value.high, difference.better) == (0, 0, 0)
            assert (difference.p_value, difference.adjusted, difference.wilcoxon) == (1, 1, 1)


class TestBestTrial:
    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8))
    def test_it_is_the_first_of_the_best_at_the_end(self, ends):
        trials = [run_of("smd", 0, [9, accuracy], [-9, loss], None) for accuracy, loss in ends]
        accuracies, losses = map(list, zip(*ends, strict=True))
        assert best_trial(trials, "accuracy") == accuracies.index(max(accuracies))
        assert best_trial(trials, "cross_entropy") == losses.index(min(losses))

    @pytest.mark.parametrize("metric", ["accuracy", "cross_entropy"])
    def test_one_that_failed_is_never_chosen(self, metric):
        trials = [run_of("smd", 0, [0.5, end], [1, end], None) for end in (math.nan, 0.1, 0.1, math.nan)]
        assert best_trial(trials, metric) == 1
        assert best_trial(trials[::-1], metric) == 1
        assert best_trial(trials[:1], metric) == 0  # there is no other


def test_a_result_is_the_means_of_its_runs():
    curves = [[0.5, 0.6, 0.8], [0.5, 0.7, 0.75]]
    runs = [
        run_of(
            REFERENCE,
            seed,
            curve,
            [1, 0.5 + seed, 0.4],
            Score(0.8 + seed / 10, 0.3 - seed / 10),
            settings={"rate": 0.2},
            evaluations=1900 + seed,
            calibration=300 * (1 - seed),
            seconds=2.0 + seed,
            memory=100 - seed,
        )
        for seed, curve in enumerate(curves)
    ]
    tuning = {
        REFERENCE: [
            run_of(REFERENCE, 9, [0.5, end], [1, 1 - end], None, settings={"rate": end}) for end in (0.6, 0.7)
        ]
    }
    parent = run_of(PARENT, 0, [0.5], [1], Score(0.55, 1.1))
    config = CompareConfig(methods=(REFERENCE,), budget=2000, seeds=2)
    result = summarise(config, 14458, parent, tuning, {REFERENCE: runs})

    assert (result.config, result.parameters) == (config, 14458)
    assert result.parent == {"validation": Score(0.5, 1), "test": Score(0.55, 1.1)}
    assert result.trials == {
        REFERENCE: (Trial({"rate": 0.6}, Score(0.6, 0.4)), Trial({"rate": 0.7}, Score(0.7, 1 - 0.7)))
    }
    own = result.reference
    assert result.methods == (own,)
    assert (own.method, own.about, own.settings) == (REFERENCE, find_method(REFERENCE).about, {"rate": 0.2})
    assert own.accuracy == t_interval([0.8, 0.9], within=(0, 1))
    assert own.accuracy.high == 1  # where Student's would end at 1.49
    assert own.loss == t_interval([0.3, 0.3 - 1 / 10], within=(0, math.inf))
    assert own.curve.evaluations == (0, 1000, 2000)
    assert own.curve.accuracy == tuple(t_interval(column, within=(0, 1)) for column in np.transpose(curves))
    losses = ([1, 1], [0.5, 1.5], [0.4, 0.4])
    assert own.curve.loss == tuple(t_interval(column, within=(0, math.inf)) for column in losses)
    assert (own.evaluations, own.calibration, own.seconds, own.memory) == (1901, 300, 2.5, 100)


def test_a_peak_that_one_run_does_not_know_is_unknown():
    runs = [run_of(REFERENCE, seed, [0.5, 0.6], [1, 0.9], memory=memory) for seed, memory in enumerate((5, None))]
    assert summarised(runs)[REFERENCE].memory is None


def with_calibrated(runs, accuracies, losses):
    pairs = zip(runs, accuracies, losses, strict=True)
    return [replace(run, calibrated=Score(accuracy, loss)) for run, accuracy, loss in pairs]


class TestControls:
    """Four seeds of a reference, of a method, of two controls: calibrated, all have much the same loss."""

    REFERENCE = with_calibrated(
        scored(REFERENCE, [0.80, 0.81, 0.80, 0.82], [0.9, 0.91, 0.9, 0.92]), [0.8] * 4, [0.50, 0.51, 0.50, 0.52]
    )
    BIAS = with_calibrated(
        scored("class-bias", [0.82, 0.82, 0.82, 0.821], [0.7, 0.7, 0.7, 0.71]), [0.82] * 4, [0.47, 0.47, 0.47, 0.48]
    )
    HOT = with_calibrated(
        scored("temperature", [0.79] * 4, [0.60, 0.61, 0.60, 0.62]), [0.79] * 4, [0.50, 0.50, 0.50, 0.51]
    )

    def method(self, accuracies, losses, calibrated):
        return with_calibrated(scored("sparse-es", accuracies, losses), accuracies, calibrated)

    def result(self, *methods, metric="accuracy"):
        own = {each[0].job.method: each for each in (self.REFERENCE, *methods)}
        controls = {"class-bias": 0.6, "temperature": 0.4}
        for name, validated in controls.items():
            own[name] = [replace_point(run, -1, validated) for run in own.get(name, [])] or own.get(name)
        own = {name: runs for name, runs in own.items() if runs}
        config = CompareConfig(methods=tuple(own), budget=10000, seeds=4, metric=metric)
        return summarise(config, 99, run_of(PARENT, 0, [0.5], [1.0]), {}, own)

    def test_the_best_one_is_chosen_on_validation(self):
        method = self.method([0.83] * 4, [0.6] * 4, [0.46] * 4)
        assert self.result(method, self.HOT, self.BIAS).control == "class-bias"
        assert self.result(method, self.HOT).control == "temperature"
        assert self.result(method).control is None
        assert not self.result(method).methods[1].against_control

    def test_differences_to_it_are_in_accuracy_and_in_calibrated_loss(self):
        accuracies, calibrated = [0.83, 0.84, 0.83, 0.85], [0.46, 0.47, 0.45, 0.46]
        result = self.result(self.method(accuracies, [0.3] * 4, calibrated), self.BIAS, self.HOT)
        found = {method.method: method for method in result.methods}["sparse-es"].against_control
        value, p_value = paired_t(accuracies, [0.82, 0.82, 0.82, 0.821], within=(-1, 1))
        assert found["accuracy"].value == value
        assert found["accuracy"].p_value == p_value
        assert found["loss"].value.value == pytest.approx(np.mean(calibrated) - np.mean([0.47, 0.47, 0.47, 0.48]))
        others = {method.method: set(method.against_control) for method in result.methods}
        assert others == {
            REFERENCE: {"accuracy", "loss"},
            "sparse-es": {"accuracy", "loss"},
            "class-bias": set(),
            "temperature": set(),
        }

    @pytest.mark.parametrize(
        ("accuracies", "losses", "calibrated", "better"),
        [
            ([0.84, 0.86, 0.85, 0.86], [0.6, 0.6, 0.6, 0.61], [0.47, 0.47, 0.47, 0.48], True),
            # Far below in loss, as long as nobody calibrates.
            ([0.80, 0.81, 0.80, 0.82], [0.5, 0.5, 0.5, 0.51], [0.47, 0.48, 0.47, 0.48], False),
            # Better than the reference, not than a bias for each class.
            ([0.82, 0.82, 0.821, 0.82], [0.7, 0.7, 0.7, 0.7], [0.47, 0.47, 0.471, 0.48], False),
            ([0.80, 0.81, 0.80, 0.82], [0.9, 0.9, 0.9, 0.9], [0.40, 0.41, 0.40, 0.41], True),
        ],
        ids=["accuracy", "calibration alone", "what is free", "loss"],
    )
    def test_better_is_what_is_better_than_both(self, accuracies, losses, calibrated, better):
        result = self.result(self.method(accuracies, losses, calibrated), self.BIAS, self.HOT)
        both = f"Better than both {REFERENCE} and class-bias: sparse-es."
        none = f"No method was shown to be better than both {REFERENCE} and class-bias."
        lines = compare_verdict(result)
        assert (both in lines, none in lines) == (better, not better)

    def test_runs_of_before_have_no_calibrated_scores(self):
        old = scored("sparse-es", [0.84, 0.85, 0.84, 0.86], [0.6, 0.6, 0.6, 0.61])
        result = self.result(old, self.BIAS)
        assert not any(method.calibrated for method in result.methods)
        assert result.methods[1].against_control["loss"].value.value == pytest.approx(0.6025 - 0.7025)
        assert [table.title for table in compare_tables(result)][3] == (
            "Differences to class-bias, the best control on validation"
        )
