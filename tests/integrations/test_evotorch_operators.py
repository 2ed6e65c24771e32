"""SparseGaussianMutation in EvoTorch itself: its problems, its algorithms, its random numbers."""

import copy
import pickle
import random

import pytest
import torch
from evotorch import Problem, SolutionBatch
from evotorch.algorithms import GeneticAlgorithm, SteadyStateGA
from evotorch.algorithms.searchalgorithm import SearchAlgorithm, SinglePopulationAlgorithmMixin
from evotorch.neuroevolution import GymNE, SupervisedNE, VecGymNE
from evotorch.operators import CopyingOperator, GaussianMutation, OnePointCrossOver
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import TensorDataset

from smd_evo import (
    Dense,
    NeuronSubspace,
    PartitionSubspace,
    RandomSubspace,
    TensorSubspace,
    gaussian,
    sample_mutations,
)
from smd_evo.core import vectors
from smd_evo.core.layout import Layout
from smd_evo.errors import InvalidType, InvalidValue, SmdEvoError
from smd_evo.integrations.evotorch.keys import draw_key
from smd_evo.integrations.evotorch.operators import SparseGaussianMutation

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
RULES = [
    {"density": 0.1},
    {"density": 0.1, "static": True},
    {"density": 1.0},
    {"subspace": PartitionSubspace(4)},
    {"subspace": PartitionSubspace(4, static=True)},
    {"subspace": Dense()},
]
every_rule = pytest.mark.parametrize("rule", RULES, ids=str)


def sphere(values):
    return values.square().sum(-1)


def two_spheres(values):
    return torch.stack([values.square().sum(-1), (values - 1).square().sum(-1)], dim=-1)


def numbers(length=40, dtype=torch.float32, seed=1, **options):
    options = {"initial_bounds": (-1, 1)} | options
    options |= {"solution_length": length, "dtype": dtype, "seed": seed, "vectorized": True}
    return Problem("min", sphere, **options)


def zeros(problem, count):
    """A population of zeros: what a mutation adds is all that there is."""
    batch = problem.generate_batch(count)
    batch.access_values().zero_()
    return batch


def bits(batch):
    return batch.values.clone().contiguous().cpu().view(torch.uint8)


