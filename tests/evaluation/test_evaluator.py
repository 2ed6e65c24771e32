"""The evaluator: right against a naive loop, and it leaves everything as it was."""

import copy
import random

import numpy as np
import pytest
import torch
from helpers import CARRIES, SmallNet, same_bits, state_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from smd_evo import (
    BatchFitness,
    Dense,
    Evaluator,
    Lineage,
    ModuleFitness,
    Objectives,
    ParameterSpace,
    RandomSubspace,
    sample_mutations,
)
from smd_evo.core.parameters import Child
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.fitness import ACCURACY, CROSS_ENTROPY, WORST
from smd_evo.evaluation.stream import Stream

pytestmark = CARRIES


def children(count=6, sigma=0.3, key=0, **options) -> list[Child]:
    return sample_mutations(key, count, subspace=RandomSubspace(0.2), sigma=sigma, **options)


def naive(network, recipe, samples, score):
    """A copy of the network with the delta added by hand, one pass over all samples."""
    child = copy.deepcopy(network).eval()
    space = ParameterSpace(network)
    delta = recipe.delta(space.layout).to_dense(space.size)
    with torch.no_grad():
        for name, start, slot in zip(space.names, space.layout.offsets, space.layout.slots, strict=False):
            child.get_parameter(name).add_(delta[start : start + slot.size].view(slot.shape))
        return score(child(samples[0]), samples[1])


