"""Intervals cover what they say, and are the textbooks'."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smd_evo.statistics.bootstrap import mean_interval, paired_difference, statistic_interval


def test_interval_covers_the_truth_as_often_as_it_says():
    """200 experiments of 80 pairs with a true difference of 0.1; 95 % of 200 is 190 +- 9 at three errors."""
    rng, hits = np.random.default_rng(0), 0
    for experiment in range(200):
        skill = rng.random(80)
        a, b = (rng.random(80) < skill * 0.8 + 0.1).astype(float), (rng.random(80) < skill * 0.8).astype(float)
        interval = paired_difference(a, b, resamples=500, seed=experiment)
        hits += interval.low <= 0.1 <= interval.high
    assert 178 <= hits <= 199


def test_same_seed_same_interval():
    a, b = np.arange(50) % 3, np.arange(50) % 2
    assert paired_difference(a, b, seed=1) == paired_difference(a, b, seed=1)
    difference = paired_difference(a, b)
    assert difference.low < difference.value < difference.high
    mirrored = paired_difference(b, a)
    assert mirrored.value == pytest.approx(-difference.value)


def test_no_variation_has_a_point_for_an_interval():
    difference = paired_difference([1, 1, 1], [0, 0, 0])
    assert (difference.value, difference.low, difference.high) == (1, 1, 1)


def test_unpaired_input():
    with pytest.raises(ValueError, match="in pairs"):
        paired_difference([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"2 or more, \[n\], in pairs"):
        paired_difference([1], [1])
    with pytest.raises(ValueError, match="expected finite numbers, got nan"):
        paired_difference([1, float("inf")], [1, float("inf")])


def textbook_bca(values, level, resamples, seed):
    """Equations 14.9, 14.10, 14.14 and 14.15 of Efron & Tibshirani, with the closed form of a mean's acceleration."""
    values = np.asarray(values, dtype=float)
    rng, size = np.random.default_rng(seed), len(values)
    means = np.array([values[rng.integers(0, size, size)].mean() for _ in range(resamples)])
    centred = values - values.mean()
    acceleration = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    below = ((means < values.mean()).mean() + (means <= values.mean()).mean()) / 2
    bias = stats.norm.ppf(below)
    z = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    return np.quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z)))


@given(st.integers(12, 60), st.integers(0, 1000), st.sampled_from([0.5, 0.9, 0.95]))
def test_mean_interval_is_the_textbook_one(count, seed, level):
    values = np.random.default_rng(seed).exponential(size=count)
    estimate = mean_interval(values, level=level, resamples=400, seed=seed)
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx(tuple(textbook_bca(values, level, 400, seed)), rel=1e-6)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_mean_interval_is_finite_whatever_the_scores(values):
    estimate = mean_interval(values, resamples=200)
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= estimate.low <= estimate.high <= max(values) + slack


def test_tiny_scores_have_tiny_intervals():
    values = np.random.default_rng(0).random(20)
    ordinary, tiny = mean_interval(values), mean_interval(1e-250 * values)
    assert (tiny.low, tiny.high) == pytest.approx((1e-250 * ordinary.low, 1e-250 * ordinary.high), rel=1e-9, abs=0)


def test_scores_that_differ_by_rounding_alone_have_a_point_for_an_interval():
    estimate = mean_interval([0.1 + 0.2, 0.3, 0.3])
    assert estimate.low == estimate.value == estimate.high


def test_a_difference_is_the_mean_of_the_differences():
    a, b = np.random.default_rng(0).random((2, 40))
    assert paired_difference(a, b, seed=3) == mean_interval(a - b, seed=3)


def test_the_published_percentiles_of_a_paired_difference():
    """-1.46 to 4.08 in Triola's "Elementary statistics", section 9-5; its and our resamples vary by about 0.1."""
    differences = np.array([2.6, 1.3, 4.8, 0.5, 9.9, 0.3, -8.6, 0.6])
    for seed in range(3):
        estimate = statistic_interval(lambda numbers: differences[numbers].mean(), 8, level=0.9, seed=seed)
        assert (estimate.low, estimate.high) == pytest.approx((-1.46, 4.08), abs=0.3)


def test_memory_is_bounded_and_batches_change_nothing():
    """In one batch, 3,000 resamples of 3,000 samples are 72 MB of numbers and 72 MB of scores."""
    values = np.random.default_rng(0).random(3000)
    tracemalloc.start()
    estimate = mean_interval(values, resamples=3000, seed=5)
    assert tracemalloc.get_traced_memory()[1] < 40e6
    statistic_interval(lambda numbers: values[numbers].max(), 3000, resamples=3000)
    assert tracemalloc.get_traced_memory()[1] < 40e6
    tracemalloc.stop()
    expected = stats.bootstrap((values,), np.mean, n_resamples=3000, rng=5).confidence_interval
    assert (estimate.low, estimate.high) == (expected.low, expected.high)