class TestChildren:
    @given(st.integers(1, 300), st.floats(1e-4, 1), st.integers(1, 12), st.booleans())
    def test_exactly_k_coordinates_of_each_row(self, length, density, count, static):
        problem = numbers(length)
        mutate = SparseGaussianMutation(problem, stdev=0.5, density=density, static=static)
        touched = mutate(zeros(problem, count)).values != 0
        assert touched.sum(1).tolist() == [max(1, round(density * length))] * count

    @every_rule
    @every_dtype
    def test_they_are_the_cores_recipes(self, dtype, rule, devices):
        """Row i is parent i plus recipe i of a generation, in the wider of float32 and its type, rounded once."""
        for device in devices:
            problem, same = numbers(dtype=dtype, device=device), numbers(dtype=dtype, device=device)
            mutate = SparseGaussianMutation(problem, stdev=0.3, **rule)
            key, subspace = draw_key(same), rule.get("subspace") or RandomSubspace(**rule)
            for _ in range(2):
                parents, _ = problem.generate_batch(10), same.generate_batch(10)
                children = mutate(parents)
                assert children.values.dtype == dtype
                assert children.device == parents.device
                recipes = sample_mutations(key, 10, subspace=subspace, sigma=0.3, generation=draw_key(same))
                expected = parents.values.clone().cpu()
                wide = torch.promote_types(dtype, torch.float32)
                for row, recipe in zip(expected, recipes, strict=True):
                    indices = subspace.coordinates(recipe.draw, Layout.flat(40))
                    noise = 0.3 * gaussian(recipe.key, indices, torch.float64)
                    row[indices] = (row[indices].to(wide) + noise.to(wide)).to(dtype)
                assert torch.equal(children.values.cpu(), expected)

    @every_rule
    def test_pieces_make_no_difference(self, rule, monkeypatch):
        whole, parts = numbers(), numbers()
        expected = SparseGaussianMutation(whole, stdev=0.3, **rule)(whole.generate_batch(23))
        monkeypatch.setattr(vectors, "_ROWS_TIMES_K", 30)
        children = SparseGaussianMutation(parts, stdev=0.3, **rule)(parts.generate_batch(23))
        assert torch.equal(bits(children), bits(expected))

    @every_dtype
    def test_bounds_hold_where_it_mutates(self, dtype):
        lower = torch.linspace(-0.5, 0, 40).tolist()
        problem = numbers(dtype=dtype, initial_bounds=None, bounds=(lower, [bound + 0.25 for bound in lower]))
        parents = problem.generate_batch(50)
        mutate = SparseGaussianMutation(problem, stdev=1.0, density=0.5)
        children = mutate(parents)
        values = children.values
        assert bool(((values >= problem.lower_bounds) & (values <= problem.upper_bounds)).all())
        for bound in (problem.lower_bounds, problem.upper_bounds):
            assert 200 < int((values == bound).sum()) < 700  # clipped at the bound, not drawn again
        assert bool((values == parents.values).sum(1).ge(20).all())

    def test_one_bound_for_all_coordinates_and_a_batch_on_another_device(self, devices):
        problem = numbers(bounds=(-0.1, 0.1), initial_bounds=None)
        mutate = SparseGaussianMutation(problem, stdev=1.0, density=0.5)
        for device in devices:
            children = mutate(problem.generate_batch(5).to(device))
            assert children.device.type == device.type
            assert float(children.values.abs().max()) == pytest.approx(0.1)

    def test_static_is_one_subspace_for_all_rows_and_calls(self):
        problem = numbers()
        mutate = SparseGaussianMutation(problem, stdev=0.5, density=0.2, static=True)
        children = [mutate(zeros(problem, 6)).values for _ in range(3)]
        touched = torch.cat(children) != 0
        assert bool((touched == touched[0]).all())
        assert int(touched[0].sum()) == 8
        assert len(torch.cat(children)[:, touched[0]].unique()) == 18 * 8  # and noise of its own for each
        other = SparseGaussianMutation(problem, stdev=0.5, density=0.2, static=True)
        assert not torch.equal(other(zeros(problem, 1)).values[0] != 0, touched[0])

    def test_dynamic_is_another_subspace_for_each_row_and_call(self):
        problem = numbers(1000)
        mutate = SparseGaussianMutation(problem, stdev=0.5, density=0.05)
        touched = torch.cat([mutate(zeros(problem, 20)).values != 0 for _ in range(5)])
        assert len({tuple(row.tolist()) for row in touched}) == 100
        counts = touched.sum(0)  # of 100 children each coordinate is in 5, binomially
        assert stats.chisquare(torch.bincount(counts.clamp(1, 10), minlength=11)[1:], expected_counts()).pvalue > 1e-3

    @pytest.mark.parametrize("static", [False, True])
    def test_consecutive_children_of_a_partition_are_the_parts_of_a_dense_mutation(self, static):
        problem = numbers(41)
        mutate = SparseGaussianMutation(problem, stdev=0.5, subspace=PartitionSubspace(4, static))
        touched = mutate(zeros(problem, 10)).values != 0
        for block in (touched[:4], touched[4:8]):
            assert bool((block.sum(0) == 1).all())
            assert {10, 11} == set(block.sum(1).tolist())
        assert bool((touched[8:].sum(0) <= 1).all())
        assert torch.equal(touched[:4], touched[4:8]) == static


def expected_counts():
    """How many of 1000 coordinates are in 1 or fewer, 2, ..., 10 or more of 100 children at density 0.05."""
    chance = stats.binom(100, 0.05)
    return [1000 * p for p in (chance.cdf(1), *(chance.pmf(n) for n in range(2, 10)), chance.sf(9))]


