"""Objectives: each has the bits that it has alone, and all of outputs cost one forward pass a sample."""

import math
import pickle
from dataclasses import replace

import pytest
import torch
from helpers import SmallNet, same_bits, state_bits
from torch import nn

from smd_evo import (
    BatchFitness,
    ChangeFitness,
    Evaluator,
    Lineage,
    ModuleFitness,
    Objectives,
    ParameterSpace,
    RandomSubspace,
    SparseDelta,
    sample_mutations,
)
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.fitness import NAMES, WORST
from smd_evo.evaluation.objectives import CHANGE_NORM, CHANGED_VALUES
from smd_evo.evaluation.stream import Stream

CHILDREN = [Lineage(), *sample_mutations(0, 7, subspace=RandomSubspace(0.3), sigma=0.5)]


def weight(module):
    return module.head.weight.sum()


SUM = ModuleFitness("sum", "max", weight)


class Counting(SmallNet):
    """A network that counts the samples that it was given."""

    samples = 0

    def forward(self, x):
        Counting.samples += len(x)
        return super().forward(x)


def batched(images, targets):
    return [(images[:13], targets[:13]), (images[13:], targets[13:])]


@pytest.mark.parametrize("data", [lambda *both: both, batched, Stream], ids=["tensors", "batches", "stream"])
@pytest.mark.parametrize("select", ["all", "head"])
@pytest.mark.parametrize("reuse", [True, False])
def test_each_has_the_bits_that_it_has_alone(network, samples, data, select, reuse):
    objectives = Objectives([*NAMES, SUM, "change_norm"])
    options = {"select": select, "batch_size": 7, "reuse": reuse}
    found = objectives.evaluate(objectives.evaluator(network, data(*samples), **options), CHILDREN)
    alone = [Evaluator(network, data(*samples), part, **options) for part in objectives.parts[:-1]]
    for column, evaluator in enumerate(alone):
        assert found[:, column].tolist() == evaluator.evaluate(CHILDREN).fitness.tolist()
    assert len(set(found[:, 0].tolist())) == len(CHILDREN)


def test_all_of_outputs_cost_one_forward_pass_a_sample(samples):
    def cost(parts):
        objectives = Objectives(parts)
        evaluator = objectives.evaluator(Counting(), samples)
        objectives.evaluate(evaluator, CHILDREN)  # that the weights matter is tried before
        before, forwards = Counting.samples, evaluator.work.images
        objectives.evaluate(evaluator, CHILDREN)
        return Counting.samples - before, evaluator.work.images - forwards

    one = len(CHILDREN) * 40
    assert cost(["accuracy"]) == (one, one)
    assert cost(["accuracy", "cross_entropy", "macro_f1", "change_norm", "changed_values"]) == (one, one)
    assert cost([SUM, "change_norm"]) == (0, 0)
    assert cost([SUM, "accuracy"]) == (one, one)


def test_children_that_go_together_have_their_own_fitness(network, samples):
    objectives = Objectives(["accuracy", "cross_entropy", "change_norm"])
    one, several = (
        objectives.evaluate(objectives.evaluator(network, samples, together=together), CHILDREN)
        for together in (None, 3)
    )
    assert torch.allclose(one, several, atol=1e-5)


class TestChanges:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("sigma", [0.5, 0.001])
    def test_are_what_the_networks_differ_in(self, network, dtype, sigma):
        network = network.to(dtype)
        first, second = sample_mutations(1, 2, subspace=RandomSubspace(0.3), sigma=sigma)
        children = [Lineage(), first, Lineage((first, second)), Lineage((first, replace(first, sign=-1)))]
        objectives = Objectives([SUM, "change_norm", "changed_values"])
        evaluator = objectives.evaluator(network)
        before = state_bits(network)
        found = objectives.evaluate(evaluator, children)
        assert same_bits(before, state_bits(network))
        for child, (_, norm, values) in zip(children, found.tolist(), strict=True):
            other = evaluator.space.make_child(child)
            pairs = zip(network.parameters(), other.parameters(), strict=True)
            differences = torch.cat([(new.double() - old.double()).detach().flatten() for old, new in pairs])
            assert norm == pytest.approx(float(differences.norm()), rel=1e-12)
            assert values == int((differences != 0).sum())
        if dtype == torch.bfloat16 and sigma == 0.001:  # some are rounded away
            assert 0 < found[1, 2] < 0.9 * round(0.3 * evaluator.space.size)

    def test_may_be_any_function(self, network):
        largest = ChangeFitness("largest", "max", lambda difference: difference.abs().max())
        delta = SparseDelta(torch.tensor([1, 5]), torch.tensor([0.5, -2.0]))
        objectives = Objectives([SUM, largest])
        found = objectives.evaluate(objectives.evaluator(network), [delta])
        assert found[0, 1] == pytest.approx(2.0, rel=1e-6)

    def test_are_of_what_is_in_place_when_they_are_looked_at(self, network):
        objectives = Objectives([SUM, "change_norm"])
        evaluator = objectives.evaluator(network)
        first = CHILDREN[1]
        before = objectives.evaluate(evaluator, [first])[0, 1]
        evaluator.space.fold(first)
        assert objectives.evaluate(evaluator, [Lineage(), first])[:, 1].tolist() == [
            0.0,
            pytest.approx(float(before), rel=1e-5),
        ]

    def test_pickle(self):
        assert pickle.loads(pickle.dumps(CHANGE_NORM)) == CHANGE_NORM
        assert pickle.loads(pickle.dumps(Objectives(["accuracy", CHANGED_VALUES]))).names == (
            "accuracy",
            "changed_values",
        )


