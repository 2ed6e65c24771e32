"""Features: the layers before the head are computed once for each sample, and nothing shows that but the work."""

import contextlib
import copy
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import CARRIES, same_bits, state_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from reuse_helpers import NETWORKS, Cnn, Net, Tied, Vit, children, counting, images, made, mlp, parts, slow
from torch import nn
from torch.nn import functional

from smd_evo import (
    BatchFitness,
    Evaluator,
    ParameterSpace,
    SparseDelta,
)
from smd_evo.evaluation import heads, sharing
from smd_evo.evaluation.data import minibatch
from smd_evo.evaluation.features import Features
from smd_evo.evaluation.stream import Stream

pytestmark = CARRIES

LOGGER = "smd_evo.evaluation.heads"

WITHOUT = {"Tied", "Random", "Dropping", "Counts", "Leaves", "Whispers", "Structures", "Hooked"}
"""Networks that have no features: they draw, write, remember, or use the head's weights elsewhere."""


def evaluator_of(network, data=None, select="head", batch_size=5, reuse=True):
    return Evaluator(network, data or images(), select=select, batch_size=batch_size, reuse=reuse)


def has_features(evaluator):
    return bool(evaluator.features.kept._blocks)


def right(evaluator, recipes=None, batches=None):
    """Whether children have the outputs of deep copies, to the bit."""
    recipes = recipes or children()
    return torch.equal(
        evaluator.predict(recipes), slow(evaluator.space, recipes, batches or parts(images(), 5, 5, 2))
    )


class TestBits:
    """On all samples: the outputs of a slow loop over deep copies, to the bit, whatever the network does."""

    @pytest.mark.parametrize("kind", NETWORKS)
    def test_any_network(self, kind):
        network = made(kind)
        before = state_bits(network)
        evaluator = evaluator_of(network, select=["embedding.*"] if kind is Tied else ["head.*"])
        for density in (0.3, 0.02, 1.0):
            assert right(evaluator, children(density=density))
        assert has_features(evaluator) == (kind.__name__ not in WITHOUT)
        assert same_bits(before, state_bits(network))

    @pytest.mark.parametrize("select", ["head.weight", "head.bias"])
    def test_a_part_of_the_head(self, select):
        evaluator = evaluator_of(made(Cnn), select=[select])
        assert right(evaluator)
        assert has_features(evaluator)

    def test_in_low_precision_and_back(self):
        evaluator = evaluator_of(made(Cnn))
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                assert right(evaluator)
            assert has_features(evaluator)
            assert right(evaluator)

    def test_fitness_totals_and_races(self):
        network, data, recipes = made(Cnn), images(60), children(12, 1.0)
        one, other = (evaluator_of(network, data, batch_size=60, reuse=reuse) for reuse in (True, False))
        assert torch.equal(one.evaluate(recipes).fitness, other.evaluate(recipes).fitness)
        assert torch.equal(one.totals(iter(recipes)), other.totals(recipes))
        torch.testing.assert_close(one.race(recipes).fitness, other.race(recipes).fitness, rtol=1e-4, atol=1e-5)
        assert one.work.forwards < 60 + 0.1 * one.work.images

    def test_a_parent_that_moves(self):
        network, sizes = counting()
        evaluator = evaluator_of(network)
        for recipe in children(3)[:3]:
            assert right(evaluator)
            evaluator.space.fold(recipe)
        del sizes[:]
        evaluator.evaluate(children())
        assert sizes == []

    @pytest.mark.parametrize("at", range(5))
    def test_an_interrupt_leaves_nothing_behind(self, at, monkeypatch):
        evaluator, calls = evaluator_of(made(Cnn)), iter(range(9))
        original = heads.features_of

        def interrupted(*arguments):
            if next(calls) == at:
                raise KeyboardInterrupt
            return original(*arguments)

        monkeypatch.setattr(heads, "features_of", interrupted)
        with pytest.raises(KeyboardInterrupt) if at < 4 else contextlib.nullcontext():  # a few samples, three batches
            evaluator.evaluate(children())
        assert right(evaluator)
        assert has_features(evaluator)

    def test_threads_take_turns(self):
        evaluator = evaluator_of(made(Cnn), images(40))
        some = [evaluator.on_samples(minibatch(0, number, 10, 40)) for number in range(4)]
        expected = [Evaluator.evaluate(each, children()).fitness for each in some]
        evaluator.features.kept.drop(None)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda each: each.evaluate(children()).fitness, some))
        assert all(map(torch.equal, found, expected))


