"""What every search keeps to, ours and EvoTorch's, on the problem that it is for: one suite, with actors and without.

It repeats under a seed, also one that is given later; it is the same with actors, to the bit; a copy of it in mid-run
goes on as it would have, also one that was made with actors and goes on without.
"""

from functools import partial

import numpy as np
import pytest
import torch
from evotorch.algorithms import CEM, CMAES, PGPE, SNES, XNES, GeneticAlgorithm, PyCMAES, SteadyStateGA
from evotorch_helpers import evals, pickled, population
from helpers import blobs, same_bits, state_bits, trained
from ray_helpers import cluster

from smd_evo import (
    AddMutation,
    Dense,
    FinetuneProblem,
    OpenAIES,
    RandomSubspace,
    SparseGaussianMutation,
    Staged,
    SubspaceES,
    SubspaceEvolution,
    SubspaceNewton,
    SubspaceProblem,
    UnitSubspace,
)
from smd_evo.errors import InvalidType, InvalidValue

# EvoTorch's CMA-ES copies a tensor by torch.tensor(), and has numpy round one.
pytestmark = pytest.mark.filterwarnings(
    "ignore:To copy construct from a tensor:UserWarning:evotorch",
    "ignore:__array_wrap__ must accept:DeprecationWarning:evotorch",
)

SAMPLES = blobs(30, shift=2.5)
UNITS = UnitSubspace("layer", RandomSubspace(0.5))
EVOLUTION = partial(SubspaceEvolution, popsize=6, density=0.1)
ES = partial(SubspaceES, popsize=6, density=0.1, sigma=0.1, center_learning_rate=0.05)


def genetic(kind, operator):
    return lambda problem: kind(problem, operators=[operator(problem, stdev=0.1, density=0.1)], popsize=6)


def steady(problem):
    searcher = SteadyStateGA(problem, popsize=6)
    searcher.use(AddMutation(problem, stdev=0.1, density=0.1))
    return searcher


def staged(problem):
    return Staged(problem, [(1, partial(EVOLUTION, sigma=0.3)), (1, ES)])


LINEAGES = {
    "evolution": partial(EVOLUTION, sigma=0.3),
    "evolution, several parents": partial(EVOLUTION, num_parents=3, num_elites=2, adapt_sigma=True),
    "evolution, units": partial(SubspaceEvolution, popsize=6, subspace=UNITS, sigma=0.3),
    "ES": partial(ES, weight_decay=0.01),
    "ES, static, clipup": partial(ES, static=True, optimizer="clipup"),
    "ES, units": partial(ES, density=None, subspace=UnitSubspace(1, Dense())),
    "OpenAIES": partial(OpenAIES, popsize=6),
    "staged": staged,
    "genetic algorithm": genetic(GeneticAlgorithm, AddMutation),
    "steady genetic algorithm": steady,
}
PGPE_OPTIONS = {"popsize": 6, "center_learning_rate": 0.1, "stdev_learning_rate": 0.1, "stdev_init": 0.05}
DISTRIBUTED = {
    "SNES": partial(SNES, stdev_init=0.05, popsize=7),
    "PGPE": partial(PGPE, **PGPE_OPTIONS),
    "PGPE, adam": partial(PGPE, optimizer="adam", **PGPE_OPTIONS),
    "CEM": partial(CEM, popsize=8, parenthood_ratio=0.5, stdev_init=0.05),
}
NUMBERS = DISTRIBUTED | {
    "XNES": partial(XNES, stdev_init=0.05, popsize=6),
    "CMAES": partial(CMAES, stdev_init=0.05, popsize=6),
    "PyCMAES": partial(PyCMAES, stdev_init=0.05, popsize=6),
    "genetic algorithm on numbers": genetic(GeneticAlgorithm, SparseGaussianMutation),
}
ALONE = {"newton": partial(SubspaceNewton, popsize=6, density=0.1, sigma=0.1)}  # it has no actors
EVERY = LINEAGES | NUMBERS | ALONE
every_searcher = pytest.mark.parametrize("name", EVERY)
every_distributed = pytest.mark.parametrize("name", DISTRIBUTED)


def problem_of(kind, seed=7, **options):
    own = {"steps": 6} if kind is FinetuneProblem else {"dimensions": 20}
    return kind(trained(), SAMPLES, minibatch_size=10, seed=seed, **own | options)


def kind_of(name):
    return SubspaceProblem if name in NUMBERS else FinetuneProblem


def generation(searcher):
    """All that one shows: what its solutions are, their fitness, the status' numbers, and the parent."""
    searcher.step()
    problem, status = searcher.problem, dict(searcher.status)
    solutions = searcher.population
    if solutions is not None:
        lineages = isinstance(problem, FinetuneProblem)
        solutions = (problem.lineages(solutions) if lineages else solutions.values.tolist()), evals(solutions)
    numbers = {
        name: status[name] for name in ("iter", "parent_eval", "nonfinite", "mean_eval", "sigma") if name in status
    }
    return solutions, numbers, state_bits(problem.make_net())


def generations(searcher, count):
    return [generation(searcher) for _ in range(count)]


def same(found, expected):
    assert [each[:2] for each in found] == [each[:2] for each in expected]
    assert all(same_bits(one[2], other[2]) for one, other in zip(found, expected, strict=True))


class Actors:
    """A problem of each kind whose two actors live as long as the tests do, and its twin without: changed alike."""

    def __init__(self):
        self.pairs = {}

    def pair(self, kind, seed):
        """Alone and with actors, both from the present parent with a seed."""
        if kind not in self.pairs:
            self.pairs[kind] = problem_of(kind), problem_of(kind, num_actors=2)
        for problem in self.pairs[kind]:
            problem.manual_seed(seed)
        return self.pairs[kind]


