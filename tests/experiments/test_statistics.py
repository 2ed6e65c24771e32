"""Tests and intervals are the published ones, and those of slow references that enumerate."""

import itertools
import math
import statistics as standard

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smd_evo.statistics import tests as statistics
from smd_evo.statistics.tests import Estimate, holm, mcnemar_exact, paired_t, t_interval, wilcoxon

PROBABILITIES = st.floats(0, 1)
THOUSANDTHS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=9)


def table(both, first, second, neither):
    a = [True] * both + [True] * first + [False] * second + [False] * neither
    b = [True] * both + [False] * first + [True] * second + [False] * neither
    return a, b


class TestMcNemar:
    def test_it_is_the_binomial_test_of_the_discordant_pairs(self):
        for first, second in ((0, 0), (1, 0), (5, 5), (2, 15), (30, 12)):
            p = mcnemar_exact(*table(40, first, second, 10))
            tail = stats.binom.cdf(min(first, second), first + second, 0.5)
            assert p == pytest.approx(min(1.0, 2 * tail))

    @given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
    def test_it_is_symmetric_and_a_probability(self, pairs):
        a, b = zip(*pairs, strict=True)
        assert mcnemar_exact(a, b) == pytest.approx(mcnemar_exact(b, a))
        assert 0 <= mcnemar_exact(a, b) <= 1

    def test_unpaired_input(self):
        with pytest.raises(ValueError, match="in pairs"):
            mcnemar_exact([True], [True, False])


class TestStudent:
    @given(st.floats(-10, 10), st.floats(0.001, 10), st.floats(0.01, 0.999))
    def test_two_runs_have_a_closed_form(self, low, gap, level):
        """One degree of freedom is a Cauchy distribution."""
        half = math.tan(math.pi * level / 2) * gap / 2
        estimate = t_interval([low, low + gap], level=level)
        assert estimate.value == pytest.approx(low + gap / 2)
        assert estimate.value - estimate.low == pytest.approx(half)
        assert estimate.high - estimate.value == pytest.approx(half)

    @given(st.lists(st.integers(-9, 9), min_size=3, max_size=3, unique=True), st.floats(0.01, 0.999))
    def test_three_runs_have_a_closed_form(self, values, level):
        half = level * math.sqrt(2 / (1 - level**2)) * standard.stdev(values) / math.sqrt(3)
        estimate = t_interval(values, level=level)
        assert estimate.high - estimate.value == pytest.approx(half)
        assert estimate.value - estimate.low == pytest.approx(half)

    @given(st.integers(2, 40), st.floats(0.01, 0.999))
    def test_it_holds_the_means_that_the_t_test_does_not_reject(self, count, level):
        values = np.random.default_rng(count).normal(3, 2, count)
        estimate = t_interval(values, level=level)
        assert stats.ttest_1samp(values, estimate.low).pvalue == pytest.approx(1 - level)
        assert stats.ttest_1samp(values, estimate.high).pvalue == pytest.approx(1 - level)

    def test_it_covers_the_truth_as_often_as_it_says(self):
        """1,000 experiments of 3 runs; 80 % of 1,000 is 800 +- 38 at three errors. A normal interval: about 670."""
        runs = np.random.default_rng(0).normal(7, 2, (1000, 3))
        estimates = [t_interval(own, level=0.8) for own in runs]
        assert 762 <= sum(own.low <= 7 <= own.high for own in estimates) <= 838

    @pytest.mark.parametrize("values", [[0.1] * 12, [0.1 + 0.2, 0.3, 0.3], [0, 0], [1e300] * 2])
    def test_equal_runs_have_a_point_for_an_interval(self, values):
        estimate = t_interval(values)
        assert estimate.low == estimate.value == estimate.high == pytest.approx(values[0])

    @given(st.integers(-900, 900))
    def test_it_scales_with_the_numbers(self, exponent):
        """Also where their squares are 0 or infinite."""
        values = np.array([0.5, 0.75, 0.875, 1])
        ordinary, other = t_interval(values), t_interval(np.ldexp(values, exponent))
        numbers = (ordinary.value, ordinary.low, ordinary.high)
        assert other == Estimate(*(math.ldexp(number, exponent) for number in numbers))

    def test_ends_where_such_numbers_end(self):
        values = [0.98, 1.0, 0.9]
        whole = t_interval(values)
        assert whole.high > 1
        assert t_interval(values, within=(0, 1)) == Estimate(whole.value, whole.low, 1)
        assert t_interval([-value for value in values], within=(-1, 0)) == Estimate(-whole.value, -1, -whole.low)
        assert t_interval([0.4, 0.41], within=(0, 1)) == t_interval([0.4, 0.41])
        pairs = [1, 1, 0.5], [0, 0.1, 0.2]
        (ends, p), (whole, q) = paired_t(*pairs, within=(-1, 1)), paired_t(*pairs)
        assert whole.high > 1
        assert (ends, p) == (Estimate(whole.value, whole.low, 1), q)

    def test_near_equal_runs_do_not_warn(self):
        estimate = t_interval([1 + 1e-9, 1, 1 - 1e-9])
        assert estimate.high - estimate.low == pytest.approx(2 * 4.302653 * 1e-9 / math.sqrt(3), rel=1e-6)

    def test_intervals_of_nothing(self):
        with pytest.raises(ValueError, match=r"two samples or more, \[n\], got shape \(1,\)"):
            t_interval([1])
        with pytest.raises(ValueError, match="expected finite numbers, got inf"):
            t_interval([1, math.inf])
        with pytest.raises(ValueError, match=r"level: expected .*, got 1; .*try 0\.95"):
            t_interval([1, 2], level=1)


