"""Numbers as users have them, of numpy, torch or text: plain ones where they enter, or refused."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
import yaml
from numbers_helpers import fulfils_the_contract
from torch import nn

from smd_evo import (
    BatchFitness,
    Dense,
    Evaluator,
    Layout,
    Lineage,
    LowRank,
    ModuleFitness,
    Mutation,
    NeuronSubspace,
    ParameterSpace,
    PartitionSubspace,
    RandomSubspace,
    Slot,
    SparseDelta,
    SparseEnsemble,
    TensorSubspace,
    UnitSubspace,
    WholeFitness,
    calibrate_sigma,
    decompose,
    derive,
    encode_rows,
    gaussian,
    permutation,
    sample_mutations,
    select_members,
    soup,
    split,
)
from smd_evo.core.rows import sample_rows
from smd_evo.ensemble.combine import combined
from smd_evo.ensemble.files import load_children, save_children
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.calibration import Effort, calibration_cost
from smd_evo.evaluation.data import minibatch
from smd_evo.evaluation.stream import Stream
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.experiments.window.settings import WindowConfig
from smd_evo.statistics.bootstrap import mean_interval, statistic_interval
from smd_evo.statistics.tests import paired_t, t_interval

RULE = RandomSubspace(0.25)
LAYOUT = Layout((Slot("fc.weight", (4, 4)), Slot("fc.bias", (4,))))
DATA = torch.eye(4), torch.arange(4)


def net():
    torch.manual_seed(0)
    return nn.Linear(4, 4)


def space():
    return ParameterSpace(net())


def recipe(**fields):
    mutation = Mutation(**({"key": 5, "sigma": 0.5, "subspace": RULE, "draw": 7} | fields))
    return [repr(mutation), mutation.encode(), mutation.delta(LAYOUT).values.tolist()]


def rule(subspace):
    return [repr(subspace), subspace.spec, subspace.draw(3, 1, 1), subspace.coordinates(6, LAYOUT).tolist()]


def recipes(key=1, count=2, sigma=0.5, **options):
    children = sample_mutations(key, count, subspace=RULE, sigma=sigma, **options)
    rows = sample_rows(key, count, subspace=RULE, sigma=sigma, **options)
    return [[repr(child) for child in children], rows.tolist()]


def calibrated(**options):
    found = calibrate_sigma(Evaluator(net(), DATA), RULE, **({"children": 2, "bisections": 1} | options))
    return asdict(found)


def chosen(**options):
    judge = Evaluator(net(), DATA)
    return asdict(select_members(judge, sample_mutations(0, 4, subspace=RULE, sigma=0.5), **options))


def ensemble(weights=None, **options):
    made = SparseEnsemble(net(), sample_mutations(0, 2, subspace=RULE, sigma=0.5), weights, **options)
    return [made.per_pass, made.weights.tolist(), made(DATA[0]).tolist()]


def settings(kind, **values):
    """From Python and from a file, and into one."""
    read = kind.read({**values, "device": "cpu"})
    assert read == kind(**values)
    return [repr(read), yaml.safe_dump(read.as_dict())]


CASES = {
    "derive, key": (lambda v: derive(v, "a"), 3),
    "derive, part": (lambda v: derive(3, v, "a", v), 2),
    "gaussian, key": (lambda v: gaussian(v, torch.arange(3)).tolist(), 3),
    "permutation, key": (lambda v: permutation(v, torch.arange(3), 7).tolist(), 3),
    "permutation, size": (lambda v: permutation(3, torch.arange(3), v).tolist(), 7),
    "Layout.flat": (lambda v: [repr(Layout.flat(v)), Layout.flat(v).digest], 5),
    "Slot, shape": (lambda v: [repr(Slot("a", (v, 2))), Layout((Slot("a", (v, 2)),)).digest], 5),
    "Mutation, key": (lambda v: recipe(key=v), 5),
    "Mutation, sigma": (lambda v: recipe(sigma=v), 0.5),
    "Mutation, draw": (lambda v: recipe(draw=v), 5),
    "Mutation, sign": (lambda v: recipe(sign=v), -1),
    "RandomSubspace, density": (lambda v: rule(RandomSubspace(v)), 0.25),
    "RandomSubspace, static": (lambda v: rule(RandomSubspace(0.25, v)), True),
    "PartitionSubspace, parts": (lambda v: rule(PartitionSubspace(v)), 2),
    "PartitionSubspace, static": (lambda v: rule(PartitionSubspace(2, v)), True),
    "NeuronSubspace, density": (lambda v: rule(NeuronSubspace(v)), 0.5),
    "NeuronSubspace, static": (lambda v: rule(NeuronSubspace(0.5, v)), True),
    "TensorSubspace, count": (lambda v: rule(TensorSubspace(v)), 2),
    "TensorSubspace, static": (lambda v: rule(TensorSubspace(1, static=v)), True),
    "UnitSubspace": (lambda v: rule(UnitSubspace(v, Dense())), 2),
    "LowRank": (lambda v: [*rule(LowRank(v)), LowRank(v).noise(1, torch.arange(20), LAYOUT).tolist()], 2),
    "Subspace.draw, key": (RULE.draw, 3),
    "Subspace.draw, generation": (lambda v: RULE.draw(3, v), 4),
    "Subspace.draw, index": (lambda v: RULE.draw(3, 0, v), 4),
    "Subspace.coordinates": (lambda v: RULE.coordinates(v, LAYOUT).tolist(), 4),
    "SparseDelta.to_dense": (lambda v: SparseDelta(torch.tensor([1]), torch.ones(1)).to_dense(v).tolist(), 4),
    "sample_mutations, key": (recipes, 3),
    "sample_mutations, count": (lambda v: recipes(count=v), 2),
    "sample_mutations, sigma": (lambda v: recipes(sigma=v), 0.25),
    "sample_mutations, generation": (lambda v: recipes(generation=v), 3),
    "sample_mutations, antithetic": (lambda v: recipes(antithetic=v), True),
    "decompose": (lambda v: repr(decompose(Mutation(1, 0.5, Dense(), 0), v)), 3),
    "encode_rows": (lambda v: encode_rows([Lineage()], v).tolist(), 2),
    "ParameterSpace": (lambda v: ParameterSpace(net(), include_frozen=v).names, True),
    "Evaluator": (lambda v: [Evaluator(net(), DATA, batch_size=v).batch_size, *calibrated().values()], 2),
    "calibrate_sigma, keep": (lambda v: calibrated(keep=v), 0.75),
    "calibrate_sigma, key": (lambda v: calibrated(key=v), 3),
    "calibrate_sigma, children": (lambda v: calibrated(children=v), 2),
    "calibrate_sigma, bisections": (lambda v: calibrated(bisections=v), 2),
    "calibration_cost, children": (calibration_cost, 4),
    "calibration_cost, bisections": (lambda v: calibration_cost(4, v), 2),
    "Effort.within": (lambda v: asdict(Effort.within(v)), 40),
    "minibatch, key": (lambda v: minibatch(v, 0, 2, 5).tolist(), 3),
    "minibatch, number": (lambda v: minibatch(3, v, 2, 5).tolist(), 3),
    "minibatch, size": (lambda v: minibatch(3, 0, v, 5).tolist(), 2),
    "minibatch, total": (lambda v: minibatch(3, 0, 2, v).tolist(), 5),
    "Stream": (lambda v: Stream(*DATA, workers=v)._reader.workers, 0),
    "SparseEnsemble, weights": (lambda v: ensemble([v, 0.75]), 0.25),
    "SparseEnsemble, per_pass": (lambda v: ensemble(per_pass=v), 2),
    "soup": (lambda v: soup(space(), [Lineage(), Lineage()], [v, 0.75]).values.tolist(), 0.25),
    "combined": (lambda v: combined(torch.zeros(2, 1, 2), [v, 0.75]).tolist(), 0.25),
    "select_members, size": (lambda v: chosen(size=v), 3),
    "select_members, diversity": (lambda v: chosen(method="diverse", diversity=v), 0.5),
    "t_interval": (lambda v: asdict(t_interval([1, 2], level=v)), 0.5),
    "paired_t": (lambda v: asdict(paired_t([1, 2], [0, 3], level=v)[0]), 0.5),
    "mean_interval, level": (lambda v: asdict(mean_interval([1, 2, 4], level=v, resamples=9)), 0.5),
    "mean_interval, resamples": (lambda v: asdict(mean_interval([1, 2, 4], resamples=v)), 9),
    "mean_interval, seed": (lambda v: asdict(mean_interval([1, 2, 4], resamples=9, seed=v)), 9),
    "statistic_interval, count": (lambda v: asdict(statistic_interval(np.mean, v, resamples=9)), 4),
}


@pytest.mark.parametrize("case", CASES)
def test_every_argument_keeps_plain_numbers(case):
    fulfils_the_contract(*CASES[case], but=["text"] if case == "derive, part" else [])  # which is a name


SETTINGS = {
    f"{kind.__name__}, {name}": (lambda v, kind=kind, name=name: settings(kind, **{name: v}), value)
    for kind, values in {
        FinetuneConfig: {"children": 64, "sigma": 0.5, "keep": 0.5, "seed": 3, "memory": 2.0, "batch_size": 8},
        EvolutionConfig: {
            "generations": 7,
            "density": 0.5,
            "learning_rate": 0.5,
            "patience": 2,
            "adapt_sigma": False,
        },
        CompareConfig: {"budget": 96_000, "seeds": 3, "trials": 2, "tuning_budget": 20_000, "download": True},
        WindowConfig: {"children": 32, "density": 0.5, "sigma": 0.5, "fitness_samples": 9},
    }.items()
    for name, value in values.items()
}


@pytest.mark.parametrize("case", SETTINGS)
def test_every_setting_keeps_plain_numbers(case):
    use, value = SETTINGS[case]
    fulfils_the_contract(use, value, but=["numpy, narrow"] if value >= 2**15 else [])


def test_files_of_numpy_numbers_are_read_again(tmp_path):
    sigma, weights = np.linspace(0.1, 0.3, 3)[1], np.array([0.25, 0.75], dtype=np.float32)
    children = sample_mutations(
        np.uint64(2**64 - 1), np.int8(2), subspace=RandomSubspace(np.float32(0.3)), sigma=sigma
    )
    network = net()
    SparseEnsemble(network, children, weights).save(tmp_path / "ensemble")
    again = SparseEnsemble.load(tmp_path / "ensemble", network)
    assert again.recipes == [child.encode() for child in children]
    assert again.weights.tolist() == [0.25, 0.75]
    evaluator = Evaluator(network, DATA)
    save_children(tmp_path / "children", evaluator.space, children, evaluator.evaluate(children), "cross_entropy")
    stored = load_children(tmp_path / "children", evaluator.space)
    assert {lineage.steps[0] for lineage in stored.recipes} == set(children)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Evaluator(DATA, net()), "parent: expected a .*; the order is parent, data, fitness"),
        (
            lambda: Evaluator(net(), "accuracy"),
            "data: expected .*, got 'accuracy'; the order is parent, data, fitness",
        ),
        (lambda: Evaluator(net(), "accuracy", DATA), "fitness: expected .*; the order is parent, data, fitness"),
        (
            lambda: BatchFitness(torch.sub, "max", "name"),
            "name: expected a text, .*; the order is name, sense, score",
        ),
        (
            lambda: WholeFitness("name", "max", 3),
            "metric: expected a function, got 3; the order is name, sense, metric",
        ),
        (
            lambda: ModuleFitness(torch.sub, "max", "name"),
            "name: expected a text, .*; the order is name, sense, function",
        ),
        (lambda: split(*DATA), r"train: expected inputs and targets as one thing, .*; write split\(\(X, Y\)\)"),
        (lambda: Evaluator(net(), DATA, nn.NLLLoss()), r"fitness: expected .*, got NLLLoss\(\); write BatchFitness"),
        (
            lambda: sample_mutations(0, 2, subspace="random:0.1", sigma=1),
            r"; parse_subspace\('random:0.1'\) makes one",
        ),
        (lambda: Mutation(1, 0.5, "dense", 0), r"subspace: expected .*; parse_subspace\('dense'\) makes one"),
        (lambda: calibrate_sigma(RULE, Evaluator(net(), DATA)), "evaluator: .*; the order is evaluator, subspace"),
        (lambda: calibrate_sigma(Evaluator(net(), DATA), "dense"), "subspace: expected "),
        (lambda: calibrate_sigma(Evaluator(net(), DATA), RULE, children=3), "children: expected an even number"),
        (lambda: Evaluator(net(), DATA).evaluate(Lineage()), "children: .*, got one Lineage; put it in a list"),
        (lambda: Evaluator(net(), DATA).predict(Mutation(1, 1, RULE, 0)), "got one Mutation; put it in a list"),
        (lambda: list(Evaluator(net(), DATA).outputs(Lineage())), "got one Lineage; put it in a list"),
        (lambda: soup(net(), []), "space: expected a ParameterSpace, got Linear"),
        (lambda: soup(space(), Lineage()), "members: expected a list of children"),
        (lambda: select_members([], Evaluator(net(), DATA)), "judge: expected an Evaluator, .*; the order is judge"),
        (lambda: select_members(Evaluator(net(), DATA), Lineage()), "candidates: .*; put it in a list"),
        (lambda: SparseEnsemble(net(), [Lineage()], 1.0), "weights: expected numbers that add up to one, got 1.0"),
        (lambda: decompose(RULE, 2), "dense: expected a Mutation"),
        (lambda: Lineage(Mutation(1, 1, RULE, 0)), r"steps: expected mutations, .*; Lineage\(\(one, two\)\) has two"),
        (lambda: Lineage((Lineage(),)), "steps: expected mutations"),
        (lambda: Mutation.decode(3), "mutation: expected SUBSPACE"),
    ],
)
def test_wrong_orders_and_kinds_are_told_in_a_line(call, message):
    with pytest.raises((InvalidType, InvalidValue), match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


def test_a_list_of_steps_is_a_lineage():
    step = Mutation(1, 0.5, RULE, 0)
    assert {Lineage([step])} == {Lineage((step,))}
