"""Under another default dtype or device of torch, everything gives the same bits: each tensor made says its own.

On torch's meta device, which holds no values, every tensor made without a device shows.
"""

import copy
import random
from contextlib import contextmanager

import pytest
import torch
from helpers import SmallNet, blobs, same_bits, state_bits
from torch.utils.data import TensorDataset

from smd_evo import (
    AddMutation,
    Dense,
    DenseIndividual,
    Evaluator,
    FinetuneProblem,
    Layout,
    Lineage,
    LowRank,
    NeuronSubspace,
    OpenAIES,
    ParameterSpace,
    PartitionSubspace,
    RandomSubspace,
    Slot,
    SparseEnsemble,
    SparseGaussianMutation,
    SubspaceES,
    SubspaceEvolution,
    SubspaceNewton,
    SubspaceProblem,
    SubspaceStrategy,
    TensorSubspace,
    ToolboxEvaluator,
    calibrate_sigma,
    decode_rows,
    encode_rows,
    mutSparseGaussian,
    sample_mutations,
    select_members,
    soup,
)
from smd_evo.core.gradient import centered_ranks, es_gradient
from smd_evo.core.mutation import replay
from smd_evo.core.rows import append_steps, sample_rows
from smd_evo.ensemble.candidates import Judge, Kept
from smd_evo.ensemble.diversity import disagreement, oracle, pairwise_kl, q_statistic
from smd_evo.ensemble.files import load_children, save_children
from smd_evo.ensemble.metrics import brier_score
from smd_evo.evaluation.data import minibatch
from smd_evo.evaluation.fitness import CROSS_ENTROPY
from smd_evo.evaluation.stream import Stream
from smd_evo.experiments.scores import score
from smd_evo.integrations.evotorch.strategies import GradientStep, OptimizerSpec
from smd_evo.zoo import load
from smd_evo.zoo.preprocessing import Normalize, Preprocessing

RULE = RandomSubspace(0.25)
LAYOUT = Layout((Slot("fc.weight", (4, 4), 0.5), Slot("fc.bias", (4,), 2.0)))
RULES = [RULE, PartitionSubspace(3), TensorSubspace(1), NeuronSubspace(0.5), LowRank(2), Dense()]


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


DEFAULTS = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "meta": lambda: torch.device("meta"),
}


def parent():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SmallNet().eval()


class Given:
    """What users have made before: networks, data, and what is random about them."""

    def __init__(self):
        self.network, self.data = parent(), blobs(30)
        self.values = torch.tensor([3.0, 1.0, 1.0, 9.0])
        self.numbers, self.few = torch.arange(5), torch.arange(3)
        self.logits = torch.tensor([[[0.5, 0.2], [0.1, 0.9]], [[0.3, 0.4], [0.8, 0.1]]])
        self.classes = torch.tensor([0, 1])
        self.pixels = torch.arange(8, dtype=torch.uint8).view(1, 2, 2, 2)
        self.children = sample_mutations(3, 6, subspace=RULE, sigma=0.5, scale="relative")
        torch.manual_seed(5)

    def evaluator(self, data=None):
        return Evaluator(self.network, self.data if data is None else data)

    def problem(self, kind=FinetuneProblem, **options):
        return kind(self.network, self.data, **({"seed": 1} | options))


def core(given):
    """Every rule, and every way to a delta."""
    for rule in RULES:
        children = sample_mutations(3, 6, subspace=rule, sigma=0.5, antithetic=True, scale="relative")
        yield from (child.encode() for child in children)
        yield [(delta.indices, delta.values) for delta in replay(children, LAYOUT)]
        lineages = [Lineage((child,)) for child in children]
        rows = encode_rows(lineages, 2)
        yield append_steps(rows, sample_rows(1, 6, subspace=rule, sigma=0.25))
        assert decode_rows(rows, subspace=rule, scale="relative") == lineages
        yield es_gradient(children, centered_ranks(given.values[[0, 1, 2, 3, 0, 1]], "max"), LAYOUT)
    one, two = (child.delta(LAYOUT) for child in given.children[:2])
    yield (one + two).values, one.to_dense(20)
    yield centered_ranks(given.values, "min"), minibatch(3, 1, 2, 5)
    space = ParameterSpace(given.network)
    yield space.fingerprint(), soup(space, given.children).values, space.values_of(given.children[0]).values


def evaluation(given):
    evaluator = given.evaluator()
    yield evaluator.evaluate(given.children).fitness, evaluator.evaluate([]).fitness
    yield evaluator.predict(given.children), list(evaluator.outputs(given.children))
    yield evaluator.on_samples(given.numbers).evaluate(given.children).fitness
    yield calibrate_sigma(evaluator, RULE, 0.9, children=4).sigma
    for data in (
        TensorDataset(*given.data),
        [given.data],
        Stream(*given.data),
        Stream(given.data[0], given.data[1], 0),
    ):
        yield given.evaluator(data).evaluate(given.children).fitness
    yield list(given.evaluator(Stream(*given.data)).outputs(given.children))


