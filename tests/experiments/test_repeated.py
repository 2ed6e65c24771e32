"""Answers of several runs to the same samples are not independent."""

from itertools import product

import numpy as np
import pytest

from smd_evo.statistics.bootstrap import paired_difference
from smd_evo.statistics.repeated import repeated_difference
from smd_evo.statistics.tests import mcnemar_exact

RESAMPLES = {"resamples": 300}


def answers(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random(count) < 0.6, rng.random(count) < 0.4


def test_of_samples_that_come_once_it_is_the_paired_difference_and_mcnemars_test():
    one, two = answers(90)
    found, p_value = repeated_difference(one, two, np.arange(90) * 7, **RESAMPLES)
    expected = paired_difference(one, two, **RESAMPLES)
    assert [found.value, found.low, found.high] == pytest.approx([expected.value, expected.low, expected.high])
    assert p_value == pytest.approx(mcnemar_exact(one, two))


def test_the_same_answers_three_times_say_no_more_than_once():
    one, two = answers(90)
    once = repeated_difference(one, two, np.arange(90), **RESAMPLES)
    thrice = repeated_difference(np.tile(one, 3), np.tile(two, 3), np.tile(np.arange(90), 3), **RESAMPLES)
    assert thrice[0].low == pytest.approx(once[0].low)
    assert thrice[0].high == pytest.approx(once[0].high)
    assert thrice[1] == pytest.approx(once[1])


def test_p_value_is_that_of_all_choices_of_signs():
    for seed in range(5):
        one, two = answers(24, seed)
        samples = np.random.default_rng(seed).integers(0, 9, 24)
        sums = np.bincount(samples, one.astype(int) - two)
        every = np.array([np.dot(signs, sums) for signs in product((-1, 1), repeat=len(sums))])
        expected = (np.abs(every) >= abs(sums.sum())).mean()
        assert repeated_difference(one, two, samples, **RESAMPLES)[1] == pytest.approx(expected)


def test_interval_holds_the_truth_where_seeds_share_images_and_the_parent():
    """200 studies of 4 seeds that see 80 of 100 images each; each image is told right as often as it is easy."""
    rng, hits, rejected = np.random.default_rng(0), 0, 0
    for study in range(200):
        easy, seen = rng.beta(0.5, 0.5, 100), [rng.permutation(100)[:80] for _ in range(4)]
        parent = rng.random(100) < easy
        one = np.concatenate([rng.random(80) < easy[own] for own in seen])
        samples = np.concatenate(seen)
        found, p_value = repeated_difference(one, parent[samples], samples, seed=study, **RESAMPLES)
        hits += found.low <= 0 <= found.high
        rejected += p_value < 0.05
    assert 178 <= hits <= 199
    assert 1 <= rejected <= 19


def test_answers_without_their_samples():
    with pytest.raises(ValueError, match=r"answers in pairs, \[n\], and a sample of each, got shapes \(2,\), \(2,\)"):
        repeated_difference([1, 0], [0, 0], [1])
    with pytest.raises(ValueError, match="two samples or more"):
        repeated_difference([1, 0], [0, 0], [5, 5])
