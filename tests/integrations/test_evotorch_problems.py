"""What both problems promise in EvoTorch itself: children of a pre-trained network, bit for bit the core's."""

import copy
import math
import random
import re

import numpy as np
import pytest
import timm
import torch
from evotorch import SolutionBatch
from evotorch_helpers import (
    FOUR,
    Counting,
    check_refused,
    core_children,
    evals,
    evaluated,
    make,
    passes,
    pickled,
    population,
)
from helpers import SmallNet, same_bits, state_bits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from smd_evo import BatchFitness, Evaluator, FinetuneProblem, Lineage, ModuleFitness, ParameterSpace, SubspaceProblem
from smd_evo.errors import InvalidType, InvalidValue, SmdEvoError, UnsupportedParameter
from smd_evo.evaluation.fitness import CROSS_ENTROPY, WORST

every_kind = pytest.mark.parametrize("kind", [FinetuneProblem, SubspaceProblem])


def everything(module):
    return (
        state_bits(module),
        [part.training for part in module.modules()],
        [
            (id(tensor), tensor.requires_grad, tensor.data_ptr())
            for tensor in (*module.parameters(), *module.buffers())
        ],
    )


def untouched(before, after):
    return same_bits(before[0], after[0]) and before[1:] == after[1:]


class Tied(nn.Module):
    """The same weights in two places, as embeddings and outputs of language models have them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.second(self.first(x.flatten(1)).relu()))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 3)

    def forward(self, x, shift):
        return self.layer(x.flatten(1)) + shift


class Tokens(nn.Module):
    """A small transformer over 16 tokens, which are the signs of the pixels."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(2, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embedding((x.flatten(1) > 0).long())).mean(1))


def small_vit():
    config = {"img_size": 4, "patch_size": 2, "in_chans": 1, "embed_dim": 8, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, **config)


def frozen_body():
    network = SmallNet()
    network.conv.requires_grad_(False)
    return network


def all_frozen():
    return ParameterSpace(SmallNet().requires_grad_(False), include_frozen=True)


PARENTS = {
    "cnn": (SmallNet, {}),
    "training mode": (lambda: SmallNet().train(), {}),
    "float64": (lambda: nn.Sequential(SmallNet().double()), {"data": lambda x, y: (x.double(), y)}),
    "channels last": (lambda: SmallNet().to(memory_format=torch.channels_last), {}),
    "frozen layers": (frozen_body, {}),
    "include_frozen": (all_frozen, {}),
    "selected": (SmallNet, {"select": "head,norm"}),
    "tied": (Tied, {}),
    "timm": (small_vit, {}),
    "transformer": (Tokens, {}),
    "several inputs": (TwoInputs, {"data": lambda x, y: ((x, x[:, 0, 0, :3]), y)}),
    "named inputs": (TwoInputs, {"data": lambda x, y: ({"shift": x[:, 0, 0, :3], "x": x}, y)}),
    "Dataset": (SmallNet, {"data": TensorDataset}),
    "DataLoader": (SmallNet, {"data": lambda x, y: DataLoader(TensorDataset(x, y), 16)}),
    "relative": (SmallNet, {"scale": "relative"}),
    "highest is best": (SmallNet, {"fitness": "accuracy"}),
    "own fitness": (
        SmallNet,
        {"fitness": BatchFitness("margin", "max", lambda out, target: out.gather(1, target[:, None]))},
    ),
    "no data": (
        SmallNet,
        {
            "data": lambda x, y: None,
            "fitness": ModuleFitness("norm", "min", lambda module: float(module.head.weight.norm())),
        },
    ),
}


