"""A search that goes on in other objects: the same to the bit as if it had never stopped."""

import copy

import pytest
import torch
from evotorch_helpers import evals, population
from helpers import blobs, same_bits, trained

from smd_evo import (
    Dense,
    FinetuneProblem,
    Mutation,
    OpenAIES,
    PartitionSubspace,
    RandomSubspace,
    Staged,
    SubspaceES,
    SubspaceEvolution,
    SubspaceNewton,
    SubspaceProblem,
    UnitSubspace,
    Within,
)
from smd_evo.errors import InvalidValue, WrongParent

SAMPLES = blobs(shift=2.5)

SEARCHERS = {
    "(1 + lambda)": lambda p: SubspaceEvolution(p, popsize=6, density=0.1, sigma=0.3),
    "(1, lambda), sigma adapted": lambda p: SubspaceEvolution(
        p, popsize=6, density=0.1, sigma=0.3, num_elites=0, adapt_sigma=True
    ),
    "(mu + lambda), partition": lambda p: SubspaceEvolution(
        p, popsize=6, subspace=PartitionSubspace(5), sigma=0.3, num_parents=3, num_elites=3
    ),
    "sigma found": lambda p: SubspaceEvolution(p, popsize=4, density=0.1),
    "adam": lambda p: SubspaceES(p, popsize=6, density=0.1, sigma=0.1, center_learning_rate=0.05),
    "adam, static, relative": lambda p: SubspaceES(
        p, popsize=6, density=0.1, static=True, sigma=0.1, center_learning_rate=0.05, scale="relative"
    ),
    "adam, within": lambda p: SubspaceES(
        p, popsize=6, subspace=Within("head,*.bias", RandomSubspace(0.3)), sigma=0.1, center_learning_rate=0.05
    ),
    "units, sigma found": lambda p: SubspaceEvolution(p, popsize=6, subspace=UnitSubspace("layer", Dense())),
    "adam, units": lambda p: SubspaceES(
        p, popsize=6, subspace=UnitSubspace("tensor", RandomSubspace(0.5)), sigma=0.1, center_learning_rate=0.05
    ),
    "sgd": lambda p: SubspaceES(p, popsize=6, density=0.1, sigma=0.1, center_learning_rate=0.05, optimizer="sgd"),
    "sgd, momentum": lambda p: SubspaceES(
        p,
        popsize=6,
        density=0.1,
        sigma=0.1,
        center_learning_rate=0.05,
        optimizer="sgd",
        optimizer_config={"momentum": 0.9},
    ),
    "newton": lambda p: SubspaceNewton(p, popsize=6, density=0.1),
    "newton, static, relative": lambda p: SubspaceNewton(
        p, popsize=6, density=0.1, static=True, sigma=0.1, scale="relative"
    ),
    "clipup, weight decay": lambda p: OpenAIES(
        p, popsize=6, sigma=0.1, center_learning_rate=0.05, optimizer="clipup"
    ),
    "staged": lambda p: Staged(
        p,
        [
            (2, lambda p: SubspaceEvolution(p, popsize=6, subspace=Within("head", RandomSubspace(0.3)))),
            (2, SEARCHERS["adam, within"]),
            (1, SEARCHERS["clipup, weight decay"]),
        ],
    ),
}
MINIBATCHES = {"all samples": None, "minibatches": 20}


def make(name, minibatch_size=None, **options):
    options = {"seed": 1, "steps": 3} | options
    return SEARCHERS[name](FinetuneProblem(trained(), SAMPLES, minibatch_size=minibatch_size, **options))


def told(searcher):
    """What a generation shows: all numbers, and the parent."""
    names = ("iter", "sigma", "parent_eval", "best_eval", "worst_eval", "nonfinite", "evaluations")
    status = {name: searcher.status[name] for name in names}
    return status, evals(searcher.population), searcher.problem.make_net().state_dict()


def same(one, other):
    assert one[:2] == other[:2]
    assert same_bits(one[2], other[2])


