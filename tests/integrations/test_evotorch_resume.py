"""A search that goes on in other objects: the same to the bit as if it had never stopped."""

import copy
import itertools

import pytest
import torch
from evotorch_helpers import evals, population
from helpers import blobs, same_bits, trained

from smd_evo import (
    Dense,
    FinetuneProblem,
    Mutation,
    OpenAIES,
    ParameterSpace,
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
from smd_evo.errors import InvalidType, InvalidValue, WrongParent
from smd_evo.integrations.evotorch.states import unselected

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
    state, other = make("(1 + lambda)").state_dict(), make("(mu + lambda), partition")
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(InvalidValue, match=r"state: expected one of rules .*partition.*, got .*random"):
        other.load_state_dict(state)
    same_all(other.state_dict(), before)
    searcher = SubspaceES(
        FinetuneProblem(torch.nn.Linear(3, 2), (torch.zeros(4, 3), torch.arange(4) % 2), steps=3, seed=1),
        popsize=4,
        density=0.1,
        sigma=0.1,
        center_learning_rate=0.1,
    )
    with pytest.raises(WrongParent, match="values: expected the 2 selected parameters in their shapes and types"):
        searcher.load_state_dict(make("adam").state_dict())
    assert searcher.step_count == 0


def without(state, *names):
    return {own: value for own, value in state.items() if own not in names}


@pytest.mark.parametrize(
    ("name", "other", "change", "message"),
    [
        ("adam", "(1 + lambda)", dict, "state: expected one of SubspaceES, got one of 'SubspaceEvolution'; load"),
        (
            "adam",
            "newton",
            lambda state: without(state, "kind", "given_sigma"),
            "state: .*state_dict.*, got none of 'optimizer'",
        ),
        (
            "(1 + lambda)",
            "adam",
            lambda state: without(state, "kind", "given_sigma"),
            "state: .*got none of 'parents'",
        ),
        ("adam", "staged", dict, "state: expected one of SubspaceES, got one of 'Staged'"),
        ("staged", "staged", lambda state: state | {"searcher": make("adam").state_dict()}, "state: expected"),
        ("adam", "adam", lambda state: state | {"problem": None}, "state: expected what state_dict"),
        ("adam", "adam", lambda state: state | {"sigma": -1}, "state: sigma: expected a finite number > 0"),
        ("adam", "adam", lambda state: state | {"optimizer": {}, "rest": torch.zeros(3)}, "rest: expected"),
        ("adam", "adam", lambda state: changed(state, minibatch_size=1000), "minibatch_size: expected at most the"),
        ("adam", "adam", lambda state: changed(state, share=[3, 2]), "share"),
        (
            "adam",
            "adam",
            lambda state: changed(state, solution_length=4),
            "state: expected solutions of length 10, got 4",
        ),
        ("adam", "adam", lambda state: changed(state, generator=torch.zeros(3)), "state: expected"),
        ("adam", "adam", lambda state: changed(state, changes=None), "state: changes: expected a whole number"),
    ],
    ids=itertools.count(),  # the text of a function holds its address, which each worker has another of
)
@pytest.mark.filterwarnings("ignore")
def test_a_state_that_is_refused_changes_nothing(name, other, change, message):
    stored, searcher = make(other), make(name)
    stored.run(2)
    searcher.run(1)
    before, status = copy.deepcopy(searcher.state_dict()), dict(searcher.status)
    with pytest.raises((InvalidValue, InvalidType), match=message) as caught:
        searcher.load_state_dict(change(stored.state_dict()))
    assert "\n" not in str(caught.value)
    same_all(searcher.state_dict(), before)
    assert searcher.status["iter"] == status["iter"] == 1


def frozen_otherwise():
    network = trained()
    network.register_buffer("mean", torch.ones(1))
    return network


@pytest.mark.parametrize(
    ("problem", "settings", "kind", "message"),
    [
        (
            lambda: FinetuneProblem(trained(), SAMPLES, "accuracy"),
            {},
            InvalidValue,
            r"expected fitness accuracy \(max\), got 'cross_entropy \(min\)'",
        ),
        (
            lambda: FinetuneProblem(trained(), tuple(part[:-1] for part in SAMPLES)),
            {},
            InvalidValue,
            f"expected samples {len(SAMPLES[0]) - 1}, got {len(SAMPLES[0])}",
        ),
        (
            lambda: FinetuneProblem(frozen_otherwise(), SAMPLES),
            {},
            WrongParent,
            "expected the same values of what is not selected, got others",
        ),
        (
            lambda: FinetuneProblem(trained(), SAMPLES),
            {"sigma": 0.2},
            InvalidValue,
            r"expected one of sigma 0\.2, got 0\.1",
        ),
        (
            lambda: FinetuneProblem(trained(), SAMPLES),
            {"optimizer": "sgd"},
            InvalidValue,
            "expected one of optimizer sgd, got 'adam'",
        ),
    ],
    ids=["fitness", "samples", "not selected", "sigma", "optimizer"],
)
def test_a_state_of_what_it_does_not_restore_is_refused(problem, settings, kind, message):
    def searcher(problem, **settings):
        settings = {"popsize": 4, "density": 0.5, "sigma": 0.1, "center_learning_rate": 0.1} | settings
        return SubspaceES(problem, **settings)

    one = searcher(FinetuneProblem(trained(), SAMPLES))
    one.run(1)
    other = searcher(problem(), **settings)
    with pytest.raises(kind, match=f"^state: {message}; make the (problem|searcher) as it was made then$"):
        other.load_state_dict(one.state_dict())
    assert other.step_count == other.problem.changes == 0


def test_what_is_not_selected_is_whatever_is_stored_beside_it():
    """Also where a selected parameter is stored by two names."""
    network = trained()
    network.again = network.head
    space = ParameterSpace(network, "head.*")
    before = unselected(space)
    space.load({name: tensor + 1 for name, tensor in space.copied().items()})
    assert unselected(space) == before
    network.bn.running_mean[0] += 1
    assert unselected(space) != before


def changed(state, **changes):
    return state | {"problem": state["problem"] | changes}


def test_a_point_of_another_subspace_is_refused_and_changes_nothing():
    one, other = (SubspaceProblem(trained(), SAMPLES, dimensions=size, seed=1) for size in (5, 6))
    one.rebase(torch.ones(5))
    one.evaluate(population(one))
    before = copy.deepcopy(other.state_dict())
    for state in (one.state_dict(), without(one.state_dict(), "solution_length")):
        with pytest.raises(InvalidValue, match=r"^state: expected solutions of .* 6"):
            other.load_state_dict(state)
        same_all(other.state_dict(), before)


@pytest.mark.parametrize(
    "settings",
    [
        {"dimensions": 5, "scale": "relative"},
        {"subspace": RandomSubspace(5 / ParameterSpace(trained()).size, static=True)},
    ],
    ids=["scale", "subspace"],
)
def test_a_point_of_as_many_numbers_of_another_rule_is_refused(settings):
    stored = SubspaceProblem(trained(), SAMPLES, seed=1, **settings)
    problem = SubspaceProblem(trained(), SAMPLES, dimensions=5, seed=1)
    before = copy.deepcopy(problem.state_dict())
    with pytest.raises(InvalidValue, match=r"^state: expected one of random:\S+ absolute, got one of random:\S+ "):
        problem.load_state_dict(stored.state_dict())
    same_all(problem.state_dict(), before)
    problem.load_state_dict(without(SubspaceProblem(trained(), SAMPLES, dimensions=5).state_dict(), "rule"))


@pytest.mark.parametrize("name", ["(mu + lambda), partition", "adam", "staged"])
def test_the_status_is_that_of_the_state(name):
    """And nothing of what was before it was loaded."""
    searcher, other = make(name), make(name)
    searcher.run(1)
    told, state = dict(searcher.status), copy.deepcopy(searcher.state_dict())
    assert searcher.problem.make_net(searcher.status["pop_best"])
    for each in (searcher, other):
        each.run(2)
        each.load_state_dict(state)
        status = dict(each.status)
        for item in ("iter", "sigma", "pop_best_eval", "best_eval", "worst_eval", "evaluations"):
            assert status[item] == told[item]
        assert status.get("parent_eval") in (None, told["parent_eval"])  # a gradient searcher's has moved since
        assert "pop_best_eval" in each._repr_html_()
        assert torch.equal(status["pop_best"].values, told["pop_best"].values)
    fresh = make(name)
    fresh.load_state_dict(copy.deepcopy(make(name).state_dict()))
    assert "iter" not in fresh.status


def test_relative_scales_stay_those_of_the_first_parent():
    """Though the scales are first asked for when another parent has been loaded."""
    first = FinetuneProblem(trained(), SAMPLES, seed=1)
    first.rebase(Mutation(7, 0.9, RandomSubspace(0.5), 3))
    second = FinetuneProblem(trained(), SAMPLES, seed=1)
    second.load_state_dict(first.state_dict())
    assert second.space.layout == first.space.layout
