"""What is put back: modes whose switch is work, buffers by their bits, generators of modules; threads take turns."""

import copy
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers import CARRIES, SmallNet, same_bits, state_bits
from torch import nn
from torch.nn import functional

from smd_evo import Evaluator, Lineage, ModuleFitness, ParameterSpace, RandomSubspace, sample_mutations
from smd_evo.core.checksum import checksum
from smd_evo.evaluation.stream import Stream

pytestmark = CARRIES


def children(count=6, key=0, sigma=0.3):
    return sample_mutations(key, count, subspace=RandomSubspace(0.3), sigma=sigma)


class Merging(nn.Linear):
    """A layer whose switch to eval merges a change of low rank into its weight, and whose switch back takes it out.

    As loralib's: what it returns from ``train`` is nothing, and to subtract is not to the bit.
    """

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.down = nn.Parameter(torch.randn(2, inputs))
        self.up = nn.Parameter(torch.randn(outputs, 2))
        self.merged = False

    def train(self, mode=True):
        nn.Linear.train(self, mode)
        if mode == self.merged:
            change = self.up.data @ self.down.data
            self.weight.data += -change if mode else change
            self.merged = not mode

    def forward(self, x):
        y = functional.linear(x, self.weight, self.bias)
        return y if self.merged else y + x @ self.down.T @ self.up.T


def merging(mode=True):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), Merging(16, 8), nn.ReLU(), nn.Linear(8, 3))
    network.train(mode)
    return network


def everything(network):
    plain = [{k: v for k, v in vars(part).items() if isinstance(v, bool | int)} for part in network.modules()]
    return state_bits(network), plain, [weight.requires_grad for weight in network.parameters()]


def unchanged(before, network):
    after = everything(network)
    return same_bits(before[0], after[0]) and before[1:] == after[1:]


class TestModes:
    @pytest.mark.parametrize("mode", [True, False])
    def test_a_switch_that_merges_is_undone_to_the_bit(self, mode, samples):
        network = merging(mode)
        before = everything(network)
        result = Evaluator(network, samples, select="1.weight, 3").evaluate(children())
        assert unchanged(before, network)
        network.eval()
        assert (
            result.fitness.tolist()
            == Evaluator(network, samples, select="1.weight, 3").evaluate(children()).fitness.tolist()
        )

    def test_a_mixture_of_modes_and_flags_that_do_not_go_together(self, samples):
        network = merging()
        network[1].training = False  # but not merged
        before = everything(network)
        Evaluator(network, samples, select="3").evaluate(children())
        assert unchanged(before, network)

    def test_modules_go_back_through_their_own_train_outer_ones_first(self, samples):
        switches = []

        class Frozen(SmallNet):
            def train(self, mode=True):
                super().train(mode)
                self.bn.eval()
                switches.append(mode)
                return self

        network = Frozen().train()
        network.drop.eval()
        before = everything(network)
        switches.clear()
        Evaluator(network, samples).evaluate(children())
        assert switches == [False, True]
        assert unchanged(before, network)
        assert not network.bn.training
        assert not network.drop.training

    def test_a_network_in_eval_mode_is_not_switched(self, samples):
        network = merging(False)

        def fail(mode=True):
            raise AssertionError

        network[1].train = fail
        Evaluator(network, samples, select="1.weight, 3").evaluate(children())

    def test_after_a_train_that_fails(self, samples):
        network = merging()
        before = everything(network)

        class Failing(Merging):
            def train(self, mode=True):
                super().train(mode)
                if mode:
                    raise RuntimeError("no way back")

        network[1].__class__ = Failing
        with pytest.raises(RuntimeError, match="no way back"):
            Evaluator(network, samples, select="3").evaluate(children())
        network[1].__class__ = Merging
        assert unchanged(before, network)
        assert not torch.is_inference_mode_enabled()
        assert ParameterSpace(network).fingerprint()

    def test_what_a_fitness_of_the_network_switches_the_next_child_does_not_find(self, samples):
        network = SmallNet().train()

        def score(module):
            found = float(not module.training and not module.bn.training and module.head.weight.requires_grad)
            module.train()
            module.head.requires_grad_(False)
            return found

        before = everything(network)
        result = Evaluator(network, fitness=ModuleFitness("as before", "max", score)).evaluate(children())
        assert result.fitness.tolist() == [1.0] * 6
        assert unchanged(before, network)

    def test_a_fitness_that_switches_a_network_that_merges(self):
        network = merging(False)
        before = everything(network)

        def score(module):
            module.train()
            return float(module[1].weight.sum())

        Evaluator(network, fitness=ModuleFitness("sum", "min", score)).evaluate(children())
        assert unchanged(before, network)