@pytest.fixture(scope="module")
def actors(lean):
    with cluster(lean):
        yield Actors()


@every_searcher
def test_it_repeats_under_a_seed_and_from_a_copy(name):
    """The seed is the problem's own, or given after it was made and used; the copy is taken in mid-run.

    Whatever the global random states are.
    """
    expected = generations(EVERY[name](problem_of(kind_of(name))), 4)
    assert len({str(each[0]) for each in expected}) == 4
    torch.manual_seed(2)
    np.random.seed(2)
    problem = problem_of(kind_of(name), seed=3)
    problem.evaluate(population(problem))
    EVERY[name](problem)
    problem.manual_seed(7)
    searcher = EVERY[name](problem)
    same(generations(searcher, 2), expected[:2])
    stored = pickled(searcher)
    for each in (searcher, stored):
        same(generations(each, 2), expected[2:])


@pytest.mark.parametrize("name", LINEAGES | NUMBERS)
def test_it_is_the_same_with_actors(name, actors):
    """From whatever parent the searches before have left; what is stored there goes on here."""
    alone, parallel = actors.pair(kind_of(name), len(name))
    before = alone.evaluations, parallel.evaluations
    expected = generations(EVERY[name](alone), 4)
    searcher = EVERY[name](parallel)
    same(generations(searcher, 2), expected[:2])
    stored = pickled(searcher)
    assert stored.problem.actors is None
    stored.problem._num_actors = 0
    for each in (stored, searcher):
        same(generations(each, 2), expected[2:])
    assert parallel.evaluations - before[1] == alone.evaluations - before[0]
    assert searcher.status["restarts"] == 0


@every_distributed
def test_distributed_it_is_the_same_search(name, actors):
    """EvoTorch moves the centre in the generation of its evaluations there, and in the next one here."""
    alone, parallel = actors.pair(SubspaceProblem, 11)
    start, before = alone.evaluations, parallel.evaluations
    here, there = DISTRIBUTED[name](alone), DISTRIBUTED[name](parallel, distributed=True)
    here.step()
    for count in (1, 2, 3):
        told = [here.status[key] for key in ("parent_eval", "mean_eval", "best_eval")]
        evaluations = alone.evaluations - start
        there.step()
        assert [there.status[key] for key in ("parent_eval", "mean_eval", "best_eval")] == told
        assert there.status["evaluations"] - before == evaluations
        assert parallel.calls == count
        here.step()
        for key in ("center", "stdev"):
            assert torch.equal(there.status[key], here.status[key])
        assert bool((there.status["center"] != 0).any())


def test_distributed_xnes_is_refused(actors):
    """EvoTorch adds up the gradient of its matrix as if it were a vector, which fails for every problem."""
    problem = actors.pair(SubspaceProblem, 11)[1]
    searcher = XNES(problem, stdev_init=0.05, popsize=6, distributed=True)
    with pytest.raises(InvalidValue, match="distributed: expected False for XNES"):
        searcher.step()


def test_distributed_before_anything_else(actors):
    """The actors have no parent yet; hooks are called once; and an odd population becomes an even one."""
    problem, calls = problem_of(SubspaceProblem, num_actors=2), []
    problem.before_grad_hook.append(lambda: calls.append("before"))
    problem.after_grad_hook.append(lambda found: {"parts": len(found)})
    searcher = PGPE(problem, distributed=True, **PGPE_OPTIONS | {"popsize": 5})
    searcher.step()
    assert calls == ["before"]
    assert (searcher.status["parts"], searcher.status["evaluations"]) == (1, 6 + 1)
    assert len(problem.all_remote_problems().make_net()) == 2
    problem.kill_actors()
    counted = SNES(problem, stdev_init=0.05, popsize=6, num_interactions=100, distributed=True)
    with pytest.raises(InvalidValue, match="num_interactions: expected None for networks on data, got 100"):
        counted.step()


def test_gradients_without_actors_and_without_stats():
    problem, other = (problem_of(SubspaceProblem) for _ in range(2))
    here, there = (SNES(each, stdev_init=0.05, popsize=6) for each in (problem, other))
    here.run(2)
    distribution = there._distribution
    found = other.sample_and_compute_gradients(distribution, 6, ranking_method="nes", with_stats=False)
    assert found.keys() == {"mu", "sigma"}
    there._update_distribution(found)
    assert torch.equal(there.status["center"], here.status["center"])
    assert {"parent_eval", "evaluations", "best"} <= other.status.keys()


def test_actors_have_a_parent_as_soon_as_they_are_asked(actors):
    """Not only after an evaluation."""
    problem = problem_of(FinetuneProblem, num_actors=2)
    problem.rebase(problem.lineages(population(problem))[0])
    networks = problem.all_remote_problems().make_net()
    assert all(same_bits(state_bits(network), state_bits(problem.make_net())) for network in networks)
    problem.kill_actors()


def test_what_cannot_be_with_actors_or_with_lineages_is_said_in_one_line(actors):
    alone, parallel = actors.pair(FinetuneProblem, 1)
    newton = SubspaceNewton(parallel, popsize=6, density=0.1, sigma=0.1)
    with pytest.raises(InvalidValue, match=r"problem: expected no actors, .* use SubspaceES$"):
        newton.step()
    for name in DISTRIBUTED:
        for problem in (alone, parallel):
            with pytest.raises(InvalidType, match="lineages in a FinetuneProblem; use SubspaceProblem"):
                DISTRIBUTED[name](problem, distributed=True)
