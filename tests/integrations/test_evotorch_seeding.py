"""manual_seed after a problem was made: from then on it draws as one that was made with that seed."""

import copy
from functools import partial

import pytest
import torch
from evotorch import Problem
from evotorch.algorithms import PGPE, SNES, GeneticAlgorithm
from evotorch_helpers import evals, evaluated, make, pickled, population
from helpers import blobs, same_bits, state_bits, trained

from smd_evo import (
    AddMutation,
    FinetuneProblem,
    Lineage,
    SparseGaussianMutation,
    Staged,
    SubspaceES,
    SubspaceEvolution,
    SubspaceNewton,
    SubspaceProblem,
    TensorSubspace,
)
from smd_evo.errors import InvalidValue

SAMPLES = blobs(30, shift=2.5)
BOTH = pytest.mark.parametrize("kind", [FinetuneProblem, SubspaceProblem])

EVOLUTION = partial(SubspaceEvolution, popsize=4, density=0.1)
LINEAGES = {
    "evolution": partial(EVOLUTION, sigma=0.3),
    "evolution, static, sigma found": partial(EVOLUTION, static=True),
    "ES": partial(SubspaceES, popsize=4, density=0.1, sigma=0.1, center_learning_rate=0.05),
    "staged": lambda problem: Staged(problem, [(1, LINEAGES["ES"]), (1, LINEAGES["evolution"])]),
    "genetic algorithm": lambda problem: GeneticAlgorithm(
        problem, operators=[AddMutation(problem, stdev=0.1, density=0.1)], popsize=4
    ),
}
NUMBERS = {
    "SNES": lambda problem: SNES(problem, stdev_init=0.05, popsize=4),
    "PGPE": lambda problem: PGPE(
        problem, popsize=4, center_learning_rate=0.1, stdev_learning_rate=0.1, stdev_init=0.05
    ),
    "genetic algorithm on numbers": lambda problem: GeneticAlgorithm(
        problem, operators=[SparseGaussianMutation(problem, stdev=0.1, density=0.2)], popsize=4
    ),
}
CASES = [(FinetuneProblem, made) for made in LINEAGES.values()] + [
    (SubspaceProblem, made) for made in NUMBERS.values()
]
every_case = pytest.mark.parametrize(("kind", "made"), CASES, ids=[*LINEAGES, *NUMBERS])
MINIBATCHES = pytest.mark.parametrize("minibatch_size", [None, 10])


def problem_of(kind, **options):
    steps = {"steps": 6} if kind is FinetuneProblem else {}
    return make(kind, trained(), SAMPLES, **steps | options)


def children(problem, batch):
    """What solutions are, whatever their rules and parents are numbered by."""
    if isinstance(problem, FinetuneProblem):
        return [str(lineage) for lineage in problem.lineages(batch)]
    return batch.values.tolist()


def trace(searcher, generations=3):
    found = []
    for _ in range(generations):
        searcher.step()
        found.append((children(searcher.problem, searcher.population), evals(searcher.population)))
    return found, state_bits(searcher.problem.make_net())


def same(one, other):
    assert one[0] == other[0]
    assert same_bits(one[1], other[1])


@every_case
@MINIBATCHES
class TestARunRepeats:
    def test_as_one_of_a_problem_that_was_made_with_the_seed(self, kind, made, minibatch_size):
        expected = trace(made(problem_of(kind, seed=7, minibatch_size=minibatch_size)))
        for seed in (3, None):
            problem = problem_of(kind, seed=seed, minibatch_size=minibatch_size)
            problem.evaluate(population(problem))  # a minibatch, and fitness that is remembered
            made(problem)  # keys that nobody uses
            problem.manual_seed(7)
            same(trace(made(problem)), expected)

    def test_from_any_parent(self, kind, made, minibatch_size):
        """A searcher has had generations, the parent has moved, and other samples were seen."""
        problem = problem_of(kind, seed=3, minibatch_size=minibatch_size)
        made(problem).run(2)
        problem.rebase(problem.lineages(population(problem))[0] if kind is FinetuneProblem else torch.ones(20))
        fresh = make(kind, problem.make_net(), SAMPLES, seed=7, minibatch_size=minibatch_size, **steps_of(problem))
        problem.manual_seed(7)
        same(trace(made(problem)), trace(made(fresh)))

    def test_of_a_searcher_that_was_made_before(self, kind, made, minibatch_size):
        """Its key is drawn again, and its sigma is found again, also in a copy."""
        runs = []
        for seed in (3, 4, 4):
            problem = problem_of(kind, seed=seed, minibatch_size=minibatch_size)
            searcher = made(problem)
            if kind is FinetuneProblem and hasattr(searcher, "sigma"):
                assert searcher.sigma > 0
            problem.manual_seed(7)
            if len(runs) == 1:
                stored = pickled(searcher)
                assert stored.problem.key == problem.key
                searcher = stored
            runs.append(trace(searcher))
        same(runs[1], runs[0])
        same(runs[2], runs[0])


def steps_of(problem):
    return {"steps": problem.steps} if isinstance(problem, FinetuneProblem) else {}


def test_a_searcher_that_has_begun_keeps_its_key():
    """A static subspace and an optimizer's state are of the run."""
    problem = problem_of(FinetuneProblem)
    searcher = SubspaceES(problem, popsize=4, density=0.1, static=True, sigma=0.1, center_learning_rate=0.05)
    searcher.step()
    other = copy.deepcopy(searcher)
    problem.manual_seed(99)
    same(trace(searcher), trace(other))


