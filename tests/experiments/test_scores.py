"""Scores: the metrics' own means, with the intervals and tests of the statistics; what is not finite is wrong."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smd_evo.ensemble.combine import COMBINES, combined
from smd_evo.ensemble.metrics import (
    accuracy,
    binned_calibration_error,
    brier_score,
    calibration_error,
    confidence,
    negative_log_likelihood,
)
from smd_evo.evaluation.fitness import BatchFitness, get_fitness
from smd_evo.experiments import scores
from smd_evo.experiments.scores import against, curve, diversity, score, table_row
from smd_evo.statistics.bootstrap import mean_interval, paired_difference, statistic_interval
from smd_evo.statistics.tests import mcnemar_exact


def members(count=3, samples=40, classes=4, seed=0, scale=2.0):
    """Outputs [M, n, C] of members that know something, and the targets."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (samples,), generator=generator)
    outputs = scale * torch.randn(count, samples, classes, generator=generator)
    return outputs + scale * torch.nn.functional.one_hot(targets, classes), targets


def test_a_score_is_the_metrics_means_with_their_intervals():
    (logits, other, best), targets = members()
    found = score("sparse", "soup", 1, logits, targets, {"parent": other, "best child": best}, seed=3)
    assert (found.method, found.candidate, found.passes) == ("sparse", "soup", 1)
    assert list(found.metrics) == ["accuracy", "nll", "brier", "calibration_error"]
    for name, metric in (("accuracy", accuracy), ("nll", negative_log_likelihood), ("brier", brier_score)):
        assert found.metrics[name] == mean_interval(metric(logits, targets), seed=3)
    assert found.over["parent"] == paired_difference(accuracy(logits, targets), accuracy(other, targets), seed=3)
    assert found.over["best child"].value == pytest.approx(
        float(((logits.argmax(1) == targets).double() - (best.argmax(1) == targets).double()).mean())
    )
    assert found.p_values["best child"] == mcnemar_exact(accuracy(logits, targets), accuracy(best, targets))
    assert score("parent", "parent", 1, logits, targets, {}).over == {}


@given(st.integers(2, 60), st.integers(2, 6), st.integers(0, 1000), st.sampled_from([0.0, 0.5, 3.0, 300.0]))
def test_the_calibration_error_is_that_of_the_metrics(samples, classes, seed, scale):
    """Also of those who are not sure at all, and of those who are certain; the interval is of it, too."""
    (logits,), targets = members(1, samples, classes, seed, scale)
    sure, correct = confidence(logits, targets), accuracy(logits, targets)
    found = scores._calibration_error(logits, targets)
    for seed in range(3):
        numbers = torch.randint(samples, (samples,), generator=torch.Generator().manual_seed(seed))
        expected = binned_calibration_error(sure[numbers], correct[numbers])
        assert found(numbers.numpy()) == pytest.approx(expected, abs=1e-6)


def test_the_interval_of_the_calibration_error_is_the_basic_one_within_0_and_1():
    for seed, scale in itertools.product(range(3), (0.5, 2.0, 20.0)):
        (logits,), targets = members(1, 50, seed=seed, scale=scale)
        sure, correct = confidence(logits, targets), accuracy(logits, targets)
        expected = statistic_interval(
            lambda numbers, s=sure, c=correct: binned_calibration_error(s[numbers], c[numbers]),
            50,
            seed=seed,
            method="basic",
        )
        error = score("a", "b", 1, logits, targets, {}, seed).metrics["calibration_error"]
        assert error.value == pytest.approx(calibration_error(logits, targets), abs=1e-6)
        assert error.low == pytest.approx(min(max(expected.low, 0), 1), abs=1e-6)
        assert error.high == pytest.approx(min(max(expected.high, 0), 1), abs=1e-6)


def test_who_is_always_certain_and_right_or_wrong_has_points_for_intervals():
    targets = torch.arange(30) % 3
    right = 1e4 * torch.nn.functional.one_hot(targets, 3).float()
    for logits, error in ((right, 0), (right.roll(1, 1), 1), (torch.full_like(right, math.nan), 1)):
        found = score("a", "b", 1, logits, targets, {"parent": right})
        for name, value in (("accuracy", 1 - error), ("brier", 2 * error), ("calibration_error", error)):
            estimate = found.metrics[name]
            assert estimate.low == estimate.value == estimate.high == value
        assert found.over["parent"].value == -error


def test_outputs_that_are_not_finite_are_wrong_answers():
    (logits, other), targets = members(2)
    logits[targets == 1] = math.nan
    wrong = (logits.argmax(1) == targets) & (targets != 1)
    found = score("a", "b", 1, logits, targets, {"parent": other})
    assert found.metrics["accuracy"].value == pytest.approx(float(wrong.double().mean()))
    assert all(math.isfinite(end) for own in found.metrics.values() for end in (own.low, own.value, own.high))
    assert against(logits, other, targets)[1] == mcnemar_exact(wrong, other.argmax(1) == targets)


