"""Together: each child has bits of its own, in every place and among any others; what cannot be so is refused."""

import copy
import logging
import operator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import CARRIES, same_bits, state_bits
from hypothesis import given
from hypothesis import strategies as st
from reuse_helpers import NETWORKS, Cnn, Net, Notes, Tied, Vit, children, images, made, mlp, parts, slow
from torch import nn
from torch.nn import functional

from smd_evo import (
    BatchFitness,
    Evaluator,
    FinetuneProblem,
    Lineage,
    ModuleFitness,
    ParameterSpace,
    RandomSubspace,
    SparseDelta,
    SubspaceEvolution,
    SubspaceProblem,
    ToolboxEvaluator,
    sample_mutations,
)
from smd_evo.core.delta import change
from smd_evo.errors import InvalidType, InvalidValue, WrongParent
from smd_evo.evaluation import sharing, together
from smd_evo.evaluation.fitness import BALANCED_ACCURACY
from smd_evo.evaluation.stack import Stack
from smd_evo.evaluation.stream import Stream
from smd_evo.evaluation.tails import tails_in

pytestmark = CARRIES

LOGGER = "smd_evo.evaluation.together"

WORDS = {
    "Vit": "vmap cannot do",
    "Random": "random numbers",
    "Dropping": "random numbers",
    "Counts": "set attributes",
    "Leaves": "set attributes",
    "Whispers": "set attributes",
    "Structures": "set attributes",
    "Hooked": "hooks",
}
"""What is said of the networks that are refused."""

STRICT = "mlp", "Twice", "Tied", "Borrows"
"""Those whose sizes suit any processor's kernels; of others the last bits may depend on a child's place."""


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


def refused(evaluator):
    return [reason for reason, _ in together._known[evaluator.space].tried.values() if reason]


def used(evaluator):
    """Whether children were evaluated together, and nothing was refused."""
    known = together._known[evaluator.space]
    return bool(known.tried) and not refused(evaluator) and not known.told


def evaluators(network, data, size=4, **options):
    """Together, and one by one."""
    return [Evaluator(network, data, reuse=False, together=each, **options) for each in (size, None)]


def near(one, other):
    """Far wider than rounding, far narrower than children differ."""
    return bool((one - other).abs().max() <= 1e-3 * (1 + other.abs().max()))


