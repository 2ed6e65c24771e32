"""Networks that have no gradient: hard thresholds, rounding, argmax, binary weights, spikes. They become better."""

import functools

import pytest
import torch
from helpers import same_bits, state_bits
from torch import nn
from torch.nn import functional

import smd_evo
from smd_evo import (
    Dense,
    Evaluator,
    FinetuneProblem,
    Lineage,
    RandomSubspace,
    SparseEnsemble,
    SubspaceES,
    sample_mutations,
)
from smd_evo.errors import InvalidValue


@functools.cache
def digits():
    """900 points of three classes in eight dimensions, dealt for the three roles."""
    draws = torch.Generator().manual_seed(0)
    classes = torch.arange(900) % 3
    centres = torch.randn(3, 8, generator=draws)
    return smd_evo.split((centres[classes] + torch.randn(900, 8, generator=draws), classes), seed=0)


class Hard(torch.autograd.Function):
    """A step, with the slope of a line for those who train."""

    @staticmethod
    def forward(context, x):
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(context, slope):
        return slope


class Thresholds(nn.Module):
    """Units that are on or off."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.last(Hard.apply(self.first(x)))


class Rounds(Thresholds):
    """Activations of two bits."""

    def forward(self, x):
        levels = self.first(x).clamp(0, 3)
        return self.last(levels + (levels.round() - levels).detach())


class Routes(nn.Module):
    """The unit with the largest score alone answers: argmax, whose slope is 0 everywhere."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(8, 4), nn.Linear(8, 12)

    def forward(self, x):
        answers, chosen = self.experts(x).view(-1, 4, 3), self.gate(x).argmax(1)
        return answers[torch.arange(len(x)), chosen]


class Binary(nn.Module):
    """Weights of which only the signs count."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        signs = [layer.weight + (layer.weight.sign() - layer.weight).detach() for layer in (self.first, self.last)]
        hidden = functional.relu(functional.linear(x, signs[0], self.first.bias))
        return functional.linear(hidden, signs[1], self.last.bias) * 0.1


class Spikes(nn.Module):
    """Leaky neurons that integrate and fire, and a count of spikes; state is kept in snnTorch's buffers."""

    def __init__(self, resets=True, steps=6):
        snntorch = pytest.importorskip("snntorch", reason="snntorch is an extra")
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)
        self.neurons = snntorch.Leaky(beta=0.8, init_hidden=True)
        self.resets, self.steps = resets, steps

    def forward(self, x):
        if self.resets:
            self.neurons.reset_mem()
        current = self.first(x)
        return sum(self.last(self.neurons(current)) for _ in range(self.steps)) / self.steps


NETWORKS = [Thresholds, Rounds, Routes, Binary, Spikes]


@functools.cache
def trained(kind):
    """A parent that was trained, half way, by the slopes that it says it has."""
    torch.manual_seed(0)
    network = kind()
    inputs, classes = digits().fitness
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(6):
        optimizer.zero_grad()
        functional.cross_entropy(network(inputs), classes).backward()
        optimizer.step()
    return network.eval()


def loss(network, samples=None):
    judge = Evaluator(network, samples or digits().validation, "cross_entropy")
    return float(judge.evaluate([Lineage()]).fitness[0])


@pytest.mark.parametrize("kind", NETWORKS)
class TestNoGradient:
    def test_children_do_not_depend_on_each_other(self, kind):
        network = trained(kind)
        before = state_bits(network)
        children = sample_mutations(1, 8, subspace=RandomSubspace(0.3), sigma=0.3)
        evaluator = Evaluator(network, digits().fitness, batch_size=64)
        together = evaluator.evaluate(children).fitness
        alone = [float(evaluator.evaluate([child]).fitness[0]) for child in reversed(children)]
        assert together.tolist() == alone[::-1]
        assert len(set(alone)) > 1
        assert same_bits(before, state_bits(network))

    def test_a_search_makes_it_better(self, kind):
        problem = FinetuneProblem(trained(kind), digits().fitness, minibatch_size=150, seed=1)
        searcher = SubspaceES(problem, popsize=24, subspace=Dense(), sigma=0.1, center_learning_rate=0.05)
        searcher.run(15)
        assert loss(problem.make_net()) < 0.9 * loss(trained(kind))

    def test_evolve_and_its_ensemble(self, kind):
        settings = {"generations": 8, "children": 16, "sigma": 0.1, "density": 0.5, "images": 150, "seed": 0}
        result = smd_evo.evolve(trained(kind), digits(), **settings)
        assert loss(result.best) < loss(trained(kind))
        inputs, classes = digits().test
        ensemble = result.ensemble
        assert torch.equal(ensemble(inputs), ensemble(inputs))
        assert float((ensemble(inputs).argmax(1) == classes).double().mean()) > 0.4