def enumerated(differences):
    """The share of all choices of signs whose smaller sum of ranks is no larger than the one found."""
    sizes = [abs(difference) for difference in differences if difference]
    ranks = [sum(2 * (other < size) + (other == size) for other in sizes) + 1 for size in sizes]  # doubled
    positive = [difference > 0 for difference in differences if difference]

    def smaller(signs):
        sums = [0, 0]
        for rank, sign in zip(ranks, signs, strict=True):
            sums[sign] += rank
        return min(sums)

    found = [smaller(signs) for signs in itertools.product([False, True], repeat=len(ranks))]
    return sum(own <= smaller(positive) for own in found) / len(found)


class TestWilcoxon:
    @given(st.lists(st.integers(-5, 5), min_size=1, max_size=9))
    def test_it_is_the_share_of_the_signs(self, differences):
        """Ties and zeros are the rule here."""
        p = wilcoxon(differences, [0] * len(differences))
        assert p == pytest.approx(enumerated(differences))
        assert 0 < p <= 1

    @given(st.integers(1, 50))
    def test_it_is_the_tables_distribution_where_all_sizes_differ(self, count):
        a, b = np.random.default_rng(count).normal(0.5, 1, (2, count))
        b -= 0.5
        assert wilcoxon(a, b) == pytest.approx(stats.wilcoxon(a, b, method="exact").pvalue)

    def test_the_first_example(self):
        """Darwin's maize, crossed less selfed, in eighths of an inch: Wilcoxon 1945, table 2; p in scipy's manual."""
        differences = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]
        assert wilcoxon(differences, [0] * 15) == 0.041259765625

    @pytest.mark.parametrize("sizes", [range(1, 8), [1, 1, 2, 2, 2, 3, 7]])
    def test_chance_rejects_no_more_often_than_it_should(self, sizes):
        every = itertools.product([-1, 1], repeat=7)
        p = np.array([wilcoxon(np.multiply(signs, sizes), np.zeros(7)) for signs in every])
        for alpha in np.unique(p):
            assert (p <= alpha).mean() <= alpha

    @given(THOUSANDTHS)
    def test_rounding_breaks_no_ties(self, pairs):
        """0.8 - 0.7 and 0.4 - 0.3 differ in floating point."""
        a, b = np.transpose(pairs)
        assert wilcoxon(a / 1000, b / 1000) == wilcoxon(a, b)
        assert wilcoxon(700 + a / 1000, 700 + b / 1000) == wilcoxon(a, b)

    @given(THOUSANDTHS)
    def test_either_may_come_first_and_in_any_unit(self, pairs):
        a, b = np.transpose(pairs)
        assert wilcoxon(a, b) == wilcoxon(b, a) == wilcoxon(a[::-1], b[::-1])
        assert wilcoxon(1e-250 * a, 1e-250 * b) == wilcoxon(1e250 * a, 1e250 * b) == wilcoxon(a, b)

    def test_a_huge_pair_does_not_make_the_others_equal(self):
        assert wilcoxon([1, 2, 3, 4, 5, 1e30], [0] * 6) == 2 / 2**6
        assert wilcoxon([1, 2, 3, 4, 5, 1e30], [0] * 5 + [1e30]) == 2 / 2**5

    def test_no_difference(self):
        assert wilcoxon([0.1, 0.2], [0.1, 0.2]) == 1
        assert wilcoxon([0.1 + 0.2], [0.3]) == 1
        assert wilcoxon([1], [0]) == 1  # a single pair says nothing

    @pytest.mark.parametrize("tied", [False, True])
    def test_many_pairs_are_about_normal(self, tied, monkeypatch):
        sizes = np.arange(1, 502) // (5 if tied else 1) + 1
        differences = np.where(np.random.default_rng(1).random(501) < 0.55, sizes, -sizes)
        normal = wilcoxon(differences, np.zeros(501))
        monkeypatch.setattr(statistics, "_EXACT", 501)
        exact = wilcoxon(differences, np.zeros(501))
        assert normal != exact
        assert normal == pytest.approx(exact, rel=0.03)

    def test_bad_input(self):
        with pytest.raises(ValueError, match=r"1 or more, \[n\], in pairs, got shapes \(2,\) and \(3,\)"):
            wilcoxon([1, 2], [1, 2, 3])
        with pytest.raises(ValueError, match=r"in pairs, got shapes \(0,\) and \(0,\)"):
            wilcoxon([], [])
        with pytest.raises(ValueError, match=r"in pairs, got shapes \(1, 2\) and \(1, 2\)"):
            wilcoxon([[1, 2]], [[1, 2]])
        with pytest.raises(ValueError, match="expected finite differences, got nan"):
            wilcoxon([1, math.inf], [1, math.inf])
        with pytest.raises(ValueError, match="expected finite differences, got inf"):
            wilcoxon([1, 1.7e308], [1, -1.7e308])