def test_what_is_no_number_is_the_worst_of_its_own_objective(network, samples):
    def broken(sense):
        return BatchFitness(sense, sense, lambda out, _: out[:, 0] * math.nan)

    objectives = Objectives(["accuracy", broken("min"), broken("max"), ModuleFitness("m", "min", lambda _: math.inf)])
    found = objectives.evaluate(objectives.evaluator(network, samples), CHILDREN)
    assert found[:, 1:].tolist() == [[WORST, -WORST, WORST]] * len(CHILDREN)
    assert bool((found[:, 0].abs() <= 1).all())


@pytest.mark.parametrize("parts", [["accuracy", "macro_f1"], [SUM, "change_norm"], ["accuracy", SUM]])
def test_progress_is_called_once_for_each_child(network, samples, parts):
    objectives, calls = Objectives(parts), []
    objectives.evaluate(objectives.evaluator(network, samples), CHILDREN, lambda: calls.append(1))
    assert len(calls) == len(CHILDREN)


def test_no_children_have_no_values(network, samples):
    objectives = Objectives(["accuracy", "change_norm"])
    assert objectives.evaluate(objectives.evaluator(network, samples), []).shape == (0, 2)


def test_on_minibatches_they_are_of_these_samples(network, samples):
    objectives = Objectives(["accuracy", "macro_f1"])
    some = torch.tensor([3, 1, 30])
    found = objectives.evaluate(objectives.evaluator(network, samples).on_samples(some), CHILDREN)
    few = objectives.evaluator(network, tuple(part[some] for part in samples))
    assert torch.equal(found, objectives.evaluate(few, CHILDREN))


def test_may_be_of_one_of_two_domains_each(network, samples):
    images, targets = samples
    domains = torch.arange(40) % 4 // 3  # three of four samples are of the first

    def loss_on(domain, share):
        def score(outputs, both):
            return nn.functional.cross_entropy(outputs, both[0], reduction="none") * (both[1] == domain) / share

        return BatchFitness(f"loss {domain}", "min", score)

    objectives = Objectives([loss_on(0, 0.75), loss_on(1, 0.25)])
    found = objectives.evaluate(objectives.evaluator(network, (images, (targets, domains)), batch_size=9), CHILDREN)
    for domain in (0, 1):
        own = Evaluator(network, (images[domains == domain], targets[domains == domain])).evaluate(CHILDREN).fitness
        assert torch.allclose(found[:, domain], own, rtol=1e-4)


def test_targets_that_the_network_has_no_outputs_for_are_refused(network, samples):
    images, _ = samples
    objectives = Objectives([BatchFitness("size", "min", lambda out, _: out.norm(dim=1)), "accuracy"])
    evaluator = objectives.evaluator(network, (images, torch.full((40,), 7)))
    with pytest.raises(InvalidValue, match="expected classes"):
        objectives.evaluate(evaluator, CHILDREN)


@pytest.mark.parametrize(
    ("parts", "kind", "message"),
    [
        ([], InvalidValue, "^fitness: expected at least one of outputs or of the network, got none"),
        (["change_norm", CHANGED_VALUES], InvalidValue, r"at least one of .*, got change_norm, changed_values"),
        (
            ["accuracy", "acuracy"],
            InvalidValue,
            "^fitness: expected one of .*, got 'acuracy'; did you mean 'accuracy'",
        ),
        (["accuracy", "accuracy"], InvalidValue, "^fitness: expected different names, got 'accuracy' twice"),
        (["accuracy", len], InvalidType, r"^fitness: expected a name, .*wrap a function as ModuleFitness"),
        (["accuracy", ["macro_f1"]], InvalidType, "^fitness: expected a name, a BatchFitness or a ModuleFitness"),
    ],
)
def test_what_makes_no_sense_is_one_line(parts, kind, message):
    with pytest.raises(kind, match=message) as caught:
        Objectives(parts)
    assert "\n" not in str(caught.value)


def test_an_evaluator_of_one_fitness_says_who_takes_several(network, samples):
    with pytest.raises(
        InvalidType, match=r"ModuleFitness, got \['accuracy'.*; FinetuneProblem, .* and Objectives take"
    ):
        Evaluator(network, samples, ["accuracy", SUM])
    with pytest.raises(InvalidType, match=r"; the order is parent, data, fitness$"):
        Evaluator(network, "accuracy", samples)


def test_samples_are_missed_before_any_work():
    objectives = Objectives([ModuleFitness("sum", "min", weight), "accuracy"])
    with pytest.raises(InvalidValue, match=r"^data: expected samples for the fitness 'accuracy', got None"):
        objectives.evaluator(nn.Linear(2, 2))
    with pytest.raises(InvalidValue, match=r"^sense: expected one of min, max, got 'low'"):
        ChangeFitness("norm", "low", len)
    assert isinstance(Objectives([SUM]).evaluator(ParameterSpace(SmallNet())), Evaluator)