def ensembles(given, tmp_path):
    evaluator = given.evaluator()
    for method in ("greedy", "diverse", "top_k"):
        chosen = select_members(evaluator, given.children, method=method, size=3)
        yield chosen.members, chosen.weights, chosen.curve
    judge = Judge(given.classes, CROSS_ENTROPY, "logits")
    yield Kept(judge, given.logits, 2, tmp_path, 0.1).forward(2)
    for options in ({}, {"per_pass": 2}, {"combine": "majority"}, {"combine": "logits"}):
        yield SparseEnsemble(copy.deepcopy(given.network), given.children[:3], **options)(given.data[0])
    made = SparseEnsemble(given.network, given.children[:3])
    made.save(tmp_path / "ensemble", include_parent=True)
    yield SparseEnsemble.load(tmp_path / "ensemble", parent_on_the_cpu())(given.data[0])
    yield made.soup().state_dict(), made.member(1).state_dict()
    result = evaluator.evaluate(given.children)
    save_children(tmp_path / "children", evaluator.space, given.children, result, "cross_entropy")
    yield [member.values for member in load_children(tmp_path / "children", evaluator.space).members]
    correct = given.logits.argmax(-1) == given.classes
    yield (
        disagreement(given.logits),
        pairwise_kl(given.logits),
        oracle(given.logits, given.classes),
        q_statistic(correct),
    )
    yield brier_score(given.logits[0], given.classes)
    yield score("a", "b", 1, given.logits[0], given.classes, {"parent": given.logits[1]}).metrics
    yield Normalize(Preprocessing(torch.as_tensor, (0.5, 0.25), (0.5, 1.0)))(given.network, (given.pixels,))


def parent_on_the_cpu():
    with torch.device("cpu"), default_dtype(torch.float32):
        return parent()


def evotorch(given):
    def run(kind, problem, **options):
        if kind is SubspaceES:
            options["center_learning_rate"] = 1
        return kind(problem, sigma=0.5, **options)

    for make in (
        lambda: run(
            SubspaceEvolution, given.problem(steps=3), popsize=6, num_parents=2, density=0.25, adapt_sigma=True
        ),
        lambda: run(SubspaceES, given.problem(minibatch_size=7), popsize=4, density=0.25),
        lambda: run(SubspaceES, given.problem(), popsize=4, density=0.25, static=True, scale="relative"),
        lambda: OpenAIES(given.problem(), popsize=4, sigma="auto", optimizer="clipup"),
        lambda: SubspaceNewton(given.problem(minibatch_size=7), popsize=4, density=0.25),
        lambda: run(SubspaceNewton, given.problem(), popsize=4, density=0.25, static=True, scale="relative"),
    ):
        searcher = make()
        searcher.run(3)
        yield searcher.sigma, searcher.population.values, searcher.population.evals
        yield searcher.problem.make_net().state_dict()
        again = make()
        again.load_state_dict(searcher.state_dict())
        searcher.step()
        again.step()
        assert torch.equal(again.population.values, searcher.population.values)


def problems(given):
    """Without what EvoTorch itself does after an evaluation, which reads values from torch's default device."""
    host = given.problem(steps=2, minibatch_size=7)
    batch = AddMutation(host, stdev=0.5, density=0.25)(host.generate_batch(3))
    host._evaluate_all(batch)
    yield batch.access_values(keep_evals=True), batch.access_evals()
    weights, adam = torch.tensor([1.0, -1.0], dtype=torch.float32, device="cpu"), OptimizerSpec("adam", 0.1, {})
    host.change(GradientStep(5, 0, weights, RULE, 0.5, "relative", adam, 0.1))
    yield host.make_net().state_dict()
    numeric = given.problem(SubspaceProblem, dimensions=5)
    batch = SparseGaussianMutation(numeric, stdev=0.5, density=0.5)(numeric.generate_batch(3))
    numeric._evaluate_all(batch)
    yield batch.access_values(keep_evals=True), batch.access_evals()
    numeric.rebase(batch.access_values(keep_evals=True)[0])
    yield numeric.make_net().state_dict()
    yield FinetuneProblem(given.network, given.data).key


def deap(given):
    random.seed(3)
    evaluator = ToolboxEvaluator(given.network, given.data)
    lineage, dense = evaluator.lineage(), evaluator.dense()
    for individual in (lineage, dense):
        mutSparseGaussian(individual, mu=0, sigma=0.5, density=0.25)
        yield evaluator.evaluate(individual), evaluator.make_net(individual).state_dict()
    strategy = SubspaceStrategy(evaluator, dimensions=5, sigma=0.5)
    yield [strategy.evaluate(individual) for individual in strategy.generate(DenseIndividual)]


def plain(value):
    """Values to compare with ==, tensors by their type, device and bits."""
    if isinstance(value, torch.Tensor):
        value = value.as_subclass(torch.Tensor).detach()
        bits = value.contiguous().reshape(-1).view(torch.uint8).tolist()
        return str(value.dtype), value.device.type, list(value.shape), bits
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else repr(value)


PARTS = [core, evaluation, ensembles, problems, deap]
CASES = [(part, default) for part in PARTS for default in DEFAULTS] + [(evotorch, "float64")]


@pytest.mark.parametrize(("part", "default"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_the_same_bits_under_another_default(part, default, tmp_path):
    folder = (tmp_path,) if part is ensembles else ()
    expected = [plain(value) for value in part(Given(), *folder)]
    given = Given()
    before = state_bits(given.network)
    with DEFAULTS[default]():
        found = list(part(given, *folder))
    assert [plain(value) for value in found] == expected
    assert same_bits(before, state_bits(given.network))


@pytest.mark.parametrize("default", DEFAULTS)
def test_parents_are_float32_on_the_cpu_whatever_the_defaults(default):
    network, data = load("demo-cnn", "digits")
    with DEFAULTS[default]():
        again, same = load("demo-cnn", "digits")
    assert same_bits(state_bits(network), state_bits(again))
    assert torch.equal(data.fitness[0], same.fitness[0])