class TestState:
    """Membrane potentials that a network keeps."""

    def test_what_gets_from_one_batch_to_the_next_is_told(self):
        network = Spikes(resets=False).eval()
        with pytest.warns(UserWarning, match=r"depends on the batch before, by neurons\.mem: .*reset_mem"):
            Evaluator(network, digits().fitness, batch_size=60).evaluate([Lineage()])

    def test_it_gets_from_no_child_to_another(self):
        children = sample_mutations(1, 4, subspace=Dense(), sigma=0.3)
        evaluator = Evaluator(Spikes(resets=False).eval(), digits().fitness, batch_size=60)
        with pytest.warns(UserWarning, match="depends on the batch before"):
            found = evaluator.evaluate(children).fitness
        assert torch.equal(found, evaluator.evaluate(children[::-1]).fitness.flip(0))
        assert evaluator.space.module.neurons.mem.numel() == 0

    def test_nor_do_members_of_an_ensemble_hear_each_other(self):
        parent, inputs = trained(Spikes), digits().test[0]
        children = sample_mutations(1, 3, subspace=Dense(), sigma=0.1)
        ensemble = SparseEnsemble(parent, children, combine="logits")
        mean = sum(ensemble.member(number)(inputs) for number in range(3)) / 3
        assert torch.allclose(ensemble(inputs), mean, atol=1e-5)

    @pytest.mark.parametrize("kept", ["attribute", "list", "dict"])
    def test_attributes_are_refused(self, kept):
        class Remembers(Thresholds):
            mem, several, named = None, (), {}

            def forward(self, x):
                now = self.first(x)
                last = {"attribute": self.mem, "list": [*self.several, None][0], "dict": self.named.get("mem")}[kept]
                now = now if last is None or last.shape != now.shape else 0.9 * last + now
                if kept == "attribute":
                    self.mem = now
                elif kept == "list":
                    self.several = [now]
                else:
                    self.named = {"mem": now}
                return self.last(functional.relu(now))

        with pytest.raises(
            InvalidValue, match=r"same outputs for the same samples, got others, as it keeps (mem|several|named)"
        ):
            Evaluator(Remembers().eval(), digits().fitness, batch_size=60).evaluate([Lineage()])

    @pytest.mark.parametrize("kept", ["attribute", "dict"])
    def test_numbers_are_refused_too(self, kept):
        class Counts(Thresholds):
            def __init__(self):
                super().__init__()
                self.calls, self.seen = 0, {"calls": 0}

            def forward(self, x):
                if kept == "attribute":
                    self.calls += 1
                else:
                    self.seen["calls"] += 1
                return super().forward(x) * (self.calls + self.seen["calls"])

        with pytest.raises(
            InvalidValue, match=r"same outputs for the same samples, got others, as it keeps (calls|seen)"
        ):
            Evaluator(Counts().eval(), digits().fitness, batch_size=60).evaluate([Lineage()])

    def test_what_changes_no_answer_is_no_matter(self):
        class Counts(Thresholds):
            def __init__(self):
                super().__init__()
                self.register_buffer("calls", torch.zeros(()))
                self.seen, self.times = None, 0

            def forward(self, x):
                self.calls += 1
                self.times += 1
                self.seen = x
                return super().forward(x)

        Evaluator(Counts().eval(), digits().fitness, batch_size=60).evaluate([Lineage()])  # warnings are errors
