"""What all searchers have in common, on a network that there is something to improve in: one suite for all."""

import copy
import pickle
import random
from functools import partial

import numpy as np
import pytest
import torch
from evotorch import Problem, Solution, SolutionBatch
from evotorch.algorithms import CMAES, SNES, PyCMAES, SearchAlgorithm
from evotorch.algorithms.searchalgorithm import SinglePopulationAlgorithmMixin
from helpers import blobs, same_bits, state_bits, trained

from smd_evo import (
    Dense,
    Evaluator,
    FinetuneProblem,
    Lineage,
    ModuleFitness,
    NeuronSubspace,
    OpenAIES,
    PartitionSubspace,
    RandomSubspace,
    Staged,
    SubspaceES,
    SubspaceEvolution,
    SubspaceProblem,
    TensorSubspace,
    UnitSubspace,
    Within,
)
from smd_evo.errors import InvalidType, InvalidValue, SmdEvoError
from smd_evo.evaluation.data import minibatch

SAMPLES, OTHERS = blobs(shift=2.5), blobs(300, shift=2.5, key=9)
EVOLUTION = partial(SubspaceEvolution, popsize=6, sigma=0.3)
SPARSE = partial(EVOLUTION, density=0.1)
ES = partial(SubspaceES, popsize=6, sigma=0.1, center_learning_rate=0.05)
SPARSE_ES = partial(ES, density=0.3)


def staged(problem, popsize):
    """The first three generations are of one stage each; of so few samples shares would be too small."""
    problem.minibatch_size = problem.minibatch_size or 40
    stages = [
        (1, partial(ES, subspace=Within("head", Dense()), popsize=popsize, sigma=0.3)),
        (1, partial(EVOLUTION, subspace=Within("bn,*.bias", Dense()), popsize=popsize)),
        (4, partial(SPARSE_ES, sigma=0.3, popsize=popsize)),
    ]
    return Staged(problem, stages)


SEARCHERS = {
    "(1, lambda)": partial(SPARSE, num_elites=0),
    "(1 + lambda)": SPARSE,
    "(mu, lambda)": partial(SPARSE, num_parents=3, num_elites=0),
    "(mu + lambda)": partial(SPARSE, num_parents=3, num_elites=3),
    "static": partial(EVOLUTION, density=0.2, static=True),
    "partition": partial(EVOLUTION, subspace=PartitionSubspace(3)),
    "within": partial(EVOLUTION, subspace=Within("*.weight", NeuronSubspace(0.3))),
    "units": partial(EVOLUTION, subspace=UnitSubspace("layer", NeuronSubspace(0.5))),
    "adapted": partial(SPARSE, num_parents=2, num_elites=2, adapt_sigma=True),
    "auto": partial(SPARSE, sigma="auto"),
    "relative": partial(SPARSE, sigma=1.0, scale="relative"),
    "ES": SPARSE_ES,
    "ES static": partial(ES, density=0.3, static=True),
    "ES partition": partial(ES, subspace=PartitionSubspace(2)),
    "ES static partition": partial(ES, subspace=PartitionSubspace(2, static=True)),
    "ES tensor": partial(ES, subspace=TensorSubspace(2)),
    "ES static neurons": partial(ES, subspace=NeuronSubspace(0.5, static=True)),
    "ES within": partial(ES, subspace=Within("head", PartitionSubspace(2)), sigma=0.3),
    "ES static within": partial(ES, subspace=Within("head", Dense())),
    "ES units": partial(ES, subspace=UnitSubspace("layer", RandomSubspace(0.5)), sigma=0.5),
    "ES relative": partial(SPARSE_ES, scale="relative", sigma=0.5, center_learning_rate=0.2),
    "ES sgd": partial(SPARSE_ES, optimizer="sgd", optimizer_config={"momentum": 0.9}, center_learning_rate=0.01),
    "ES clipup": partial(SPARSE_ES, optimizer="clipup", center_learning_rate=0.2),
    "ES decay": partial(SPARSE_ES, weight_decay=0.005),
    "OpenAIES": partial(OpenAIES, popsize=6, sigma=0.1, center_learning_rate=0.02),
    "staged": partial(staged, popsize=6),
}
every_searcher = pytest.mark.parametrize("make", SEARCHERS.values(), ids=SEARCHERS.keys())
some_searchers = pytest.mark.parametrize("name", ["(1 + lambda)", "(mu, lambda)", "ES", "ES static"])
STATUS = {"pop_best", "pop_best_eval", "best", "best_eval", "worst", "worst_eval", "mean_eval", "median_eval"}
STATUS |= {"iter", "sigma", "parent_eval", "nonfinite", "evaluations", "images", "forwards", "history"}


