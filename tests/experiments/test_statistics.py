"""Intervals cover what they say, and the exact test is the published one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smd_evo.experiments.statistics import mcnemar_exact, paired_difference


def table(both, first, second, neither):
    a = [True] * both + [True] * first + [False] * second + [False] * neither
    b = [True] * both + [False] * first + [True] * second + [False] * neither
    return a, b


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs():
    for first, second in ((0, 0), (1, 0), (5, 5), (2, 15), (30, 12)):
        p = mcnemar_exact(*table(40, first, second, 10))
        tail = stats.binom.cdf(min(first, second), first + second, 0.5)
        assert p == pytest.approx(min(1.0, 2 * tail))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_symmetric_and_a_probability(pairs):
    a, b = zip(*pairs, strict=True)
    assert mcnemar_exact(a, b) == pytest.approx(mcnemar_exact(b, a))
    assert 0 <= mcnemar_exact(a, b) <= 1


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
    with pytest.raises(ValueError, match="two samples or more"):
        paired_difference([1], [1])
    with pytest.raises(ValueError, match="in pairs"):
        mcnemar_exact([True], [True, False])
