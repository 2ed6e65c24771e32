"""The setting ``subspace`` of experiments: kinds, and rules within some parameters, where they meet the network."""

import copy
from itertools import pairwise

import pytest
import torch
from evolution_helpers import TINY

from smd_evo import (
    Dense,
    LowRank,
    NeuronSubspace,
    PartitionSubspace,
    RandomSubspace,
    TensorSubspace,
    UnitSubspace,
    Within,
)
from smd_evo.core.parameters import ParameterSpace
from smd_evo.errors import InvalidType, SmdEvoError
from smd_evo.experiments.finetune.counts import finetune_workload
from smd_evo.experiments.finetune.run import finetune
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.generations.files import evolve
from smd_evo.experiments.generations.run import Evolution
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.experiments.generations.verification import verify_history
from smd_evo.experiments.rules import rules_of
from smd_evo.integrations.evotorch.history import decoded, encoded

pytestmark = pytest.mark.numeric

NETWORK = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
HERE = {name: TINY[name] for name in ("model", "data", "device", "fitness_samples", "validation_samples", "seed")}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("random", [RandomSubspace(0.5), RandomSubspace(0.25)]),
        ("partition", [PartitionSubspace(2), PartitionSubspace(4)]),
        ("tensor", [TensorSubspace()]),
        ("within:head:random", [Within(("2",), RandomSubspace(0.5)), Within(("2",), RandomSubspace(0.25))]),
        ("within:norm,0.bias:neuron:0.3", [Within(("0.bias", "1"), NeuronSubspace(0.3))]),
        ("unit:layer:neuron", [UnitSubspace("layer", NeuronSubspace(each)) for each in (0.5, 0.25)]),
        ("unit:2:dense", [UnitSubspace(2, Dense())]),
        ("within:*.bias:dense", [Within(("0.bias", "1.bias", "2.bias"), Dense())]),
    ],
)
def test_a_setting_becomes_rules_where_it_meets_the_network(setting, expected):
    assert rules_of(setting, (0.5, 0.25), ParameterSpace(NETWORK)) == expected


@pytest.mark.parametrize("kind", [FinetuneConfig, EvolutionConfig])
@pytest.mark.parametrize(
    "subspace", ["within:head:dense", "within:head:random", "within:norm,fc.*:random:0.1:static", "unit:layer:random"]
)
def test_settings_are_read_back(kind, subspace):
    config = kind.read({"subspace": subspace, "device": "cpu"})
    assert config.subspace == subspace
    assert ("density" in config.as_dict()) == subspace.endswith(":random")
    assert kind.read(config.as_dict()) == config


