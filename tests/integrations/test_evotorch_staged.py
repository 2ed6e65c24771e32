"""Searchers one after another: each where the one before has arrived, on other samples, and made when it begins."""

from functools import partial

import pytest
import torch
from evotorch_helpers import evals
from helpers import blobs, same_bits, trained

from smd_evo import (
    Dense,
    Evaluator,
    FinetuneProblem,
    Lineage,
    ModuleFitness,
    RandomSubspace,
    Staged,
    SubspaceES,
    SubspaceEvolution,
    Within,
    calibrate_sigma,
)
from smd_evo.errors import InvalidType, InvalidValue, SmdEvoError, WrongParent
from smd_evo.evaluation.data import share_of

pytestmark = pytest.mark.numeric

SAMPLES = blobs(shift=2.5)
HEAD, VECTORS = Within("head", Dense()), Within("bn,head.bias", Dense())
EVOLVE = partial(SubspaceEvolution, popsize=6, sigma=0.3)
CLIMB = partial(SubspaceES, popsize=6, sigma=0.1, center_learning_rate=0.05)
STAGES = [
    (2, partial(EVOLVE, subspace=HEAD)),
    (3, partial(CLIMB, subspace=VECTORS)),
    (2, partial(CLIMB, density=0.5)),
]


def problem_of(**options):
    return FinetuneProblem(trained(), SAMPLES, **{"seed": 1} | options)


def tensors(problem):
    return {name: tensor.clone() for name, tensor in problem.make_net().named_parameters()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_each_stage_moves_its_own_part_from_where_the_one_before_arrived():
    searcher = Staged(problem_of(), STAGES)
    start = tensors(searcher.problem)
    searcher.run(2)
    best = searcher.searcher.parents[0]
    expected = {name: tensor.clone() for name, tensor in searcher.problem.make_net(best).named_parameters()}
    assert moved(start, expected) == {"head.weight", "head.bias"}
    searcher.step()
    after = tensors(searcher.problem)
    assert moved(expected, after) == {"bn.weight", "bn.bias", "head.bias"}
    searcher.run(2)
    before = tensors(searcher.problem)
    searcher.step()
    assert moved(before, tensors(searcher.problem)) == set(start)


def test_it_is_the_searchers_one_after_another():
    """The same by hand, with minibatches, which go on: to the bit."""
    whole = Staged(problem_of(minibatch_size=20), STAGES)
    problem = problem_of(minibatch_size=20)
    for _, make in STAGES:  # they are tried beforehand
        make(problem)
    for count, make in STAGES:
        searcher = make(problem)
        for _ in range(count):
            searcher.step()
            whole.step()
            assert torch.equal(whole.population.values, searcher.population.values)
            assert evals(whole.population) == evals(searcher.population)
            assert whole.status["parent_eval"] == searcher.status["parent_eval"]
            assert whole.sigma == searcher.sigma
        searcher.settle()
    whole.settle()
    assert same_bits(whole.problem.make_net().state_dict(), problem.make_net().state_dict())


@pytest.mark.parametrize("parents", [1, 3])
def test_a_search_may_settle_and_go_on(parents):
    problem = problem_of(steps=2)
    searcher = EVOLVE(problem, density=0.2, num_parents=parents)
    searcher.run(2)
    best = problem.make_net(searcher.parents[0]).state_dict()
    for _ in range(2):
        searcher.settle()
        assert same_bits(problem.make_net().state_dict(), best)
    before = float(searcher.parents.evals[0, 0])
    searcher.run(2)
    assert searcher.status["pop_best_eval"] <= before  # its elite is still that one, of the same samples


def test_status_tells_the_stage_and_when_all_are_over():
    searcher = Staged(problem_of(), STAGES)
    assert searcher.population is None
    seen = []
    for _ in range(8):
        assert not searcher.is_terminated or len(seen) == 7
        searcher.step()
        seen.append((searcher.status["iter"], searcher.status["stage"], searcher.status["sigma"]))
    assert seen == list(zip(range(1, 9), [1, 1, 2, 2, 2, 3, 3, 3], [0.3, 0.3, *[0.1] * 6], strict=True))
    assert searcher.is_terminated
    assert "SubspaceES" not in searcher._repr_html_()
    assert "Staged" in searcher._repr_html_()


def test_without_minibatches_each_stage_has_samples_of_its_own():
    searcher = Staged(problem_of(), STAGES)
    key, seen = searcher.problem.key, []
    for count, stage in zip((2, 3, 2), range(3), strict=True):
        for _ in range(count):
            searcher.step()
            numbers = share_of(key, stage, 3, 60)
            data = tuple(part[numbers.sort().values] for part in SAMPLES)
            network = searcher.problem.make_net(searcher.population[1])
            assert float(Evaluator(network, data).evaluate([Lineage()]).fitness[0]) == evals(searcher.population)[1]
        seen += numbers.tolist()
    assert sorted(seen) == list(range(60))


def test_a_single_stage_sees_all_samples_and_is_its_searcher():
    make = partial(CLIMB, density=0.5)
    one, problem = Staged(problem_of(), [(2, make)]), problem_of()
    make(problem)
    alone = make(problem)
    one.run(3)
    alone.run(3)
    assert evals(one.population) == evals(alone.population)
    assert same_bits(one.problem.make_net().state_dict(), problem.make_net().state_dict())


def test_a_fitness_of_the_network_has_no_samples_to_share():
    fitness = ModuleFitness("size", "min", lambda module: float(sum(p.square().sum() for p in module.parameters())))
    searcher = Staged(FinetuneProblem(trained(), fitness=fitness, seed=1), STAGES)
    searcher.run(7)
    assert searcher.problem.share is None


def test_auto_calibrates_at_the_parent_that_the_stage_begins_with():
    stages = [(3, partial(CLIMB, subspace=HEAD)), (2, partial(CLIMB, density=0.5, sigma="auto"))]
    searcher = Staged(problem_of(minibatch_size=20), stages)
    searcher.run(3)
    problem = searcher.problem
    there = problem.evaluator.on(SAMPLES).on_samples(torch.arange(60))
    assert there.space is problem.space
    before = problem.evaluator
    searcher.step()
    key = searcher.searcher._key
    other = Staged(problem_of(minibatch_size=20), stages)
    other.run(3)
    expected = calibrate_sigma(other.problem.evaluator, RandomSubspace(0.5), 0.99, key=key)
    assert searcher.sigma == expected.sigma
    assert before.samples == 20


def test_a_wrong_stage_shows_before_anything_is_evaluated():
    problem = problem_of()
    for stages, kind, message in [
        ([], InvalidValue, "stages: expected one or more, got none"),
        ([(2,)], InvalidType, "stages: expected pairs of generations and make"),
        ([(2, 3)], InvalidType, "stages: expected pairs of generations and make"),
        ([(0, STAGES[0][1])], InvalidValue, "generations: expected a whole number >= 1, got 0"),
        ([(1.5, STAGES[0][1])], InvalidType, "generations: expected a whole number >= 1, got 1.5"),
        ([(1, lambda problem: problem)], InvalidType, "stages: expected a searcher of this package"),
        ([(1, lambda _: CLIMB(problem_of(), density=0.1))], InvalidType, "on the problem that is given"),
        ([STAGES[0], (1, partial(CLIMB, subspace=Within("haed", Dense())))], InvalidValue, "did you mean 'head'"),
    ]:
        with pytest.raises(kind, match=message) as caught:
            Staged(problem, stages)
        assert isinstance(caught.value, SmdEvoError)
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidType, match="problem: expected a FinetuneProblem, got a SmallNet"):
        Staged(trained(), STAGES)
    assert problem.evaluations == 0


