"""Controls as methods of a comparison: one step, its cost, and what they leave alone."""

import json

import pytest
import torch
from helpers import blobs, same_bits, state_bits, trained
from torch import nn

from smd_evo import ParameterSpace
from smd_evo.controls.head import Head, with_head
from smd_evo.core.mutation import Lineage
from smd_evo.evaluation import heads, sharing, visit
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.experiments.compare.methods.base import Task
from smd_evo.experiments.compare.methods.free import refused
from smd_evo.experiments.compare.methods.registry import CONTROLS, find_method
from smd_evo.experiments.finetune.free import choose_free
from smd_evo.experiments.free import FREE
from smd_evo.zoo.data import Data

pytestmark = pytest.mark.numeric

SAMPLES = blobs(90, shift=2.5)
every_control = pytest.mark.parametrize("name", CONTROLS)


def task(budget=4000, network=None):
    return Task(ParameterSpace(network or trained()), SAMPLES, "cross_entropy", 8, 30, budget, seed=1)


def made(name, own, trial=0):
    kind = find_method(name)
    return kind(own, **kind.grid[trial])


def loss(outputs):
    return float(nn.functional.cross_entropy(outputs, SAMPLES[1]))


@every_control
def test_it_starts_at_the_parent(name):
    own = task()
    expected = own.parent.predict([Lineage()])[0].log_softmax(1)
    torch.testing.assert_close(made(name, own).predict(SAMPLES).log_softmax(1), expected)


@every_control
def test_it_has_one_step_of_the_images_it_looks_at(name, monkeypatch):
    monkeypatch.setattr(visit, "probe", lambda *_: None)
    for part in (sharing, heads):
        monkeypatch.setattr(part, "unfit", lambda _: "a test that counts")
    network, seen = trained(), []
    own = task(network=network)
    method = made(name, own)
    handle = network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    cost = method.cost
    method.step()
    handle.remove()
    assert sum(seen) <= cost == (0 if name == "views" else 90)
    assert method.cost > own.budget


@every_control
def test_a_small_budget_is_all_it_looks_at(name):
    assert made(name, task(budget=40)).cost == (0 if name == "views" else 40)


@every_control
def test_it_leaves_the_parent_as_it_is(name):
    own = task()
    network = own.space.module
    before, modes = state_bits(network), [part.training for part in network.modules()]
    method = made(name, own)
    method.step()
    method.predict(SAMPLES)
    assert same_bits(state_bits(network), before)
    assert [part.training for part in network.modules()] == modes


@pytest.mark.parametrize("name", FREE)
def test_as_a_network_it_predicts_the_same(name):
    """Another one: the parent stays as it is."""
    network = trained()
    before, ranker = state_bits(network), Evaluator(network, SAMPLES)
    control = FREE[name](**FREE[name].grid[0])
    control.fit(FREE[name].look(ranker))
    found = control.network(network).eval()
    with torch.no_grad():
        outputs = found(SAMPLES[0]).log_softmax(1)
    torch.testing.assert_close(outputs, control.predict(ranker, SAMPLES).log_softmax(1), atol=1e-4, rtol=1e-4)
    assert same_bits(state_bits(network), before)
    assert not {tensor.data_ptr() for tensor in found.parameters()} & {
        each.data_ptr() for each in network.parameters()
    }


def test_a_new_head_leaves_tied_weights_alone():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.head.weight = self.words.weight

        def forward(self, numbers):
            return self.head(self.words(numbers))

    network = Tied()
    found = with_head(network, Head(torch.ones(5, 4).double(), torch.arange(5).double()))
    assert torch.equal(found.words.weight, network.words.weight)
    assert torch.equal(found.head.bias, torch.arange(5.0))


@pytest.mark.parametrize(
    "name", [name for name in CONTROLS if name not in ("prior-match", "batchnorm-blend", "views")]
)
def test_what_has_seen_labels_has_a_smaller_loss_on_them(name):
    own = task()
    before = loss(own.parent.predict([Lineage()])[0])
    method = made(name, own)
    method.step()
    assert loss(method.predict(SAMPLES)) < before


@every_control
def test_every_setting_of_its_grid_can_be_tried(name):
    kind = find_method(name)
    assert len({json.dumps(settings) for settings in kind.grid}) == len(kind.grid) == 4
    for trial in range(4):
        method = made(name, task(), trial)
        method.step()
        assert method.predict(SAMPLES).shape == (90, 3)


def test_those_that_make_no_sense_are_refused_by_name():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    vectors = SAMPLES[0].flatten(1), SAMPLES[1]
    reasons = {name: find_method(name).refusal(network, vectors) for name in CONTROLS}
    assert {name: why for name, why in reasons.items() if why} == {
        "batchnorm-blend": "it has no batch normalisation with statistics of its own",
        "views": "its samples are no images",
    }
    convolution = nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten())
    assert find_method("head-refit").refusal(convolution, SAMPLES) == "its last layer is no torch.nn.Linear"
    assert not any(find_method(name).refusal(trained(), SAMPLES) for name in CONTROLS)


def test_those_that_fail_at_a_forward_pass_are_found_before_a_comparison_begins():
    """A head on each part of a sample: its inputs are no vectors, which nothing but a forward pass shows."""

    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, images):
            return self.head(self.first(images.flatten(1, 2)).relu()).mean(1)

    found = refused(ParameterSpace(Parts()), SAMPLES, "auto")
    assert set(found) == {"head-refit", "head-tuned", "batchnorm-blend"}
    assert found["head-tuned"].startswith("head: expected one vector of features for each of 8 samples, got")
    assert refused(ParameterSpace(trained()), SAMPLES, "auto") == {}


def test_all_settings_of_a_control_are_fitted_to_one_look(monkeypatch):
    monkeypatch.setattr(visit, "probe", lambda *_: None)
    for part in (sharing, heads):
        monkeypatch.setattr(part, "unfit", lambda _: "a test that counts")
    network, seen = trained(), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    ranker, judge = (Evaluator(each, SAMPLES) for each in (network, trained()))
    data = Data("blobs", "", ("a", "b", "c"), SAMPLES, SAMPLES, SAMPLES, {})
    chosen, _ = choose_free(ranker, judge, data, 10)
    assert [each.name for each in chosen] == list(FREE)
    assert sum(seen) == sum(each.images for each in chosen) == 90 * (len(FREE) - 1)  # views look at nothing


def test_what_fails_in_a_control_leaves_that_control_out(monkeypatch):
    """A run has computed all its children by then."""

    def fit(*_):
        raise ValueError("not today\nnor ever")

    monkeypatch.setattr(FREE["head-refit"], "fit", fit)
    ranker, judge = Evaluator(trained(), SAMPLES), Evaluator(trained(), SAMPLES)
    data = Data("blobs", "", ("a", "b", "c"), SAMPLES, SAMPLES, SAMPLES, {})
    chosen, left_out = choose_free(ranker, judge, data, 10)
    assert left_out == {"head-refit": "not today"}
    assert {each.name for each in chosen} == set(FREE) - {"head-refit"}


def test_statistics_are_blended_whatever_else_the_network_holds():
    """Nothing of it is mutated, so nothing of it is refused."""
    network = trained()
    network.spectrum = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    ranker = Evaluator(network, SAMPLES, select="head")
    control = FREE["batchnorm-blend"](share=0.5)
    control.fit(control.look(ranker))
    assert control.predict(ranker, SAMPLES).shape == (90, 3)