@every_kind
class TestBothProblems:
    @pytest.mark.parametrize("name", PARENTS)
    def test_fitness_is_the_cores_for_any_network_and_data_bit_for_bit(self, kind, name, samples):
        torch.manual_seed(0)
        build, options = PARENTS[name]
        parent, options = build(), {"data": lambda x, y: (x, y)} | options
        data, scale = options.pop("data")(*samples), options.pop("scale", "absolute")
        own = {"scale": scale} if kind is SubspaceProblem else {}
        problem = make(kind, parent, data, **options, **own)
        batch = population(problem, **({"scale": scale} if kind is FinetuneProblem else {}))
        values = evaluated(problem, batch)
        reference = Evaluator(copy.deepcopy(parent), data, **options).evaluate(core_children(problem, batch))
        assert batch.evals.dtype == torch.float64
        assert values == reference.fitness.tolist()
        assert len(set(values)) > 1
        assert problem.objective_sense == reference.sense
        for solution, value in zip(batch, values, strict=True):
            net = ParameterSpace(problem.make_net(solution), include_frozen=True)
            assert float(Evaluator(net, data, problem.fitness).evaluate([Lineage()]).fitness[0]) == value

    @pytest.mark.parametrize("fitness", ["cross_entropy", "accuracy"])
    def test_it_starts_at_the_parent(self, kind, fitness, network, samples):
        problem = make(kind, network, samples, fitness)
        calls = passes(problem)
        batch = problem.generate_batch(5)
        expected = float(Evaluator(network, samples, fitness).evaluate([Lineage()]).fitness[0])
        assert evaluated(problem, batch) == [expected] * 5
        assert problem.status["parent_eval"] == expected
        assert problem.status["evaluations"] == len(calls) == 1
        assert all(same_bits(state_bits(network), state_bits(problem.make_net(solution))) for solution in batch)

    def test_the_users_network_is_never_touched(self, kind, network, samples):
        network.train()
        network.bn.eval()  # a mixture of modes, as when fine-tuning with frozen statistics
        network.conv.requires_grad_(False)
        before = everything(network)
        problem = make(kind, network, samples)
        problem.evaluate(population(problem))
        problem.rebase(population(problem)[0])
        problem.evaluate(population(problem))
        problem.make_net(population(problem)[0])
        assert untouched(before, everything(network))
        assert all(parameter.grad is None for parameter in network.parameters())
        owned = {tensor.data_ptr() for tensor in problem.space.module.state_dict().values()}
        assert not owned & {tensor.data_ptr() for tensor in network.state_dict().values()}

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
    def test_an_exception_in_the_third_child_leaves_everything_as_it_was(self, kind, error, network, samples):
        calls: list[int] = []

        def failing(out, target):
            calls.append(1)
            if len(calls) == 4:
                raise error("stop")
            return CROSS_ENTROPY.score(out, target)

        problem = make(kind, network, samples, BatchFitness("failing", "min", failing), minibatch_size=8)
        before, inside, batch = everything(network), state_bits(problem.space.module), population(problem)
        with pytest.raises(error):
            problem.evaluate(batch)
        assert len(calls) == 4
        assert untouched(before, everything(network))
        assert same_bits(inside, state_bits(problem.space.module))
        other = make(kind, network, samples, minibatch_size=8)
        assert evaluated(problem, batch) == evaluated(other, population(other))  # on the same minibatch

    def test_training_the_users_network_later_does_not_change_the_problem(self, kind, network, samples):
        problem = make(kind, network, samples)
        expected = evaluated(problem, population(problem))
        problem = make(kind, network, samples)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(1)
            network.bn.running_mean.add_(1)
        assert evaluated(problem, population(problem)) == expected

    def test_a_shuffling_loader_is_read_once(self, kind, network, samples):
        problem = make(kind, network, DataLoader(TensorDataset(*samples), 8, shuffle=True))
        stored, batch = copy.deepcopy(problem), population(problem)
        assert evaluated(stored, population(stored)) == evaluated(problem, batch)
        targets = problem.evaluator.targets().tolist()
        assert targets == stored.evaluator.targets().tolist() != samples[1].tolist()

    def test_a_child_as_a_network_is_independent(self, kind, network, samples):
        network.train()
        problem = make(kind, network, samples)
        batch = population(problem)
        problem.evaluate(batch)
        child, parent = problem.make_net(batch[2]), problem.make_net()
        assert same_bits(state_bits(parent), state_bits(network))
        assert not same_bits(state_bits(child), state_bits(network))
        assert type(child) is SmallNet
        assert child.training
        memories = [
            {tensor.data_ptr() for tensor in net.state_dict().values()}
            for net in (child, parent, problem.space.module, network)
        ]
        assert len(set.union(*memories)) == sum(map(len, memories))
        loss = nn.functional.cross_entropy(child.eval()(samples[0]), samples[1])
        assert loss.item() == pytest.approx(evals(batch)[2], rel=1e-5)
        loss.backward()  # and it can be trained further
        assert child.head.weight.grad is not None
        with torch.no_grad():
            child.head.weight.zero_()
        assert same_bits(state_bits(problem.make_net()), state_bits(network))

    def test_the_tensors_of_a_child_are_plain(self, kind, network, samples):
        """EvoTorch's ReadOnlyTensor spreads to whatever is computed with it."""
        problem = make(kind, network, samples)
        batch = population(problem)
        problem.evaluate(batch)
        solution = problem.status["best"]
        nets = [problem.make_net(solution), problem.make_net(batch[0])]
        if kind is SubspaceProblem:
            nets.append(problem.make_net(solution.values))
            problem.rebase(solution.values)
        else:
            problem.rebase(solution)
        for net in [*nets, problem.make_net(), problem.space.module]:
            assert {type(parameter.data) for parameter in net.parameters()} == {torch.Tensor}
            assert {type(parameter) for parameter in net.parameters()} == {nn.Parameter}

    def test_a_single_solution(self, kind, network, samples):
        problem, other = make(kind, network, samples), make(kind, network, samples)
        batch = population(problem)
        problem.evaluate(batch[3])
        expected = evaluated(other, population(other))[3]
        assert float(batch[3].evals[0]) == expected
        assert bool(batch.evals[[0, 1, 2, 4, 5]].isnan().all())
        assert problem.status["best_eval"] == expected

    def test_a_fitness_that_is_not_finite_is_the_worst_and_best_stays_right(self, kind, network, samples):
        for fitness, worst in (("cross_entropy", WORST), ("accuracy", -WORST)):
            problem = make(kind, network, samples, fitness)
            bad, good = population(problem, 4, sigma=1e38), population(problem)
            if kind is SubspaceProblem:
                bad.access_values(keep_evals=True)[0, 0] = math.nan
            assert evaluated(problem, bad) == [worst] * 4  # EvoTorch itself would stop here
            assert problem.status["nonfinite"] == 4
            both = SolutionBatch.cat([bad, good])
            problem.evaluate(both)
            assert problem.status["nonfinite"] == 4
            choose, values = min if worst > 0 else max, evals(good := both[4:])
            assert problem.status["best_eval"] == choose(values)
            assert problem.status["worst_eval"] == worst
            problem.evaluate(bad)
            problem.evaluate(good)
            assert problem.status["best_eval"] == choose(values)
            assert problem.status["nonfinite"] == 0

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("sense", ["min", "max"])
    def test_a_parent_without_a_fitness_is_refused_before_its_children(self, kind, value, sense, network, samples):
        scored = []

        def score(module):
            scored.append(1)
            return value

        problem = make(kind, network, None, ModuleFitness("reward", sense, score))
        for _ in range(2):
            check_refused(
                lambda: problem.evaluate(population(problem)), InvalidValue, "fitness: expected a finite reward"
            )
        assert len(scored) == 2
        network.head.bias.data[1] = math.nan
        for fitness in ("cross_entropy", "accuracy"):
            problem = make(kind, network, samples, fitness, minibatch_size=10)
            check_refused(
                lambda problem=problem: problem.evaluate(population(problem)), InvalidValue, "of the parent, got NaN"
            )

    def test_status_holds_numbers_and_the_best_and_worst_solutions(self, kind, network, samples):
        problem = make(kind, network, samples)
        problem.evaluate(population(problem))
        status = dict(problem.status)
        best, worst = status.pop("best"), status.pop("worst")
        history = status.pop("history", None)
        assert (history is not None) == (kind is FinetuneProblem)
        assert float(best.evals[0]) == status["best_eval"] < status["worst_eval"] == float(worst.evals[0])
        own = {"parent_eval", "nonfinite", "evaluations", "images", "forwards"}
        assert set(status) == {"best_eval", "worst_eval"} | own
        assert all(type(value) in (int, float) for value in status.values())
        assert status["evaluations"] == 7  # six children and their parent

    def test_one_actor_is_none(self, kind, network, samples):
        alone, one = make(kind, network, samples), make(kind, network, samples, num_actors=1)
        assert one.num_actors == 0
        assert evaluated(one, population(one)) == evaluated(alone, population(alone))
        assert one.actors is None

    def test_on_any_device(self, kind, network, samples, devices):
        expected = evaluated(problem := make(kind, network, samples), population(problem))
        for device in devices:
            problem = make(kind, network, samples, device=device)
            batch = population(problem)
            values = evaluated(problem, batch)
            assert batch.device.type == problem.space.device.type == device.type
            assert values == pytest.approx(expected, rel=1e-4)
            assert next(network.parameters()).device.type == "cpu"

    def test_random_states_are_left_alone_if_there_is_a_seed(self, kind, network, samples):
        def states():
            numbers = np.random.get_state()[1].tolist()
            return torch.get_rng_state().tolist(), numbers, random.getstate()

        def drawing(*_):
            random.random(), np.random.rand(), torch.randn(3)

        network.register_forward_hook(drawing)
        before = states()
        problem = make(kind, network, samples, minibatch_size=10)
        own = problem.generator.get_state()
        batch = population(problem)
        problem.evaluate(batch)
        problem.rebase(batch[0])
        problem.evaluate(population(problem))
        problem.make_net()
        assert states() == before
        assert torch.equal(problem.generator.get_state(), own)

    def test_without_a_seed_it_follows_torch(self, kind, network, samples):
        results = []
        for seed in (5, 5, 6):
            torch.manual_seed(seed)
            problem = make(kind, network, samples, seed=None, minibatch_size=7)
            results.append((problem.key, evaluated(problem, population(problem))))
        assert results[0] == results[1]
        assert results[0][0] != results[2][0]
        assert results[0][1] != results[2][1]

    @pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1, 2**64 - 1])
    def test_any_seed(self, kind, seed, network, samples):
        one, other = (make(kind, network, samples, seed=seed, minibatch_size=7) for _ in range(2))
        assert evaluated(one, population(one)) == evaluated(other, population(other))

    @pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "1", True])
    def test_what_is_no_seed(self, kind, seed, network, samples):
        with pytest.raises(SmdEvoError, match="seed: expected an int in "):
            make(kind, network, samples, seed=seed)
        with pytest.raises(SmdEvoError, match="seed: expected an int in "):
            make(kind, network, samples).manual_seed(seed)

    @pytest.mark.parametrize("store", [copy.deepcopy, pickled, lambda problem: problem.clone()])
    def test_a_stored_problem_goes_on_exactly_and_by_itself(self, kind, store, network, samples):
        problem = make(kind, network, samples, minibatch_size=10)
        for key in range(2):
            problem.evaluate(population(problem, key=key))
            problem.rebase(population(problem, key=key)[1])
        old = population(problem)
        stored = store(problem)
        results = []
        for one in (problem, stored):
            torch.manual_seed(9)
            results.append([])
            for key in range(3):
                batch = population(one, key=key)
                results[-1] += [*evaluated(one, batch), *state_bits(one.make_net(batch[0])).values()]
                one.rebase(batch[2])
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*results, strict=True))
        stored.rebase(population(stored)[0])
        assert not same_bits(state_bits(problem.make_net()), state_bits(stored.make_net()))
        if kind is FinetuneProblem:
            assert same_bits(state_bits(problem.make_net(old[0])), state_bits(stored.make_net(old[0])))

    def test_its_status_goes_on_too(self, kind, network, samples):
        problem = make(kind, network, samples)
        batch = population(problem)
        problem.evaluate(batch)
        stored = pickled(problem)
        for one in (problem, stored):
            one.evaluate(SolutionBatch.cat([batch, population(one, key=1)]))
        numbers = [{k: v for k, v in one.status.items() if isinstance(v, int | float)} for one in (problem, stored)]
        assert numbers[0] == numbers[1]

    def test_fitness_of_one_precision_is_not_taken_for_that_of_another(self, kind, network, samples):
        problem, fresh = (make(kind, network, samples) for _ in range(2))
        batch = population(problem)
        with torch.autocast("cpu", torch.bfloat16):
            low = evaluated(problem, batch)
            stored = problem.state_dict()
            assert evaluated(problem, batch) == low
        before, evaluations = evaluated(fresh, population(fresh)), problem.evaluations
        assert evaluated(problem, batch) == before != low
        assert problem.evaluations == 2 * evaluations
        problem.load_state_dict(stored)
        with torch.autocast("cpu", torch.bfloat16):
            assert evaluated(problem, batch) == low
        assert problem.evaluations == evaluations  # the state says in which it is known

    def test_what_is_forgotten_is_evaluated_anew(self, kind, network, samples):
        inputs, targets = samples[0].clone(), samples[1]
        problem = make(kind, network, (inputs, targets))
        batch = population(problem)
        before = evaluated(problem, batch)
        inputs.mul_(2)
        problem.forget()
        other = make(kind, network, (inputs, targets))
        assert evaluated(problem, batch) == evaluated(other, population(other)) != before