class TestSame:
    """What a slow loop over deep copies gives, but for rounding."""

    @pytest.mark.filterwarnings("ignore:.*do not reach the outputs:UserWarning")
    @pytest.mark.parametrize("kind", NETWORKS)
    def test_outputs_of_every_network(self, kind, caplog):
        network, name = made(kind), kind.__name__
        before, batches = state_bits(network), parts(images(), 5, 5, 2)
        weights = [*network.parameters()]
        evaluator = Evaluator(network, images(), batch_size=5, reuse=False, together=4)
        with caplog.at_level(logging.INFO, LOGGER):
            found = evaluator.predict(children())
            evaluator.predict(children(2))
        expected = slow(evaluator.space, children(), batches)
        if name in WORDS:
            assert torch.equal(found, expected)
            assert len(told(caplog)) == 1  # not twice
            assert WORDS[name] in told(caplog)[0]
        else:
            assert near(found, expected)
            assert used(evaluator) or name not in STRICT
        assert all(map(operator.is_, network.parameters(), weights))
        assert same_bits(before, state_bits(network))

    @pytest.mark.parametrize("way", ["list", "dict", "number"])
    def test_what_a_network_leaves_in_a_list_or_dict_is_none_of_several_children(self, way, caplog):
        network = made(lambda: Notes(way))
        evaluator = Evaluator(network, images(), batch_size=5, reuse=False, together=4)
        with caplog.at_level(logging.INFO, LOGGER):
            found = evaluator.predict(children())
        assert torch.equal(found, slow(evaluator.space, children(), parts(images(), 5, 5, 2)))
        assert "leaves something behind" in told(caplog)[0] or "vmap" in told(caplog)[0]
        assert float(network.read(network.loud.note)) > 0

    def test_fitness_and_ranks(self):
        for fitness in ("cross_entropy", BALANCED_ACCURACY, "accuracy"):
            for data in (images(), parts(images(), 5, 5, 2)):
                both = evaluators(made(mlp), data, fitness=fitness)
                found, expected = (each.evaluate(children(7)) for each in both)
                assert used(both[0])
                assert torch.allclose(found.fitness, expected.fitness, rtol=1e-5, atol=1e-6)
                assert found.ranking() == expected.ranking()
                assert found.parent is not None

    def test_children_of_all_kinds(self):
        both = evaluators(made(Tied), images())
        space = both[0].space
        recipes = sample_mutations(0, 2, subspace=RandomSubspace(0.1), sigma=0.3)
        values = space.values_of(recipes[0])
        delta = SparseDelta(torch.tensor([space.size - 1]), torch.tensor([1.0]))
        kinds = [delta, Lineage(tuple(recipes)), values, (values, delta), Lineage(), recipes[1]]
        assert near(both[0].predict(kinds), both[1].predict(kinds))
        assert used(both[0])

    def test_parameters_of_odd_shapes(self):
        """A number, a tensor without elements, one that is not contiguous, one that is not selected."""
        network = made(mlp)
        network.stem.scale, network.stem.none = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.zeros(0, 3))
        network.head.weight = nn.Parameter(torch.randn(16, 4).T)
        network.forward = lambda x: network.head(network.stem(x) * network.stem.scale) + network.stem.none.sum()
        both = evaluators(network, images(), select=["stem.scale", "stem.none", "head.*"])
        assert near(both[0].predict(children()), both[1].predict(children()))
        assert used(both[0])

    def test_a_parent_that_moves(self):
        both = evaluators(made(mlp), images())
        for recipe in children(2)[:2]:
            assert near(both[0].predict(children()), both[1].predict(children()))
            for each in both[:1]:  # they share the network
                each.space.fold(recipe)
        assert used(both[0])

    def test_off_by_default(self, monkeypatch):
        monkeypatch.setattr(Stack, "__init__", lambda *_: pytest.fail("stacked"))
        evaluator = Evaluator(made(mlp), images(), reuse=False)
        assert torch.equal(evaluator.predict(children()), slow(evaluator.space, children(), parts(images(), 12)))