class TestMinibatches:
    """Rows of the same features, whatever was asked before."""

    @given(st.lists(st.sets(st.integers(0, 22), min_size=1), min_size=1, max_size=3), st.sampled_from([4, 7, 23]))
    @settings(max_examples=20)
    def test_the_rows_of_all_samples_but_for_rounding_and_history(self, asked, size):
        network, data = made(mlp), images(23)
        evaluator = evaluator_of(network, data, batch_size=size)
        whole = slow(evaluator.space, children(), [data])
        for some in asked:
            numbers = torch.tensor(sorted(some, key=hash))
            found = evaluator.on_samples(numbers).predict(children())
            torch.testing.assert_close(found, whole[:, numbers.sort().values], rtol=1e-4, atol=1e-4)
            alone = evaluator_of(network, data, batch_size=size).on_samples(numbers)
            assert torch.equal(found, alone.predict(children()))

    def test_some_of_some(self):
        evaluator = evaluator_of(made(Cnn), images(30))
        some = evaluator.on_samples(torch.arange(5, 25)).on_samples(torch.tensor([19, 0, 7]))
        assert torch.equal(some.features.numbers, torch.tensor([5, 12, 24]))
        expected = evaluator.on_samples(torch.tensor([5, 12, 24])).predict(children())
        assert torch.equal(some.predict(children()), expected)

    def test_the_same_ranking_as_without(self):
        network, data = made(Cnn), images(80)
        recipes = [SparseDelta(torch.tensor([32]), torch.tensor([0.5 * number])) for number in range(6)]  # a bias
        for number in range(4):
            both = [
                evaluator_of(network, data, batch_size=16, reuse=reuse)
                .on_samples(minibatch(0, number, 20, 80))
                .evaluate(recipes)
                .fitness
                for reuse in (True, False)
            ]
            torch.testing.assert_close(both[0], both[1], rtol=1e-5, atol=1e-5)
            assert float(both[1].sort().values.diff().min()) > 1e-3
            assert torch.equal(both[0].argsort(), both[1].argsort())

    def test_each_sample_once_in_fifty_generations(self):
        network, sizes = counting()
        evaluator = evaluator_of(network, images(60), batch_size=10, reuse="auto")
        evaluator.evaluate([])  # tries the weights
        del sizes[:]
        for number in range(50):
            evaluator.on_samples(minibatch(0, number, 20, 60)).evaluate(children(10))
        few, kinds = 5, len(heads._known[evaluator.space].checked.popitem()[1])
        assert sum(sizes) == 60 + 2 * few + 10 * kinds  # a survey, rows of a few, kinds of children on one batch
        assert evaluator.work.images == 50 * 11 * 20
        assert 60 < evaluator.work.forwards < 60 + 0.05 * evaluator.work.images

    def test_only_batches_that_are_touched(self):
        evaluator = evaluator_of(made(Cnn), images(60), batch_size=10)
        evaluator.on_samples(torch.tensor([31, 33])).evaluate(children())
        assert sorted(evaluator.features.kept._blocks) == [0, 3]  # the first is what kinds of children are tried on

    def test_data_of_its_own_has_features_of_its_own(self):
        network, sizes = counting()
        evaluator = evaluator_of(network)
        other = evaluator.on(images(24))
        assert right(other, batches=parts(images(24), *[5] * 4, 4))
        assert not has_features(evaluator)
        assert right(evaluator)
        del sizes[:]
        other.evaluate(children())
        evaluator.evaluate(children())
        assert sizes == []


