"""Reuse: the same bits as a slow loop over deep copies, whatever the network does, and no call that need not be."""

import contextlib
import copy
import logging
from typing import ClassVar

import pytest
import timm
import torch
from helpers import CARRIES, same_bits, state_bits
from hypothesis import given
from hypothesis import strategies as st
from reuse_helpers import (
    NETWORKS,
    NOTES,
    Autocast,
    Cnn,
    Leaves,
    Program,
    Tied,
    Twice,
    Vit,
    Whispers,
    children,
    counting,
    images,
    made,
    mlp,
    parts,
    slow,
)
from torch import nn

from smd_evo import (
    BatchFitness,
    Evaluator,
    Lineage,
    ModuleFitness,
    ParameterSpace,
    RandomSubspace,
    SparseDelta,
    sample_mutations,
)
from smd_evo.core.layout import Layout, Slot
from smd_evo.errors import InvalidValue
from smd_evo.evaluation import probe, sharing
from smd_evo.evaluation.features import Features
from smd_evo.evaluation.recording import Met
from smd_evo.evaluation.stream import Stream
from smd_evo.evaluation.worth import pays, shared_calls, touched_by
from smd_evo.zoo.preprocessing import Normalize, Preprocessing

pytestmark = CARRIES

LOGGER = "smd_evo.evaluation.sharing"