class TestBits:
    """What is promised to the bit."""

    @pytest.mark.parametrize("kind", [mlp, Cnn])
    @given(data=st.data())
    def test_a_childs_own_whatever_its_place_and_siblings(self, kind, data):
        evaluator = EVALUATORS[kind]
        recipes = children(6)
        some = data.draw(st.lists(st.sampled_from(range(7)), min_size=1, max_size=9))
        found = evaluator.evaluate([recipes[number] for number in some]).fitness
        alone = torch.cat([evaluator.evaluate([recipes[number]]).fitness for number in some])
        assert torch.equal(found, alone)
        assert used(evaluator) or kind is not mlp

    @given(
        dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
        strengths=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=4),
        density=st.sampled_from([0.01, 0.3, 1.0]),
        values=st.booleans(),
    )
    def test_the_weights_of_a_patched_network(self, dtype, strengths, density, values):
        space = ParameterSpace(made(mlp).to(dtype))
        steps = [
            recipe
            for number, sigma in enumerate(strengths)
            for recipe in sample_mutations(number, 1, subspace=RandomSubspace(density), sigma=abs(sigma) + 0.1)
        ]
        recipes = [Lineage(tuple(steps[: number + 1])) for number in range(len(steps))]
        deltas = [tuple(space.deltas(space.values_of(each) if values else each)) for each in recipes]
        stack, parent = Stack(space, len(recipes) + 1), flat(space.module)
        for _ in range(2):
            stack.fill(deltas)
            for own, row in zip(deltas, stack.values, strict=False):
                expected = space.while_applied(own, lambda: flat(space.module))
                assert torch.equal(bits(row[: space.size]), bits(expected))
            assert torch.equal(bits(stack.values[-1, : space.size]), bits(parent))  # the parent fills up
            stack.clear(deltas)
            assert all(torch.equal(bits(row[: space.size]), bits(parent)) for row in stack.values)

    def test_a_vectors_change_is_rounded_once(self):
        vector = torch.ones(2, dtype=torch.bfloat16)
        change(vector, SparseDelta(torch.tensor([1]), torch.tensor([2**-8 + 2**-20])))
        assert vector.tolist() == [1.0, 1 + 2**-7]  # to 1 if the sum were of bfloat16

    def test_all_scored_at_once_as_each_alone(self):
        for score in (lambda out, _: (out - 1).square(), lambda out, _: out.sum(1).tanh()):
            evaluator = Evaluator(made(mlp), images(), BatchFitness("own", "min", score), reuse=False, together=4)
            outputs = evaluator.predict(children(7))
            alone = [evaluator.fitness.total(own, images()[1], 12) for own in outputs]
            assert torch.equal(evaluator.totals(children(7)), torch.stack(alone))
            assert used(evaluator)

    def test_a_score_that_depends_on_the_others_in_the_batch(self):
        """Is computed for each child alone."""
        calls = []

        def score(outputs, targets):
            calls.append(len(outputs))
            return outputs[:, 0] - outputs.mean()

        evaluator = Evaluator(made(mlp), images(), BatchFitness("own", "min", score), reuse=False, together=4)
        outputs = evaluator.predict(children(5))
        found = evaluator.evaluate(children(5)).fitness
        assert calls == [48, 12, 12, *[12] * 6]
        assert found.tolist() == [evaluator.fitness.of(own, images()[1]) for own in outputs]

    def test_a_score_whose_last_bits_depend_on_the_place(self):
        """In the last batch alone: no number of the first one is in a tail."""
        score = BatchFitness("own", "min", lambda out, _: functional.softplus(out) * out.sigmoid())
        evaluator = Evaluator(made(mlp), images(37), score, reuse=False, together=4, batch_size=32)
        recipes = children(40)[:-1]
        outputs, found = evaluator.predict(recipes), evaluator.totals(recipes)
        batches = [(0, 32), (32, 37)]
        alone = [[score.total(own[a:b], images(37)[1][a:b], b - a) for a, b in batches] for own in outputs]
        assert torch.equal(found, torch.tensor([float(one + other) for one, other in alone], dtype=torch.float64))
        assert used(evaluator)

    def test_one_number_for_all_samples_is_refused_as_one_by_one(self):
        class Mean(nn.Linear):
            def forward(self, x):
                return super().forward(x.flatten(1)).mean()

        score = BatchFitness("own", "min", lambda out, _: out)
        evaluator = Evaluator(made(lambda: Mean(192, 4)), images(), score, reuse=False, together=4)
        with pytest.raises(InvalidValue, match="own: expected one score a sample"):
            evaluator.evaluate(children())

    @pytest.mark.parametrize("fitness", ["cross_entropy", "accuracy"])
    def test_classes_are_scored_at_once(self, fitness, monkeypatch):
        evaluator = Evaluator(made(mlp), images(37), fitness, reuse=False, together=4, batch_size=32)
        monkeypatch.setattr(Evaluator, "_scoring", lambda *_: (evaluator.batches, None))  # of each alone
        assert len(evaluator.totals(children(5))) == 6

    def test_minibatches_and_races(self):
        evaluator = Evaluator(made(mlp), images(), reuse=False, together=4)
        recipes = children(8)
        first = evaluator.race(recipes)
        assert torch.equal(first.fitness, evaluator.race(recipes).fitness)
        assert torch.equal(
            first.fitness, Evaluator(evaluator.space, images(), reuse=False, together=4).race(recipes).fitness
        )
        minibatch = evaluator.on_samples(torch.arange(2, 9))
        assert torch.equal(minibatch.evaluate(recipes[::-1]).fitness, minibatch.evaluate(recipes).fitness.flip(0))
        assert evaluator.on(images()).together == minibatch.together == 4
        fitness, outputs = evaluator.observe(recipes)
        assert torch.equal(outputs, evaluator.predict(recipes))
        assert torch.equal(fitness.fitness, evaluator.evaluate(recipes).fitness)