class TestLikeGaussianMutation:
    def test_density_one_has_its_distribution(self):
        problem = numbers(400)
        parents = problem.generate_batch(250)
        ours = SparseGaussianMutation(problem, stdev=0.3, density=1)(parents).values - parents.values
        theirs = GaussianMutation(problem, stdev=0.3)(parents).values - parents.values
        assert stats.ks_2samp(ours.flatten(), theirs.flatten()).pvalue > 1e-3
        assert float(ours.std()) == pytest.approx(0.3, rel=0.01)

    def test_bounds_clip_as_much(self):
        problem = numbers(400, bounds=(-0.4, 0.5), initial_bounds=None)
        parents = problem.generate_batch(250)
        ours = SparseGaussianMutation(problem, stdev=0.3, density=1)(parents).values
        theirs = GaussianMutation(problem, stdev=0.3)(parents).values
        for bound in (problem.lower_bounds, problem.upper_bounds):
            hits = [int((values == bound).sum()) for values in (ours, theirs)]
            assert stats.fisher_exact([hits, [100_000 - hit for hit in hits]]).pvalue > 1e-3

    @pytest.mark.parametrize(
        "make",
        [lambda p: GaussianMutation(p, stdev=0.3), lambda p: SparseGaussianMutation(p, stdev=0.3, density=0.1)],
        ids=["theirs", "ours"],
    )
    def test_the_same_interface(self, make):
        problem = numbers()
        mutate, parents = make(problem), problem.generate_batch(7)
        problem.evaluate(parents)
        before, evals = bits(parents), parents.evals.clone()
        children = mutate(parents)
        assert isinstance(mutate, CopyingOperator)
        assert isinstance(children, SolutionBatch)
        assert mutate.problem is problem
        assert mutate.dtype == torch.float32
        assert len(children) == 7
        assert bool(children.evals.isnan().all())
        assert torch.equal(bits(parents), before)
        assert torch.equal(parents.evals, evals)
        assert not torch.equal(bits(children), before)
        assert len(mutate(parents[2:5])) == 3

    def test_no_solutions_have_no_children(self):
        problem = numbers()
        for mutate in (GaussianMutation(problem, stdev=1), SparseGaussianMutation(problem, stdev=1, density=0.1)):
            assert mutate(problem.generate_batch(0)).values.shape == (0, 40)


class Allocations(TorchDispatchMode):
    """Bytes of each memory that an operation takes, views and results in place left out."""

    def __init__(self):
        super().__init__()
        self.sizes = {}
        self.kept = []  # so that no address is given out twice

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        known = {tensor.untyped_storage().data_ptr() for tensor in arguments if isinstance(tensor, torch.Tensor)}
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in known:
                self.kept.append(tensor)
                self.sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return result


@pytest.mark.parametrize("rule", [{"density": 1e-3}, {"subspace": PartitionSubspace(1000)}], ids=str)
@pytest.mark.parametrize("bounds", [None, (-1, 1)])
def test_beyond_the_copy_it_takes_memory_for_k_coordinates_only(rule, bounds):
    count, length = 8, 200_000
    problem = numbers(length, bounds=bounds, initial_bounds=None if bounds else (-1, 1))
    mutate, parents = SparseGaussianMutation(problem, stdev=0.1, **rule), problem.generate_batch(count)
    with Allocations() as allocations:
        mutate(parents)
    copy_bytes, *others = sorted(allocations.sizes.values(), reverse=True)
    assert copy_bytes == 4 * count * length  # the children themselves, once
    assert others[0] <= 8 * count * length / 1000


class TestRandomness:
    def children(self, problem, **options):
        mutate = SparseGaussianMutation(problem, stdev=0.3, density=0.1, **options)
        return [bits(mutate(zeros(problem, 5))).tolist() for _ in range(2)]

    @pytest.mark.parametrize("static", [False, True])
    def test_the_problems_seed_fixes_it_whatever_torchs_own(self, static):
        torch.manual_seed(0)
        first = self.children(numbers(seed=7), static=static)
        torch.manual_seed(1)
        problem = numbers(seed=7)
        assert self.children(problem, static=static) == first
        assert self.children(numbers(seed=8), static=static) != first
        assert first[0] != first[1]
        assert self.children(problem, static=static)[0] not in first  # another operator of the same problem

    def test_torchs_own_generator_is_not_moved(self):
        problem = numbers()
        parents, state = problem.generate_batch(5), torch.get_rng_state()
        for static in (False, True):
            SparseGaussianMutation(problem, stdev=0.3, density=0.1, static=static)(parents)
        assert torch.equal(torch.get_rng_state(), state)

    def test_manual_seed_starts_again(self):
        problem = numbers(seed=7)
        mutate, parents = SparseGaussianMutation(problem, stdev=0.3, density=0.1), problem.generate_batch(5)
        problem.manual_seed(3)
        first, second = bits(mutate(parents)), bits(mutate(parents))
        problem.manual_seed(3)
        assert torch.equal(bits(mutate(parents)), first)
        assert torch.equal(bits(mutate(parents)), second)
        assert not torch.equal(first, second)

    def test_without_a_seed_it_follows_torch(self):
        """As GaussianMutation does."""
        results = []
        for seed in (5, 5, 6):
            torch.manual_seed(seed)
            results.append(self.children(numbers(seed=None)))
        assert results[0] == results[1] != results[2]


