"""The numbers of a mutation window against independent references, and which cells get how many children."""

from itertools import pairwise
from math import comb, exp, log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smd_evo import Dense, sample_mutations
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.evaluator import Evaluation
from smd_evo.experiments.chance import chance
from smd_evo.experiments.window.numbers import FEWEST, Edge, PartialEstimate, crossing, find_edge, median_interval
from smd_evo.experiments.window.sampling import Levels, Sample, complete_edges, walk

LEVELS = Levels(parent=0.8, chance=0.1)
accuracies = st.floats(0, 1)


# Medians.


@given(st.lists(accuracies, min_size=FEWEST, max_size=60))
def test_the_interval_of_a_median_is_scipys(values):
    ours, theirs = median_interval(values), stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    assert (ours.value, ours.low, ours.high) == (np.median(values), theirs.low, theirs.high)


@pytest.mark.parametrize("count", range(FEWEST, 40))
def test_it_holds_the_median_with_95_percent_and_none_inside_of_it_does(count):
    low = round(median_interval(np.arange(count) / 100).low * 100)

    def coverage(below):  # at most `below` of the children lie on the wrong side
        return 1 - 2 * sum(comb(count, wrong) for wrong in range(below + 1)) / 2**count

    assert coverage(low) >= 0.95 > coverage(low + 1)


def test_fewer_than_six_children_leave_the_median_anywhere():
    for count in range(1, FEWEST):
        interval = median_interval([0.5] * count)
        assert (interval.value, interval.low, interval.high) == (0.5, 0, 1)


# Edges.


@given(st.floats(0.3, 0.9), st.floats(0.05, 0.5), st.lists(st.floats(-6, 3), min_size=2, max_size=9, unique=True))
def test_the_edge_of_a_curve_that_is_linear_in_log_sigma_is_exact(height, slope, exponents):
    logs = np.sort(exponents)
    medians = height - slope * (logs - logs[0])
    if np.diff(logs).min() > 1e-3:
        middle = 0.3 * logs[0] + 0.7 * logs[-1]
        found = float(crossing(np.exp(logs), medians, height - slope * (middle - logs[0])))
        assert found == pytest.approx(exp(middle), rel=1e-9)


def slow_crossing(sigmas, medians, level):
    found = 0.0
    for number, median in enumerate(medians):
        if median >= level:
            found = float("inf")
            if number + 1 < len(sigmas):
                share = (median - level) / (median - medians[number + 1]) if medians[number + 1] < level else 1
                found = exp(log(sigmas[number]) + share * (log(sigmas[number + 1]) - log(sigmas[number])))
    return found


@given(st.lists(st.lists(accuracies, min_size=5, max_size=5), min_size=1, max_size=4), accuracies)
def test_the_largest_strength_that_keeps_a_level_counts_whatever_is_below(rows, level):
    sigmas = [0.01, 0.02, 0.1, 1, 30]
    expected = [slow_crossing(sigmas, row, level) for row in rows]
    assert crossing(sigmas, rows, level).tolist() == pytest.approx(expected)


def test_one_cell_is_below_or_above_all_strengths():
    assert (float(crossing([0.1], [0.5], 0.6)), float(crossing([0.1], [0.6], 0.6))) == (0, np.inf)


def test_the_interval_of_an_edge_holds_the_truth_about_as_often_as_it_says():
    rng, logs, held = np.random.default_rng(0), np.log([0.01, 0.0178, 0.0316, 0.0562]), 0
    means, level = np.array([0.8, 0.75, 0.65, 0.3]), 0.7
    for number in range(200):
        edge = find_edge(
            np.exp(logs), means[:, None] + 0.1 * rng.normal(size=(4, 24)), level, resamples=199, seed=number
        )
        found = edge.times()
        held += (found.low or 0) <= float(crossing(np.exp(logs), means, level)) <= (found.high or np.inf)
    assert 180 <= held <= 198


def test_children_that_are_all_alike_leave_no_interval_and_other_seeds_others():
    alike = find_edge([0.1, 1], [[0.8] * 6, [0.2] * 9], 0.5)
    assert alike.times(3) == PartialEstimate(*[3 * alike.sigma] * 3)
    cells = np.random.default_rng(0).uniform([[0.6], [0.2]], [[0.8], [0.4]], (2, 9))
    one, again, other = (find_edge([0.1, 1], cells, 0.5, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.resampled, again.resampled)
    assert not np.array_equal(one.resampled, other.resampled)


def test_ratios_divide_resample_by_resample():
    one, other = Edge(0.6, np.linspace(0.5, 0.7, 201)), Edge(0.2, np.full(201, 0.2))
    found = one.over(other, 0.1)
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.2525, 0.3475), rel=1e-3)


@pytest.mark.parametrize(
    ("sigma", "resampled", "expected"),
    [
        (0.5, [0.0] * 5 + [0.5] * 95, (0.5, None, 0.5)),  # 5 % below all strengths
        (0.5, [0.5] * 98 + [np.inf] * 2, (0.5, 0.5, 0.5)),  # 2 % above them
        (np.inf, [0.5] * 20 + [np.inf] * 80, (None, 0.5, None)),
        (0.0, [0.0] * 100, (None, None, None)),
    ],
)
def test_what_the_cells_do_not_show_is_none(sigma, resampled, expected):
    found = Edge(sigma, np.array(resampled)).times()
    assert (found.value, found.low, found.high) == expected


def test_an_undefined_ratio_may_be_anything():
    beyond = Edge(0.5, np.array([0.5] * 90 + [np.inf] * 10))
    assert beyond.over(beyond) == PartialEstimate(1.0, None, None)


# Levels.