def flat(module):
    return torch.cat([tensor.detach().reshape(-1) for tensor in module.parameters()])


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


EVALUATORS = {kind: Evaluator(made(kind), images(), batch_size=5, reuse=False, together=4) for kind in (mlp, Cnn)}


class Kept(nn.Module):
    """Holds a weight where nobody looks for it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 4)
        self.kept = [self.layer.bias]

    def forward(self, x):
        return nn.functional.linear(x.flatten(1), self.layer.weight) + self.kept[0]


class Branches(nn.Module):
    """Its way depends on the numbers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 4)

    def forward(self, x):
        x = self.layer(x.flatten(1))
        return x.relu() if x.sum() > 0 else x


class View(nn.Module):
    """A buffer in the memory of a weight."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 4)
        self.register_buffer("bias", self.layer.bias.data)

    def forward(self, x):
        return self.layer(x.flatten(1)) + self.bias


class Mixed(Net):
    """Two types of parameters."""

    def __init__(self):
        super().__init__(nn.Tanh())
        self.head.double()

    def forward(self, x):
        return self.head(self.body(self.stem(x)).double())


class TestRefused:
    """By name and reason, in one line; then all bits are those of one by one."""

    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            (Kept, "outputs that are not those one by one"),
            (Branches, "what torch.func.vmap cannot do"),
            (View, "in the memory of selected parameters"),
            (Mixed, "several types"),
        ],
    )
    def test_networks(self, kind, reason, caplog):
        both = evaluators(made(kind), images())
        with caplog.at_level(logging.INFO, LOGGER):
            assert torch.equal(both[0].predict(children()), both[1].predict(children()))
            assert torch.equal(both[0].evaluate(children()).fitness, both[1].evaluate(children()).fitness)
        assert len(told(caplog)) == 1
        assert reason in told(caplog)[0]

    @pytest.mark.filterwarnings("ignore:.*torch.jit:")
    def test_scripted(self, caplog):
        scripted = nn.Sequential(nn.Flatten(), torch.jit.script(nn.Linear(192, 4)))
        both = evaluators(scripted, images())
        with caplog.at_level(logging.INFO, LOGGER):
            assert torch.equal(both[0].predict(children()), both[1].predict(children()))
        assert "scripted" in told(caplog)[0]

    def test_bits_that_depend_on_the_place(self, monkeypatch, caplog):
        def last_is_another(self, batch, outputs=Stack.outputs):
            found = outputs(self, batch)
            found[-1] *= 1 + 2**-20
            return found

        monkeypatch.setattr(Stack, "outputs", last_is_another)
        both = evaluators(made(mlp), images())
        with caplog.at_level(logging.INFO, LOGGER):
            assert torch.equal(both[0].predict(children()), both[1].predict(children()))
        assert "last bits depend on the other children" in told(caplog)[0]

    @pytest.mark.parametrize("act", [nn.GELU, nn.SiLU, nn.Sigmoid])
    def test_tails_that_are_computed_otherwise(self, act, caplog):
        """A trial need not show them, so the last elements must not be a tail: 4 children, 7 samples, 5 features."""
        for width, fits in ((5, False), (8, True)):
            network = nn.Sequential(nn.Flatten(), nn.Linear(192, width), act(), nn.Linear(width, 4)).eval()
            both = evaluators(network, images(7 if width == 5 else 8))
            with caplog.at_level(logging.INFO, LOGGER):
                same = torch.equal(both[0].predict(children()), both[1].predict(children()))
            assert (same and act.__name__.lower() in told(caplog)[0]) or fits
            assert not any("which depend" in reason for reason in refused(both[0])) or not fits

    def test_tails_of_threads(self):
        """Each thread's share ends somewhere."""
        threads = torch.get_num_threads()
        try:
            for count, size, found in (
                (1, 32 * 1025, False),
                (2, 32 * 1025, True),
                (2, 64 * 1024, False),
                (1, 33, True),
            ):
                torch.set_num_threads(count)
                assert bool(tails_in(lambda size=size: torch.ones(size).tanh())) == found
                assert not tails_in(lambda size=size: (torch.ones(size) + 1).relu())
                assert not tails_in(lambda size=size: torch.ones(size, dtype=torch.int64).bitwise_not())
        finally:
            torch.set_num_threads(threads)

    def test_streams_and_functions_of_the_network(self, caplog):
        network = made(mlp)
        with caplog.at_level(logging.INFO, LOGGER):
            found = Evaluator(network, Stream(*images()), reuse=False, together=4).predict(children())
            fitness = ModuleFitness("bias", "min", lambda module: float(module.head.bias.sum()))
            Evaluator(network, None, fitness, together=4).evaluate(children())
        assert torch.equal(found, slow(ParameterSpace(network), children(), parts(images(), 12)))
        assert "read again" in told(caplog)[0]
        assert "fitness of the network" in told(caplog)[1]

    @pytest.mark.parametrize("room", [100, 10_000])
    def test_what_does_not_fit(self, monkeypatch, caplog, room):
        """Weights or outputs."""
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval()
        data = images(12 if room == 100 else 300)
        if room > 100:
            monkeypatch.setattr(sharing, "room", lambda device: 4 * 4 * (192 * 4 + 4) + 1)
        else:
            monkeypatch.setattr(sharing, "room", lambda device: room)
        both = evaluators(network, data)
        with caplog.at_level(logging.INFO, LOGGER):
            assert torch.equal(both[0].predict(children()), both[1].predict(children()))
        assert ("parameters" if room == 100 else "outputs") + " " in told(caplog)[0].partition("because")[2]
        assert "fit into memory" in told(caplog)[0]

    def test_memory_that_runs_out(self, monkeypatch, caplog):
        """The children of that pass are evaluated one by one, each once."""
        network = made(mlp)
        both, counted, passes = evaluators(network, images()), [], []
        both[0].evaluate(children())

        def full(self, batch, outputs=Stack.outputs):
            passes.append(batch)
            if len(passes) == 2:
                raise torch.OutOfMemoryError("no more")
            return outputs(self, batch)

        monkeypatch.setattr(Stack, "outputs", full)
        with caplog.at_level(logging.INFO, LOGGER):
            found = both[0].evaluate(children(7), lambda: counted.append(1)).fitness
        expected = both[1].evaluate(children(7)).fitness
        assert torch.equal(found[4:], expected[4:])
        assert near(found, expected)
        assert (len(counted), len(passes)) == (8, 2)
        assert "too little memory" in told(caplog)[0]

    def test_children_that_share_layers_have_that(self):
        network = made(Cnn)
        for options in ({"select": "head"}, {"select": "head", "reuse": True}):
            found, expected = (
                Evaluator(network, images(), together=each, **options).predict(children()) for each in (4, None)
            )
            assert torch.equal(found, expected)

    def test_another_parents_child(self):
        evaluator = Evaluator(made(mlp), images(), reuse=False, together=4)
        size = evaluator.space.size
        for place in (size, size + 2):  # rows are a little longer
            with pytest.raises(WrongParent, match=f"below D = {size}"):
                evaluator.evaluate([SparseDelta(torch.tensor([place]), torch.tensor([1.0]))])

    @pytest.mark.parametrize(
        ("value", "kind"), [(1, InvalidValue), (0, InvalidValue), ("auto", InvalidType), (2.5, InvalidType)]
    )
    def test_settings(self, value, kind):
        with pytest.raises(kind, match="together: expected a whole number >= 2"):
            Evaluator(mlp(), images(), together=value)