class TestRight:
    def test_cross_entropy_and_accuracy_as_a_naive_loop_has_them(self, network, samples):
        recipes = children()
        loss = Evaluator(network, samples).evaluate(recipes).fitness
        accuracy = Evaluator(network, samples, "accuracy").evaluate(recipes).fitness
        for number, recipe in enumerate(recipes):
            expected = naive(network, recipe, samples, functional.cross_entropy)
            assert float(loss[number]) == pytest.approx(float(expected), rel=1e-5)
            right = naive(network, recipe, samples, lambda out, target: (out.argmax(1) == target).double().mean())
            assert float(accuracy[number]) == pytest.approx(float(right))

    def test_predictions_too(self, network, samples):
        recipes = children(3)
        outputs = Evaluator(network, samples, batch_size=7).predict(recipes)
        assert outputs.shape == (3, 40, 3)
        for number, recipe in enumerate(recipes):
            expected = naive(network, recipe, samples, lambda out, target: out)
            assert torch.allclose(outputs[number], expected, atol=1e-5)

    @given(st.integers(1, 50))
    def test_batch_size_changes_nothing_but_rounding(self, batch_size):
        torch.manual_seed(0)
        network, images = SmallNet(), torch.randn(40, 1, 4, 4)
        samples = images, torch.arange(40) % 3
        whole = Evaluator(network, samples, batch_size=40).evaluate(children())
        other = Evaluator(network, samples, batch_size=batch_size).evaluate(children())
        assert torch.allclose(whole.fitness, other.fitness, rtol=1e-5)
        assert whole.ranking() == other.ranking()

    def test_order_company_and_repetition_change_nothing(self, network, samples):
        evaluator, recipes = Evaluator(network, samples), children()
        together = evaluator.evaluate(recipes).fitness
        alone = [float(evaluator.evaluate([recipe]).fitness[0]) for recipe in reversed(recipes)]
        assert together.tolist() == alone[::-1]

    def test_the_empty_lineage_is_the_parent(self, network, samples):
        expected = functional.cross_entropy(network.eval()(samples[0]), samples[1]).detach()
        assert float(Evaluator(network, samples).evaluate([Lineage()]).fitness[0]) == pytest.approx(float(expected))

    def test_ranking_knows_the_sense(self, network, samples):
        for name in ("cross_entropy", "accuracy"):
            result = Evaluator(network, samples, name).evaluate(children())
            ordered = [float(result.fitness[number]) for number in result.ranking()]
            assert ordered == sorted(ordered, reverse=name == "accuracy")
            assert result.sense == ("max" if name == "accuracy" else "min")

    def test_all_forms_of_data_give_the_same(self, network, samples):
        dataset = TensorDataset(*samples)
        forms = [
            samples,
            dataset,
            DataLoader(dataset, 8),
            [(samples[0][:15], samples[1][:15]), (samples[0][15:], samples[1][15:])],
        ]
        results = [Evaluator(network, form).evaluate(children()).fitness for form in forms]
        assert all(torch.allclose(results[0], other, rtol=1e-5) for other in results[1:])
        assert all(Evaluator(network, form).samples == 40 for form in forms)

    def test_a_shuffling_loader_is_read_once(self, network, samples):
        evaluator = Evaluator(network, DataLoader(TensorDataset(*samples), 8, shuffle=True))
        assert torch.equal(evaluator.evaluate(children()).fitness, evaluator.evaluate(children()).fitness)

    def test_several_inputs_by_position_and_by_name(self, samples):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(16, 3)

            def forward(self, x, shift):
                return self.layer(x.flatten(1)) + shift

        torch.manual_seed(0)
        module, shift = Two(), torch.randn(40, 3)
        results = [
            Evaluator(module, (inputs, samples[1]), batch_size=9).evaluate(children()).fitness
            for inputs in ((samples[0], shift), {"shift": shift, "x": samples[0]})
        ]
        assert torch.equal(*results)

    def test_own_fitness_on_outputs(self, network, samples):
        margin = BatchFitness("margin", "max", lambda out, target: out.gather(1, target[:, None]))
        values = Evaluator(network, samples, margin).evaluate(children()).fitness
        expected = naive(network, children()[0], samples, lambda out, t: out[torch.arange(40), t].mean())
        assert float(values[0]) == pytest.approx(float(expected), rel=1e-4)

    def test_own_fitness_of_the_module(self, network):
        norm = ModuleFitness("norm", "min", lambda module: float(module.head.weight.norm()))
        evaluator = Evaluator(network, fitness=norm)
        assert len(evaluator.evaluate(children()).fitness.unique()) == 6
        with pytest.raises(ValueError, match="samples to predict"):
            evaluator.predict(children())

    def test_on_a_device(self, network, samples, devices):
        expected = Evaluator(network, samples).evaluate(children())
        for device in devices:
            result = Evaluator(network, samples, device=device).evaluate(children())
            assert torch.allclose(result.fitness, expected.fitness, rtol=1e-4)
            assert result.ranking() == expected.ranking()
            assert next(network.parameters()).device.type == "cpu"

    def test_on_its_own_device_the_network_itself_is_evaluated(self, network, samples):
        assert Evaluator(network, samples, device="cpu").space.module is network

    def test_progress_is_told_of_each_child(self, network, samples):
        calls: list[int] = []
        Evaluator(network, samples).evaluate(children(), lambda: calls.append(1))
        assert len(calls) == 6

    def test_children_that_are_made_as_they_are_asked_for(self, network, samples):
        evaluator, recipes = Evaluator(network, samples), [*children(8), Lineage()]
        assert torch.equal(evaluator.predict(iter(recipes)), evaluator.predict(recipes))
        assert torch.equal(evaluator.scores(iter(recipes)), evaluator.scores(recipes))
        assert torch.equal(evaluator.race(iter(recipes)).fitness, evaluator.race(recipes).fitness)
        found, expected = evaluator.observe(iter(recipes))[0], evaluator.evaluate(iter(recipes))
        assert torch.equal(found.fitness, expected.fitness)
        assert found.parent == expected.parent == found.fitness[-1]

    def test_no_children(self, network, samples):
        assert Evaluator(network, samples).evaluate([]).fitness.shape == (0,)
        with pytest.raises(ValueError, match="children: expected at least one"):
            Evaluator(network, samples).predict([])


class TestNonFinite:
    def test_becomes_the_worst_and_is_counted(self, network, samples):
        recipes = [*children(2), *children(2, sigma=1e38), *children(1)]
        for name, worst in (("cross_entropy", WORST), ("accuracy", -WORST)):
            result = Evaluator(network, samples, name).evaluate(recipes)
            assert result.nonfinite == 2
            assert result.fitness[2:4].tolist() == [worst, worst]
            assert set(result.ranking()[-2:]) == {2, 3}
            assert bool(result.fitness.float().isfinite().all())
            assert bool(result.fitness.float().var().isfinite())

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
    @pytest.mark.parametrize("sense", ["min", "max"])
    def test_of_any_kind(self, network, value, sense):
        result = Evaluator(network, fitness=ModuleFitness("odd", sense, lambda module: value)).evaluate(children(2))
        assert result.fitness.tolist() == [WORST if sense == "min" else -WORST] * 2
        assert result.nonfinite == 2

    def test_a_network_that_says_nan_predicts_nothing(self):
        outputs = torch.tensor([[float("nan"), 0.0], [1.0, 0.0]])
        assert ACCURACY.per_sample(outputs, torch.tensor([0, 0]), 2).isnan().tolist() == [True, False]
        assert CROSS_ENTROPY.per_sample(outputs, torch.tensor([0, 0]), 2).isnan().tolist() == [True, False]