class Plain(Net):
    """A body that keeps a tensor beside its parameters, and one in a list."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale, self.more = nn.Linear(16, 16), torch.ones(()), [torch.ones(())]

        def forward(self, x):
            return self.layer(x) * self.scale * self.more[0]

    def __init__(self):
        super().__init__(self.Scaled(), nn.BatchNorm1d(16), nn.Dropout())
        self.register_forward_pre_hook(lambda module, arguments: (arguments[0] * 1,))


def another_hook(network):
    _, old = network._forward_pre_hooks.popitem()
    network.register_forward_pre_hook(lambda module, arguments: (old(module, arguments)[0] * 2,))


def folded(network):
    space = ParameterSpace(network)
    space.fold(children(1, 0.5)[0])


def replaced(network):
    network.body[0].layer = nn.Linear(16, 16)


CHANGES = {
    "a weight, counted": lambda network: network.stem[1].weight.detach().add_(0.1),
    "a weight, past the count": lambda network: network.stem[1].weight.data.add_(0.1),
    "a weight, other memory": lambda network: setattr(
        network.stem[1].weight, "data", network.stem[1].weight.data + 1
    ),
    "a buffer, past the count": lambda network: network.body[1].running_mean.data.add_(0.5),
    "a state": lambda network: network.load_state_dict({k: v + 1 for k, v in network.state_dict().items()}),
    "all, by another space": folded,
    "a layer": replaced,
    "a tensor that is no buffer": lambda network: network.body[0].scale.mul_(2),
    "a tensor in a list": lambda network: network.body[0].more[0].mul_(2),
    "a setting": lambda network: setattr(network.body[1], "eps", network.body[1].eps + 1),
    "a hook": another_hook,
}


class TestOtherLayers:
    """Where what is before the head changes all the same, features are computed again."""

    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_a_change(self, change):
        network = made(Plain)
        evaluator = evaluator_of(network)
        for _ in range(2):
            before = evaluator.predict(children())
            assert has_features(evaluator)
            change(network)
            assert right(evaluator)
            assert has_features(evaluator)
            assert not torch.equal(before, evaluator.predict(children()))

    def test_samples_that_are_written_to(self):
        data = images()
        evaluator = evaluator_of(made(Cnn), data)
        evaluator.evaluate(children())
        data[0].mul_(2)
        assert right(evaluator, batches=parts(data, 5, 5, 2))

    def test_samples_that_numpy_writes_to(self):
        shared = images()[0].numpy().copy()
        data = torch.from_numpy(shared), images()[1]
        evaluator = evaluator_of(made(Cnn), data)
        evaluator.evaluate(children())
        shared *= 2
        assert right(evaluator, batches=parts(data, 5, 5, 2))

    def test_another_type(self):
        network, data = made(mlp), images()
        evaluator = evaluator_of(network, data)
        evaluator.evaluate(children())
        network.double()
        with pytest.raises(RuntimeError, match="dtype"):  # as without features
            evaluator.evaluate(children())

    def test_a_device_that_is_the_same(self):
        evaluator = evaluator_of(made(Cnn), images(20)).on_samples(torch.arange(3, 12))
        before = evaluator.predict(children())
        evaluator.to("cpu")
        assert torch.equal(evaluator.predict(children()), before)


class Twice(Net):
    """The head is called twice."""

    def forward(self, x):
        x = self.body(self.stem(x))
        return self.head(x) + self.head(x.tanh())


class After(Net):
    """Something is done with what the head returns."""

    def forward(self, x):
        return super().forward(x).log_softmax(1)


class InPlace(Net):
    """The same where it cannot be told by the object."""

    def forward(self, x):
        return super().forward(x).mul_(2)


class Looks(Net):
    """A value of the head's decides what is done before it."""

    def forward(self, x):
        x = self.stem(x)
        if self.head.bias[0] > 0:
            x = x * 2
        return self.head(self.body(x))


class Together(Net):
    """What is made of a sample depends on the others."""

    def forward(self, x):
        x = self.stem(x)
        return self.head(x - x.mean(0))