def searcher_of(make, seed=1, fitness="cross_entropy", network=None, popsize=6, **options):
    steps = 3 if "num_parents" in make.keywords else 1
    parent = trained() if network is None else network
    return make(FinetuneProblem(parent, SAMPLES, fitness, steps=steps, seed=seed, **options), popsize=popsize)


def numbers(status):
    return {name: value for name, value in status.items() if isinstance(value, int | float)}


def words(value):
    """Of a solution, or of the values of one."""
    return (value.values if isinstance(value, Solution) else value).tolist()


def snapshot(searcher):
    """Everything that a generation leaves behind."""
    status = dict(searcher.status)
    return {
        "rows": searcher.population.values.tolist(),
        "evals": searcher.population.evals.tolist(),
        "numbers": numbers(status),
        "solutions": {name: words(value) for name, value in status.items() if name not in numbers(status)},
        "parent": {name: bits.tolist() for name, bits in state_bits(searcher.problem.make_net()).items()},
    }


def trace(searcher, generations):
    snapshots = []
    for _ in range(generations):
        searcher.step()
        snapshots.append(snapshot(searcher))
    return snapshots


def fitness_of(network, data, fitness="cross_entropy"):
    return float(Evaluator(network, data, fitness).evaluate([Lineage()]).fitness[0])


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def check_fitness_of_networks(searcher):
    """Of any generation, each on its own samples; also of children whose parent is no longer."""
    problem, found_at = searcher.problem, {}
    for number in range(4):
        searcher.step()
        best = searcher.status["best"]
        cases = [
            (searcher.status["pop_best"], number),
            (searcher.population[-1], number),
            (best, found_at.setdefault(float(best.evals[0]), number)),
        ]
        for solution, at in cases:
            chosen = minibatch(problem.key, at, problem.minibatch_size or 60, 60).sort().values
            network = problem.make_net(solution)
            assert fitness_of(network, (SAMPLES[0][chosen], SAMPLES[1][chosen])) == float(solution.evals[0])