def same_all(state, other):
    """Nested states of the same bits."""
    assert type(state) is type(other)
    if isinstance(state, dict):
        assert list(state) == list(other)
        for name in state:
            same_all(state[name], other[name])
    elif isinstance(state, torch.Tensor):
        assert torch.equal(torch.nan_to_num(state), torch.nan_to_num(other))  # a parent that nobody has evaluated
    else:
        assert state == other


@pytest.mark.parametrize("minibatch_size", MINIBATCHES.values(), ids=MINIBATCHES)
@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("stop", [0, 2])
def test_it_goes_on_as_if_it_had_never_stopped(name, minibatch_size, stop):
    whole, first = (make(name, minibatch_size) for _ in range(2))
    for _ in range(stop):
        whole.step()
        first.step()
    state = copy.deepcopy(first.state_dict())
    first.step()  # what happens to the old one is nothing to the new one
    second = make(name, minibatch_size)
    second.load_state_dict(state)
    assert second.step_count == stop
    same_all(second.state_dict(), state)
    for _ in range(3):
        whole.step()
        second.step()
        same(told(second), told(whole))
    same_all(second.state_dict(), whole.state_dict())


def test_the_size_does_not_grow_with_the_generations():
    """Neither that of the state nor what a child takes to replay."""
    searcher = make("(1, lambda), sigma adapted")

    def numbers(part):
        if isinstance(part, dict):
            return sum(map(numbers, part.values()))
        return part.numel() if isinstance(part, torch.Tensor) else 1

    sizes = []
    for _ in range(12):
        searcher.step()
        sizes.append(numbers(searcher.state_dict()))
    assert len(set(sizes[1:])) == 1
    assert max(len(lineage.steps) for lineage in searcher.problem.lineages(searcher.population)) == 1


def test_new_solutions_make_networks_and_older_ones_say_why_not():
    searcher = make("adam", 20)
    searcher.run(2)
    old = searcher.population[0].clone()
    other = make("adam", 20)
    other.load_state_dict(searcher.state_dict())
    for each in (searcher, other):
        each.step()
    new = searcher.population[0].clone()
    searcher.step()
    other.step()
    assert same_bits(*(each.problem.make_net(new).state_dict() for each in (other, searcher)))
    with pytest.raises(WrongParent, match="expected one of parents 2 to 4, got one of parent 1"):
        other.problem.make_net(old)


def test_a_point_of_a_subspace_goes_on():
    def rebased(problem):
        batch = population(problem)
        problem.evaluate(batch)
        problem.rebase(batch[0])
        return evals(batch)

    problem, other = (SubspaceProblem(trained(), SAMPLES, dimensions=20, minibatch_size=20, seed=1) for _ in "ab")
    rebased(problem)
    other.load_state_dict(problem.state_dict())
    assert rebased(other) == rebased(problem)
    assert same_bits(other.make_net().state_dict(), problem.make_net().state_dict())


def test_a_state_of_other_settings_is_refused_and_changes_nothing():
    state, other = make("adam").state_dict(), make("(mu + lambda), partition")
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(InvalidValue, match=r"state: expected one of rules .*partition.*, got .*random"):
        other.load_state_dict(state)
    same_all(other.state_dict(), before)
    searcher = SubspaceES(
        FinetuneProblem(torch.nn.Linear(3, 2), (torch.zeros(4, 3), torch.arange(4) % 2), seed=1),
        popsize=4,
        density=0.1,
        sigma=0.1,
        center_learning_rate=0.1,
    )
    with pytest.raises(WrongParent, match="values: expected the 2 selected parameters in their shapes and types"):
        searcher.load_state_dict(state)
    assert searcher.step_count == 0


def test_relative_scales_stay_those_of_the_first_parent():
    """Though the scales are first asked for when another parent has been loaded."""
    first = FinetuneProblem(trained(), SAMPLES, seed=1)
    first.rebase(Mutation(7, 0.9, RandomSubspace(0.5), 3))
    second = FinetuneProblem(trained(), SAMPLES, seed=1)
    second.load_state_dict(first.state_dict())
    assert second.space.layout == first.space.layout