class Hook(Net):
    """Somebody looks at a layer."""

    def __init__(self):
        super().__init__()
        self.stem.register_forward_hook(lambda module, arguments, outputs: None)


class Outputs(Net):
    """Somebody changes the outputs."""

    def __init__(self):
        super().__init__()
        self.register_forward_hook(lambda module, arguments, outputs: outputs * 2)


class Named(Net):
    """The head is called by name."""

    def forward(self, x):
        return self.head(input=self.body(self.stem(x)))


FALLBACKS = {
    Twice: "not called once",
    After: "not just what the head returns",
    InPlace: "not just what the head returns",
    Looks: "used outside of the head",
    Together: "other samples of its batch",
    Hook: "hooks",
    Outputs: "hooks",
    Named: "not called once",
}


class TestFallbacks:
    """What cannot be kept is computed as before, and one line of the log says why."""

    @pytest.mark.parametrize("kind", FALLBACKS, ids=lambda kind: kind.__name__)
    def test_a_network_without_features(self, kind, caplog):
        network = made(kind)
        nn.init.constant_(network.head.bias, -0.1)
        recipes = [SparseDelta(torch.tensor([64]), torch.tensor([value])) for value in (0.01, 1.0, 0.02, 2.0)]
        with caplog.at_level(logging.INFO, LOGGER):
            evaluator = evaluator_of(network)
            for _ in range(3):
                assert right(evaluator, recipes)
        assert not has_features(evaluator)
        assert len(caplog.messages) == 1
        assert FALLBACKS[kind] in caplog.messages[0]

    def test_a_head_that_writes_to_what_it_is_given_in_some_children(self, caplog):
        class Writes(nn.Linear):
            def forward(self, x):
                return super().forward(x.mul_(2) if self.bias[0] > 0 else x)

        network = made(Net)
        network.head = Writes(16, 4)
        nn.init.constant_(network.head.bias, -0.1)
        values = (0.01, 1.0, 0.02, 2.0)
        recipes = [SparseDelta(torch.tensor([64]), torch.tensor([value])) for value in values]
        with caplog.at_level(logging.INFO, LOGGER):
            evaluator = evaluator_of(network)
            assert right(evaluator, recipes)
            assert right(evaluator, recipes)
        assert [message for message in caplog.messages if "writes to what it is given" in message]

    def test_a_child_whose_outputs_are_others(self, caplog):
        class Unseen(Net):
            """Reads the head's weights where no operation of PyTorch tells it."""

            def forward(self, x):
                return self.head(self.stem(x) * float(self.head.weight.detach().numpy().sum()))

        with caplog.at_level(logging.INFO, LOGGER):
            evaluator = evaluator_of(made(Unseen))
            assert right(evaluator)
            assert right(evaluator)
        assert "not those of a full forward pass" in caplog.messages[-1]
        assert not has_features(evaluator)

    def test_too_little_memory(self, monkeypatch, caplog):
        monkeypatch.setattr(sharing, "room", lambda device: 100)
        with caplog.at_level(logging.INFO, LOGGER):
            evaluator = evaluator_of(made(Cnn))
            assert right(evaluator)
            assert right(evaluator)
        assert not has_features(evaluator)
        assert len([message for message in caplog.messages if "do not fit into memory" in message]) == 1

    @pytest.mark.filterwarnings("ignore:out of memory:RuntimeWarning")
    @pytest.mark.parametrize("room", [3, 1])
    def test_batches_that_are_halved(self, room):
        class Hungry(Cnn):
            def forward(self, x):
                if len(x) > room:
                    raise torch.OutOfMemoryError("no more")
                return super().forward(x)

        network = made(Hungry)
        both = [evaluator_of(network, batch_size=6, reuse=reuse) for reuse in (True, False)]
        for _ in range(3):
            found = [each.evaluate(children()).fitness for each in both]
            assert torch.equal(*found)

    def test_data_much_larger_than_a_minibatch(self):
        evaluator = evaluator_of(made(mlp), images(110), reuse="auto")
        evaluator.on_samples(torch.arange(2)).evaluate(children())
        assert not has_features(evaluator)
        evaluator.on_samples(torch.arange(3)).evaluate(children())
        assert has_features(evaluator)

    @pytest.mark.parametrize("select", ["all", ["body.*", "head.*"], ["stem.*"]])
    def test_other_layers_that_are_selected(self, select):
        evaluator = evaluator_of(made(mlp), select=select)
        assert right(evaluator)
        assert not has_features(evaluator)

    def test_neither_streams_nor_a_network_that_is_its_head_nor_no_reuse(self):
        assert evaluator_of(made(Cnn), Stream(*images())).features is None
        flat = torch.randn(12, 5), torch.arange(12) % 4
        for evaluator in (evaluator_of(nn.Linear(5, 4), flat), evaluator_of(made(Cnn), reuse=False)):
            evaluator.evaluate(children())
            assert not has_features(evaluator)

    def test_random_numbers_of_a_fitness_are_those_of_before(self):
        noisy = BatchFitness("noisy", "min", lambda outputs, targets: outputs.sum(1) + torch.rand(len(outputs)))
        both = [Evaluator(made(Cnn), images(), noisy, select="head", reuse=reuse) for reuse in (True, False)]
        assert torch.equal(*(each.evaluate(children()).fitness for each in both))
        assert has_features(both[0])

    def test_nothing_is_computed_for_no_children(self):
        evaluator = evaluator_of(made(Cnn))
        evaluator.evaluate([])
        assert not has_features(evaluator)