@pytest.fixture(autouse=True, scope="module")
def no_features():
    """Children of the head share layers here as all others do; what is kept for them is in test_features.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Features, "of", lambda batches: None)
        yield


def selections(network):
    """All, the last tensors, the first, some in the middle, and those of normalisation layers."""
    names = [name for name, _ in network.named_parameters()]
    third = max(1, len(names) // 3)
    found = {"all": "all", "head": names[-2:], "first": names[:third], "middle": names[third : 2 * third] or names}
    if any("norm" in name or "bn" in name for name in names):
        found["norm"] = [name for name in names if "norm" in name or "bn" in name]
    return found


def known(evaluator):
    return sharing._known[evaluator.space]


class TestSame:
    """Every way to evaluate gives the outputs of a slow loop over deep copies, to the bit."""

    @pytest.mark.filterwarnings("ignore:.*do not reach the outputs:UserWarning")
    @pytest.mark.parametrize("kind", [*NETWORKS, *NOTES])
    def test_bits(self, kind):
        network = made(kind)
        batches = parts(images(), 5, 5, 2)
        before, attributes = state_bits(network), [list(vars(part)) for part in network.modules()]
        for select in selections(network).values():
            for recipes in (children(), children(density=0.02)):
                for data, same in ((batches[:1], batches[:1]), (batches, batches), (Stream(*images()), batches)):
                    found = Evaluator(network, data, select=select, batch_size=5, reuse=True)
                    assert torch.equal(found.predict(recipes), slow(found.space, recipes, same)), select
                    assert "not those" not in known(found).off
        assert same_bits(before, state_bits(network))
        assert [list(vars(part)) for part in network.modules()] == attributes or kind in (Leaves, Whispers)

    @pytest.mark.filterwarnings("ignore:.*do not reach the outputs:UserWarning")
    @pytest.mark.parametrize("kind", [mlp, Cnn, Vit, Twice, Tied, Autocast])
    def test_under_autocast(self, kind):
        network = made(kind)
        for select in selections(network).values():
            evaluator = Evaluator(network, images(), select=select, batch_size=5, reuse=True)
            with torch.autocast("cpu", torch.bfloat16):
                found = evaluator.predict(children())
                assert torch.equal(found, slow(evaluator.space, children(), parts(images(), 5, 5, 2)))
            plain = evaluator.predict(children())
            assert torch.equal(plain, slow(evaluator.space, children(), parts(images(), 5, 5, 2)))
            assert not known(evaluator).off or kind is Vit  # whose fused layers compute otherwise while recorded

    def test_fitness_as_without_reuse(self):
        network, recipes = made(Cnn), children(9)
        for select in selections(network).values():
            for data in (images(), Stream(*images())):
                both = [
                    Evaluator(network, data, select=select, batch_size=5, reuse=reuse).evaluate(iter(recipes))
                    for reuse in (True, False)
                ]
                assert torch.equal(both[0].fitness, both[1].fitness)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["call", "call", "add", "write", "view"]),
                st.integers(0, 6),
                st.integers(0, 5),
                st.integers(0, 5),
            ),
            max_size=8,
        )
    )
    def test_any_order_of_calls_and_writes(self, steps):
        network = made(lambda: Program(steps))
        space = ParameterSpace(network)
        probe.tried.add(space)  # some weights do not matter here
        places = [*space.layout.offsets[:-1], space.size - 1]
        kinds = [Lineage(), *(SparseDelta(torch.tensor([place]), torch.tensor([2.0])) for place in places)]
        evaluator = Evaluator(space, images(), batch_size=7, reuse=True)
        assert torch.equal(evaluator.predict(kinds), slow(space, kinds, parts(images(), 7, 5)))
        assert not known(evaluator).off

    @pytest.mark.parametrize("kind", [Whispers, *NOTES])
    def test_what_others_have_left_is_not_taken_for_ones_own(self, kind):
        network = made(kind)
        evaluator = Evaluator(network, images(), reuse=True)
        places = dict(zip(evaluator.space.names, evaluator.space.layout.offsets, strict=False))
        loud, hears, stem = (
            SparseDelta(torch.tensor([places[name]]), torch.tensor([5.0]))
            for name in ("loud.weight", "hears.layer.weight", "stem.weight")
        )
        kinds = [hears, Lineage(), loud, hears, Lineage(), stem, hears, loud, hears]
        for _ in range(2):
            assert torch.equal(evaluator.predict(kinds), slow(evaluator.space, kinds, parts(images(), 12)))
        assert "not those" not in known(evaluator).off

    def test_a_number_that_is_told_past_all_arguments(self):
        """By one child of many, so that it is not compared with a full forward pass."""

        class Beside(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.loud = nn.Linear(192, 16), Whispers.Loud(16, 16)
                self.hears, self.head = Whispers.Hears(self.loud), nn.Linear(16, 4)
                self.others = nn.ModuleList(nn.Linear(16, 4) for _ in range(8))

            def forward(self, x):
                x = self.stem(x.flatten(1))
                self.loud(x)
                return self.head(self.hears(x)) + sum(other(x) for other in self.others)

        evaluator = Evaluator(made(Beside), images(), reuse=True)
        places = dict(zip(evaluator.space.names, evaluator.space.layout.offsets, strict=False))
        names = [*(f"others.{number}.weight" for number in range(8)), "loud.weight", "stem.weight"]
        kinds = [SparseDelta(torch.tensor([places[name]]), torch.tensor([5.0])) for name in names]
        assert torch.equal(evaluator.predict(kinds), slow(evaluator.space, kinds, parts(images(), 12)))
        assert not known(evaluator).off
        assert [call.usable for call in known(evaluator).met if call.key[0] == 3] == [True]

    def test_a_constant_in_memory_that_was_let_go_is_nobodys(self):
        class Layer(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(16, 16)

            def forward(self, x):
                return self.layer(x) * sum(torch.tensor(0.1) for _ in range(9))

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.body = nn.Linear(192, 16), nn.ModuleList(Layer() for _ in range(6))

            def forward(self, x):
                x = self.stem(x.flatten(1))
                for layer in self.body:
                    scale = 1 + torch.stack([x.mean() for _ in range(9)]).mean()
                    x = layer(x / scale)
                return x

        evaluator = Evaluator(made(Network), images(), select="body.5", reuse=True)
        assert torch.equal(evaluator.predict(children()), slow(evaluator.space, children(), parts(images(), 12)))
        assert not known(evaluator).off
        assert all(call.usable for call in known(evaluator).met)

    def test_children_of_all_kinds(self):
        network = made(Cnn)
        evaluator = Evaluator(network, images(), batch_size=5, reuse=True)
        recipes = sample_mutations(0, 2, subspace=RandomSubspace(0.01), sigma=1.0)
        values = evaluator.space.values_of(recipes[0])
        head = SparseDelta(torch.tensor([evaluator.space.size - 1]), torch.tensor([1.0]))
        kinds = [head, Lineage(tuple(recipes)), values, (values, head), Lineage(), recipes[1], head]
        for _ in range(2):
            found = evaluator.predict(kinds)
            assert torch.equal(found, slow(evaluator.space, kinds, parts(images(), 5, 5, 2)))

    def test_a_parent_that_moves(self):
        network = made(Cnn)
        evaluator = Evaluator(network, images(), select="head", batch_size=5, reuse=True)
        for recipe in children(3)[:3]:
            assert torch.equal(
                evaluator.predict(children()), slow(evaluator.space, children(), parts(images(), 5, 5, 2))
            )
            evaluator.space.fold(recipe)
            with torch.no_grad():
                network.conv1.weight.add_(0.1)

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("test_vit", {}),
            ("test_vit2", {}),
            ("test_resnet", {}),
            ("test_byobnet", {}),
            ("test_efficientnet", {}),
            ("test_convnext2", {}),
            (
                "cait_xxs24_224",
                {"img_size": 32, "patch_size": 16, "depth": 2, "depth_token_only": 1, "embed_dim": 48},
            ),
        ],
    )
    def test_networks_of_timm(self, name, options):
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=4, **options).eval()
        data = images(4, 160 if not options else 32)
        names = [each for each, _ in network.named_parameters()]
        for select in ("head", names[-len(names) // 4 :], "all"):
            evaluator = Evaluator(network, data, select=select, batch_size=3, reuse=True)
            assert torch.equal(evaluator.predict(children(2)), slow(evaluator.space, children(2), parts(data, 3, 1)))
            assert not known(evaluator).off
            assert known(evaluator).met[0].usable


class TestCalls:
    """What need not be called is not, and where it does not pay all is as without."""

    def calls(self, recipes, reuse, select="head", data=None, batch_size=12):
        network, sizes = counting()
        evaluator = Evaluator(network, data or images(), select=select, batch_size=batch_size, reuse=reuse)
        evaluator.evaluate([])
        del sizes[:]
        evaluator.evaluate(recipes)
        return sizes

    def test_a_clean_module_is_called_once_a_batch(self):
        recipes = children(20, 1.0)[:20]
        assert self.calls(recipes, "auto") == [8, 12, 12]  # the survey, the record, and one child that is checked
        for data in (None, Stream(*images())):
            sizes = self.calls(recipes, "auto", data=data, batch_size=8)
            assert sizes[-5:] == [8, 8, 8, 4, 4]  # the check of another shape, too

    def test_with_no_reuse_it_is_for_each_child(self):
        assert len([size for size in self.calls(children(20), False) if size == 12]) == 21

    @pytest.mark.parametrize("density", [0.02, 1.0])
    def test_children_that_touch_everything_cost_nothing(self, density):
        assert self.calls(children(20, density), "auto", select="all") == [12] * 21

    def test_few_children_are_not_worth_it(self):
        assert len([size for size in self.calls(children(1)[:1], "auto") if size == 12]) == 1

    def test_the_survey_is_made_once_for_a_space(self):
        network, sizes = counting()
        evaluator = Evaluator(network, images(), select="head")
        evaluator.evaluate(children(4, 1.0)[:4])
        for again in (evaluator, evaluator.on(images()), Evaluator(evaluator.space, images())):
            del sizes[:]
            again.evaluate(children(4, 1.0)[:4])
            assert sizes == [12]

    def test_a_function_of_the_network_and_no_batch_never_uses_it(self, caplog):
        fitness = ModuleFitness("weight", "min", lambda module: float(module.head.weight.sum()))
        evaluator = Evaluator(made(Cnn), fitness=fitness, select="head", reuse=True)
        evaluator.evaluate(children())
        assert evaluator.space not in sharing._known or known(evaluator).met is None


class TestWorth:
    met: ClassVar = [
        Met((0, 0), -1, 0b1110, True, 100),
        Met((1, 0), 0, 0b10, True, 60),
        Met((2, 0), 1, 0b10, True, 50),
        Met((3, 0), 0, 0b110, False, 30),
        Met((4, 0), 3, 0b110, True, 29),
        Met((5, 0), 0, 0b1110, True, 0.1),
    ]

    @pytest.mark.parametrize(
        ("touched", "share", "keys"),
        [(0, 1.0, {(0, 0)}), (0b1000, 0.89, {(1, 0), (4, 0)}), (0b100, 0.6, {(1, 0)}), (0b10, 0.0, set())],
    )
    def test_the_outermost_calls_that_depend_on_nothing_touched(self, touched, share, keys):
        assert shared_calls(self.met, touched) == (pytest.approx(share), keys)

    def test_nothing_met_is_nothing_shared(self):
        assert shared_calls([], 0) == (0.0, set())

    @pytest.mark.parametrize(
        ("shares", "more", "expected"),
        [
            ([], True, False),
            ([0.2], True, True),
            ([0.19], True, False),
            ([0.9], False, False),
            ([0.9] * 2, False, True),
        ],
    )
    def test_it_pays_from_a_fifth_on_if_there_are_enough(self, shares, more, expected):
        assert pays(shares, more) is expected

    def test_tensors_that_deltas_touch(self):
        layout = Layout((Slot("a", (2,)), Slot("b", (0,)), Slot("c", (3,))))
        deltas = [
            SparseDelta(torch.tensor([4]), torch.tensor([1.0])),
            SparseDelta(torch.tensor([1]), torch.tensor([1.0])),
        ]
        assert [touched_by(some, layout) for some in ([], deltas[:1], deltas)] == [0, 0b1000, 0b1010]


class TestTold:
    def test_what_is_saved(self, caplog):
        with caplog.at_level(logging.INFO, LOGGER):
            evaluator = Evaluator(made(Cnn), images(), select="head")
            evaluator.evaluate(children(9))
            evaluator.evaluate(children(9))
        assert len(caplog.messages) == 1
        assert "% of a child's forward pass is its parent's" in caplog.messages[0]

    @pytest.mark.parametrize(("kind", "why"), [(Leaves, "leave behind"), ("writes", "writes to its inputs")])
    def test_why_not(self, caplog, kind, why):
        class Writes(Cnn):
            def forward(self, x):
                x += 1
                return super().forward(x)

        network = made(Writes if kind == "writes" else kind)
        with caplog.at_level(logging.INFO, LOGGER):
            evaluator = Evaluator(network, images(), reuse=True)
            evaluator.evaluate(children())
            evaluator.evaluate(children())
        assert len(caplog.messages) == 1
        assert why in caplog.messages[0]

    @pytest.mark.parametrize("option", ["always", 1, None])
    def test_other_options_are_refused_in_one_line(self, option):
        with pytest.raises(InvalidValue, match=r"^reuse: expected 'auto', True or False, got .*$"):
            Evaluator(made(Cnn), images(), reuse=option)


class TestTrust:
    """A network that gives others than its own outputs when it is recorded has full forward passes instead."""

    class Unseen(nn.Module):
        """Reads what no operation of PyTorch tells: a weight of another module, by numpy."""

        def __init__(self):
            super().__init__()
            self.stem, self.other = nn.Linear(192, 16), nn.Linear(16, 16)
            self.reader = self.Reader(self.other)
            self.head = nn.Linear(16, 4)

        class Reader(nn.Module):
            def __init__(self, other):
                super().__init__()
                self.other = [other]
                self.layer = nn.Linear(16, 16)

            def forward(self, x):
                return self.layer(x) * float(self.other[0].weight.detach().numpy().sum())

        def forward(self, x):
            x = self.reader(self.stem(x.flatten(1)))
            return self.head(x) + self.other(x).sum()

    def test_it_is_off_with_a_line(self, caplog):
        network = made(self.Unseen)
        with caplog.at_level(logging.INFO, LOGGER):
            evaluator = Evaluator(network, images(), select=["other.*"], batch_size=5, reuse=True)
            found = evaluator.predict(children())
        assert torch.equal(found, slow(evaluator.space, children(), parts(images(), 5, 5, 2)))
        assert "not those of a full forward pass" in caplog.messages[-1]

    def test_a_child_that_writes_to_what_was_recorded(self, caplog):
        class Writes(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.head = nn.Linear(192, 16), nn.Linear(16, 4)

            def forward(self, x):
                x = self.stem(x.flatten(1))
                if self.head.bias[0] > 0:
                    x.mul_(2)
                return self.head(x)

        network = made(Writes)
        nn.init.constant_(network.head.bias, -0.1)
        recipes = [SparseDelta(torch.tensor([64]), torch.tensor([value])) for value in (0.01, 1.0, 0.02, 2.0)]
        for data in (images(), Stream(*images())):
            evaluator = Evaluator(network, data, select="head", batch_size=5, reuse=True)
            with caplog.at_level(logging.INFO, LOGGER):
                found = evaluator.predict(recipes)
            assert torch.equal(found, slow(evaluator.space, recipes, parts(images(), 5, 5, 2)))
            assert "writes to what" in known(evaluator).off

    def test_a_child_that_writes_to_what_it_was_given(self, caplog):
        """By a hook that gives the recorded tensor to all, as that which normalises pictures does."""

        class Writes(nn.Module):
            def __init__(self):
                super().__init__()
                self.head, self.stem = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

            def forward(self, x):
                found = self.head(x)
                if self.head.bias.numpy(force=True)[0] > 0:  # of which nobody is told
                    x.mul_(2)
                return (found + self.stem(x)).mean((2, 3))

        network = made(Writes)
        nn.init.constant_(network.head.bias, -0.1)
        hook = Normalize(Preprocessing(torch.as_tensor, (0.4,), (0.3,)))
        network.register_forward_pre_hook(hook)
        pictures = (images()[0] * 40 + 100).clamp(0, 255).to(torch.uint8), images()[1]
        recipes = [SparseDelta(torch.tensor([12]), torch.tensor([value])) for value in (0.01, 1.0, 0.02, 2.0)]
        evaluator = Evaluator(network, pictures, select=["head.*"], batch_size=5, reuse=True)
        found = evaluator.predict(recipes)
        assert torch.equal(found, slow(evaluator.space, recipes, parts(pictures, 5, 5, 2)))
        assert "writes to what" in known(evaluator).off


class TestMemory:
    def test_what_does_not_fit_is_not_recorded(self, monkeypatch, caplog):
        monkeypatch.setattr(sharing, "room", lambda device: 100)
        with caplog.at_level(logging.INFO, LOGGER):
            evaluator = Evaluator(made(Cnn), images(), select="head", batch_size=5, reuse=True)
            found = evaluator.predict(children())
        assert torch.equal(found, slow(evaluator.space, children(), parts(images(), 5, 5, 2)))
        assert "does not fit into memory" in caplog.messages[-1]

    @pytest.mark.filterwarnings("ignore:out of memory:RuntimeWarning")
    @pytest.mark.parametrize("room", [4, 1])
    def test_batches_that_are_halved(self, room):
        class Hungry(Cnn):
            def forward(self, x):
                if len(x) > room:
                    raise torch.OutOfMemoryError("no more")
                return super().forward(x)

        network = made(Hungry)
        for data in (images(), Stream(*images())):
            both = []
            for reuse in (True, False):
                evaluator = Evaluator(network, data, select="head", batch_size=6, reuse=reuse)
                both.append([evaluator.evaluate(children(6)).fitness for _ in range(2)])
            assert torch.equal(both[0][0], both[1][0])
            assert torch.equal(both[0][1], both[1][1])

    def test_nothing_is_kept_afterwards(self):
        network = made(Cnn)
        evaluator = Evaluator(network, images(), select="head", reuse=True)
        before = [dict(vars(part)) for part in network.modules()]
        evaluator.evaluate(children())
        assert [dict(vars(part)) for part in network.modules()] == before

    def test_nor_of_forwards_of_ones_own(self):
        network = made(Cnn)
        network.conv2.forward = own = network.conv2.forward
        evaluator = Evaluator(network, images(), select="head", reuse=True)
        for error in (None, RuntimeError, KeyboardInterrupt):

            def fails(outputs, targets, error=error):
                if error:
                    raise error
                return outputs.sum(1)

            evaluator.fitness = BatchFitness("sum", "min", fails)
            with contextlib.suppress(RuntimeError, KeyboardInterrupt):
                evaluator.evaluate(children())
            assert vars(network.conv2)["forward"] is own
            assert all("forward" not in vars(part) for part in network.modules() if part is not network.conv2)
            copy.deepcopy(network)


class TestWork:
    """What is computed is counted in forward passes: what all children share once, the rest for each."""

    def test_of_children_of_the_head(self):
        network, samples = made(Cnn), images(40)
        evaluator = Evaluator(network, samples, select=[name for name, _ in network.named_parameters()][-2:])
        evaluator.evaluate(children(30))
        assert evaluator.work.images == 31 * 40
        (whole,) = (call.cost for call in known(evaluator).met if call.parent < 0)
        saved = sum(call.cost for call in known(evaluator).met if call.key in outermost(evaluator))
        assert evaluator.work.forwards == pytest.approx(40 * (1 + 30 * (1 - saved / whole)))
        assert evaluator.work.forwards < 0.2 * evaluator.work.images

    def test_of_children_of_everything_and_without_reuse(self):
        for select, reuse in (("all", "auto"), (["head.weight"], False)):
            evaluator = Evaluator(made(Cnn), images(40), select=select, reuse=reuse)
            evaluator.evaluate(children(9, density=1.0))
            assert evaluator.work.images == evaluator.work.forwards == 10 * 40

    def test_nothing_is_known_of_a_function_of_the_network(self):
        evaluator = Evaluator(mlp(), None, ModuleFitness("bias", "min", lambda module: float(module.head.bias.sum())))
        evaluator.evaluate(children(3))
        assert evaluator.work.images == evaluator.work.forwards == 0


def outermost(evaluator):
    """Calls that children of the selected tensors have from their parent."""
    every = (2 << len(evaluator.space.names)) - 2
    return shared_calls(known(evaluator).met, every)[1]