class Restless(SmallNet):
    """Changes a buffer in place, replaces another, and draws random numbers, in every forward pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(1))
        self.register_buffer("nothing", None)

    def forward(self, x):
        self.calls += 1
        self.last = x.mean().reshape(1)
        return super().forward(x) + torch.randn(3) + np.random.rand() + random.random() + self.calls


class TestNoTrace:
    def everything(self, module):
        return (
            state_bits(module),
            [part.training for part in module.modules()],
            [id(tensor) for tensor in (*module.parameters(), *module.buffers())],
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
        )

    def compare(self, before, after):
        assert same_bits(before[0], after[0])
        assert before[1:] == after[1:]

    @pytest.fixture
    def restless(self):
        torch.manual_seed(0)
        module = Restless().train()
        module.bn.eval()  # a mixture of modes, as when fine-tuning with frozen statistics
        return module

    def test_after_evaluating_and_predicting(self, restless, samples):
        evaluator, before = Evaluator(restless, samples), self.everything(restless)
        evaluator.evaluate(children())
        evaluator.predict(children(2))
        self.compare(before, self.everything(restless))

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
    def test_after_an_exception_in_the_third_child(self, restless, samples, error):
        calls: list[int] = []

        def failing(out, target):
            calls.append(1)
            if len(calls) == 3:
                raise error("stop")
            return CROSS_ENTROPY.score(out, target)

        evaluator = Evaluator(restless, samples, BatchFitness("failing", "min", failing))
        before = self.everything(restless)
        with pytest.raises(error):
            evaluator.evaluate(children())
        self.compare(before, self.everything(restless))
        assert evaluator.space.depth == 0

    def test_randomness_in_the_forward_pass_does_not_depend_on_the_order(self, restless, samples):
        evaluator, recipes = Evaluator(restless, samples), children()
        forth = evaluator.evaluate(recipes).fitness.tolist()
        torch.manual_seed(99)
        assert evaluator.evaluate(recipes[::-1]).fitness.tolist()[::-1] == forth

    def test_batch_statistics_do_not_drift_and_dropout_is_off(self, network, samples):
        network.train()
        evaluator, before = Evaluator(network, samples), state_bits(network)
        assert torch.equal(evaluator.evaluate(children()).fitness, evaluator.evaluate(children()).fitness)
        assert same_bits(before, state_bits(network))

    def test_buffers_made_in_inference_mode(self, restless, samples):
        with torch.inference_mode():
            restless.calls = torch.ones(())
        evaluator, before = Evaluator(restless, samples), state_bits(restless)
        assert torch.equal(evaluator.evaluate(children()).fitness, evaluator.evaluate(children()).fitness)
        assert same_bits(before, state_bits(restless))

    @pytest.mark.parametrize("when", ["always", "some children", "on request"])
    @pytest.mark.parametrize("kind", [tuple, dict, Stream])
    def test_samples_that_a_forward_pass_writes_to(self, samples, kind, when):
        class Writes(SmallNet):
            asked = False

            def forward(self, x):
                if when == "always" or self.asked or (when == "some children" and self.head.bias[0] > 0):
                    x.sub_(0.5)
                return super().forward(x)

        torch.manual_seed(0)
        network, mine = Writes().eval(), (samples[0].clone(), samples[1])
        nn.init.constant_(network.head.bias, -0.3)
        data = ({"x": mine[0]}, mine[1]) if kind is dict else Stream(*mine) if kind is Stream else mine
        evaluator, recipes = Evaluator(network, data, batch_size=15), [*children(6, 1.0), Lineage()]
        expected = []
        for recipe in recipes:
            child = evaluator.space.make_child(recipe)
            expected.append(torch.cat([child(some.clone()).detach() for some in samples[0].split(15)]))
        assert torch.equal(evaluator.predict(recipes), torch.stack(expected))
        assert torch.equal(mine[0], samples[0])
        Writes.asked = when == "on request"
        if Writes.asked:
            with pytest.raises(InvalidValue, match="leaves its inputs as they are, got Writes, which has written to"):
                evaluator.predict(recipes)
        assert torch.equal(evaluator.on(samples).predict(recipes), evaluator.on(samples).predict(recipes))

    def test_inside_an_outer_child(self, network, samples):
        """Children of a child: the outer patch stays in place."""
        evaluator = Evaluator(network, samples)
        first, second = children(2)
        expected = float(evaluator.evaluate([Lineage((first, second))]).fitness[0])
        with evaluator.space.applied(first):
            inside = state_bits(network)
            assert float(evaluator.evaluate([second]).fitness[0]) == expected
            assert same_bits(inside, state_bits(network))


class TestProbabilities:
    """A network that ends in softmax is scored as if it gave logits: that is said, once."""

    SAMPLES = torch.eye(3).repeat(4, 1), torch.arange(12) % 3

    @pytest.mark.parametrize("together", [None, 2])
    @pytest.mark.parametrize("fitness", ["cross_entropy", Objectives(["accuracy", "cross_entropy"])])
    def test_is_said_once(self, fitness, together):
        network = nn.Sequential(nn.Linear(3, 3), nn.Softmax(1)).eval()
        children = [Lineage(), *sample_mutations(0, 3, subspace=Dense(), sigma=0.1)]

        def scored():
            if isinstance(fitness, Objectives):
                return fitness.evaluate(fitness.evaluator(network, self.SAMPLES, together=together), children)
            evaluator = Evaluator(network, self.SAMPLES, fitness, together=together, batch_size=6)
            for each in (evaluator, evaluator.on_samples(torch.arange(6)), evaluator.on(self.SAMPLES)):
                each.evaluate(children)

        with pytest.warns(UserWarning, match="^outputs: expected logits, got rows of numbers >= 0") as told:
            scored()
        assert len(told) == 1

    @pytest.mark.parametrize("last", [nn.LogSoftmax(1), nn.Sigmoid(), nn.ReLU(), nn.Identity()])
    def test_is_not_said_of_logits(self, last):
        network = nn.Sequential(nn.Linear(3, 3), last).eval()
        Evaluator(network, self.SAMPLES).evaluate([Lineage()])

    def test_is_not_said_where_their_size_does_not_matter(self):
        network = nn.Sequential(nn.Linear(3, 3), nn.Softmax(1)).eval()
        Evaluator(network, self.SAMPLES, "accuracy").evaluate([Lineage()])


class TestBadInput:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ((torch.zeros(0, 1, 4, 4), torch.zeros(0)), "at least one sample"),
            ([], "at least one sample"),
            ((torch.zeros(3, 1, 4, 4), torch.zeros(2)), "as many targets as inputs"),
            ([(torch.zeros(3, 1, 4, 4), torch.zeros(2))], "as many targets as inputs"),
            ((torch.full((2, 1, 4, 4), float("nan")), torch.zeros(2)), "finite inputs"),
            (torch.zeros(3), "expected \\(inputs, targets\\)"),
            (7, "expected \\(inputs, targets\\)"),
            ([1, 2, 3], "in batch 0, got int"),
            ((np.zeros((2, 16)), np.zeros(2)), "torch.as_tensor"),
            (None, "expected samples for the fitness 'cross_entropy'"),
        ],
    )
    def test_data(self, network, data, message):
        with pytest.raises((ValueError, TypeError), match=message):
            Evaluator(network, data)

    @pytest.mark.parametrize("batch_size", [0, -1, 1.5, "big"])
    def test_batch_size(self, network, samples, batch_size):
        with pytest.raises((ValueError, TypeError), match="batch_size: expected a whole number >= 1"):
            Evaluator(network, samples, batch_size=batch_size)

    def test_fitness(self, network, samples):
        with pytest.raises(ValueError, match="did you mean 'accuracy'"):
            Evaluator(network, samples, "acuracy")
        with pytest.raises(TypeError, match="sense 'min' or 'max'"):
            Evaluator(network, samples, lambda module: 0.0)
        with pytest.raises(ValueError, match="sense"):
            ModuleFitness("x", "lower", lambda module: 0.0)
        mean = BatchFitness("mean", "min", lambda out, target: out.mean())
        with pytest.raises(ValueError, match="mean: expected one score a sample"):
            Evaluator(network, samples, mean).evaluate(children())

    @pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta9"])
    def test_device(self, network, samples, device):
        with pytest.raises(ValueError, match="device: expected one that is there, got"):
            Evaluator(network, samples, device=device)

    def test_parent(self, network, samples):
        with pytest.raises(TypeError, match="parent: expected"):
            Evaluator("resnet", samples)
        with pytest.raises(ValueError, match="got a ParameterSpace"):
            Evaluator(ParameterSpace(network), samples, select="norm")