def supervised():
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(32, 4, generator=generator)
    data = TensorDataset(inputs, inputs[:, :3].argmax(1))
    return SupervisedNE(data, nn.Linear(4, 3), nn.CrossEntropyLoss(), minibatch_size=32)


PROBLEMS = {
    "numbers": numbers,
    "double": lambda: numbers(dtype=torch.float64),
    "two objectives": lambda: Problem(
        ["min", "min"], two_spheres, initial_bounds=(2, 3), solution_length=20, vectorized=True, seed=4
    ),
    "SupervisedNE": supervised,
    "GymNE": lambda: GymNE("CartPole-v1", "Linear(obs_length, act_length)"),
    "VecGymNE": lambda: VecGymNE("CartPole-v1", "Linear(obs_length, act_length)"),
}


class OnePlusLambda(SearchAlgorithm, SinglePopulationAlgorithmMixin):
    """The smallest searcher that a user may have written, with whatever mutation he has."""

    def __init__(self, problem, mutate, popsize):
        SearchAlgorithm.__init__(self, problem)
        self._mutate = mutate
        self._population = problem.generate_batch(popsize)
        problem.evaluate(self._population)
        SinglePopulationAlgorithmMixin.__init__(self)

    @property
    def population(self):
        return self._population

    def _step(self):
        parents = self._population.take_best(1)
        children = self._mutate(SolutionBatch.cat([parents] * len(self._population)))
        self.problem.evaluate(children)
        self._population = SolutionBatch.cat([parents, children]).take_best(len(children))


def with_operators(kind, **options):
    return lambda problem, mutate: kind(problem, operators=[mutate], popsize=8, **options)


def with_use(problem, mutate):
    searcher = SteadyStateGA(problem, popsize=8)
    searcher.use(OnePointCrossOver(problem, tournament_size=2))
    searcher.use(mutate)
    return searcher


ALGORITHMS = {
    "GeneticAlgorithm": with_operators(GeneticAlgorithm),
    "GeneticAlgorithm, not elitist": with_operators(GeneticAlgorithm, elitist=False, re_evaluate=False),
    "SteadyStateGA": with_operators(SteadyStateGA),
    "SteadyStateGA.use": with_use,
    "own": lambda problem, mutate: OnePlusLambda(problem, mutate, 8),
}
PAIRS = [
    (problem, algorithm)
    for problem in PROBLEMS
    for algorithm in ALGORITHMS
    if (problem, algorithm) != ("two objectives", "own")  # that one ranks by a single objective
]


