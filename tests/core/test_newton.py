"""Weights by Newton steps: against SciPy's minimiser, closed forms, and derivatives written out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import nn

from smd_evo.core import newton
from smd_evo.core.newton import CrossEntropy, Differentiable, calibrations, solve_weights, unit_directions
from smd_evo.errors import InvalidType, InvalidValue

pytestmark = pytest.mark.numeric


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def classes(seed, samples, count):
    return torch.from_numpy(np.random.default_rng(seed).integers(count, size=samples))


def squared(outputs, targets):
    return (outputs - targets).square().flatten(1).mean(1)


def objective(outputs, directions, targets, ridge):
    """The mean cross-entropy and the ridge, written in NumPy, of the samples that have a class."""
    z, j, rows = outputs.double().numpy(), directions.double().numpy(), np.arange(len(targets))

    def of(a):
        logs = log_softmax(z + np.einsum("i,inc->nc", a, j), axis=1)
        known = targets.numpy() >= 0
        return -(logs[rows, targets.numpy().clip(0)] * known).mean() + ridge / 2 * a @ a

    return of


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    samples=st.integers(1, 12),
    count=st.integers(2, 5),
    directions=st.integers(1, 8),
    ridge=st.sampled_from([0.01, 0.1, 1.0]),
    ignored=st.integers(0, 3),
)
def test_it_finds_the_minimum_that_scipy_finds(seed, samples, count, directions, ridge, ignored):
    outputs, along = 3 * normal(seed, samples, count).float(), normal(seed + 1, directions, samples, count).float()
    targets = classes(seed, samples, count)
    targets[:ignored] = -100
    of = objective(outputs, along, targets, ridge)
    found = solve_weights(outputs, along, CrossEntropy(targets), ridge, steps=50)
    least = minimize(of, np.zeros(directions), method="BFGS", options={"gtol": 1e-9})
    assert of(found.weights.numpy()) <= least.fun + 1e-8
    assert np.allclose(found.weights, least.x, atol=1e-4)
    assert found.before == pytest.approx(of(np.zeros(directions)))
    assert found.after == pytest.approx(of(found.weights.numpy()) - ridge / 2 * float(found.weights.square().sum()))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), far=st.sampled_from([1.0, 100.0]), steps=st.integers(1, 6))
def test_the_objective_never_rises(seed, far, steps):
    """Also from where the loss is nearly linear and a whole Newton step goes much too far."""
    outputs, along, targets = far * normal(seed, 9, 3), normal(seed + 1, 5, 9, 3), classes(seed, 9, 3)
    of = objective(outputs, along, targets, 1e-3)
    found = solve_weights(outputs, along, CrossEntropy(targets), 1e-3, steps=steps)
    assert of(found.weights.numpy()) <= of(np.zeros(5))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), directions=st.integers(1, 8), ridge=st.sampled_from([0.01, 1.0]))
def test_a_squared_loss_is_a_ridge_regression(seed, directions, ridge):
    outputs, along, targets = (normal(seed + k, *s) for k, s in enumerate([(6, 2), (directions, 6, 2), (6, 2)]))
    found = solve_weights(outputs, along.float(), Differentiable(squared, targets.float()), ridge, steps=3)
    flat = along.float().double().reshape(directions, -1)  # 2 / (n C) of each: the mean over both
    normal_matrix = 2 / 12 * flat @ flat.T + ridge * torch.eye(directions, dtype=torch.float64)
    expected = torch.linalg.solve(normal_matrix, 2 / 12 * flat @ (targets - outputs).reshape(-1))
    assert torch.allclose(found.weights, expected, atol=1e-4)


SHAPES = {"numbers": (5, 4), "places": (5, 4, 2, 3)}


def cases():
    for name, shape in SHAPES.items():
        numbers = classes(1, (5, *shape[2:]), 4)
        missing = numbers.clone()
        missing[0] = -100
        yield f"{name}", shape, numbers
        yield f"{name}, some of no class", shape, missing
        yield f"{name}, probabilities", shape, normal(2, *shape).softmax(1)


def slow_cross_entropy(outputs, targets):
    losses = nn.functional.cross_entropy(outputs, targets, reduction="none")
    return losses.reshape(len(losses), -1).mean(1)


@pytest.mark.parametrize(("shape", "targets"), [pytest.param(s, t, id=name) for name, s, t in cases()])
def test_the_closed_form_is_what_autograd_finds(shape, targets):
    outputs, along = normal(3, *shape), normal(4, 3, *shape)
    closed = CrossEntropy(targets)
    assert torch.allclose(closed.values(outputs), slow_cross_entropy(outputs, targets))

    def mean(z):
        return slow_cross_entropy(z, targets).sum()

    gradient, curved = closed.derivatives(outputs, along)
    assert torch.allclose(gradient, torch.autograd.functional.jacobian(mean, outputs))
    for direction, found in zip(along, curved, strict=True):
        assert torch.allclose(found, torch.autograd.functional.hvp(mean, outputs, direction)[1])


def test_any_smooth_loss_is_differentiated():
    outputs, along, targets = normal(5, 7, 3), normal(6, 4, 7, 3), classes(5, 7, 3)
    score = Differentiable(lambda z, y: nn.functional.cross_entropy(z, y, reduction="none"), targets)
    closed, general = (solve_weights(outputs, along, loss, 0.1) for loss in (CrossEntropy(targets), score))
    assert torch.allclose(closed.weights, general.weights, atol=1e-4)  # scores are of float32


def test_samples_are_taken_in_pieces(monkeypatch):
    outputs, along, targets = normal(7, 10, 3), normal(8, 4, 10, 3).float(), classes(7, 10, 3)
    whole = solve_weights(outputs, along, CrossEntropy(targets), 0.1)
    monkeypatch.setattr(newton, "_ELEMENTS", 3 * 4 * 3)  # three samples of four directions
    pieces = solve_weights(outputs, along, CrossEntropy(targets), 0.1)
    assert torch.allclose(whole.weights, pieces.weights, rtol=1e-10)


def test_a_loss_that_is_not_convex_goes_down():
    outputs, along = torch.tensor([[2.0], [2.5]]), torch.ones(1, 2, 1)
    hat = Differentiable(lambda z, _: 1 - torch.exp(-z.square()).flatten(), torch.zeros(2))
    found = solve_weights(outputs, along, hat, 1e-3)
    assert found.after < found.before


def test_a_loss_without_curvature_goes_down_its_gradient():
    line = Differentiable(lambda z, y: y * z.flatten(), torch.ones(2))
    found = solve_weights(torch.zeros(2, 1), torch.ones(1, 2, 1), line, 0.5)
    assert found.weights.tolist() == pytest.approx([-2.0])  # a + 0.5 / 2 a^2


def test_nothing_to_gain_moves_nothing():
    at_best = Differentiable(squared, torch.zeros(3, 2))
    found = solve_weights(torch.zeros(3, 2), normal(1, 2, 3, 2), at_best, 0.1)
    assert found.weights.tolist() == [0, 0]
    assert found.before == found.after == 0


def test_directions_are_as_long_as_each_other():
    parent, along = normal(1, 5, 3).float(), normal(2, 4, 5, 3).float()
    steps = along * torch.tensor([1e-3, 1.0, 50.0, 0.0]).view(4, 1, 1)
    found, lengths = unit_directions(parent, parent + steps)
    assert torch.allclose(found[:3].square().mean((1, 2)), torch.ones(3), rtol=1e-4)
    assert torch.allclose(found.double() * lengths.view(4, 1, 1), steps.double(), atol=1e-5)
    assert lengths[3] == 0
    assert not found[3].any()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_children_that_break_have_no_direction(broken):
    children = normal(1, 3, 5, 2).float()
    children[1, 0, 0] = broken
    found, lengths = unit_directions(torch.zeros(5, 2), children)
    assert [bool(length) for length in lengths] == [True, False, True]
    assert not found[1].any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ridge": 0}, InvalidValue, "ridge: expected a finite number > 0, got 0; try 0.1"),
        ({"ridge": "much"}, InvalidType, "ridge: expected a number > 0, got 'much'; try 0.1"),
        ({"steps": 0}, InvalidValue, "steps: expected a whole number >= 1, got 0; give such a number"),
        (
            {"directions": torch.zeros(2, 3, 2)},
            InvalidValue,
            "directions: expected [N, *[4, 2]], as the outputs are, got [2, 3, 2]",
        ),
        (
            {"outputs": torch.full((4, 2), torch.nan)},
            InvalidValue,
            "outputs: expected finite ones, got NaN or infinity",
        ),
    ],
)
def test_what_cannot_be_solved_is_refused(change, error, message):
    given = {"outputs": torch.zeros(4, 2), "directions": torch.ones(1, 4, 2), "ridge": 0.1, "steps": 6} | change
    with pytest.raises(error) as caught:
        solve_weights(given.pop("outputs"), given.pop("directions"), CrossEntropy(torch.zeros(4).long()), **given)
    assert str(caught.value) == message


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 5))
def test_a_calibration_is_a_temperature_and_a_bias_for_each_class(seed, count):
    """Solved for by these directions it is what SciPy finds of the numbers themselves."""
    outputs, targets = 3 * normal(seed, 30, count).float(), classes(seed + 1, 30, count)
    free = calibrations(outputs)
    assert free.shape == (1 + count, 30, count)
    assert torch.allclose(free.double().square().mean((1, 2)).sqrt(), torch.tensor(30.0).double())
    found = solve_weights(outputs, free, CrossEntropy(targets), 1e-9, steps=100)
    z = outputs.double().numpy()

    def loss(numbers):
        logs = log_softmax((1 + numbers[0]) * z + numbers[1:], axis=1)
        return -logs[np.arange(30), targets.numpy()].mean()

    assert found.after == pytest.approx(minimize(loss, np.zeros(1 + count), method="BFGS").fun, abs=1e-4)
