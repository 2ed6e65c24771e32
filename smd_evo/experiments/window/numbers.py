"""The numbers of a mutation window: medians with their intervals, the strength at which they fall below a level.

All intervals are of the children: the images are the same for all of them and are not resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from smd_evo.statistics.tests import Estimate

__all__ = ["FEWEST", "Edge", "PartialEstimate", "crossing", "find_edge", "median_interval"]

_OUTSIDE = 0.05
"""Probability that an interval misses: 95 % intervals throughout."""

FEWEST = 6
"""Children of which a median has an interval: below 6, smallest and largest hold it with 1 - 2**(1 - n) < 95 %."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PartialEstimate:
    """A number and its interval, as far as the cells show them: None for what lies beyond them."""

    value: float | None
    low: float | None
    high: float | None


def median_interval(values: ArrayLike) -> Estimate:
    """Median of independent accuracies with its distribution-free 95 % interval.

    Of n sorted values x the interval is [x_j, x_(n + 1 - j)], j the largest with 2 P(X < j) <= 5 %, X of the binomial
    distribution of n and 1 / 2: fewer than j of n children lie below the true median with P(X < j), and as many above
    it. It holds for any distribution; with ties it holds the median more often.

    Args:
        values: [n] in [0, 1], one or more; of fewer than six, the interval is [0, 1].

    Example:
        >>> median_interval([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        Estimate(value=0.35, low=0.1, high=0.6)

    Reference: Thompson, "On confidence ranges for the median", Annals of Mathematical Statistics 7, 1936.
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    rank = int(stats.binom.ppf(_OUTSIDE / 2, len(x), 0.5))
    low, high = (float(x[rank - 1]), float(x[-rank])) if rank else (0.0, 1.0)
    return Estimate(float(np.median(x)), low, high)


def crossing(sigmas: ArrayLike, medians: ArrayLike, level: float) -> _Floats:
    """The largest strength at which a median is at least ``level``, linear in log sigma between two cells.

    Args:
        sigmas: [cells], increasing.
        medians: [..., cells].
        level: to keep.

    Returns:
        [...]: 0 where no cell keeps the level, infinity where the last one does.

    Example:
        >>> crossing([0.01, 0.1, 1], [[0.8, 0.7, 0.1], [0.3, 0.2, 0.1], [0.8, 0.7, 0.5]], 0.4).round(3).tolist()
        [0.316, 0.0, inf]
    """
    logs, values = np.log(np.asarray(sigmas, dtype=np.float64)), np.asarray(medians, dtype=np.float64)
    end = len(logs) - 1
    keeps = values >= level
    last = end - keeps[..., ::-1].argmax(-1)
    after = np.minimum(last + 1, end)
    above, below = (np.take_along_axis(values, place[..., None], -1)[..., 0] for place in (last, after))
    # Both are the same cell at the end, and neither matters where no cell keeps the level.
    share = (above - level) / np.where(above == below, 1, above - below)
    found = np.exp(logs[last] + share * (logs[after] - logs[last]))
    found = np.where(keeps[..., -1], np.inf, found)
    return np.where(keeps.any(-1), found, 0.0)


@dataclass(frozen=True, eq=False)
class Edge:
    """Where a rule's median falls below a level: the end of a mutation window.

    Attributes:
        sigma: see :func:`crossing`.
        resampled: the same of bootstrap samples of the children, [resamples].
    """

    sigma: float
    resampled: _Floats

    def times(self, factor: float = 1) -> PartialEstimate:
        """The edge times a factor."""
        return _partial(factor * self.sigma, factor * self.resampled)

    def over(self, other: Edge, factor: float = 1) -> PartialEstimate:
        """The edge times a factor, over that of a rule with other children, resampled with another seed."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(np.divide(factor * self.sigma, other.sigma))
            return _partial(value, factor * self.resampled / other.resampled)


def find_edge(
    sigmas: ArrayLike, children: Sequence[ArrayLike], level: float, *, resamples: int = 1999, seed: int = 0
) -> Edge:
    """The edge with its bootstrap samples: cells are resampled one by one, as each has children of its own.

    Args:
        sigmas: [cells], increasing.
        children: accuracies of each cell's children, one or more.
        level: to keep.
        resamples: bootstrap samples.
        seed: of the resampling; the same for all levels, another one for each rule.

    Example:
        >>> edge = find_edge([0.01, 1], [[0.8] * 6, [0.4] * 6], 0.6)
        >>> round(edge.sigma, 3), edge.times(2).low == edge.times(2).value
        (0.1, True)
    """
    rng = np.random.default_rng(seed)
    values = [np.asarray(cell, dtype=np.float64) for cell in children]
    medians = [np.median(x[rng.integers(len(x), size=(resamples, len(x)))], -1) for x in values]
    value = float(crossing(sigmas, [np.median(x) for x in values], level))
    return Edge(value, crossing(sigmas, np.stack(medians, -1), level))


def _partial(value: float, resampled: _Floats) -> PartialEstimate:
    """A number with its percentile interval; 0 and infinity, beyond the cells, and NaN, undefined, become None."""
    low, high = (
        # An undefined one may be anything, so it counts as lowest at one end and as highest at the other.
        float(np.quantile(np.where(np.isnan(resampled), other, resampled), share, method="inverted_cdf"))
        for other, share in ((0.0, _OUTSIDE / 2), (np.inf, 1 - _OUTSIDE / 2))
    )
    return PartialEstimate(*(number if 0 < number < np.inf else None for number in (value, low, high)))