def test_statistic_interval_holds_the_middle_of_the_resampled_statistics():
    values = np.random.default_rng(0).random(30)
    seen = []

    def median(numbers):
        assert numbers.dtype == np.int64
        assert numbers.shape == (30,)
        seen.append(float(np.median(values[numbers])))
        return seen[-1]

    estimate = statistic_interval(median, 30, level=0.8, resamples=200)
    assert estimate.value == np.median(values)
    seen.remove(estimate.value)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(seen, [0.1, 0.9])))


@given(st.integers(2, 50), st.integers(0, 1000))
def test_every_classifier_sees_the_same_resampled_samples(count, seed):
    def drawn(seed):
        seen = []
        statistic_interval(lambda numbers: seen.append(numbers.tolist()) or 0.0, count, resamples=5, seed=seed)
        return sorted(seen)

    assert drawn(seed) == drawn(seed)
    assert count < 10 or drawn(seed) != drawn(seed + 1)


def test_a_mean_by_either_way_has_about_the_same_interval():
    values = np.random.default_rng(1).normal(size=200)
    by_mean = mean_interval(values, resamples=2000)
    by_numbers = statistic_interval(lambda numbers: values[numbers].mean(), 200, resamples=2000)
    assert by_numbers.value == pytest.approx(by_mean.value)
    assert by_numbers.low == pytest.approx(by_mean.low, abs=0.02)
    assert by_numbers.high == pytest.approx(by_mean.high, abs=0.02)


def test_statistic_interval_covers_the_truth_as_often_as_it_says():
    """200 correlations of 60 pairs; 95 % of 200 is 190 +- 9 at three errors, and a percentile one is narrow."""
    rng, hits = np.random.default_rng(0), 0
    for experiment in range(200):
        x, noise = rng.normal(size=(2, 60))
        y = 0.6 * x + 0.8 * noise
        interval = statistic_interval(
            lambda numbers, x=x, y=y: np.corrcoef(x[numbers], y[numbers])[0, 1], 60, resamples=150, seed=experiment
        )
        hits += interval.low <= 0.6 <= interval.high
    assert 174 <= hits <= 199


def test_the_basic_interval_is_the_percentile_one_turned_round_the_value():
    values = np.random.default_rng(2).exponential(size=40)

    def interval(method):
        return statistic_interval(lambda numbers: values[numbers].max(), 40, seed=3, method=method)

    percentile, basic = interval("percentile"), interval("basic")
    assert percentile == statistic_interval(lambda numbers: values[numbers].max(), 40, seed=3)
    assert basic.value == percentile.value == percentile.high == values.max()
    assert basic.low == pytest.approx(2 * basic.value - percentile.high)
    assert basic.high == pytest.approx(2 * basic.value - percentile.low)


def overconfident(by, seed):
    """A calibration error of 500 answers that are right less often than they are sure, by so much."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.5, 1, 500)
    gaps = (rng.random(500) < sure - by) - sure
    bins = (15 * sure).astype(int)
    return lambda numbers: np.abs(np.bincount(bins[numbers], gaps[numbers])).sum() / 500


def test_the_basic_interval_of_a_good_calibration_is_the_less_biased():
    """True error 0.02; the value is 0.04 on average, that of resampled sets 0.06."""
    found = {
        method: [
            statistic_interval(overconfident(0.02, seed), 500, resamples=200, seed=seed, method=method)
            for seed in range(40)
        ]
        for method in ("percentile", "basic")
    }
    hits = {method: sum(own.low <= 0.02 <= own.high for own in intervals) for method, intervals in found.items()}
    assert hits["percentile"] == 0
    assert hits["basic"] >= 30


def test_neither_interval_need_hold_the_value():
    """The largest of the resampled samples' multiplicities is 1 in the samples themselves, and more in any set."""
    estimates = {
        method: statistic_interval(lambda numbers: float(np.bincount(numbers).max()), 30, method=method)
        for method in ("percentile", "basic")
    }
    assert estimates["percentile"].low > estimates["percentile"].value == 1
    assert estimates["basic"].high < 1


def test_intervals_of_nothing():
    with pytest.raises(ValueError, match=r"two samples or more, \[n\], got shape \(1,\)"):
        mean_interval([1])
    with pytest.raises(ValueError, match=r"two samples or more, \[n\], got shape \(2, 2\)"):
        mean_interval([[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="expected finite numbers, got nan"):
        mean_interval([1, float("nan")])
    with pytest.raises(ValueError, match="count: expected a whole number >= 2, got 1"):
        statistic_interval(lambda numbers: 0.0, 1)
    with pytest.raises(ValueError, match="statistic: expected a finite number for any set of the samples, got nan"):
        statistic_interval(lambda numbers: float("nan"), 5)
    with pytest.raises(ValueError, match="method: expected one of percentile, basic, got 'BCa'"):
        statistic_interval(lambda numbers: 0.0, 5, method="BCa")
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match=r"level: expected .*, got .*; .*try 0\.95"):
            mean_interval([1, 2], level=level)
    with pytest.raises(ValueError, match="resamples: expected a whole number >= 1, got 0"):
        mean_interval([1, 2], resamples=0)