def test_gains_turn_round_with_the_sides_and_nobody_beats_himself():
    (one, two), targets = members(2)
    gain, p_value = against(one, two, targets)
    loss, same = against(two, one, targets)
    assert (gain.value, p_value) == (pytest.approx(-loss.value), pytest.approx(same))
    nothing, certain = against(one, one, targets)
    assert (nothing.low, nothing.value, nothing.high, certain) == (0, 0, 0, 1)


def test_diversity_against_plain_python():
    logits, targets = members(3, 30)
    found = diversity("sparse", logits, targets)
    said = logits.argmax(2).tolist()
    pairs = list(itertools.combinations(range(3), 2))
    apart = [sum(said[a][n] != said[b][n] for a, b in pairs) / 3 for n in range(30)]
    anyone = [any(own[n] == targets[n] for own in said) for n in range(30)]
    assert (found.method, found.members) == ("sparse", 3)
    assert found.measures["disagreement"].value == pytest.approx(sum(apart) / 30)
    assert found.measures["oracle"].value == pytest.approx(sum(anyone) / 30)
    logs = logits.double().log_softmax(2)
    divergences = [(logs[a].exp() * (logs[a] - logs[b])).sum(1).mean() for a in range(3) for b in range(3) if a != b]
    assert found.measures["kl"].value == pytest.approx(float(sum(divergences)) / 6)
    q = found.measures["q"]
    assert -1 <= q.low <= q.high <= 1


@pytest.mark.parametrize("combine", COMBINES)
def test_a_curve_is_of_the_first_one_two_three(combine):
    logits, targets = members(4, 30)
    found = curve("sparse", logits, targets, combine)
    for size in range(1, 5):
        together = combined(list(logits[:size]), None, combine)
        assert found.accuracy[size - 1].value == pytest.approx(float(accuracy(together, targets).mean()))
        assert found.nll[size - 1].value == pytest.approx(float(negative_log_likelihood(together, targets).mean()))
    said = logits.argmax(2)
    for number, (alone, apart) in enumerate(found.members):
        assert alone == pytest.approx(float((said[number] == targets).double().mean()))
        others = [float((said[number] != said[n]).double().mean()) for n in range(4) if n != number]
        assert apart == pytest.approx(sum(others) / 3)


def test_the_curve_of_a_single_member():
    logits, targets = members(1)
    found = curve("sparse", logits, targets)
    assert len(found.accuracy) == len(found.nll) == 1
    assert found.members == [(pytest.approx(found.accuracy[0].value), 0)]


@pytest.mark.parametrize("combine", COMBINES)
def test_a_member_that_is_not_finite_spoils_the_ensembles_it_is_in(combine):
    """As it does outside: nobody knows the truth there and could make it a vote for a wrong class."""
    logits, targets = members(3)
    logits[1] = math.nan
    found = curve("sparse", logits, targets, combine)
    assert [estimate.value > 0 for estimate in found.accuracy] == [True, False, False]
    assert [alone > 0 for alone, _ in found.members] == [True, False, True]


def test_a_metric_of_all_samples_has_an_interval_of_resampled_samples_unless_these_have_no_such_number():
    (own, parent), targets = members(2, classes=2)
    fitness = get_fitness("auroc")
    row = table_row("sparse", "best child", 1, own, parent, targets, fitness, seed=3)
    expected = statistic_interval(
        lambda some: fitness.of(own[some], targets[some]) - fitness.of(parent[some], targets[some]), 40, seed=3
    )
    assert (row.fitness, row.fitness_gain) == (fitness.of(own, targets), expected)
    assert row.accuracy == float(accuracy(own, targets).mean())
    few = table_row("sparse", "best child", 1, own, parent, torch.eye(40)[0].long(), fitness)
    assert few.fitness is not None
    assert few.fitness_gain is None  # one sample in three sets lacks


def test_a_ranking_has_an_interval_of_the_samples_own_numbers():
    (own, parent), targets = members(2, classes=4)
    fitness = get_fitness("mrr@2")
    row = table_row("sparse", "best child", 1, own, parent, targets, fitness, seed=3)
    expected = paired_difference(
        fitness.metric.of_each(own, targets), fitness.metric.of_each(parent, targets), seed=3
    )
    assert row.fitness_gain == expected
    assert row.fitness_gain.value == pytest.approx(row.fitness - fitness.of(parent, targets))


def test_an_own_fitness_that_is_not_finite_has_no_interval_and_broken_outputs_are_wrong_answers():
    def likelihood(outputs, targets):
        return outputs.softmax(1).gather(1, targets[:, None]).log().squeeze(1)

    (own, parent), targets = members(2)
    broken = own.clone()
    broken[0] = math.nan
    sure = torch.where(torch.arange(40)[:, None] == 0, 1e4 * (1 - torch.eye(4)[targets[:1]]), own)
    fitness = BatchFitness("likelihood", "max", likelihood)
    for outputs in (broken, sure):
        row = table_row("sparse", "median child", 1, outputs, parent, targets, fitness)
        assert (row.fitness, row.fitness_gain) == (-math.inf, None)
        assert row.accuracy_gain is not None
    mean = BatchFitness("mean output", "max", lambda outputs, _: outputs)
    assert math.isfinite(table_row("sparse", "median child", 1, broken, parent, targets, mean).fitness_gain.value)
