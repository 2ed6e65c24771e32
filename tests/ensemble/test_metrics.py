"""Metrics of a classifier, against plain Python; what is not finite is wrong, everywhere in the same way."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smd_evo.ensemble.metrics import (
    PER_SAMPLE,
    accuracy,
    binned_calibration_error,
    brier_score,
    calibration_error,
    confidence,
    finite_logits,
    negative_log_likelihood,
)

NAN, INF = float("nan"), float("inf")


def classifier(samples, classes, seed, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(samples, classes, generator=generator)
    return logits, torch.randint(classes, (samples,), generator=generator)


def softmax(row):
    exponentials = [math.exp(value - max(row)) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def slow_calibration_error(confidences, correct, bins):
    total = 0.0
    for number in range(bins):
        inside = [i for i, value in enumerate(confidences) if min(int(value * bins), bins - 1) == number]
        if inside:
            mean = sum(confidences[i] for i in inside) / len(inside)
            right = sum(correct[i] for i in inside) / len(inside)
            total += len(inside) / len(confidences) * abs(right - mean)
    return total


@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 1000))
def test_each_sample_is_scored_as_plain_python_does(samples, classes, seed):
    logits, targets = classifier(samples, classes, seed)
    probabilities = [softmax(row) for row in logits.tolist()]
    pairs = list(zip(probabilities, targets.tolist(), strict=True))
    assert accuracy(logits, targets).tolist() == [float(p.index(max(p)) == y) for p, y in pairs]
    assert negative_log_likelihood(logits, targets).tolist() == pytest.approx(
        [-math.log(p[y]) for p, y in pairs], abs=1e-5
    )
    squares = [sum((value - (c == y)) ** 2 for c, value in enumerate(p)) for p, y in pairs]
    assert brier_score(logits, targets).tolist() == pytest.approx(squares, abs=1e-6)
    assert confidence(logits, targets).tolist() == pytest.approx([max(p) for p in probabilities], abs=1e-6)


@given(st.integers(1, 200), st.integers(2, 5), st.integers(1, 20), st.integers(0, 1000))
def test_calibration_error_is_that_of_a_loop_over_bins(samples, classes, bins, seed):
    logits, targets = classifier(samples, classes, seed)
    confidences, correct = confidence(logits, targets), accuracy(logits, targets)
    expected = slow_calibration_error(confidences.tolist(), correct.tolist(), bins)
    assert calibration_error(logits, targets, bins) == pytest.approx(expected, abs=1e-5)
    assert binned_calibration_error(confidences, correct.bool(), bins) == pytest.approx(expected, abs=1e-5)


@given(st.integers(0, 1000))
def test_one_bin_compares_the_mean_confidence_with_the_accuracy(seed):
    logits, targets = classifier(50, 4, seed)
    gap = confidence(logits, targets).mean() - accuracy(logits, targets).mean()
    assert calibration_error(logits, targets, bins=1) == pytest.approx(abs(float(gap)), abs=1e-5)


@given(st.integers(1, 10), st.integers(2, 6), st.integers(0, 1000), st.floats(-50, 50))
def test_a_constant_added_to_the_logits_changes_nothing(samples, classes, seed, constant):
    logits, targets = classifier(samples, classes, seed)
    for metric in (*PER_SAMPLE.values(), confidence):
        assert torch.allclose(metric(logits + constant, targets), metric(logits, targets), atol=1e-4)


def test_logits_between_0_and_1_are_still_logits():
    """torchmetrics takes them for probabilities."""
    logits, targets = torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([1, 1])
    assert calibration_error(logits, targets) == pytest.approx(1 - 1 / (1 + math.exp(-1)))


def test_perfect_certain_and_uniform_classifiers():
    targets = torch.tensor([0, 1, 2, 3])
    perfect = 100 * torch.eye(4)
    assert accuracy(perfect, targets).mean() == 1
    assert negative_log_likelihood(perfect, targets).max() < 1e-6
    assert brier_score(perfect, targets).max() < 1e-6
    assert calibration_error(perfect, targets) == pytest.approx(0, abs=1e-6)
    wrong = perfect.roll(1, 0)
    assert brier_score(wrong, targets).tolist() == pytest.approx([2] * 4)
    assert calibration_error(wrong, targets) == pytest.approx(1)
    uniform = torch.zeros(4, 4)
    assert negative_log_likelihood(uniform, targets).tolist() == pytest.approx([math.log(4)] * 4)
    assert brier_score(uniform, targets).tolist() == pytest.approx([1 - 1 / 4] * 4)


def test_a_confidence_of_1_belongs_to_the_last_bin():
    """One of two right at confidence 1 and at 0.96: half a bin's worth of each, and not two bins of no error."""
    confidences, correct = torch.tensor([1.0, 0.96]), torch.tensor([0.0, 1.0])
    assert binned_calibration_error(confidences, correct) == pytest.approx(abs(0.5 - 0.98))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("row", [[NAN, 5.0, 0.0], [INF, 0.0, 0.0], [0.0, 0.0, -INF], [NAN, NAN, NAN]])
