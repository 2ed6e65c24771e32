"""Predictions as a stream: those of predict, with nothing left changed while the consumer has its turn."""

import random

import pytest
import torch
from helpers import same_bits, state_bits
from torch import nn

from smd_evo import Evaluator, Lineage, ModuleFitness, ParameterSpace, RandomSubspace, sample_mutations
from smd_evo.errors import InvalidValue


def kinds(space, count=20):
    """Children of each kind that there is."""
    recipes = sample_mutations(3, count, subspace=RandomSubspace(0.2), sigma=0.3)
    more = sample_mutations(4, count, subspace=RandomSubspace(0.1), sigma=0.1)
    return {
        "recipes": recipes,
        "lineages": [Lineage(), *(Lineage(pair) for pair in zip(recipes, more, strict=True))],
        "deltas": [recipe.delta(space.layout) for recipe in recipes],
        "values": [space.values_of(recipe) for recipe in recipes],
        "mixed": [recipes[0], Lineage(), more[0].delta(space.layout), space.values_of(more[1])] * 5,
    }


@pytest.mark.parametrize("kind", ["recipes", "lineages", "deltas", "values", "mixed"])
class TestStream:
    def test_is_what_predict_returns(self, network, samples, kind):
        evaluator = Evaluator(network, samples, batch_size=7)
        children = kinds(evaluator.space)[kind]
        expected = evaluator.predict(children)
        assert torch.equal(torch.stack(list(evaluator.outputs(children))), expected)
        assert torch.equal(torch.stack(list(evaluator.outputs(child for child in children))), expected)

    def test_leaves_everything_as_it_was_at_each_turn(self, network, samples, kind):
        evaluator = Evaluator(network, samples)
        children = kinds(evaluator.space)[kind]
        network.train()
        network.bn.eval()
        before, modes = state_bits(network), [part.training for part in network.modules()]
        torch.manual_seed(5)
        random.seed(5)
        states = torch.get_rng_state(), random.getstate()
        turns = 0
        for output in evaluator.outputs(children):
            assert not torch.is_inference_mode_enabled()
            assert torch.is_grad_enabled()
            assert not output.is_inference()
            assert same_bits(before, state_bits(network))
            assert [part.training for part in network.modules()] == modes
            assert torch.equal(torch.get_rng_state(), states[0])
            assert random.getstate() == states[1]
            turns += 1
        assert turns == len(children)

    def test_may_be_dropped_half_way(self, network, samples, kind):
        evaluator = Evaluator(network, samples)
        before = state_bits(network.train())
        stream = evaluator.outputs(kinds(evaluator.space)[kind])
        next(stream)
        del stream
        assert same_bits(before, state_bits(network))
        assert network.training


def test_the_consumer_may_evaluate_and_train(network, samples):
    evaluator = Evaluator(network, samples)
    children = kinds(evaluator.space)["recipes"]
    expected = evaluator.predict(children)
    for output, own in zip(evaluator.outputs(children), expected, strict=True):
        assert torch.equal(output, own)
        evaluator.evaluate(children[:2])
        network.train()
        network(samples[0]).sum().backward()
        network.zero_grad()
        network.bn.reset_running_stats()


def test_children_are_asked_for_a_few_at_a_time(network, samples):
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield Lineage()

    stream = Evaluator(network, samples).outputs(endless())
    assert asked == []
    for number in range(1, 30):
        next(stream)
        assert number <= len(asked) <= number + 10


def test_of_no_children_there_is_nothing(network, samples):
    assert list(Evaluator(network, samples).outputs([])) == []


def test_samples_are_needed(network):
    evaluator = Evaluator(network, None, ModuleFitness("norm", "min", lambda module: 0.0))
    with pytest.raises(InvalidValue, match=r"data: expected samples to predict, got none; use evaluator\.on"):
        next(evaluator.outputs([Lineage()]))


def test_they_stay_when_the_child_is_gone():
    """Also those of a network that returns its own weights, from each batch."""

    class Itself(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.arange(3.0))

        def forward(self, x):
            return self.weight.expand(len(x), 3)

    network = Itself()
    some = sample_mutations(3, 4, subspace=RandomSubspace(1.0), sigma=0.3)
    outputs = Evaluator(network, (torch.zeros(5, 1), torch.zeros(5)), batch_size=2).predict(some)
    for own, child in zip(outputs, some, strict=True):
        expected = ParameterSpace(network).make_child(child).weight.detach()
        assert torch.equal(own, expected.expand(5, 3))


def test_a_row_a_sample_is_needed():
    network = nn.Sequential(nn.Linear(1, 3), nn.Flatten(0))
    evaluator = Evaluator(network, (torch.zeros(5, 1), torch.zeros(5)), batch_size=2)
    with pytest.raises(InvalidValue, match=r"outputs: expected \[2\] for a batch, got \[6\]"):
        evaluator.predict([Lineage()])