def closed(p_values):
    """Closed testing: the largest Bonferroni p value of all families of tests that hold this one."""
    m = range(len(p_values))
    families = [family for size in m for family in itertools.combinations(m, size + 1)]
    bonferroni = {family: min(1, len(family) * min(p_values[i] for i in family)) for family in families}
    return [max(p for family, p in bonferroni.items() if own in family) for own in m]


class TestHolm:
    @given(st.lists(PROBABILITIES, max_size=6))
    def test_it_is_the_closed_test_of_bonferroni(self, p_values):
        assert holm(p_values) == pytest.approx(closed(p_values))

    @given(st.lists(PROBABILITIES, min_size=1, max_size=8), PROBABILITIES)
    def test_it_rejects_step_by_step(self, p_values, alpha):
        """The smallest at alpha / m, the next at alpha / (m - 1), ..., until one is not rejected."""
        rejected = 0
        for left, p in zip(range(len(p_values), 0, -1), sorted(p_values), strict=True):
            if left * p > alpha:
                break
            rejected += 1
        assert sum(p <= alpha for p in holm(p_values)) == (rejected if alpha < 1 else len(p_values))

    @given(st.lists(PROBABILITIES, max_size=8))
    def test_it_keeps_the_order_between_the_raw_and_bonferronis(self, p_values):
        adjusted = holm(p_values)
        for one, two in itertools.combinations(range(len(p_values)), 2):
            assert p_values[one] > p_values[two] or adjusted[one] <= adjusted[two]
        for p, own in zip(p_values, adjusted, strict=True):
            assert p <= own <= min(1, len(p_values) * p)

    def test_a_published_table(self):
        """SAS/STAT user's guide, PROC MULTTEST, "Inputting raw p-values", stepdown Bonferroni."""
        raw = [
            *(0.28282, 0.30688, 0.71022, 0.77175, 0.78180, 0.88581, 0.54685, 0.84978, 0.24228, 0.58977, 0.03498),
            *(0.41607, 0.31631, 0.05254, 0.45061, 0.75758, 0.12496, 0.49485, 0.21572, 0.50505, 0.94372, 0.81260),
            *(0.77596, 0.36889),
        ]
        assert [round(p, 4) for p in holm(raw)] == [1.0] * 10 + [0.8395] + [1.0] * 13

    def test_plain_floats(self):
        assert holm([]) == []
        assert [type(p) for p in holm(np.array([0.1, 1]))] == [float, float]

    @pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan, math.inf])
    def test_no_probability(self, wrong):
        with pytest.raises(ValueError, match=rf"p_values: expected numbers in \[0, 1\], got {wrong}"):
            holm([0.1, wrong])

    def test_no_list(self):
        with pytest.raises(ValueError, match=r"p_values: expected a list of numbers, \[m\], got shape \(\)"):
            holm(0.1)