@pytest.mark.parametrize("target", [0, 1, 2])
def test_what_is_not_finite_is_a_certain_wrong_answer(row, target, dtype):
    logits, targets = torch.tensor([row], dtype=dtype), torch.tensor([target])
    assert accuracy(logits, targets).tolist() == [0]
    assert negative_log_likelihood(logits, targets).tolist() == [1000]
    assert brier_score(logits, targets).tolist() == [2]
    assert confidence(logits, targets).tolist() == [1]
    assert calibration_error(logits, targets) == pytest.approx(1)


def test_no_finite_answer_is_worse_than_none():
    for huge in (5e3, 3e38):
        logits = torch.tensor([[huge, -huge], [NAN, 0.0]])
        assert negative_log_likelihood(logits, torch.tensor([1, 1])).tolist() == [1000, 1000]
    beyond_float32 = torch.tensor([[1e300, 0.0]], dtype=torch.float64)
    assert negative_log_likelihood(beyond_float32, torch.tensor([0])).tolist() == [1000]


@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 4), st.integers(0, 1000))
def test_finite_logits_stay_as_they_are_and_members_are_taken_together(members, samples, classes, seed):
    logits, targets = classifier(members * samples, classes, seed)
    logits, targets = logits.view(members, samples, classes), targets[:samples]
    assert torch.equal(finite_logits(logits, targets), logits)
    logits[0, 0, 0] = NAN
    before = logits.clone()
    together = finite_logits(logits, targets)
    assert torch.equal(together, torch.stack([finite_logits(member, targets) for member in logits]))
    assert bool(together.isfinite().all())
    assert torch.equal(logits.isnan(), before.isnan())


def test_scores_are_float64_and_the_arguments_stay_as_they_are():
    logits, targets = classifier(20, 3, 0)
    before = logits.clone(), targets.clone()
    for metric in (*PER_SAMPLE.values(), confidence):
        scores = metric(logits, targets)
        assert (scores.dtype, scores.shape) == (torch.float64, (20,))
    assert isinstance(calibration_error(logits, targets), float)
    assert torch.equal(logits, before[0])
    assert torch.equal(targets, before[1])


def test_shapes_that_do_not_fit():
    targets = torch.tensor([0, 1])
    for logits in (torch.zeros(3, 2), torch.zeros(2), torch.zeros(2, 1)):
        for metric in (*PER_SAMPLE.values(), confidence, calibration_error):
            with pytest.raises(ValueError, match=r"logits: expected \[n, classes\] .* and targets \[n\], got"):
                metric(logits, targets)
    with pytest.raises(ValueError, match=r"confidence: expected \[n\] .* got \[2\] and \[3\]"):
        binned_calibration_error(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="a sample or more"):
        binned_calibration_error(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="bins: expected a whole number >= 1, got 0"):
        calibration_error(torch.zeros(2, 2), targets, bins=0)


@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 1000))
def test_a_sample_without_a_class_is_not_right_and_has_no_loss(samples, classes, seed):
    logits, targets = classifier(samples, classes, seed)
    logits[-1, 0] = NAN
    without = targets.clone()
    without[::3] = -100
    for metric in PER_SAMPLE.values():
        expected = metric(logits, targets)
        expected[::3] = 0
        assert torch.equal(metric(logits, without), expected)
    assert torch.equal(confidence(logits, without), confidence(logits, targets))


@pytest.mark.parametrize("target", [-1, -101, 3])
def test_classes_that_there_are_not_are_refused(target):
    for metric in (*PER_SAMPLE.values(), confidence, calibration_error, finite_logits):
        with pytest.raises(ValueError, match=f"targets: expected classes .* got {target}; use"):
            metric(torch.zeros(2, 3), torch.tensor([0, target]))
        with pytest.raises(TypeError, match=r"targets: expected class numbers, got torch\.float32"):
            metric(torch.zeros(2, 3), torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool])
def test_targets_may_be_integers_of_any_type(dtype):
    logits, targets = classifier(20, 2, 0)
    for metric in (*PER_SAMPLE.values(), confidence):
        assert torch.equal(metric(logits, targets.to(dtype)), metric(logits, targets))
    wide, last = torch.zeros(2, 200), torch.tensor([156, 199])  # 156 are the bits of -100
    for metric in PER_SAMPLE.values():
        assert torch.equal(metric(wide, last.to(torch.uint8)), metric(wide, last))
