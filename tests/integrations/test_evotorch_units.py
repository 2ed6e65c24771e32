"""Searchers whose children touch one unit each: which one is the searcher's to choose, and to remember."""

from functools import partial

import pytest
import torch
from evotorch_helpers import evals
from helpers import blobs, same_bits, state_bits, trained
from torch import nn

from smd_evo import (
    Dense,
    Evaluator,
    FinetuneProblem,
    Lineage,
    ModuleFitness,
    ParameterSpace,
    RandomSubspace,
    SubspaceES,
    SubspaceEvolution,
    TensorSubspace,
    UnitSubspace,
    sample_mutations,
)
from smd_evo.core.credit import chances_of, learned, weights_of
from smd_evo.core.gradient import centered_ranks, es_gradient
from smd_evo.errors import InvalidValue
from smd_evo.integrations.evotorch.history import decoded, encoded
from smd_evo.integrations.evotorch.replica import Replica
from smd_evo.integrations.evotorch.solutions import changes_of

pytestmark = pytest.mark.numeric

SAMPLES = blobs(shift=2.5)
LAYERS = UnitSubspace("layer", RandomSubspace(0.5))
EVOLVE = partial(SubspaceEvolution, popsize=8, sigma=0.3, subspace=LAYERS)
CLIMB = partial(SubspaceES, popsize=8, sigma=0.2, center_learning_rate=0.05, subspace=LAYERS)
both = pytest.mark.parametrize("make", [EVOLVE, CLIMB], ids=["selection", "gradient"])


def problem_of(**options):
    return FinetuneProblem(trained(), SAMPLES, **{"seed": 1} | options)


def deep():
    """Six blocks of the same cost, of which a child of one has those before it from its parent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        blocks = [nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(6)]
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 64), *blocks, nn.Linear(64, 3)).eval()


def touched(lineage, layout):
    bounds = layout.bounds(lineage.steps[-1].delta(layout).indices)
    return {slot.layer for number, slot in enumerate(layout.slots) if bounds[number] < bounds[number + 1]}


def test_costs_are_what_a_child_computes():
    """As evaluations count it, but for the parent's pass, which all of them share."""
    network = deep()
    evaluator = Evaluator(network, SAMPLES, reuse=True)
    units = UnitSubspace(1, Dense()).units(evaluator.space.layout)
    costs = evaluator.costs([tensors for _, tensors in units])
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == 1
    for number, cost in list(enumerate(costs))[1:]:
        before = evaluator.work.forwards
        given = torch.full((4,), number)
        rule = UnitSubspace(1, Dense())
        evaluator.evaluate(sample_mutations(number, 4, subspace=rule, sigma=0.1, units=given))
        taken = evaluator.work.forwards - before - 60
        assert taken == pytest.approx(4 * 60 * cost, rel=0.05, abs=8)


def test_costs_are_whole_passes_where_nothing_is_shared():
    parts = [("head.weight",), ("conv.weight",)]
    assert Evaluator(trained(), SAMPLES, reuse=False).costs(parts) == [1, 1]
    size = ModuleFitness("size", "min", lambda module: float(module.head.weight.abs().sum()))
    assert Evaluator(trained(), fitness=size).costs(parts) == [1, 1]
    head, conv = Evaluator(trained(), SAMPLES).costs(parts)
    assert head < 0.5 < conv == 1


@both
def test_the_first_chances_are_as_one_to_cost(make):
    searcher = make(problem_of())
    names = ["conv", "bn", "head"]
    costs = Evaluator(trained(), SAMPLES).costs([[f"{name}.weight", f"{name}.bias"] for name in names])
    assert searcher.unit_chances == dict(zip(names, chances_of([1, 1, 1], costs), strict=True))
    assert searcher.unit_chances["head"] > searcher.unit_chances["conv"]