def test_destroyed_is_half_way_to_chance():
    assert LEVELS.all == pytest.approx((0.792, 0.72, 0.45))
    assert Levels(0.95, 0.82).destroyed == pytest.approx(0.855)  # its 90 %, below half way
    assert chance(torch.tensor([2, 2, 0, 2])) == 0.75


def test_a_share_that_chance_reaches_is_no_level():
    assert list(Levels(0.8, 0.75).shares) == [0.99]
    assert Levels(0.8, 0.795).all == pytest.approx((0.7975,))


def test_a_parent_no_better_than_chance_is_refused():
    with pytest.raises(InvalidValue, match=r"above chance \(50\.0 %, .*got 50\.0 %"):
        Levels(0.5, 0.5)


# Cells.


class Ranker:
    """Children of a strength have the accuracies that a function says."""

    def __init__(self, accuracy):
        self.accuracy, self.evaluated = accuracy, []

    def evaluate(self, recipes, progress=None):
        start = sum(recipe.sigma == recipes[0].sigma for recipe in self.evaluated)
        self.evaluated += recipes
        values = [self.accuracy(recipe.sigma, start + place) for place, recipe in enumerate(recipes)]
        return Evaluation(torch.tensor(values, dtype=torch.float64), "max", 0)

    def cell(self, sigma, children=24, levels=LEVELS):
        cell = Sample(sample_mutations(0, children, subspace=Dense(), sigma=sigma))
        return cell.grown(self, lambda cell: cell.certain(levels))


def on_one_side_of_all(values):
    interval = median_interval(values)
    return all(level <= interval.low or interval.high < level for level in LEVELS.all)


@given(st.lists(st.sampled_from([0.3, 0.5, 0.72, 0.75, 0.8]), min_size=6, max_size=30))
def test_a_cell_grows_by_six_until_its_median_is_certain_and_no_further(values):
    cell = Ranker(lambda _, place: values[place]).cell(0.1, children=len(values))
    count = len(cell.accuracies)
    assert cell.accuracies == values[:count]
    assert count == len(values) or (count % 6 == 0 and on_one_side_of_all(values[:count]))
    assert not any(on_one_side_of_all(values[:fewer]) for fewer in range(6, count, 6))


def test_children_that_are_not_finite_count_as_zero():
    cell = Ranker(lambda *_: -1e18).cell(0.1)
    assert cell.accuracies == [0.0] * 6


def logistic(edge, steep=8):
    """From 0.8 to 0.1 round an edge, every child alike."""
    return lambda sigma, _: 0.1 + 0.7 / (1 + (sigma / edge) ** steep)


@given(st.floats(-4, 2), st.floats(-1.2, 1.2))
def test_a_walk_ends_two_cells_beyond_what_matters_on_either_side(edge, off):
    ranker = Ranker(logistic(10**edge))
    start = 10 ** (edge + off)
    cells = walk(ranker.cell, start, LEVELS)
    sigmas = [cell.sigma for cell in cells]
    assert all(after / before == pytest.approx(10**0.25) for before, after in pairwise(sigmas))
    kept, destroyed = ([cell.above(0.792) for cell in cells], [cell.below(0.45) for cell in cells])
    assert kept[:2] == [True, True]
    assert destroyed[-2:] == [True, True]
    # No more than two of either kind, but for the way from the start.
    first = ranker.evaluated[0].sigma
    assert abs(log(first / start)) < 0.126 * log(10)  # the nearest of the grid
    assert sum(kept) == 2 or sigmas[0] == first
    assert sum(destroyed) == 2 or sigmas[-1] == first
    assert len(ranker.evaluated) == 6 * len(cells)


@pytest.mark.parametrize(("accuracy", "below", "above"), [(0.8, 1, 16), (0.1, 16, 1)])
def test_a_walk_gives_up_after_four_decades(accuracy, below, above):
    cells = walk(Ranker(lambda *_: accuracy).cell, 0.1, LEVELS)
    assert cells[0].sigma == pytest.approx(0.1 * 10 ** (-below / 4 if accuracy < 0.5 else 0))
    assert cells[-1].sigma == pytest.approx(0.1 * 10 ** (above / 4 if accuracy > 0.5 else 0))


def test_cells_beside_an_edge_get_all_children_and_others_none():
    ranker = Ranker(logistic(1, steep=20))
    cells = walk(ranker.cell, 1, LEVELS)
    complete = complete_edges(cells, lambda cell: cell.grown(ranker, lambda _: False), LEVELS)
    keeps = [cell.median.value >= 0.72 for cell in complete]
    last = max(place for place, kept in enumerate(keeps) if kept)
    assert [place for place, cell in enumerate(complete) if cell.full] == [last, last + 1]
    assert {len(cell.accuracies) for cell in complete} == {6, 24}


def test_an_edge_that_moves_is_completed_where_it_goes():
    # The third cell's first children are weak, most others are strong.
    curves = {0.01: [0.8] * 24, 0.1: [0.75] * 24, 1.0: [0.6] * 6 + [0.78] * 18, 10.0: [0.2] * 24}
    ranker = Ranker(lambda sigma, place: curves[sigma][place])
    cells = complete_edges(
        [ranker.cell(sigma) for sigma in curves], lambda cell: cell.grown(ranker, lambda _: False), LEVELS
    )
    assert [len(cell.accuracies) for cell in cells] == [24, 24, 24, 24]
    assert cells[2].median.value == 0.78


def test_nothing_is_completed_where_no_edge_is():
    for accuracy in (0.8, 0.1):
        ranker = Ranker(lambda *_, accuracy=accuracy: accuracy)
        cells = [ranker.cell(sigma) for sigma in (0.1, 1)]
        assert complete_edges(cells, lambda cell: pytest.fail("completed"), LEVELS) == cells