class Adapting(SmallNet):
    """Normalises with the batch's own statistics, and updates the running ones."""

    def forward(self, x):
        x = self.conv(x)
        y = functional.batch_norm(x, self.bn.running_mean, self.bn.running_var, training=True)
        return self.head((y + self.bn.running_mean.view(1, -1, 1, 1)).relu().flatten(1))


class TestBuffers:
    @pytest.mark.parametrize("make", [lambda data: data, lambda data: Stream(*data)], ids=["memory", "stream"])
    def test_statistics_that_a_forward_pass_updates_are_the_same_for_each_child(self, make, samples):
        """``batch_norm`` in training mode does not raise the version of what it writes."""
        torch.manual_seed(0)
        network = Adapting()
        before = checksum(network)
        evaluator = Evaluator(network, make(samples), batch_size=20)
        with pytest.warns(UserWarning, match="2 of 5 tensors"):  # the norm's own weights
            fitness = evaluator.evaluate([Lineage()] * 3).fitness.tolist()
        assert len(set(fitness)) == 1
        assert checksum(network) == before
        recipes = children()
        together = evaluator.evaluate(recipes).fitness.tolist()
        assert together == [float(evaluator.evaluate([recipe]).fitness[0]) for recipe in recipes]
        assert evaluator.evaluate([Lineage()]).fitness.tolist() == fitness[:1]
        assert checksum(network) == before

    def test_a_fitness_that_trains_the_statistics(self, samples):
        torch.manual_seed(0)
        network = SmallNet().eval()
        network.drop.p = 0.0
        before = checksum(network)

        def score(module):
            module.train()
            return float(functional.cross_entropy(module(samples[0]), samples[1]) + module.bn.running_mean.sum())

        evaluator = Evaluator(network, fitness=ModuleFitness("trained", "min", score))
        assert len(set(evaluator.evaluate([Lineage()] * 3).fitness.tolist())) == 1
        assert checksum(network) == before
        assert float(network.bn.num_batches_tracked) == 0

    @pytest.mark.parametrize(
        "value",
        [
            torch.tensor(float("nan")),
            torch.arange(6).view(2, 3).t(),
            torch.zeros(2, dtype=torch.bool),
            torch.zeros(3, dtype=torch.complex64),
            torch.zeros(3, dtype=torch.bfloat16),
            torch.zeros(70_000),
            torch.zeros(0),
            torch.zeros(1, 4).expand(3, 4),
            torch.eye(3).to_sparse(),
        ],
        ids=["nan", "turned", "bool", "complex", "bfloat16", "large", "empty", "expanded", "sparse"],
    )
    @pytest.mark.parametrize("how", ["in place", "through data", "another object", "another memory", "not at all"])
    def test_of_every_kind_changed_in_every_way(self, value, how, samples):
        class Remembering(SmallNet):
            def forward(self, x):
                changed = self.memory.to_dense() * 0 + 1
                changed = changed if self.memory.layout == torch.strided else changed.to_sparse()
                if how == "in place" and self.memory.layout == torch.strided and self.memory.stride() != (0, 1):
                    self.memory.copy_(changed)
                elif how == "through data" and self.memory.layout == torch.strided and self.memory.stride() != (0, 1):
                    self.memory.data.copy_(changed)
                elif how == "another object":
                    self.memory = changed
                elif how == "another memory" and self.memory.layout == torch.strided:
                    self.memory.data = changed
                return super().forward(x)

        torch.manual_seed(0)
        network = Remembering()
        network.register_buffer("memory", value.clone() if value.stride() != (0, 1) else value)
        memory, bits = network.memory, copy.deepcopy(network.memory)
        Evaluator(network, samples).evaluate(children(2))
        assert network.memory is memory
        assert torch.equal(memory.to_dense().nan_to_num(7), bits.to_dense().nan_to_num(7))
        assert memory.stride() == value.stride() if value.layout == torch.strided else True

    def test_that_come_in_a_forward_pass_are_gone_for_the_next_child(self, samples):
        class Late(SmallNet):
            def forward(self, x):
                if "memory" not in self._buffers:
                    self.register_buffer("memory", torch.zeros(3))
                outputs = super().forward(x) + self.memory
                self.memory = 0.9 * self.memory + outputs.mean(0)
                return outputs

        torch.manual_seed(0)
        network = Late()
        names, recipes = [*network.state_dict()], children()
        evaluator = Evaluator(network, samples)
        together = evaluator.evaluate(recipes).fitness.tolist()
        assert together[::-1] == evaluator.evaluate(recipes[::-1]).fitness.tolist()
        assert [*network.state_dict()] == names

    def test_have_their_shape_again(self, samples):
        class Growing(SmallNet):
            def forward(self, x):
                self.memory.resize_(4)
                self.square.t_()
                return super().forward(x)

        network = Growing()
        network.register_buffer("memory", torch.arange(8.0))
        network.register_buffer("square", torch.arange(4.0).view(2, 2))
        Evaluator(network, samples).evaluate(children(2))
        assert torch.equal(network.memory, torch.arange(8.0))
        assert torch.equal(network.square, torch.arange(4.0).view(2, 2))

    def test_a_live_graph_that_has_kept_a_buffer_is_none_the_wiser(self, samples):
        torch.manual_seed(0)
        network = Adapting()
        loss = functional.batch_norm(samples[0], torch.zeros(1), network.bn.running_var[:1]).square().sum()
        loss = loss + (network(samples[0]) * network.bn.running_var[:3]).sum()
        with pytest.warns(UserWarning, match="2 of 5 tensors"):
            Evaluator(network, samples).evaluate(children(2))
        loss.backward()


