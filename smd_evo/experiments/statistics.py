"""Paired statistics of two classifiers on the same samples; scipy does the sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from smd_evo.errors import InvalidValue

__all__ = ["Estimate", "mcnemar_exact", "paired_difference"]


@dataclass(frozen=True)
class Estimate:
    """A number and its interval."""

    value: float
    low: float
    high: float


def paired_difference(
    values: ArrayLike, reference: ArrayLike, *, level: float = 0.95, resamples: int = 9999, seed: int = 0
) -> Estimate:
    """Mean of ``values - reference`` over paired samples, with a bias-corrected bootstrap (BCa) interval.

    Args:
        values: [n], a score of each sample.
        reference: [n], another classifier's score of the same samples.
        level: confidence level of the interval.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        InvalidValue: lengths differ, or there are fewer than two samples.

    Example:
        >>> difference = paired_difference([1, 1, 1, 0, 1, 1, 1, 1], [0, 1, 0, 0, 1, 1, 0, 0])
        >>> difference.value, difference.low > 0
        (0.5, True)

    Reference: Efron, "Better bootstrap confidence intervals", JASA 82, 1987.
    """
    a, b = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise InvalidValue(f"values: expected two samples or more, in pairs, got shapes {a.shape} and {b.shape}")
    difference = a - b
    mean = float(difference.mean())
    if np.ptp(difference) == 0:  # every resample is the same; BCa is undefined
        return Estimate(mean, mean, mean)
    interval = stats.bootstrap(
        (difference,), np.mean, confidence_level=level, n_resamples=resamples, method="BCa", rng=seed
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high))


def mcnemar_exact(correct: ArrayLike, reference: ArrayLike) -> float:
    """Exact two-sided McNemar p value of two classifiers being right equally often.

    Args:
        correct: bool [n], whether one is right on each sample.
        reference: bool [n], whether the other is.

    Example:
        3 discordant pairs one way, 10 the other: 2 * P(X <= 3), X ~ Binomial(13, 1 / 2) = 2 * 378 / 8192.

        >>> first = [True] * 3 + [False] * 10 + [True] * 20
        >>> second = [False] * 3 + [True] * 10 + [True] * 20
        >>> round(mcnemar_exact(first, second), 4)
        0.0923

    Reference: McNemar, Psychometrika 12, 1947; the exact form is a binomial test of the discordant pairs.
    """
    a, b = np.asarray(correct, dtype=bool), np.asarray(reference, dtype=bool)
    if a.shape != b.shape:
        raise InvalidValue(f"correct: expected samples in pairs, got shapes {a.shape} and {b.shape}")
    better, worse = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