class TestAsBefore:
    """Counts, and what others see."""

    def test_work_and_progress(self):
        for kind in (mlp, Vit):
            evaluator, counted = Evaluator(made(kind), images(), reuse=False, together=4), []
            evaluator.evaluate(iter(children(4)), lambda counted=counted: counted.append(1))
            assert len(counted) == 5
            assert evaluator.work.images == evaluator.work.forwards == 5 * 12
            assert used(evaluator) == (kind is mlp)

    def test_errors_of_a_fitness_are_a_childs_own(self):
        bad = BatchFitness("bad", "min", lambda outputs, targets: outputs.sum())
        network = made(mlp)
        before = state_bits(network)
        with pytest.raises(InvalidValue, match=r"one score a sample, \[12, ...\]"):
            Evaluator(network, images(), bad, reuse=False, together=4).evaluate(children())
        with pytest.raises(InvalidValue, match="targets"):
            Evaluator(network, (images()[0], torch.full((12,), 9)), reuse=False, together=4).evaluate(children())
        assert same_bits(before, state_bits(network))

    def test_a_forward_that_fails_in_the_middle(self):
        network = made(mlp)
        weights, before = [*network.parameters()], state_bits(network)
        evaluator = Evaluator(network, images(), reuse=False, together=4)
        evaluator.evaluate(children())
        head = network.head.forward
        network.head.forward = lambda x: (_ for _ in ()).throw(KeyError("broken"))
        with pytest.raises(KeyError):
            evaluator.evaluate(children())
        network.head.forward = head
        assert all(map(operator.is_, network.parameters(), weights))
        assert same_bits(before, state_bits(network))
        assert torch._C._functorch.peek_interpreter_stack() is None

    def test_threads_take_turns(self):
        evaluator = Evaluator(made(mlp), images(), reuse=False, together=4)
        recipes = children(5)
        expected = evaluator.evaluate(recipes).fitness
        with ThreadPoolExecutor(4) as threads:
            both = [threads.submit(each.evaluate, recipes) for each in (evaluator, copy.copy(evaluator)) * 4]
            assert all(torch.equal(one.result().fitness, expected) for one in both)

    def test_under_autocast(self):
        both = evaluators(made(mlp), images())
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = (each.predict(children()) for each in both)
        assert (found - expected).abs().max() <= 0.1 * expected.abs().max()
        assert near(both[0].predict(children()), both[1].predict(children()))


