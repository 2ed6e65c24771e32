"""What is live at most while a run is made: one network and what is mutated, not a copy for each layer of code."""

import gc
import threading

import pytest
import torch
from evotorch_helpers import check_refused
from helpers import same_bits, state_bits
from torch import Tensor, nn

import smd_evo
from smd_evo import FinetuneProblem, RewardFitness, SubspaceES, SubspaceEvolution, SubspaceProblem
from smd_evo.core.exclusive import memory_of
from smd_evo.errors import InvalidType, InvalidValue, WrongParent
from smd_evo.evaluation.modes import Modes

pytestmark = pytest.mark.numeric
PROMPTS = [float(number) for number in range(24)]
OPTIONS = {"density": 1.0, "sigma": 0.1}


class Net(nn.Module):
    """A body that is large beside what is mutated, in train mode."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(300, 300)
        self.norm = nn.LayerNorm(300)
        self.register_buffer("table", torch.zeros(4))

    def train(self, mode=True):
        return super().train(mode)

    def forward(self, x):
        return self.norm(self.body(x[:, None].expand(-1, 300))).tanh().mean(1)


@pytest.fixture
def fresh():
    """What there is already is not looked at again and again, nor by later tests."""
    gc.collect()
    gc.freeze()


def live():
    """Bytes of all tensors that there are, each memory once."""
    gc.collect()
    found = {}
    for each in gc.get_objects():
        if issubclass(type(each), Tensor) and each.layout is torch.strided:
            storage = each.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def size(network):
    return sum(each.nbytes for each in (*network.parameters(), *network.buffers()))


class Watch:
    """A fitness that looks how much is live whenever it is asked."""

    def __init__(self, fail_at=None, error=RuntimeError, look=False):
        self.before, self.most, self.calls = live() if look else 0, 0, 0
        self.fail_at, self.error, self.look = fail_at, error, look

    def generate(self, module, prompts):
        self.calls += 1
        self.most = max(self.most, live() if self.look else 0)
        if self.calls == self.fail_at:
            raise self.error("stop")
        return module(torch.tensor(prompts)).tolist()

    @property
    def fitness(self):
        return RewardFitness("sum", self.generate, lambda texts, _: texts, PROMPTS)

    def over(self, network):
        """Bytes beyond what there was, in networks."""
        return (self.most - self.before) / size(network)


def evolved(network, watch, **options):
    numbers, nothing = watch.fitness.samples
    data = smd_evo.Splits(*((numbers[a:b], nothing[a:b]) for a, b in ((0, 16), (16, 20), (20, 24))))
    settings = {"select": "norm", "generations": 4, "children": 4, "images": 8, "validate_every": 1, **OPTIONS}
    return smd_evo.evolve(network, data, fitness=watch.fitness, **{**settings, **options})


def moved(problem, generations=3):
    searcher = SubspaceES(problem, popsize=4, center_learning_rate=0.05, **OPTIONS)
    searcher.run(generations)
    return searcher


class TestProblems:
    @pytest.mark.parametrize(
        ("select", "copy", "most"),
        [("norm", True, 1.15), ("norm", False, 0.15), ("all", True, 2.2), ("all", False, 1.2)],
    )
    def test_hold_a_copy_at_most_and_what_is_mutated(self, select, copy, most, fresh):
        """That is the pre-trained parent, once there is another one."""
        network = Net()
        watch = Watch(look=True)
        problem = FinetuneProblem(network, fitness=watch.fitness, select=select, copy=copy, seed=1)
        searcher = SubspaceEvolution(problem, popsize=4, density=0.01, sigma=0.01)
        searcher.run(3)
        problem.rebase(searcher.population[0])
        problem.evaluate(problem.generate_batch(1))
        assert watch.over(network) < most

    def test_without_a_copy_the_network_is_the_present_parent(self):
        network, other = Net(), Net()
        before = state_bits(network)
        copied = FinetuneProblem(other, fitness=Watch().fitness, select="norm", seed=1)
        own = FinetuneProblem(network, fitness=Watch().fitness, select="norm", copy=False, seed=1)
        for problem in (copied, own):
            moved(problem)
        assert own.space.module is network
        assert network.training
        assert same_bits(state_bits(network), state_bits(copied.make_net()))
        assert same_bits(state_bits(other), before)
        assert not same_bits(state_bits(network), before)

    @pytest.mark.parametrize("copy", [True, False])
    def test_make_networks_of_former_solutions(self, copy):
        problem = FinetuneProblem(Net(), fitness=Watch().fitness, select="norm", copy=copy, seed=1)
        searcher = SubspaceEvolution(problem, popsize=4, **OPTIONS)
        kept = []
        for _ in range(4):
            searcher.step()
            best = searcher.population[0].clone()
            kept.append((best, problem.make_net(best)))
        handed = [state_bits(network) for _, network in kept]
        assert problem.changes
        for (solution, network), bits in zip(kept, handed, strict=True):
            assert same_bits(state_bits(network), bits)
            assert same_bits(state_bits(problem.make_net(solution)), bits)
            theirs = {memory_of(each) for each in problem.space.module.parameters()}
            assert theirs.isdisjoint(memory_of(each) for each in network.parameters())

    def test_of_numbers_move_the_network_too(self):
        network = Net()
        problem = SubspaceProblem(network, fitness=Watch().fitness, select="norm", dimensions=5, copy=False, seed=1)
        problem.rebase(torch.ones(5))
        assert same_bits(state_bits(network), state_bits(problem.make_net()))
        assert not same_bits(state_bits(network), state_bits(Net()))

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"num_actors": 2}, "expected True with actors"), ({"device": "meta"}, "expected True for another device")],
    )
    def test_refuse_what_needs_a_copy(self, options, message):
        for kind, more in ((FinetuneProblem, {}), (SubspaceProblem, {"dimensions": 5})):
            check_refused(
                lambda kind=kind, more=more: kind(Net(), fitness=Watch().fitness, copy=False, **more, **options),
                InvalidValue,
                message,
            )


class TestEvolve:
    @pytest.mark.parametrize(("copy", "most"), [(True, 1.15), (False, 0.15)])
    def test_holds_a_copy_at_most_and_what_is_mutated(self, copy, most, fresh):
        network = Net()
        watch = Watch(look=True)
        result = evolved(network, watch, copy=copy)
        assert watch.over(network) < most
        assert live() - watch.before < most * size(network)
        assert result.numbers["rows"]

    @pytest.mark.parametrize(("searcher", "most"), [("selection", 2.2), ("gradient", 4.3)])
    def test_of_all_parameters_holds_the_present_and_the_best_parent_and_moments(self, searcher, most, fresh):
        network = Net()
        watch = Watch(look=True)
        evolved(network, watch, copy=False, select="all", density=0.01, searcher=searcher)
        assert watch.over(network) < most

    @pytest.mark.parametrize("select", ["norm", "all"])
    def test_without_a_copy_finds_the_same_and_leaves_the_network(self, select, tmp_path):
        first, second = Net(), Net()
        before = state_bits(second)
        one, two = evolved(first, Watch(), select=select), evolved(second, Watch(), select=select, copy=False)
        assert same_bits(before, state_bits(second))
        assert second.training
        assert select == "all" or not same_bits(before, state_bits(two.best))
        assert same_bits(state_bits(one.best), state_bits(two.best))
        assert one.numbers["rows"] == two.numbers["rows"]
        theirs = {memory_of(each) for each in second.parameters()}
        assert theirs.isdisjoint(memory_of(each) for each in two.best.parameters())
        for name, result in (("one", one), ("two", two)):
            result.save(tmp_path / name)
            assert same_bits(state_bits(smd_evo.load_run(tmp_path / name, first).best), state_bits(one.best))
        files = [sorted(each.name for each in (tmp_path / name).iterdir()) for name in ("one", "two")]
        assert files[0] == files[1]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    @pytest.mark.parametrize("at", [1, 3, 9, 20])
    def test_without_a_copy_leaves_the_network_after_an_error(self, error, at):
        network = Net()
        before = state_bits(network)
        with pytest.raises(error):
            evolved(network, Watch(at, error), copy=False)
        assert same_bits(before, state_bits(network))
        assert network.training

    def test_hands_out_nothing_of_a_network_that_was_trained_on(self):
        network = Net()
        result = evolved(network, Watch(), copy=False)
        best = result.best
        bits = state_bits(best)
        network.load_state_dict(best.state_dict())  # what is shared is the same
        assert same_bits(state_bits(result.best), bits)
        network.body.weight.data += 1
        assert same_bits(state_bits(best), bits)
        with pytest.raises(WrongParent, match="expected it as evolve\\(copy=False\\) left it"):
            _ = result.best

    @pytest.mark.filterwarnings(
        "ignore:parent. expected an accuracy well above chance:UserWarning"
    )  # it is untrained
    def test_ensembles_are_handed_out_whole(self):
        network = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.Linear(32, 3))
        inputs = torch.randn(120, 8, generator=torch.Generator().manual_seed(0))
        data = smd_evo.split((inputs, inputs[:, :3].argmax(1)))
        settings = {"select": "1", "generations": 3, "children": 6, **OPTIONS}
        one, two = (smd_evo.evolve(network, data, copy=copy, **settings) for copy in (True, False))
        found = one.ensemble, two.ensemble
        assert same_bits(*map(state_bits, found))
        theirs = {memory_of(each) for each in network.parameters()}
        assert theirs.isdisjoint(memory_of(each) for each in found[1].parameters())

    def test_two_threads_on_one_network_come_to_what_each_comes_to_alone(self):
        network = Net()
        before, found = state_bits(network), {}

        def search(seed):
            found[seed] = evolved(network, Watch(), copy=False, seed=seed).numbers["rows"]

        threads = [threading.Thread(target=search, args=(seed,)) for seed in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {seed: evolved(network, Watch(), seed=seed).numbers["rows"] for seed in (1, 2)}
        assert same_bits(state_bits(network), before)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"actors": 2}, "expected True with actors"),
            ({"copy": "no"}, "copy: expected"),
        ],
    )
    def test_refuses_what_needs_a_copy(self, options, message):
        with pytest.raises((InvalidValue, InvalidType), match=message):
            evolved(Net(), Watch(), **{"copy": False, **options})


class TestModes:
    def test_of_transformers_take_no_copies(self, fresh):
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, vocab_size=50))
        assert type(model).train is not nn.Module.train
        before = live()
        modes = Modes(model, free=True)
        assert live() == before
        modes.eval()
        assert not model.training
        modes.restore()
        assert all(part.training for part in model.modules())

    @pytest.mark.parametrize("kind", ["merges", "in a function of its own", "kernels", "of one network alone"])
    def test_that_are_work_do(self, kind, fresh):
        class Own(Net):
            use_kernels = kind == "kernels"

            def train(self, mode=True):
                if kind == "kernels" and self.use_kernels:
                    self.set_use_kernels = True
                return super().train(mode)

        class Merges(Net):
            def train(self, mode=True):
                self.merge = mode
                return super().train(mode)

        class Hidden(Net):
            def merge(self, mode):
                self.merged = mode

            def train(self, mode=True):
                (lambda part: part.merge(mode))(self)
                return super().train(mode)

        network = {"merges": Merges, "in a function of its own": Hidden, "kernels": Own}.get(kind, Net)()
        if kind == "of one network alone":
            network.train = network.train
        before = live()
        modes = Modes(network, free=True)
        assert live() - before >= size(network)
        modes.restore()