def test_a_state_goes_on_after_another_seed():
    """In a problem that was made with the first one."""
    problem = problem_of(SubspaceProblem, minibatch_size=10)
    problem.rebase(torch.ones(20))
    problem.manual_seed(7)
    problem.evaluate(population(problem))
    other = problem_of(SubspaceProblem, minibatch_size=10)
    other.load_state_dict(copy.deepcopy(problem.state_dict()))
    assert [evaluated(other, population(other, key=1))] == [evaluated(problem, population(problem, key=1))]
    old = {name: value for name, value in problem.state_dict().items() if name not in ("key", "seeded_at")}
    fresh = problem_of(SubspaceProblem, minibatch_size=10)
    key = fresh.key
    fresh.load_state_dict(old)  # of a version that had no such seeds
    assert fresh.key == key
    for each in (None, 5):
        stateless, seeded = (problem_of(FinetuneProblem, seed=each) for _ in range(2))
        stateless.manual_seed(2)
        seeded.load_state_dict(stateless.state_dict())
        assert LINEAGES["evolution"](seeded)._key == LINEAGES["evolution"](stateless)._key


def test_a_state_before_the_first_generation_has_the_new_key():
    searcher, other = (LINEAGES["evolution, static, sigma found"](problem_of(FinetuneProblem)) for _ in range(2))
    searcher.problem.manual_seed(7)
    other.load_state_dict(copy.deepcopy(searcher.state_dict()))
    same(trace(other), trace(searcher))


def test_the_same_searcher_in_the_same_problem_twice():
    """EvoTorch's own move no parent, so a problem repeats them as often as it is seeded."""
    problem = problem_of(SubspaceProblem, seed=None, minibatch_size=10)
    runs = []
    for seed in (7, 7, 8):
        problem.manual_seed(seed)
        runs.append(trace(NUMBERS["SNES"](problem)))
    same(runs[1], runs[0])
    assert runs[2][0] != runs[0][0]


def test_a_subspace_of_another_size_is_refused():
    """Nothing has changed then."""
    problem = make(SubspaceProblem, trained(), SAMPLES, dimensions=None, subspace=TensorSubspace(1, static=True))
    lengths = {}
    for seed in range(20):
        key, state = problem.key, problem.generator.get_state()
        other = make(SubspaceProblem, trained(), SAMPLES, dimensions=None, subspace=problem.subspace, seed=seed)
        lengths[seed] = other.solution_length
        if other.solution_length == problem.solution_length:
            problem.manual_seed(seed)
            assert problem.key == other.key
            continue
        with pytest.raises(InvalidValue, match=r"seed: expected one whose subspace has \d+ coordinates.*with seed="):
            problem.manual_seed(seed)
        assert problem.key == key
        assert torch.equal(problem.generator.get_state(), state)
    assert len(set(lengths.values())) > 1


@pytest.mark.parametrize("static", [False, True])
def test_an_operator_of_any_problem_begins_anew(static):
    """Also of one that knows nothing of this package, whatever seed the operator was made under."""

    def run(first):
        problem = Problem("min", torch.linalg.norm, solution_length=30, initial_bounds=(-1, 1), seed=first)
        mutate = SparseGaussianMutation(problem, stdev=0.1, density=0.1, static=static)
        told = []
        for seed in (7, 7, 8):
            problem.manual_seed(seed)
            told.append([mutate(problem.generate_batch(3)).values.tolist() for _ in range(2)])
        return told

    told = run(None)
    assert told == run(3)
    assert told[0] == told[1] != told[2]


@BOTH
@pytest.mark.parametrize("size", [None, 10])
def test_a_hook_that_clears_evaluations_is_told_so(kind, size):
    """NaN would be a fitness to those that come next: the parent, or a centre, would move by nothing."""
    problem = problem_of(kind, minibatch_size=size)
    made = (LINEAGES["ES"] if kind is FinetuneProblem else NUMBERS["SNES"])(problem)
    made.step()
    before = state_bits(problem.make_net())
    problem.after_eval_hook.append(lambda batch: {"norm": float(batch.access_values().double().norm())})
    with pytest.raises(InvalidValue, match=r"^evals: .* NaN in 4 of them; .*access_values\(keep_evals=True\)$"):
        made.step()
    assert made.step_count == 1
    assert same_bits(state_bits(problem.make_net()), before)
    problem.after_eval_hook.clear()
    problem.after_eval_hook.append(lambda batch: {"norm": float(batch.values.double().norm())})
    if kind is FinetuneProblem:  # EvoTorch's own has a population of NaN
        made.step()
        assert made.step_count == 2
        assert made.status["norm"] > 0


def test_newton_asks_for_the_same_children():
    """Of which the outputs are solved by a library, whose last bits depend on where the memory lies."""
    found = []
    for seed in (7, 3):
        problem = problem_of(FinetuneProblem, seed=seed, minibatch_size=10)
        searcher = SubspaceNewton(problem, popsize=4, density=0.1, sigma=0.1)
        problem.manual_seed(7)
        searcher.step()
        found.append((children(problem, searcher.population), evals(searcher.population)))
    assert found[0] == found[1]


def test_a_lineage_of_nothing_is_the_parent_after_any_seed():
    problem = problem_of(FinetuneProblem)
    problem.manual_seed(3)
    assert problem.lineages(problem.generate_batch(1)) == [Lineage()]