@every_kind
class TestMinibatches:
    def numbered(self, kind, network, samples, **options):
        """A problem that notes the numbers of the samples of each forward pass."""
        seen: list[list[int]] = []

        def score(out, numbers):
            seen.append(numbers.tolist())
            return CROSS_ENTROPY.score(out, samples[1][numbers])

        data = samples[0], torch.arange(40)
        return make(kind, network, data, BatchFitness("noting", "min", score), **options), seen

    def test_all_solutions_of_one_call_see_the_same_and_the_next_call_others(self, kind, network, samples):
        problem, seen = self.numbered(kind, network, samples, minibatch_size=10)
        epochs = []
        for _ in range(3):
            epoch = []
            for _ in range(4):
                seen.clear()
                problem.evaluate(population(problem))
                assert len(seen) == 7
                assert all(numbers == seen[0] for numbers in seen)
                epoch += seen[0]
            assert sorted(epoch) == list(range(40))  # every sample once an epoch
            epochs.append([sorted(epoch[start : start + 10]) for start in range(0, 40, 10)])
        assert epochs[0] != epochs[1] != epochs[2]

    def test_what_is_left_over_at_the_end_of_an_epoch_waits_for_the_next(self, kind, network, samples):
        problem, seen = self.numbered(kind, network, samples, minibatch_size=12)
        for _ in range(3):
            problem.evaluate(population(problem, 1))
        assert len({number for numbers in seen for number in numbers}) == 36

    def test_the_seed_fixes_them(self, kind, network, samples):
        runs = []
        for seed in (3, 3, 4):
            problem, seen = self.numbered(kind, network, samples, minibatch_size=10, seed=seed)
            for key in range(3):
                problem.evaluate(population(problem, key=key))
            runs.append(list(seen))
        assert runs[0] == runs[1] != runs[2]

    def test_fitness_is_that_of_the_cores_evaluator_on_those_samples(self, kind, network, samples):
        problem = make(kind, network, samples, minibatch_size=10)
        for _ in range(2):
            core, batch = copy.deepcopy(problem.evaluator), population(problem)
            expected = core.evaluate([*core_children(problem, batch), Lineage()]).fitness.tolist()
            assert [*evaluated(problem, batch), problem.status["parent_eval"]] == expected

    def test_a_minibatch_of_everything_is_everything_in_another_order(self, kind, network, samples):
        whole, parts = make(kind, network, samples), make(kind, network, samples, minibatch_size=40)
        assert evaluated(parts, population(parts)) == pytest.approx(evaluated(whole, population(whole)), rel=1e-6)