@pytest.mark.parametrize("stop", range(8))
def test_it_is_resumed_in_any_stage_to_the_bit(stop):
    whole, first, second = (Staged(problem_of(), STAGES) for _ in range(3))
    first.run(stop)
    whole.run(stop)
    second.load_state_dict(first.state_dict())
    assert (second.step_count, second.problem.share) == (stop, first.problem.share)
    whole.run(3)
    second.run(3)
    assert evals(whole.population) == evals(second.population)
    assert same_bits(whole.problem.make_net().state_dict(), second.problem.make_net().state_dict())


def test_a_state_of_other_stages_is_refused():
    searcher = Staged(problem_of(), STAGES)
    searcher.run(3)
    state = searcher.state_dict()
    with pytest.raises(InvalidValue, match="state: expected one of stages that end after"):
        Staged(problem_of(), [(5, make) for _, make in STAGES]).load_state_dict(state)
    with pytest.raises((InvalidValue, WrongParent), match="state: expected one of rules"):
        Staged(problem_of(), STAGES[1:]).load_state_dict({**state, "stage": 0, "generation": 1})


@pytest.mark.parametrize("share", [(3, 3), (-1, 2), (0, 61), 3, (1, 2.5), (1,)])
def test_shares_that_do_not_exist_are_refused(share):
    problem = problem_of()
    with pytest.raises((InvalidValue, InvalidType), match="share: expected"):
        problem.share = share
    assert problem.share is None


def test_another_share_makes_known_fitness_unknown():
    problem = problem_of()
    population = problem.generate_batch(1)
    seen = []
    for share in ((0, 2), (1, 2), None):
        problem.share = share
        problem.evaluate(population)
        seen.append(float(population.evals[0, 0]))
    assert len(set(seen)) == 3
    assert seen[2] == pytest.approx((seen[0] + seen[1]) / 2, rel=1e-4)