@both
def test_children_touch_the_unit_that_was_drawn_and_what_they_gain_is_learned(make):
    searcher, gains = make(problem_of()), [1.0, 1.0, 1.0]
    problem, names = searcher.problem, ["conv", "bn", "head"]
    for _ in range(4):
        searcher.step()
        children = searcher.population[-8:]
        lineages = problem.lineages(children)
        units = [touched(lineage, problem.space.layout) for lineage in lineages]
        assert all(len(unit) == 1 for unit in units)
        numbers = torch.tensor([names.index(*unit) for unit in units])
        if make is CLIMB:
            assert torch.equal(numbers[::2], numbers[1::2])
        improvements = problem.status["parent_eval"] - torch.tensor(evals(children), dtype=torch.float64)
        gains = learned(gains, numbers, improvements)
        costs = searcher.state_dict()["units"]["costs"]
        assert list(searcher.unit_chances.values()) == chances_of(gains, costs)
    assert gains != [1.0, 1.0, 1.0]


def test_the_gradient_weighs_each_unit_by_the_chance_it_was_drawn_with():
    searcher = CLIMB(problem_of(), optimizer="sgd", optimizer_config={"momentum": 0.0}, center_learning_rate=0.01)
    problem = searcher.problem
    layout = problem.space.layout
    for _ in range(3):
        chances = list(searcher.unit_chances.values())
        before = torch.cat([tensor.flatten() for tensor in problem.make_net().parameters()])
        searcher.step()
        children = [lineage.steps[0] for lineage in problem.lineages(searcher.population)]
        units = torch.tensor([["conv", "bn", "head"].index(*touched(Lineage((one,)), layout)) for one in children])
        ranks = centered_ranks(searcher.population.access_evals(0), "min") * weights_of(units, chances)
        expected = before + 0.01 * es_gradient(children, ranks, layout)
        after = torch.cat([tensor.flatten() for tensor in problem.make_net().parameters()])
        assert torch.allclose(after, expected, atol=1e-6)
        assert not torch.equal(after, before)


@both
def test_recipes_and_changes_replay_without_the_searcher(make):
    searcher = make(problem_of())
    searcher.run(3)
    problem = searcher.problem
    replica = Replica(ParameterSpace(trained()))
    for change in problem.changes_since(0):
        replica.apply(decoded(encoded(change)))
    assert same_bits(state_bits(replica.space.module), state_bits(problem.make_net()))
    assert any("units" in encoded(change).get("step", {}) for change in problem.changes_since(0)) == (make is CLIMB)
    if make is EVOLVE:
        child = searcher.population[-1]
        text = problem.lineages(child)[0].encode()
        parent = problem._parent_at(int(changes_of(child.values[None])))
        assert same_bits(state_bits(parent.make_child(Lineage.decode(text))), state_bits(problem.make_net(child)))


def test_changes_of_other_rules_are_stored_as_before():
    searcher = CLIMB(problem_of(), subspace=TensorSubspace())
    searcher.run(1)
    assert "units" not in encoded(searcher.problem.changes_since(0)[0])["step"]
    assert "units" not in searcher.state_dict()
    assert searcher.unit_chances == {}


@both
def test_what_was_learned_is_part_of_the_state(make):
    first, second = make(problem_of()), make(problem_of())
    first.run(3)
    second.load_state_dict(first.state_dict())
    assert second.unit_chances == first.unit_chances != make(problem_of()).unit_chances
    state = first.state_dict()
    for wrong in ([1.0], [1.0, 1.0, -1.0], [1.0, 1.0, float("nan")]):
        with pytest.raises(InvalidValue, match=r"state: expected|gains: expected"):
            make(problem_of()).load_state_dict({**state, "units": {**state["units"], "gains": wrong}})


def test_children_of_late_units_save_forward_passes():
    """Where all blocks cost alike, of units drawn alike a child would take half a pass, or somewhat more."""
    problem = FinetuneProblem(deep(), SAMPLES, seed=1)
    searcher = SubspaceEvolution(problem, popsize=64, sigma=0.05, subspace=UnitSubspace(1, Dense()))
    searcher.run(3)
    assert problem.work.forwards < 0.5 * problem.work.images