def network_with(tensor):
    network = Counting()
    network.layer.weight = nn.Parameter(tensor, requires_grad=False)
    return ParameterSpace(network, include_frozen=True)


NAN = torch.full((4, 16), math.nan)
ZEROS, LABELS = FOUR


@every_kind
class TestBadInput:
    @pytest.mark.parametrize(
        ("data", "kind_of_error", "message"),
        [
            ((NAN, LABELS), InvalidValue, "data: expected finite inputs, got NaN or infinity"),
            ([FOUR, (NAN, LABELS)], InvalidValue, "infinity in batch 1"),
            ((torch.zeros(0, 16), LABELS[:0]), InvalidValue, "data: expected at least one sample, got none"),
            ([], InvalidValue, "data: expected at least one sample, got none"),
            ((ZEROS, LABELS[:3]), InvalidValue, "data: expected as many targets as inputs"),
            (ZEROS, InvalidType, r"data: expected \(inputs, targets\)"),
            ((np.zeros((4, 16)), np.zeros(4)), InvalidType, "data: .*torch.as_tensor"),
            (None, InvalidValue, "data: expected samples for the fitness 'cross_entropy', got None"),
        ],
    )
    def test_data(self, kind, data, kind_of_error, message):
        check_refused(lambda: make(kind, Counting(), data), kind_of_error, message)

    @pytest.mark.parametrize(
        ("options", "kind_of_error", "message"),
        [
            ({"minibatch_size": 5}, InvalidValue, "minibatch_size: expected at most the 4 samples, got 5"),
            ({"minibatch_size": 0}, InvalidValue, "minibatch_size: expected a whole number >= 1, got 0; or None"),
            ({"minibatch_size": 2.5}, InvalidType, "minibatch_size: .*got 2.5"),
            ({"batch_size": 0}, InvalidValue, "batch_size: .*got 0"),
            ({"batch_size": "big"}, InvalidType, "batch_size: .*got 'big'"),
            ({"fitness": "acuracy"}, InvalidValue, "fitness: .*did you mean 'accuracy'"),
            ({"fitness": lambda module: 0.0}, InvalidType, "fitness: .*wrap a function as ModuleFitness"),
            ({"select": "haed"}, InvalidValue, "select: .*did you mean 'head'"),
            ({"select": 7}, InvalidType, "select: expected kinds, names or patterns, got 7"),
            ({"select": lambda name, parameter: False}, InvalidValue, "select: expected at least one parameter"),
        ],
        ids=lambda part: re.sub(" at 0x[0-9a-f]+", "", str(part)),
    )
    def test_options(self, kind, options, kind_of_error, message):
        check_refused(lambda: make(kind, Counting(), FOUR, **options), kind_of_error, message)

    @pytest.mark.filterwarnings("ignore:.*quantize:UserWarning", "ignore:.*deprecated")
    @pytest.mark.parametrize(
        ("parent", "kind_of_error", "message"),
        [
            (lambda: "resnet18", InvalidType, "parent: expected a torch.nn.Module or ParameterSpace, got 'resnet18'"),
            (lambda: None, InvalidType, "parent: .*got None"),
            (lambda: nn.Linear, InvalidType, "parent: .*got <class"),
            (nn.ReLU, InvalidValue, "module: expected trainable parameters, got 0 frozen ones"),
            (lambda: Counting().requires_grad_(False), InvalidValue, "got 2 frozen ones; pass include_frozen=True"),
            (lambda: nn.LazyLinear(3), UnsupportedParameter, "weight: .*lazy; run one batch"),
            (lambda: nn.Linear(16, 3, device="meta"), UnsupportedParameter, "meta device; load its weights"),
            (
                lambda: network_with(torch.quantize_per_tensor(torch.zeros(3, 16), 0.1, 0, torch.qint8)),
                UnsupportedParameter,
                "layer.weight: .*quantized",
            ),
            (lambda: network_with(torch.zeros(3, 16, dtype=torch.int64)), UnsupportedParameter, "torch.int64"),
        ],
    )
    def test_parents(self, kind, parent, kind_of_error, message):
        check_refused(lambda: make(kind, parent(), FOUR), kind_of_error, message)

    def test_a_selection_for_a_space(self, kind):
        space = ParameterSpace(Counting())
        check_refused(
            lambda: make(kind, space, FOUR, select="bias"),
            InvalidValue,
            "select: expected it with a torch.nn.Module, got it with a ParameterSpace",
        )