@every_searcher
class TestEverySearcher:
    def test_is_a_search_algorithm_whose_status_is_complete_numeric_and_about_this_generation(self, make):
        searcher = searcher_of(make)
        assert isinstance(searcher, SearchAlgorithm)
        assert isinstance(searcher, SinglePopulationAlgorithmMixin)
        assert searcher.population is None
        assert not searcher.is_terminated
        seen = []
        for generation in (1, 2, 3):
            searcher.step()
            assert isinstance(searcher.population, SolutionBatch)
            status, evals = dict(searcher.status), searcher.population.access_evals(0)
            seen += evals.tolist()
            assert len(evals) >= 6
            assert bool(evals.isfinite().all())
            moves = {"center"} if isinstance(searcher, SubspaceES) else set()
            assert status.keys() - {"dropped_parents", "stage"} == STATUS | moves
            solutions = {name for name, value in status.items() if isinstance(value, Solution)}
            assert solutions == {"pop_best", "best", "worst"}
            assert set(numbers(status)) == status.keys() - solutions - moves - {"history"}
            assert status["iter"] == searcher.step_count == generation
            assert status["pop_best_eval"] == float(evals.min()) == float(status["pop_best"].evals[0])
            assert status["mean_eval"] == float(evals.mean())
            assert status["median_eval"] == float(evals.median())
            assert status["best_eval"] == float(status["best"].evals[0]) == min(seen)
            assert status["sigma"] == searcher.sigma > 0
            assert status["nonfinite"] == 0

    def test_repeats_under_a_seed_whatever_the_global_random_states(self, make):
        first = trace(searcher_of(make), 2)
        random.seed(2)
        np.random.seed(2)
        torch.manual_seed(2)
        states = random_states()
        assert trace(searcher_of(make), 2) == first
        assert random_states() == states
        other = trace(searcher_of(make, seed=2), 1)
        assert {row[2] for row in other[0]["rows"]} & {row[2] for row in first[0]["rows"]} <= {0}

    def test_goes_on_exactly_from_a_copy_in_mid_run(self, make):
        searcher = searcher_of(make)
        searcher.run(2)
        copies = [pickle.loads(pickle.dumps(searcher)), copy.deepcopy(searcher)]
        assert [snapshot(other) for other in copies] == [snapshot(searcher)] * 2
        expected = trace(searcher, 1)
        for other in copies:
            assert trace(other, 1) == expected
            assert other.problem.lineages(other.population) == searcher.problem.lineages(searcher.population)
            networks = [it.problem.make_net(it.status["best"]) for it in (searcher, other)]
            assert same_bits(*map(state_bits, networks))

    def test_solutions_make_networks_of_exactly_their_fitness(self, make):
        check_fitness_of_networks(searcher_of(make, minibatch_size=25))

    @pytest.mark.parametrize("fitness", ["cross_entropy", "accuracy"])
    def test_improves_the_network_and_leaves_the_users_alone(self, make, fitness):
        """On other samples than those it was found on.

        Over twenty seeds of each searcher, accuracy grew by 0.19 at least, and the loss fell by 0.74 at least.
        """
        network = trained().train()
        before, modes = state_bits(network), [module.training for module in network.modules()]
        searcher = searcher_of(make, fitness=fitness, network=network, popsize=8)
        searcher.run(6)
        found = searcher.problem.make_net(searcher.status["pop_best"])
        gain = fitness_of(found, OTHERS, fitness) - fitness_of(trained(), OTHERS, fitness)
        assert gain > 0.1 if fitness == "accuracy" else gain < -0.4
        assert same_bits(state_bits(network), before)
        assert [module.training for module in network.modules()] == modes
        assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


@some_searchers
def test_solutions_make_networks_of_exactly_their_fitness_on_all_samples(name):
    check_fitness_of_networks(searcher_of(SEARCHERS[name]))


@some_searchers
def test_hooks(name):
    searcher, calls = searcher_of(SEARCHERS[name]), []
    searcher.before_step_hook.append(lambda: calls.append("before"))
    searcher.after_step_hook.append(lambda: {"spread": float(searcher.population.access_evals(0).std())})
    searcher.log_hook.append(lambda status: calls.append(status["spread"]))
    searcher.end_of_run_hook.append(lambda status: calls.append((status["iter"], status["spread"])))
    searcher.run(2)
    spread = searcher.status["spread"]
    assert spread > 0
    assert calls == ["before", calls[1], "before", spread, (2, spread)]


@some_searchers
def test_an_interrupted_generation_is_had_by_another_step(name):
    calls = []

    def distance(module):
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return float(sum(parameter.square().sum() for parameter in module.parameters()))

    searcher = searcher_of(SEARCHERS[name], fitness=ModuleFitness("distance", "min", distance))
    searcher.run(1)
    with pytest.raises(KeyboardInterrupt):
        searcher.step()
    assert searcher.step_count == 1
    searcher.run(2)
    undisturbed = searcher_of(SEARCHERS[name], fitness=ModuleFitness("distance", "min", distance))
    undisturbed.run(3)
    assert snapshot(searcher) == snapshot(undisturbed)