class TestHosts:
    def problem(self):
        return FinetuneProblem(made(mlp), images(24), seed=1, minibatch_size=9, together=4)

    def test_a_search_replays_and_resumes_to_the_bit(self):
        ends = []
        for stop in (None, None, 2):
            searcher = SubspaceEvolution(self.problem(), popsize=6, density=0.2, sigma=0.3)
            for generation in range(4):
                if generation == stop:
                    state = copy.deepcopy((searcher.problem.state_dict(), searcher.state_dict()))
                    searcher = SubspaceEvolution(self.problem(), popsize=6, density=0.2, sigma=0.3)
                    searcher.problem.load_state_dict(state[0])
                    searcher.load_state_dict(state[1])
                searcher.step()
            assert used(searcher.problem.evaluator)
            ends.append((searcher.status["best_eval"], state_bits(searcher.problem.make_net())))
        for best, state in ends[1:]:
            assert best == ends[0][0]
            assert same_bits(state, ends[0][1])

    def test_it_is_passed_on(self):
        network = made(mlp)
        assert SubspaceProblem(network, images(), dimensions=5, together=4).evaluator.together == 4
        assert ToolboxEvaluator(network, images(), together=4).evaluator.together == 4
        assert FinetuneProblem(network, images()).evaluator.together is None
