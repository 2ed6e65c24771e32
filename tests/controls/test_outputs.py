"""Temperature, biases and priors against slow minimisations and what they must do."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from smd_evo.controls.outputs import fit_scaling, match_prior
from smd_evo.errors import InvalidValue

pytestmark = pytest.mark.numeric


def predictions(seed=0, count=300, classes=4, sharp=5.0):
    """Outputs that are too sure, and lean to the first classes."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (count,), generator=generator)
    noise = torch.randn(count, classes, generator=generator)
    lean = torch.linspace(1, 0, classes)
    return sharp * (functional.one_hot(targets, classes) + noise + lean), targets


def objective(logits, targets, scale, biases, ridge):
    fitted = functional.cross_entropy(logits.double() * scale + biases, targets)
    return fitted + ridge / 2 * ((scale - 1) ** 2 + (biases**2).sum())


def slowly(logits, targets, temperature, biases, ridge):
    """The same minimum by ten thousand plain gradient steps."""
    s = torch.zeros((), dtype=torch.float64, requires_grad=True)
    b = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([*([s] if temperature else []), *([b] if biases else [])], lr=0.02)
    for _ in range(3000):
        optimizer.zero_grad()
        loss = objective(logits, targets, 1 + s, b, ridge)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize(("temperature", "biases"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("ridge", [1e-3, 0.3])
def test_it_is_the_minimum(temperature, biases, ridge):
    logits, targets = predictions()
    fitted = fit_scaling(logits, targets, temperature=temperature, biases=biases, ridge=ridge)
    found = float(objective(logits, targets, fitted.scale, torch.from_numpy(fitted.biases), ridge))
    assert found == pytest.approx(slowly(logits, targets, temperature, biases, ridge), abs=1e-5)
    assert (fitted.scale != 1) == temperature
    assert bool(fitted.biases.any()) == biases


@given(st.integers(0, 99), st.integers(2, 6), st.integers(2, 60))
def test_it_never_makes_the_loss_of_its_own_samples_worse(seed, classes, count):
    logits, targets = predictions(seed, count, classes)
    fitted = fit_scaling(logits, targets)
    before, after = (float(functional.cross_entropy(each, targets)) for each in (logits, fitted.of(logits)))
    assert after <= before + 1e-6


def test_a_temperature_changes_no_prediction():
    logits, targets = predictions()
    fitted = fit_scaling(logits, targets, biases=False)
    assert torch.equal(fitted.of(logits).argmax(1), logits.argmax(1))


def test_samples_without_a_class_do_not_count():
    logits, targets = predictions()
    some = targets.clone()
    some[::3] = -100
    one, other = fit_scaling(logits, some), fit_scaling(logits[some >= 0], targets[some >= 0])
    assert one.scale == pytest.approx(other.scale)
    np.testing.assert_allclose(one.biases, other.biases, atol=1e-9)


@given(st.integers(0, 99), st.integers(2, 6))
def test_after_matching_the_mean_prediction_is_the_prior(seed, classes):
    logits, _ = predictions(seed, 80, classes, sharp=2.0)
    prior = torch.linspace(1, 2, classes, dtype=torch.float64)
    prior /= prior.sum()
    for wanted in (None, prior):
        found = match_prior(logits, wanted).of(logits).double().softmax(1).mean(0)
        expected = torch.full((classes,), 1 / classes, dtype=torch.float64) if wanted is None else prior
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_matching_needs_no_labels_and_undoes_a_lean():
    logits, targets = predictions(sharp=2.0)
    fitted = match_prior(logits)
    assert fitted.scale == 1
    assert bool((np.diff(fitted.biases) > 0).all())
    right = [(each.argmax(1) == targets).float().mean() for each in (logits, fitted.of(logits))]
    assert right[1] > right[0]


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.full((3, 2), torch.nan), torch.zeros(3, dtype=torch.int64), "logits: expected finite outputs"),
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), "logits: expected finite outputs"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), r"targets: expected \[3\] classes"),
        (torch.zeros(3, 2), torch.full((3,), -100), "targets: expected at least one class"),
    ],
)
def test_refusals(logits, targets, message):
    with pytest.raises(InvalidValue, match=message):
        fit_scaling(logits, targets)


def test_other_refusals():
    logits, targets = predictions()
    with pytest.raises(InvalidValue, match="temperature: expected it or biases"):
        fit_scaling(logits, targets, temperature=False, biases=False)
    with pytest.raises(InvalidValue, match="prior: expected 4 shares above 0"):
        match_prior(logits, torch.tensor([0.5, 0.5, 0.0, 0.0]))