@some_searchers
def test_it_goes_on_from_a_parent_that_others_moved(name):
    searcher = searcher_of(SEARCHERS[name])
    problem = searcher.problem
    searcher.run(1)
    problem.rebase(Lineage())
    searcher.run(1)
    assert all(len(lineage) <= 1 for lineage in problem.lineages(searcher.population))
    SEARCHERS[name](problem).run(1)


class TestRefused:
    """Before anything is evaluated, in one line."""

    @pytest.fixture
    def problem(self):
        self.evaluated = []
        fitness = ModuleFitness("counted", "min", lambda module: self.evaluated.append(module) or 1.0)
        yield FinetuneProblem(trained(), fitness=fitness, steps=2, seed=1)
        assert not self.evaluated

    @pytest.mark.parametrize(
        ("make", "options", "message"),
        [
            (SPARSE, {"popsize": 0}, "popsize: expected a whole number >= 1, got 0"),
            (SPARSE, {"popsize": 2.5}, "popsize: expected a whole number >= 1, got 2.5"),
            (SPARSE, {"sigma": 0}, 'sigma: expected a finite number > 0, got 0; "auto" finds one'),
            (SPARSE, {"sigma": -1}, "sigma: expected a finite number > 0, got -1"),
            (SPARSE, {"sigma": "otto"}, "sigma: expected a number > 0, got 'otto'; \"auto\" finds one"),
            (SPARSE, {"sigma": "auto", "keep": 1}, r"keep: expected a number in \(0, 1\), got 1"),
            (SPARSE_ES, {"sigma": "auto", "keep": 0}, r"keep: expected a finite number in \(0, 1\], got 0"),
            (SPARSE, {"density": 0}, "density: expected a finite number"),
            (SPARSE, {"density": None}, "density: expected it or subspace, got neither"),
            (SPARSE, {"subspace": Dense()}, "density: expected it or subspace, got both"),
            (EVOLUTION, {"subspace": "dense"}, "subspace: expected e.g. RandomSubspace"),
            (EVOLUTION, {"subspace": Dense(), "static": True}, "static: expected it with density"),
            (EVOLUTION, {"subspace": PartitionSubspace(1000)}, "parts: expected at most D = 239 parts, got 1000"),
            (
                EVOLUTION,
                {"subspace": UnitSubspace(1, Dense()), "num_parents": 2},
                "subspace: expected one parent and",
            ),
            (EVOLUTION, {"subspace": UnitSubspace(1, Dense()), "race": True}, "subspace: expected one parent and"),
            (SPARSE, {"scale": "relativ"}, "did you mean 'relative'?"),
            (SPARSE, {"num_parents": 0}, "num_parents: expected a whole number >= 1, got 0"),
            (SPARSE, {"num_parents": 7}, "expected num_elites <= num_parents <= popsize, got 1, 7, 6"),
            (SPARSE, {"num_elites": 2}, "expected num_elites <= num_parents <= popsize, got 2, 1, 6"),
            (SPARSE, {"num_elites": -1}, "num_elites: expected a whole number >= 0, got -1"),
            (SPARSE_ES, {"popsize": 7}, "popsize: expected an even number for antithetic pairs, got 7; give 8"),
            (SPARSE_ES, {"center_learning_rate": 0}, "center_learning_rate: expected a finite number > 0, got 0"),
            (SPARSE_ES, {"center_learning_rate": None}, "center_learning_rate: expected a number > 0, got None"),
            (SPARSE_ES, {"optimizer": "adamw"}, "optimizer: expected one of adam, sgd, clipup, got 'adamw'; did you"),
            (SPARSE_ES, {"optimizer_config": {"momentum": 0.9}}, "settings of evotorch.optimizers' adam, got {'mom"),
            (SPARSE_ES, {"optimizer_config": {"stepsize": 0.9}}, "settings of evotorch.optimizers' adam, got {'step"),
            (SPARSE_ES, {"optimizer_config": 3}, "optimizer_config: expected a dict of settings, got 3"),
            (SPARSE_ES, {"optimizer": "clipup", "optimizer_config": {"momentum": 2}}, "Invalid momentum: 2"),
            (SPARSE_ES, {"weight_decay": -0.1}, "weight_decay: expected a finite number in"),
            (SPARSE_ES, {"weight_decay": "much"}, "weight_decay: expected a number in"),
            (SEARCHERS["OpenAIES"], {"popsize": 5}, "popsize: expected an even number"),
        ],
        ids=lambda part: part.func.__name__ if isinstance(part, partial) else str(part),
    )
    def test_settings(self, problem, make, options, message):
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            make(problem, **options)
        assert isinstance(caught.value, SmdEvoError)
        assert "\n" not in str(caught.value)

    def test_several_parents_where_lineages_have_one_step(self):
        problem = FinetuneProblem(trained(), SAMPLES)
        with pytest.raises(InvalidValue, match=r"num_parents: expected 1 .* got 3; FinetuneProblem\(steps=8\)"):
            SPARSE(problem, num_parents=3)

    @pytest.mark.parametrize("make", [SPARSE, SPARSE_ES, SEARCHERS["OpenAIES"]])
    def test_other_problems(self, make):
        for other in (
            Problem("min", lambda values: values.sum(), solution_length=3, initial_bounds=(-1, 1)),
            SubspaceProblem(trained(), SAMPLES, dimensions=3),
            trained(),
        ):
            with pytest.raises(
                InvalidType, match=f"problem: expected a FinetuneProblem, got a {type(other).__name__}"
            ):
                make(other)

    @pytest.mark.parametrize("make", [SNES, CMAES, PyCMAES], ids=lambda make: make.__name__)
    def test_searchers_on_numbers_for_lineages(self, problem, make):
        with pytest.raises(InvalidType, match="got lineages in a FinetuneProblem; use SubspaceProblem"):
            make(problem, stdev_init=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@some_searchers
def test_on_a_gpu(name):
    """Populations and the parent live there; keys and subspaces are those of the CPU."""
    there, here = (searcher_of(SEARCHERS[name], device=device, popsize=8) for device in ("cuda", "cpu"))
    there.run(1)
    here.run(1)
    assert torch.equal(there.population.values.cpu(), here.population.values)
    assert torch.allclose(there.population.evals.cpu(), here.population.evals, rtol=1e-3)
    there.run(5)
    assert there.population.device.type == there.problem.space.device.type == "cuda"
    assert next(there.problem.make_net(there.status["best"]).parameters()).device.type == "cuda"
    for again in (pickle.loads(pickle.dumps(there)), copy.deepcopy(there)):
        again.run(1)
        assert again.population.device.type == "cuda"
    samples = SAMPLES[0].cuda(), SAMPLES[1].cuda()
    assert fitness_of(there.problem.make_net(there.status["pop_best"]), samples) == there.status["pop_best_eval"]


@pytest.mark.parametrize(
    "make",
    [
        lambda problem: SubspaceEvolution(problem, popsize=8, density=0.5, sigma=1e30),
        lambda problem: SubspaceES(problem, popsize=8, density=0.5, sigma=0.1, center_learning_rate=1e30),
    ],
    ids=["sigma", "steps"],
)
def test_a_search_that_has_lost_all_its_children_says_so_once(make):
    searcher = make(FinetuneProblem(trained(), SAMPLES, seed=1))
    with pytest.warns(RuntimeWarning, match="expected children of a finite fitness, got none of 8: sigma") as told:
        searcher.run(4)
    assert len(told) == 1