class TestCopies:
    """Copies and pickles have no features, and compute the same ones."""

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
    def test_of_an_evaluator(self, copied):
        evaluator = evaluator_of(made(Vit), images(40))
        some = evaluator.on_samples(torch.tensor([3, 1, 30]))
        expected = evaluator.predict(children()), some.predict(children())
        for one, outputs in zip((evaluator, some), expected, strict=True):
            other = copied(one)
            assert not has_features(other)
            assert torch.equal(other.predict(children()), outputs)
            assert has_features(other)

    def test_a_pickle_is_no_larger(self):
        evaluator = evaluator_of(made(Vit), images(4000, size=8), batch_size=1000)
        before = len(pickle.dumps(evaluator))
        evaluator.evaluate(children(1))
        assert has_features(evaluator)
        assert len(pickle.dumps(evaluator)) < before + 1000


def test_kinds_of_children_are_compared_once_for_a_space():
    network, sizes = counting()
    evaluator = evaluator_of(network, images(40), batch_size=20, reuse="auto")
    evaluator.evaluate(children(9))
    for again in (evaluator, evaluator.on(images(40)), Evaluator(evaluator.space, images(40), batch_size=20)):
        del sizes[:]
        again.evaluate(children(9))
        assert sizes == ([] if again is evaluator else [20, 20])


def test_it_is_told_once_what_is_saved(caplog):
    evaluator = evaluator_of(made(Cnn))
    with caplog.at_level(logging.INFO, LOGGER):
        evaluator.evaluate(children())
        evaluator.on(images()).evaluate(children())
    assert len(caplog.messages) == 1
    assert "before the head are computed once a sample" in caplog.messages[0]


def test_a_head_that_is_most_of_the_network_is_called_with_the_rest():
    network = made(lambda: nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(192, 4000)))
    automatic = Evaluator(network, images(), select="head")
    automatic.evaluate(children())
    assert heads._known[automatic.space].share > 0.8
    assert not has_features(automatic)


def test_features_of_batches_that_are_kept_are_not_computed_again():
    evaluator = evaluator_of(made(Cnn))
    calls = []

    def compute(batch):
        calls.append(batch.start)
        return functional.normalize(batch.inputs.flatten(1))

    features = Features(evaluator.features.kept.batches)
    whole = features.rows(0, 12, compute)
    some = features.take(torch.tensor([11, 2, 7]))
    assert torch.equal(some.rows(0, 3, compute), whole[[2, 7, 11]])
    assert torch.equal(some.rows(1, 2, compute), whole[[7, 11]])
    assert calls == [0, 5, 10]