@pytest.mark.parametrize("kind", [FinetuneConfig, EvolutionConfig])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subspace": "within:head"}, "subspace: expected within:SELECT:NAME, got 'within:head'"),
        ({"subspace": "within::dense"}, "subspace: expected within:SELECT:NAME"),
        ({"subspace": "within:head:within:head:dense"}, "subspace: expected within:SELECT:NAME"),
        (
            {"subspace": "unit:block:dense"},
            "subspace: expected unit:UNIT:NAME, got 'unit:block:dense'; try unit:layer:d",
        ),
        ({"subspace": "unit:0:dense"}, "subspace: expected unit:UNIT:NAME, got"),
        ({"subspace": "unit:1:partition"}, "subspace: expected a rule that each child draws, got 'unit:1:partition'"),
        ({"subspace": "unit:1:lowrank:2"}, "rule: expected one that draws for each child, or dense, got lowrank:2"),
        ({"subspace": "unit:1:within:head:dense"}, "subspace: expected unit:UNIT:NAME, got"),
        ({"subspace": "within:head:randm"}, "subspace: expected one of .*did you mean 'random'"),
        ({"subspace": "within:head:random:2"}, r"density: expected a finite number in \(0, 1\], got 2"),
        ({"subspace": "wihtin:head:dense"}, "subspace: expected one of random"),
        ({"subspace": "within:head:dense", "density": "0.1"}, "density: expected none for the within:head:dense"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(kind, settings, message):
    with pytest.raises(SmdEvoError, match=message) as caught:
        kind.read({"device": "cpu", **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [FinetuneConfig, EvolutionConfig])
@pytest.mark.parametrize(
    "rule",
    [
        RandomSubspace(0.1),
        PartitionSubspace(4, static=True),
        NeuronSubspace(0.2),
        TensorSubspace(1, "layer"),
        Dense(),
        LowRank(2),
        UnitSubspace("layer", Dense()),
        Within("1.*", RandomSubspace(0.5)),
    ],
    ids=lambda rule: rule.spec,
)
def test_a_rule_or_its_spec_is_a_setting(kind, rule):
    space = ParameterSpace(NETWORK)
    for given in (rule, rule.spec):
        setting = kind.read({"device": "cpu", "subspace": given}).subspace
        assert setting == rule.spec
        (made,) = rules_of(setting, (), space)
        expected = rule.coordinates(3, space.layout)
        assert torch.equal(made.coordinates(3, space.layout), expected)


def test_a_rule_of_ones_own_is_no_setting():
    class Own(RandomSubspace):
        """Which no file can be read back by."""

    for kind in (FinetuneConfig, EvolutionConfig):
        with pytest.raises(
            InvalidType, match=r"^subspace: expected a rule that a run's files are read back by, got .*Own\("
        ):
            kind.read({"device": "cpu", "subspace": Own(0.1)})


def test_terms_of_parameters_may_be_a_list_and_no_function():
    assert EvolutionConfig.read({"device": "cpu", "select": ["norm", "head"]}).select == "norm,head"
    with pytest.raises(
        InvalidType, match=r"^select: expected terms with commas between them, got <function .*; Fine"
    ):
        EvolutionConfig.read({"device": "cpu", "select": lambda name, parameter: True})


def test_names_that_the_network_does_not_have_are_refused():
    with pytest.raises(SmdEvoError, match=r"select: expected one of all, .* got 'haed'; did you mean 'head'"):
        rules_of("within:haed:dense", (), ParameterSpace(NETWORK))


def test_a_single_generation_within_the_head():
    config = FinetuneConfig.read(
        {**HERE, "children": 6, "subspace": "within:head:dense", "sigma": 0.1, "controls": False}
    )
    found = finetune(config)
    (group,) = found.arms[0].groups
    assert group.subspace == Within(("head",), Dense())
    assert all(recipe.subspace == group.subspace for recipe in group.recipes)  # and no kinds in recipes
    assert (
        next(
            part for part in finetune_workload(config, config.sizes | {"test": 60}).parts if part.name == "children"
        ).count
        == 6
    )


@pytest.mark.parametrize("searcher", ["gradient", "selection"])
def test_generations_within_the_head_move_nothing_else_and_are_replayed(searcher):
    settings = {name: value for name, value in TINY.items() if name != "density"}
    config = EvolutionConfig.read({**settings, "subspace": "within:head,bias:random:0.5", "searcher": searcher})
    run = Evolution(config)
    run.begin()
    for _ in range(3):
        run.step()
    before = run.space.copied()
    moved = {
        name for name, tensor in run.problem.make_net().named_parameters() if not torch.equal(tensor, before[name])
    }
    assert moved
    assert all(name.startswith("head") or name.endswith("bias") for name in moved)
    history = run.history(0)
    assert [encoded(decoded(step)) for step in history] == history
    assert "within:head:random:0.5" in str(history)


def test_a_single_generation_in_units_draws_all_of_them():
    found = finetune(FinetuneConfig.read({**HERE, "children": 30, "subspace": "unit:layer:random", "density": 0.5}))
    (rule,) = {recipe.subspace for arm in found.arms[:1] for group in arm.groups for recipe in group.recipes}
    assert rule == UnitSubspace("layer", RandomSubspace(0.5))


@pytest.mark.parametrize("searcher", ["gradient", "selection", "newton"])
def test_stages_move_what_is_theirs_and_go_on_to_the_bit_from_any_generation(searcher):
    settings = {name: value for name, value in TINY.items() if name not in ("density", "sigma")}
    subspace = "within:head:dense/within:bias:dense@3/unit:layer:dense@5"
    config = EvolutionConfig.read({**settings, "subspace": subspace, "searcher": searcher})
    run = Evolution(config)
    run.begin()
    parents, states = [run.space.make_child(run.parent())], []
    for _ in range(6):
        states.append(copy.deepcopy(run.state_dict()))
        run.step()
        parents.append(run.problem.space.make_child(run.parent()))
    moved = [differing(before, after) for before, after in pairwise(parents)]
    assert set().union(*moved[:2]) == {"head.weight", "head.bias"}
    assert any(moved[2:4])
    assert all(name.endswith("bias") for name in set().union(*moved[2:4]))
    assert any(moved[4:])
    for state in states[1:]:
        other = Evolution(config)
        other.load_state_dict(state)
        while other.generation < 6:
            other.step()
        assert not differing(parents[-1], other.problem.space.make_child(other.parent()))


@pytest.mark.parametrize("searcher", ["selection", "newton"])
def test_a_stored_run_in_stages_and_units_is_replayed(searcher, tmp_path):
    settings = {name: value for name, value in TINY.items() if name not in ("density", "sigma")}
    subspace = "within:head:dense/unit:layer:dense@3"
    evolve(EvolutionConfig.read({**settings, "subspace": subspace, "searcher": searcher}), tmp_path / "run")
    assert verify_history(tmp_path / "run", trust=True) == 7


def differing(one, other):
    """Names of the parameters that two networks have others of."""
    after = dict(other.named_parameters())
    return {name for name, tensor in one.named_parameters() if not torch.equal(tensor, after[name])}