class TestSearch:
    @pytest.mark.parametrize(("problem", "algorithm"), PAIRS)
    def test_runs_wherever_gaussian_mutation_does(self, problem, algorithm):
        torch.manual_seed(0)
        problem = PROBLEMS[problem]()
        results = []
        for mutate in (
            GaussianMutation(problem, stdev=0.5),
            SparseGaussianMutation(problem, stdev=0.5, density=0.3),
            SparseGaussianMutation(problem, stdev=0.5, subspace=PartitionSubspace(3)),
        ):
            searcher = ALGORITHMS[algorithm](problem, mutate)
            searcher.run(2)
            results.append(searcher.population)
        assert len({population.values_shape for population in results}) == 1
        assert all(bool(population.evals.isfinite().all()) for population in results)

    @pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if "not elitist" not in name])
    def test_it_improves_a_sphere(self, algorithm):
        problem = numbers(20, initial_bounds=(2, 3))
        searcher = ALGORITHMS[algorithm](problem, SparseGaussianMutation(problem, stdev=0.5, density=0.2))
        searcher.run(150)
        assert searcher.status["best_eval"] < 0.2 * 20 * 2.5**2

    def test_it_improves_two_objectives(self):
        problem = PROBLEMS["two objectives"]()
        mutate = SparseGaussianMutation(problem, stdev=0.3, density=0.2)
        searcher = GeneticAlgorithm(problem, operators=[mutate], popsize=20)
        searcher.step()
        before = searcher.population.evals.mean(0)
        searcher.run(100)
        after = searcher.population.evals.mean(0)
        assert bool((after < 0.5 * before).all())

    def test_it_learns_to_balance_a_pole(self):
        torch.manual_seed(1)
        random.seed(1)  # of the environments
        problem = PROBLEMS["VecGymNE"]()
        mutate = SparseGaussianMutation(problem, stdev=0.5, density=0.5)
        searcher = GeneticAlgorithm(problem, operators=[mutate], popsize=12)
        searcher.run(6)
        assert searcher.status["best_eval"] > 100  # a random network holds it for about 20 steps

    @pytest.mark.parametrize("store", [copy.deepcopy, lambda searcher: pickle.loads(pickle.dumps(searcher))])
    @every_rule
    def test_a_stored_search_goes_on_exactly(self, store, rule):
        problem = numbers()
        mutate = SparseGaussianMutation(problem, stdev=0.1, **rule)
        searcher = GeneticAlgorithm(problem, operators=[mutate], popsize=6)
        searcher.run(2)
        stored = store(searcher)
        searcher.run(3)
        torch.manual_seed(9)
        stored.run(3)
        assert torch.equal(bits(stored.population), bits(searcher.population))
        assert torch.equal(stored.population.evals, searcher.population.evals)
        assert stored.status["best_eval"] == searcher.status["best_eval"]


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "kind", "message"),
        [
            ({"stdev": 0.0}, InvalidValue, "stdev: expected a finite number > 0, got 0"),
            ({"stdev": -0.1}, InvalidValue, "stdev: .*got -0.1"),
            ({"stdev": float("nan")}, InvalidValue, "stdev: .*got nan"),
            ({"stdev": "much"}, InvalidType, "stdev: .*got 'much'"),
            ({"density": 0.0}, InvalidValue, r"density: .*\(0, 1\], got 0"),
            ({"density": 1.01}, InvalidValue, r"density: .*\(0, 1\], got 1.01"),
            ({"density": float("nan")}, InvalidValue, "density: .*got nan"),
            ({"density": "0.1?"}, InvalidType, "density: .*got '0.1"),
            ({"density": None}, InvalidValue, "density: .*got neither"),
            ({"subspace": Dense()}, InvalidValue, "density: .*got both"),
            ({"density": None, "subspace": NeuronSubspace(0.1)}, InvalidType, "vector has no neurons or tensors"),
            ({"density": None, "subspace": TensorSubspace()}, InvalidType, "vector has no neurons or tensors"),
            ({"density": None, "subspace": "random:0.1"}, InvalidType, "subspace: expected"),
            (
                {"density": None, "subspace": Dense(), "static": True},
                InvalidValue,
                "static: expected it with density",
            ),
            ({"density": None, "subspace": PartitionSubspace(41)}, InvalidValue, "at most D = 40 parts, got 41"),
        ],
    )
    def test_arguments(self, options, kind, message):
        check_refused(
            lambda: SparseGaussianMutation(numbers(), **{"stdev": 0.1, "density": 0.1} | options), kind, message
        )

    @pytest.mark.parametrize(
        ("problem", "message"),
        [
            (
                lambda: numbers(dtype=torch.int64, initial_bounds=(0, 5)),
                "expected a floating dtype .*, got torch.int64",
            ),
            (lambda: numbers(dtype=torch.bool, initial_bounds=None), "expected a floating dtype .*, got torch.bool"),
            (lambda: Problem("min", len, dtype=object), "expected a floating dtype .*, got <class 'object'>"),
            (lambda: nn.Linear(3, 3), "expected an EvoTorch Problem, got a Linear"),
            (lambda: None, "expected an EvoTorch Problem, got a NoneType"),
        ],
    )
    def test_problems(self, problem, message):
        check_refused(
            lambda: SparseGaussianMutation(problem(), stdev=0.1, density=0.1), InvalidType, f"problem: {message}"
        )

    @pytest.mark.parametrize(
        ("batch", "kind", "message"),
        [
            (lambda: torch.zeros(3, 40), InvalidType, "batch: expected a SolutionBatch, got a Tensor"),
            (lambda: numbers(50).generate_batch(3), InvalidValue, "batch: expected solutions of length 40, got 50"),
        ],
    )
    def test_batches(self, batch, kind, message):
        mutate = SparseGaussianMutation(numbers(), stdev=0.1, density=0.1)
        check_refused(lambda: mutate(batch()), kind, message)


def check_refused(call, kind, message):
    with pytest.raises(kind, match=message) as caught:
        call()
    assert isinstance(caught.value, SmdEvoError)
    assert isinstance(caught.value, TypeError if kind is InvalidType else ValueError)
    assert "\n" not in str(caught.value)