def run_pairs(seed, count):
    """Numbers of runs in pairs that have something in common, one of which is a little higher."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 5, count)
    return common + rng.normal(0.5, 1, count), common + rng.normal(0, 1, count)


class TestPairedT:
    @given(st.integers(0, 1000), st.integers(2, 12), st.floats(0.01, 0.999))
    def test_it_is_scipys_test_and_the_interval_of_the_differences(self, seed, count, level):
        a, b = run_pairs(seed, count)
        estimate, p = paired_t(a, b, level=level)
        assert p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)
        assert estimate == t_interval(a - b, level=level)
        low, high = stats.ttest_rel(a, b).confidence_interval(level)
        assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))

    @given(st.integers(0, 1000), st.integers(2, 12))
    def test_p_is_below_alpha_where_the_interval_leaves_0_out(self, seed, count):
        a, b = run_pairs(seed, count)
        estimate, p = paired_t(a, b, level=0.8)
        assert (p < 0.2) == (not estimate.low <= 0 <= estimate.high)

    @given(st.integers(0, 1000), st.integers(2, 12))
    def test_exchanged_it_is_the_negative_with_the_same_p(self, seed, count):
        a, b = run_pairs(seed, count)
        (one, p), (other, q) = paired_t(a, b), paired_t(b, a)
        assert p == q
        assert (other.value, other.low, other.high) == (-one.value, -one.high, -one.low)

    @given(st.integers(-700, 700))
    def test_it_scales_with_the_numbers(self, exponent):
        """Also where their squares are 0 or infinite."""
        a, b = np.array([1.0, 3, 2, 5]), np.array([0.5, 3, 1, 1])
        (ordinary, p), (other, q) = paired_t(a, b), paired_t(np.ldexp(a, exponent), np.ldexp(b, exponent))
        assert q == p
        assert other.value == math.ldexp(ordinary.value, exponent)

    def test_equal_differences(self):
        """0.8 - 0.7, 0.9 - 0.8 and 0.4 - 0.3 differ in floating point."""
        estimate, p = paired_t([0.8, 0.9, 0.4], [0.7, 0.8, 0.3])
        assert estimate.low == estimate.value == estimate.high == pytest.approx(0.1)
        assert p == 0.25  # all of three signs; a spread of zero proves no more

    @pytest.mark.parametrize("values", [[0.3, 0.3], [0.1 + 0.2, 0.1 + 0.2], [0.1 + 0.2, 0.3]])
    def test_no_difference_but_rounding(self, values):
        assert paired_t(values, [0.3, 0.3]) == (Estimate(0, 0, 0), 1)

    def test_a_small_difference_is_no_rounding(self):
        assert paired_t([1 + 1e-9, 1 + 1.1e-9, 1 + 0.9e-9], [1, 1, 1])[1] == pytest.approx(0.0033, rel=0.02)

    def test_bad_input(self):
        with pytest.raises(ValueError, match=r"2 or more, \[n\], in pairs, got shapes \(1,\) and \(1,\)"):
            paired_t([1], [2])
        with pytest.raises(ValueError, match=r"in pairs, got shapes \(2,\) and \(3,\)"):
            paired_t([1, 2], [1, 2, 3])
        for wrong in ([1, math.nan], [1, math.inf]):
            with pytest.raises(ValueError, match=f"expected finite differences, got {wrong[1]}"):
                paired_t(wrong, [1, 2])
        with pytest.raises(ValueError, match="expected finite differences, got nan"):
            paired_t([1, math.inf], [1, math.inf])
        with pytest.raises(ValueError, match="expected finite differences, got inf"):
            paired_t([1, 1.7e308], [1, -1.7e308])
        with pytest.raises(ValueError, match="level: expected"):
            paired_t([1, 2], [2, 1], level=1)