@pytest.mark.parametrize("keep", ["itself", "list", "dict"])
def test_what_a_first_pass_keeps_as_an_attribute_can_be_trained_with_afterwards(keep, samples):
    class Masked(SmallNet):
        kept = None

        def forward(self, x):
            if self.kept is None:
                mask = torch.linspace(0.5, 1.5, 3)
                self.kept = {"itself": mask, "list": [mask, 1], "dict": {"mask": mask}}[keep]
            mask = self.kept if keep == "itself" else self.kept["mask" if keep == "dict" else 0]
            return super().forward(x) * mask

    torch.manual_seed(0)
    network = Masked().eval()
    recipes = children()
    found = Evaluator(network, samples).evaluate(recipes).fitness
    network(samples[0]).sum().backward()
    assert torch.equal(Evaluator(network, samples).evaluate(recipes).fitness, found)


GENERATORS = {
    "torch": lambda: torch.Generator().manual_seed(5),
    "numpy": lambda: np.random.default_rng(5),
    "numpy, old": lambda: np.random.RandomState(5),
    "python": lambda: random.Random(5),
}


def drawn(generator):
    if isinstance(generator, torch.Generator):
        return float(torch.rand((), generator=generator))
    return generator.random() if hasattr(generator, "random") else generator.rand()


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("of_stream", [False, True])
@pytest.mark.parametrize("held_in", [lambda one: one, lambda one: {"mine": [one]}["mine"]], ids=["itself", "list"])
def test_each_child_finds_the_generator_of_a_module_as_it_was(kind, of_stream, held_in, samples):
    class Drawing(SmallNet):
        def forward(self, x):
            generator = self.generator[0] if isinstance(self.generator, list) else self.generator
            return super().forward(x) + drawn(generator) * torch.arange(3)

    torch.manual_seed(0)
    network, generator = Drawing(), GENERATORS[kind]()
    network.generator = held_in(generator)
    expected = drawn(GENERATORS[kind]())
    evaluator = Evaluator(network, Stream(*samples) if of_stream else samples, batch_size=7)
    recipes = children()
    together = evaluator.evaluate(recipes).fitness.tolist()
    assert together[::-1] == evaluator.evaluate(recipes[::-1]).fitness.tolist()
    network.generator = GENERATORS[kind]()
    assert together == Evaluator(network, samples, batch_size=7).evaluate(recipes).fitness.tolist()
    assert drawn(generator) == expected


class TestThreads:
    def test_get_what_one_gets_and_leave_everything_as_it_was(self, samples):
        class Noisy(SmallNet):
            def forward(self, x):
                return super().forward(x) + torch.randn(3) + np.random.rand() + random.random()

        torch.manual_seed(0)
        network, other = Noisy().train(), Noisy()
        evaluators = [Evaluator(network, samples), Evaluator(network, Stream(*samples)), Evaluator(other, samples)]
        evaluators.append(Evaluator(network.head, (torch.ones(3, 64), torch.arange(3))))
        recipes = children(8)
        expected = [evaluator.evaluate(recipes).fitness.tolist() for evaluator in evaluators]
        before, states = everything(network), (torch.get_rng_state(), random.getstate())
        with ThreadPoolExecutor(4) as pool:
            jobs = [
                [pool.submit(evaluator.evaluate, some) for some in (*([recipe] for recipe in recipes), recipes)]
                for evaluator in evaluators
            ]
            for own, values in zip(jobs, expected, strict=True):
                *alone, together = [job.result(60).fitness.tolist() for job in own]
                assert [value for one in alone for value in one] == values == together
        assert unchanged(before, network)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert random.getstate() == states[1]
