"""Tests of two classifiers' differences, and intervals over runs; scipy does the sums.

For samples, of which there are many, see :mod:`smd_evo.statistics.bootstrap`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from smd_evo.errors import InvalidValue, check_number

__all__ = [
    "Estimate",
    "holm",
    "mcnemar_exact",
    "paired_t",
    "rank_correlation",
    "sign_test",
    "t_interval",
    "wilcoxon",
]

_ROUNDING = 1e-12
"""Numbers that differ by no more than this part of themselves are equal."""
_EXACT = 500
"""Pairs whose signs are counted out, in 0.15 s; the normal p value is then 1 % off where it is 0.01."""


@dataclass(frozen=True)
class Estimate:
    """A number and its interval."""

    value: float
    low: float
    high: float


_Range = tuple[float, float]
_ANY = (-np.inf, np.inf)


def t_interval(values: ArrayLike, *, level: float = 0.95, within: _Range = _ANY) -> Estimate:
    """Mean of a few independent runs, such as seeds, with Student's t interval.

    The interval is mean +- t s / sqrt(n), with s the standard deviation (over n - 1) and t the quantile
    (1 + level) / 2 of Student's distribution of n - 1 degrees of freedom. The runs are taken to be normal.

    Args:
        values: [n], a number of each run, finite.
        level: confidence level of the interval, in (0, 1).
        within: what such a number can be, (0, 1) for an accuracy: the interval ends there. It holds the truth as
            often as before, as the truth is not beyond.

    Raises:
        InvalidValue: fewer than two runs, or a number that is not finite.

    Example:
        Hours of sleep that ten patients gained by one drug more than by another; published as 0.7001142 to 2.4598858.

        >>> estimate = t_interval([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
        >>> round(estimate.value, 2), round(estimate.low, 7), round(estimate.high, 7)
        (1.58, 0.7001142, 2.4598858)

    Reference: Student, "The probable error of a mean", Biometrika 6, 1908 (data); R's paired ``t.test`` of its
    data set ``sleep`` (interval).
    """
    level, (x, exponent) = check_level(level), scaled(values)
    mean = x.mean()
    half = stats.t.isf((1 - level) / 2, len(x) - 1) * stats.sem(x) if np.ptp(x) else 0.0
    value, low, high = (float(np.ldexp(number, exponent)) for number in (mean, mean - half, mean + half))
    return Estimate(value, max(low, min(value, within[0])), min(high, max(value, within[1])))


def paired_t(
    values: ArrayLike, reference: ArrayLike, *, level: float = 0.95, within: _Range = _ANY
) -> tuple[Estimate, float]:
    """Mean difference of a few runs in pairs, such as the same seeds, with its t interval and two-sided p value.

    Args:
        values: [n], a number of each run, finite.
        reference: [n], the other number of each pair.
        level: confidence level of the interval, in (0, 1).
        within: what such a difference can be, (-1, 1) for accuracies; see :func:`t_interval`.

    Returns:
        The estimate and the p value. Differences by rounding alone (1e-12 of the numbers) are 0. Where all
        differences are equal, Student's test has no spread: p is 1 if they are 0, else the sign test's, 2 / 2**n.

    Raises:
        InvalidValue: fewer than two pairs, lengths differ, or a number is not finite.

    Example:
        The sleep data of :func:`t_interval`, as two drugs; published as p = 0.002833.

        >>> first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
        >>> second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
        >>> estimate, p_value = paired_t(second, first)
        >>> round(estimate.value, 2), round(p_value, 6)
        (1.58, 0.002833)

    Reference: Student, Biometrika 6, 1908; R's paired ``t.test`` of its data set ``sleep``.
    """
    difference, rounding = _differences(*pairs(values, reference, least=2))
    difference[np.abs(difference) <= rounding] = 0
    estimate = t_interval(difference, level=level, within=within)
    if estimate.low == estimate.high:
        return estimate, 1.0 if estimate.value == 0 else 2.0 ** (1 - len(difference))
    return estimate, float(stats.ttest_1samp(scaled(difference)[0], 0).pvalue)


def mcnemar_exact(correct: ArrayLike, reference: ArrayLike) -> float:
    """Exact two-sided McNemar p value of two classifiers being right equally often.

    Args:
        correct: bool [n], whether one is right on each sample.
        reference: bool [n], whether the other is.

    Example:
        21 samples right by both, 2 and 9 by one alone, 12 by neither; published as p = 0.06543.

        >>> first = [True] * 21 + [True] * 2 + [False] * 9 + [False] * 12
        >>> second = [True] * 21 + [False] * 2 + [True] * 9 + [False] * 12
        >>> round(mcnemar_exact(first, second), 5)
        0.06543

    Reference: McNemar, Psychometrika 12, 1947; the exact form is a binomial test of the discordant pairs. Fay, "Exact
    McNemar's test and matching confidence intervals", a vignette of the R package exact2x2 (example).
    """
    a, b = np.asarray(correct, dtype=bool), np.asarray(reference, dtype=bool)
    if a.shape != b.shape:
        raise InvalidValue(f"correct: expected samples in pairs, got shapes {a.shape} and {b.shape}")
    better, worse = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0


def wilcoxon(values: ArrayLike, reference: ArrayLike) -> float:
    """Two-sided Wilcoxon signed-rank p value of numbers in pairs, such as one pair an architecture.

    Pairs without a difference are left out, and differences of one size share their ranks; sizes that differ by
    rounding alone (1e-12 of the numbers) are one size. The p value is exact, with shared ranks and without: the share
    of the 2**n choices of signs whose smaller rank sum, of + or -, is no larger than the one found. Of more than 500
    pairs it is the normal approximation.

    Args:
        values: [n], n >= 1, a number of each pair.
        reference: [n], the other number of each pair.

    Returns:
        The p value, in (0, 1]; 1 if no pair differs.

    Raises:
        InvalidValue: lengths differ, there is no pair, or a difference is not finite.

    Example:
        Depression scores of nine patients at two visits; published as p = 0.01953, one-sided.

        >>> first = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
        >>> second = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
        >>> wilcoxon(first, second) / 2
        0.01953125

    Reference: Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1, 1945. Hollander & Wolfe,
    "Nonparametric statistical methods", 1973, in the documentation of R's ``wilcox.test`` (example).
    """
    steps = _signed_steps(*pairs(values, reference, least=1))
    if len(steps) > _EXACT:
        return float(stats.wilcoxon(steps, method="asymptotic").pvalue)
    # With shared ranks scipy takes 0.7 s for 13 pairs; from 14 on it has the normal p value, at worst 7 times off.
    ranks = np.rint(2 * stats.rankdata(np.abs(steps))).astype(np.int64)  # doubled, for shared ranks may be halves
    chances: NDArray[np.float64] = np.ones(1)  # of each sum of the positive ranks, if every sign is a coin's
    for rank in ranks:
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    smaller = min(ranks[steps > 0].sum(), ranks[steps < 0].sum())
    return min(1.0, 2 * float(chances[: smaller + 1].sum()))


def sign_test(values: ArrayLike, reference: ArrayLike) -> float:
    """Two-sided exact sign test of numbers in pairs; pairs without a difference are left out.

    Args:
        values: [n], n >= 1, a number of each pair.
        reference: [n], the other number of each pair.

    Returns:
        The p value, in (0, 1]; 1 if no pair differs.

    Raises:
        InvalidValue: lengths differ, there is no pair, or a difference is not finite.

    Example:
        Of ten pairs nine are larger: 2 (1 + 10) / 1024.

        >>> sign_test([*range(1, 10), 0], [0] * 9 + [1])
        0.021484375

    Reference: Conover, "Practical nonparametric statistics", 1999, section 3.4.
    """
    steps = _signed_steps(*pairs(values, reference, least=1))
    larger = int((steps > 0).sum())
    return float(stats.binomtest(larger, len(steps)).pvalue) if len(steps) else 1.0


def rank_correlation(values: ArrayLike, others: ArrayLike) -> tuple[float, float]:
    """Spearman's rank correlation of numbers in pairs, and its two-sided p value by Student's distribution.

    Args:
        values: [n], n >= 3, not all the same.
        others: [n], likewise.

    Raises:
        InvalidValue: lengths differ, there are fewer pairs, or a number is not finite.

    Example:
        IQ, and hours of television a week, of ten people; published as rho = -29/165 and p = 0.627188.

        >>> iq = [106, 100, 86, 101, 99, 103, 97, 113, 112, 110]
        >>> rho, p_value = rank_correlation(iq, [7, 27, 2, 50, 28, 29, 20, 12, 6, 17])
        >>> round(rho * 165), round(p_value, 6)
        (-29, 0.627188)

    Reference: Spearman, "The proof and measurement of association between two things", 1904; Wikipedia, "Spearman's
    rank correlation coefficient" (example).
    """
    a, b = pairs(values, others, least=3)
    found = stats.spearmanr(a, b)
    return float(found.statistic), float(found.pvalue)


def holm(p_values: ArrayLike) -> list[float]:
    """Holm's step-down adjusted p values, in the given order; scipy has only those of false discovery rates.

    The i-th smallest of m becomes min(1, max over j <= i of (m - j + 1) p_j). Those of at most alpha may be rejected
    together: the chance that any of them is true is then at most alpha, however the tests depend on each other.

    Args:
        p_values: [m], in [0, 1]; of all tests that are made.

    Raises:
        InvalidValue: a p value outside [0, 1], or no list of them.

    Example:
        At 0.05 the first and the fourth are rejected.

        >>> holm([0.01, 0.04, 0.03, 0.005])
        [0.03, 0.06, 0.06, 0.02]

    Reference: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6,
    1979; Wikipedia, "Holm-Bonferroni method" (example).
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        raise InvalidValue(f"p_values: expected a list of numbers, [m], got shape {p.shape}; give one a test")
    wrong = p[~((p >= 0) & (p <= 1))]  # NaN fails the comparisons
    if wrong.size:
        raise InvalidValue(f"p_values: expected numbers in [0, 1], got {wrong[0]}; leave out what is no test")
    order, factors = np.argsort(p), np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return [float(value) for value in adjusted]


def _signed_steps(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The differences a - b that are not 0, each as the place of its size among them, 1, 2, ..., with its sign."""
    difference, rounding = _differences(a, b)
    order = np.argsort(np.abs(difference))
    # In floating point 0.8 - 0.7 and 0.4 - 0.3 differ.
    places = np.cumsum(np.diff(np.abs(difference)[order], prepend=0) > rounding[order], dtype=np.float64)
    steps: NDArray[np.float64] = places * np.sign(difference[order])
    return steps[places > 0]


def _differences(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The differences a - b, and up to where each is rounding alone; or raise if one is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = a - b
    if not np.isfinite(difference).all():
        wrong = difference[~np.isfinite(difference)][0]
        raise InvalidValue(f"values: expected finite differences, got {wrong}; give those pairs other numbers")
    return difference, _ROUNDING * np.maximum(np.abs(a), np.abs(b))


def check_level(level: float) -> float:
    """Return the confidence level ``level``, or raise if it is not in (0, 1)."""
    number = check_number("level", level, low=0, high=1, mend="try 0.95")
    if number == 1:
        raise InvalidValue("level: expected a number in (0, 1), got 1; no interval is certain, try 0.95")
    return number


def scaled(values: ArrayLike) -> tuple[NDArray[np.float64], int]:
    """Return [n] ``values`` over 2**exponent, which are equal or about 1 apart, and the exponent; or raise."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2:
        raise InvalidValue(f"values: expected two samples or more, [n], got shape {x.shape}; an interval needs them")
    if not np.isfinite(x).all():
        raise InvalidValue(f"values: expected finite numbers, got {x[~np.isfinite(x)][0]}; give those another score")
    spread = np.ptp(x)
    if spread <= _ROUNDING * np.abs(x).max():
        return np.full_like(x, x.mean()), 0
    # The scores of very certain classifiers can be so small that their squares are 0. A power of 2 rounds nothing.
    exponent = int(np.frexp(spread)[1])
    return np.ldexp(x, -exponent), exponent


def pairs(values: ArrayLike, reference: ArrayLike, *, least: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return [n] ``values`` and ``reference`` in float64, or raise if they are not ``least`` or more pairs."""
    a, b = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < least:
        raise InvalidValue(f"values: expected {least} or more, [n], in pairs, got shapes {a.shape} and {b.shape}")
    return a, b
