"""Calibration finds the strength it promises, on a function whose answer is known and on a network."""

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smd_evo import (
    Dense,
    Evaluator,
    ModuleFitness,
    PartitionSubspace,
    RandomSubspace,
    calibrate_sigma,
    sample_mutations,
)
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.calibration import Effort, calibration_cost

pytestmark = pytest.mark.numeric


class Vector(nn.Module):
    def __init__(self, size=2000):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size))


def bowl(sense, size=2000):
    """Fitness 1 + or - mean(w^2): for D coordinates the child loses sigma^2 * density of it."""
    sign = 1 if sense == "min" else -1
    fitness = ModuleFitness("bowl", sense, lambda module: 1 + sign * float(module.w.square().mean()))
    return Evaluator(Vector(size), fitness=fitness)


@pytest.mark.parametrize("keep", [0.99, 0.9, 0.5])
@pytest.mark.parametrize("density", [1.0, 0.1])
@pytest.mark.parametrize("sense", ["min", "max"])
def test_known_answer(keep, density, sense):
    lost = 1 - keep if sense == "max" else 1 / keep - 1
    found = calibrate_sigma(bowl(sense), RandomSubspace(density), keep)
    assert found.sigma == pytest.approx((lost / density) ** 0.5, rel=0.1)
    assert keep <= found.kept <= keep + 0.1 * (1 - keep)


@pytest.mark.parametrize("subspace", [Dense(), RandomSubspace(0.1), PartitionSubspace(4)])
def test_median_child_of_a_network_keeps_that_share(network, samples, subspace):
    images = samples[0]
    with torch.inference_mode():
        samples = images, network.eval()(images).argmax(1)  # a parent that is always right
    evaluator = Evaluator(network, samples, "accuracy")
    found = calibrate_sigma(evaluator, subspace, 0.8, key=4)
    fresh = sample_mutations(77, 200, subspace=subspace, sigma=found.sigma)
    assert float(evaluator.evaluate(fresh).fitness.median()) == pytest.approx(0.8, abs=0.1)


def test_same_key_same_sigma_and_evaluations_are_counted(network, samples):
    calls: list[int] = []
    counted = ModuleFitness("counted", "min", lambda module: calls.append(1) or 1 + float(module.conv.weight.norm()))
    evaluator = Evaluator(network, fitness=counted)
    first = calibrate_sigma(evaluator, RandomSubspace(0.5), 0.9, key=3)
    assert first.evaluations == len(calls)
    assert calibrate_sigma(evaluator, RandomSubspace(0.5), 0.9, key=3) == first


@pytest.mark.parametrize("keep", [0, 1, 1.5, -1, float("nan"), "most"])
def test_bad_share(keep):
    with pytest.raises((ValueError, TypeError), match="keep: expected a"):
        calibrate_sigma(bowl("max"), Dense(), keep)


def test_a_score_that_is_not_positive():
    reward = ModuleFitness("reward", "max", lambda module: -3.0)
    with pytest.raises(ValueError, match="above zero to keep a share of, got reward -3; give sigma instead"):
        calibrate_sigma(Evaluator(Vector(), fitness=reward), Dense())


@pytest.mark.parametrize("sense", ["min", "max"])
def test_a_score_that_is_not_finite(sense):
    broken = ModuleFitness("loss", sense, lambda module: float("nan"))
    with pytest.raises(ValueError, match=r"^parent: expected a finite score above zero .*, got loss one that is not"):
        calibrate_sigma(Evaluator(Vector(), fitness=broken), Dense())


def test_a_network_that_no_mutation_changes():
    constant = ModuleFitness("constant", "max", lambda module: 1.0)
    with pytest.raises(ValueError, match=r"found none: up to .* it keeps more; constant hardly gets worse"):
        calibrate_sigma(Evaluator(Vector(), fitness=constant), Dense())


def cliff(edge):
    """Fitness 1 near the parent and 0.1 beyond a distance; and how often it was asked for."""
    calls: list[int] = []

    def fitness(module):
        calls.append(1)
        return 1.0 if float(module.w.double().square().mean().sqrt()) < edge else 0.1

    return Evaluator(Vector(50), fitness=ModuleFitness("cliff", "max", fitness)), calls


class TestCost:
    @settings(max_examples=8)
    @given(st.floats(-10, 9), st.sampled_from([2, 4]), st.integers(0, 4))
    def test_no_calibration_takes_more_than_was_told(self, exponent, children, bisections):
        evaluator, calls = cliff(10**exponent)
        with contextlib.suppress(InvalidValue):
            calibrate_sigma(evaluator, Dense(), 0.5, children=children, bisections=bisections)
        assert len(calls) <= calibration_cost(children, bisections)

    @pytest.mark.parametrize("bisections", [0, 1, 5])
    def test_some_take_as_much(self, bisections):
        asked = []
        for edge in (1.3e6, 1e9):
            evaluator, calls = cliff(edge)
            with contextlib.suppress(InvalidValue):
                calibrate_sigma(evaluator, Dense(), 0.5, children=2, bisections=bisections)
            asked.append(len(calls))
        assert max(asked) == calibration_cost(2, bisections)

    @given(st.integers(0, 1000), st.integers(0, 1000))
    def test_effort_follows_the_evaluations_that_there_are(self, few, more):
        small, large = sorted((few, few + more))
        one, other = Effort.within(small), Effort.within(large)
        assert (one.children, one.bisections) <= (other.children, other.bisections)
        assert other.usual <= large or other == Effort.within(0)
        assert other.children % 2 == 0

    def test_a_loss_of_zero_is_infinitely_good(self):
        fitness = ModuleFitness("distance to any child", "min", lambda module: float(not module.w.any()))
        with pytest.raises(InvalidValue, match=r"keep: expected a strength .* it keeps more"):
            calibrate_sigma(Evaluator(Vector(9), fitness=fitness), Dense(), children=2)
