"""Two classifiers on samples that several runs share, such as runs with other seeds; scipy does the sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from smd_evo.errors import InvalidValue
from smd_evo.statistics.bootstrap import mean_interval
from smd_evo.statistics.tests import Estimate

__all__ = ["repeated_difference"]


def repeated_difference(
    correct: ArrayLike,
    reference: ArrayLike,
    samples: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> tuple[Estimate, float]:
    """Difference in accuracy over the answers of all runs, with its bootstrap interval and exact two-sided p value.

    Answers of several runs to one sample are alike: it is as hard for each, and the parent always answers the same.
    So a sample is drawn once, with all of its answers: taken as independent ones they would make intervals too narrow
    and p values too small. The interval is that of :func:`.bootstrap.mean_interval`, of the mean made linear in the
    samples where some have more answers than others. The p value is the share of the choices of signs, one for each
    sample, with which the sum of the samples' differences is as far from 0. Where no sample comes twice, both are
    those of :func:`.bootstrap.paired_difference` and :func:`.tests.mcnemar_exact`.

    Args:
        correct: bool [n], whether one classifier is right, answer by answer.
        reference: bool [n], whether the other is.
        samples: [n], which sample each answer is to.
        level: confidence level of the interval, in (0, 1).
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        InvalidValue: lengths differ, or there are fewer than two samples.

    Example:
        Four samples, each seen by two runs, of which three are better in both: of 8 choices of signs 2 are as far.

        >>> difference, p_value = repeated_difference([1, 1, 1, 0] * 2, [0] * 8, [0, 1, 2, 3] * 2)
        >>> difference.value, round(p_value, 6)
        (0.75, 0.25)

    Reference: Field, Welsh, "Bootstrapping clustered data", JRSS B 69, 2007. Fisher, "The design of
    experiments", 1935, section 21 (signs).
    """
    one, two = (np.asarray(each, dtype=bool).astype(np.int64) for each in (correct, reference))
    which = np.asarray(samples)
    if not one.shape == two.shape == which.shape or one.ndim != 1:
        raise InvalidValue(
            f"correct: expected answers in pairs, [n], and a sample of each, got shapes {one.shape}, {two.shape} and "
            f"{which.shape}"
        )
    _, places, answers = np.unique(which, return_inverse=True, return_counts=True)
    sums = np.rint(np.bincount(places, one - two)).astype(np.int64)
    mean = sums.sum() / max(1, len(one))
    interval = mean_interval(
        mean + (sums - mean * answers) / (answers.mean() if len(answers) else 1),
        level=level,
        resamples=resamples,
        seed=seed,
    )
    return interval, _sign_flips(sums)


def _sign_flips(sums: NDArray[np.int64]) -> float:
    """How often random signs of these numbers have a sum as far from 0 as their own."""
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    chances: NDArray[np.float64] = np.ones(1)  # of each sum of the positive ones, if every sign is a coin's
    for size, count in zip(sizes, counts, strict=True):
        own = np.zeros(size * count + 1)
        own[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, own)
    smaller = min(sums[sums > 0].sum(), -sums[sums < 0].sum())
    return min(1.0, 2 * float(chances[: smaller + 1].sum()))
