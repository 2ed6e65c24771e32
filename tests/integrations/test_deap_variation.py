"""Mutation and crossover in DEAP itself: its conventions, its containers, its random numbers."""

import array
import copy
import functools
import random
from collections import UserList, deque
from collections.abc import MutableSequence
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from deap import base, creator, tools
from deap_helpers import check_refused, same
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smd_evo import (
    DenseIndividual,
    Lineage,
    LineageIndividual,
    RandomSubspace,
    cxLineage,
    mutSparseGaussian,
    sample_mutations,
)
from smd_evo.errors import InvalidType, InvalidValue

creator.create("VariationMin", base.Fitness, weights=(-1.0,))
creator.create("VariationList", list, fitness=creator.VariationMin)
creator.create("VariationNumpy", np.ndarray, fitness=creator.VariationMin)
creator.create("VariationArray", array.array, typecode="d", fitness=creator.VariationMin)
creator.create("VariationDense", DenseIndividual, fitness=creator.VariationMin)


class Genes(MutableSequence):
    """A sequence of a user's own."""

    def __init__(self, genes):
        self.genes = list(genes)

    def __len__(self):
        return len(self.genes)

    def __getitem__(self, place):
        return self.genes[place]

    def __setitem__(self, place, gene):
        self.genes[place] = gene

    def __delitem__(self, place):
        del self.genes[place]

    def insert(self, place, gene):
        self.genes.insert(place, gene)

    def __eq__(self, other):
        return self.genes == other.genes

    __hash__ = None


KINDS = {
    "list": list,
    "UserList": UserList,
    "user's own": Genes,
    "array": lambda genes: array.array("d", genes),
    "float32 array": lambda genes: array.array("f", genes),
    "numpy": np.array,
    "float32 numpy": lambda genes: np.array(genes, dtype=np.float32),
    "numpy view": lambda genes: np.repeat(genes, 2)[::2],
    "creator's list": creator.VariationList,
    "creator's numpy": creator.VariationNumpy,
    "creator's array": creator.VariationArray,
    "DenseIndividual": DenseIndividual,
    "creator's DenseIndividual": creator.VariationDense,
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
STEPS = sample_mutations(0, 12, subspace=RandomSubspace(0.1), sigma=1.0)
LINEAGES = st.lists(st.sampled_from(STEPS), max_size=6).map(lambda steps: Lineage(tuple(steps)))


def noise(mutate, count=20, size=500):
    """What a mutation adds to many zeros."""
    random.seed(1)
    return np.concatenate([mutate(np.zeros(size))[0] for _ in range(count)])


def states():
    """Global random numbers of others."""
    name, keys, *rest = np.random.get_state()
    return name, keys.tolist(), rest, torch.get_rng_state().tolist()


class TestSparseGaussian:
    @every_kind
    def test_in_place_and_in_a_tuple(self, kind):
        individual = kind([1.0, 2.0, 3.0, 4.0, 5.0])
        before = list(individual)
        result = mutSparseGaussian(individual, mu=0, sigma=0.5, density=0.4)
        assert isinstance(result, tuple)
        assert len(result) == 1
        assert result[0] is individual
        assert sum(new != old for new, old in zip(individual, before, strict=True)) == 2

    @every_kind
    @given(st.integers(1, 200), st.floats(1e-4, 1), st.integers(0, 2**32))
    def test_exactly_k_genes(self, kind, size, density, seed):
        random.seed(seed)
        (individual,) = mutSparseGaussian(kind([0.0] * size), mu=0, sigma=1, density=density)
        assert sum(gene != 0 for gene in individual) == max(1, round(density * size))

    @every_kind
    def test_the_same_whatever_holds_the_genes(self, kind):
        random.seed(4)
        (expected,) = mutSparseGaussian([0.0] * 20, mu=1, sigma=2, density=0.3)
        random.seed(4)
        (individual,) = mutSparseGaussian(kind([0.0] * 20), mu=1, sigma=2, density=0.3)
        assert list(individual) == pytest.approx(expected, rel=1e-6)

    def test_every_gene_has_its_turn(self):
        touched = noise(lambda zeros: mutSparseGaussian(zeros, 0, 1, 0.1), 400, 50).reshape(400, 50) != 0
        assert stats.chisquare(touched.sum(0)).pvalue > 1e-3

    def test_mean_and_deviation(self):
        added = noise(lambda zeros: mutSparseGaussian(zeros, mu=3, sigma=2, density=0.2))
        assert stats.kstest((added[added != 0] - 3) / 2, "norm").pvalue > 1e-3

    def test_at_density_1_it_is_deaps_mutgaussian(self):
        ours = noise(functools.partial(mutSparseGaussian, mu=-1, sigma=0.5, density=1))
        theirs = noise(functools.partial(tools.mutGaussian, mu=-1, sigma=0.5, indpb=1))
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3

    @pytest.mark.parametrize(
        "sequence",
        [list, tuple, np.array, functools.partial(array.array, "d")],
        ids=["list", "tuple", "numpy", "array"],
    )
    @every_kind
    def test_mu_and_sigma_of_each_gene(self, kind, sequence):
        """Those of the gene itself; more than there are genes do no harm, as in DEAP."""
        mu, sigma = sequence([10.0 * gene for gene in range(12)]), sequence([1e-3] * 12)
        (individual,) = mutSparseGaussian(kind([0.0] * 10), mu, sigma, density=0.5)
        assert sum(gene != 0 for gene in individual) == 5
        for place, gene in enumerate(individual):
            assert gene == 0 or gene == pytest.approx(10 * place, abs=0.01)

    @pytest.mark.parametrize("sigma", [[1, 2], (Fraction(1), Decimal(2)), torch.tensor([1.0, 2.0])], ids=repr)
    def test_numbers_of_any_kind(self, sigma):
        results = []
        for values in ([1.0, 2.0], sigma):
            random.seed(3)
            results.append(mutSparseGaussian([0.0, 0.0], 0, values, 1.0)[0])
        assert results[0] == results[1]

    @pytest.mark.parametrize("kind", [deque, torch.tensor], ids=["deque", "tensor"])
    def test_what_else_deap_takes(self, kind):
        for mutate in (mutSparseGaussian, tools.mutGaussian):
            (individual,) = mutate(kind([0.0] * 4), 0, 1, 1.0)
            assert sum(float(gene) != 0 for gene in individual) == 4
        check_refused(lambda: mutSparseGaussian(torch.arange(3), 0, 1, 0.5), InvalidType, "floating .* torch.int64")

    def test_a_gene_that_is_no_number_changes_nothing(self):
        individual = [0.0, 1.0, "a"]
        with pytest.raises(TypeError):
            mutSparseGaussian(individual, 0, 1, 1.0)
        assert individual == [0.0, 1.0, "a"]

    @pytest.mark.parametrize("name", ["mu", "sigma"])
    def test_too_few_are_deaps_error(self, name):
        options = {"mu": 0, "sigma": 1} | {name: [1.0, 1.0]}
        with pytest.raises(IndexError) as theirs:
            tools.mutGaussian([0.0] * 3, **options, indpb=1)
        with pytest.raises(IndexError) as ours:
            mutSparseGaussian([0.0] * 3, **options, density=1)
        assert str(ours.value) == str(theirs.value)

    def test_it_follows_pythons_random_alone(self):
        def mutants():
            toolbox = base.Toolbox()
            toolbox.register("mutate", mutSparseGaussian, mu=0, sigma=1, density=0.3)
            return [toolbox.mutate([0.0] * 30)[0] for _ in range(3)]

        before = states()
        random.seed(7)
        first = mutants()
        assert states() == before
        np.random.random(3)
        random.seed(7)
        assert mutants() == first
        assert len({tuple(mutant) for mutant in (*first, *mutants())}) == 6

    @every_kind
    def test_nothing_to_mutate(self, kind):
        (individual,) = mutSparseGaussian(kind([]), mu=0, sigma=1, density=0.5)
        assert len(individual) == 0

    @pytest.mark.parametrize(
        ("individual", "options", "kind", "message"),
        [
            ([0.0], {"density": 0}, InvalidValue, r"density: expected a finite number in \(0, 1\], got 0"),
            ([0.0], {"density": 1.5}, InvalidValue, "density"),
            ([0.0], {"density": None}, InvalidType, "density"),
            ([0.0], {"sigma": 0}, InvalidValue, "sigma: expected a finite number > 0, got 0"),
            ([0.0], {"sigma": -1}, InvalidValue, "sigma"),
            ([0.0], {"sigma": float("nan")}, InvalidValue, "sigma"),
            (np.arange(3), {}, InvalidType, r"expected floating numbers, got int64; use .astype\(float\)"),
            (np.zeros((3, 3)), {}, InvalidValue, r"expected one dimension, got shape \(3, 3\)"),
            (np.array(1.0), {}, InvalidValue, "one dimension"),
            ((0.0, 1.0), {}, InvalidType, "got tuple; genes are changed in place"),
            (range(3), {}, InvalidType, "got range"),
            (dict.fromkeys(range(3), 0.0), {}, InvalidType, "got dict"),
            (bytearray(3), {}, InvalidType, "got bytearray"),
            (array.array("i", [1, 2]), {}, InvalidType, r"expected floating numbers, got i; use array\('d', ...\)"),
            ([0.0] * 2, {"sigma": [1.0, 0.0]}, InvalidValue, r"sigma\[1\]: expected a finite number > 0, got 0.0"),
            ([0.0] * 2, {"sigma": [1.0, float("nan")]}, InvalidValue, r"sigma\[1\]: .*got nan"),
            ([0.0] * 2, {"sigma": np.array([-1.0, 1])}, InvalidValue, r"sigma\[0\]: .*got -1.0"),
            ([0.0] * 2, {"sigma": [1.0, "2"]}, InvalidType, r"sigma\[1\]: expected a number > 0, got '2'"),
            ([0.0] * 2, {"sigma": [1.0, None]}, InvalidType, r"sigma\[1\]"),
            ([0.0] * 2, {"sigma": [True, True]}, InvalidType, r"sigma\[0\]: expected a number > 0, got"),
            ([0.0] * 2, {"sigma": np.ones((2, 2))}, InvalidValue, r"sigma: .*for each gene, got shape \(2, 2\)"),
            ([0.0] * 2, {"sigma": "ab"}, InvalidType, "sigma: expected a number > 0, got 'ab'"),
            ([0.0] * 2, {"sigma": {0: 1.0, 1: 1.0}}, InvalidType, "sigma"),
            ([0.0] * 2, {"mu": [0.0, float("inf")]}, InvalidValue, r"mu\[1\]: expected a finite number, got inf"),
            ("genes", {}, InvalidType, "got str"),
            (None, {}, InvalidType, "got NoneType"),
            (LineageIndividual(), {"mu": 0.5}, InvalidValue, "mu: expected 0 for a lineage, got 0.5"),
            (LineageIndividual(), {"mu": [0.0]}, InvalidValue, "mu: expected 0"),
            (LineageIndividual(), {"sigma": [1.0]}, InvalidType, r"sigma: expected a number > 0, got \[1.0\]"),
            (LineageIndividual(), {"sigma": 0}, InvalidValue, "sigma"),
            (LineageIndividual(), {"density": 2}, InvalidValue, "density"),
        ],
    )
    def test_refused(self, individual, options, kind, message):
        before = copy.deepcopy(individual)
        check_refused(
            lambda: mutSparseGaussian(individual, **{"mu": 0, "sigma": 1, "density": 0.5} | options), kind, message
        )
        assert np.array_equal(individual, before) if isinstance(before, np.ndarray) else individual == before

    def test_a_lineage_gets_one_more_mutation(self):
        individual = LineageIndividual(Lineage(tuple(STEPS[:2])))
        (result,) = mutSparseGaussian(individual, mu=0, sigma=0.3, density=0.25)
        assert result is individual
        *old, new = individual.lineage.steps
        assert old == STEPS[:2]
        assert (new.sigma, new.subspace, new.scale) == (0.3, RandomSubspace(0.25), "absolute")

    def test_each_mutation_of_a_lineage_has_its_own_noise_and_coordinates(self):
        individual = LineageIndividual()
        random.seed(3)
        for _ in range(50):
            mutSparseGaussian(individual, mu=0, sigma=0.3, density=0.25)
        words = {word for step in individual.lineage.steps for word in (step.key, step.draw)}
        assert len(words) == 100
        again = LineageIndividual()
        random.seed(3)
        for _ in range(50):
            mutSparseGaussian(again, mu=0.0, sigma=0.3, density=0.25)
        assert again == individual

    @pytest.mark.parametrize("kind", [*KINDS.values(), lambda _: LineageIndividual()], ids=[*KINDS, "lineage"])
    def test_a_clone_of_deaps_toolbox_leaves_the_original_alone(self, kind):
        toolbox, original = base.Toolbox(), kind([1.0] * 5)
        before = copy.deepcopy(original)
        (mutant,) = mutSparseGaussian(toolbox.clone(original), mu=0, sigma=1, density=1)
        assert type(mutant) is type(original)
        assert same(original, before)
        assert not same(mutant, before)


class TestLineageCrossover:
    @given(LINEAGES, LINEAGES, LINEAGES, st.integers(0, 2**32))
    def test_the_ancestor_stays_and_nothing_is_lost_or_doubled(self, ancestor, first, second, seed):
        one = LineageIndividual(Lineage(ancestor.steps + first.steps))
        two = LineageIndividual(Lineage(ancestor.steps + second.steps))
        before = [*one.lineage.steps, *two.lineage.steps]
        random.seed(seed)
        result = cxLineage(one, two)
        assert result[0] is one
        assert result[1] is two
        for child in result:
            assert child.lineage.steps[: len(ancestor)] == ancestor.steps
        assert sorted(map(repr, (*one.lineage.steps, *two.lineage.steps))) == sorted(map(repr, before))

    @given(LINEAGES, LINEAGES, st.integers(0, 2**32))
    def test_a_step_that_both_have_is_in_both_children_as_often_as_in_both(self, first, second, seed):
        """Wherever it stands; each other one is in one of them."""
        one, two = LineageIndividual(first), LineageIndividual(second)
        random.seed(seed)
        cxLineage(one, two)
        for step in {*first.steps, *second.steps}:
            counts = first.steps.count(step), second.steps.count(step)
            found = one.lineage.steps.count(step), two.lineage.steps.count(step)
            assert sum(found) == sum(counts)
            assert min(counts) <= min(found)
            assert max(found) <= max(counts)

    def test_sigma_is_not_multiplied_in_a_long_run(self):
        random.seed(1)
        population = [LineageIndividual() for _ in range(20)]
        for _ in range(15):
            population = [copy.deepcopy(random.choice(population[:5])) for _ in population]
            for one, two in zip(population[::2], population[1::2], strict=True):
                cxLineage(one, two)
            for individual in population:
                mutSparseGaussian(individual, 0, 1.0, 0.1)
            random.shuffle(population)
        assert max(map(len, population)) > 8
        assert all(len({*one.lineage.steps}) == len(one) for one in population)

    @given(st.integers(0, 2**32))
    def test_mutations_keep_their_order(self, seed):
        one, two = LineageIndividual(Lineage(tuple(STEPS[:5]))), LineageIndividual(Lineage(tuple(STEPS[6:])))
        random.seed(seed)
        for child in cxLineage(one, two):
            places = [STEPS.index(step) for step in child.lineage.steps]
            assert places == sorted(places)

    def test_each_child_gets_half_of_them(self):
        random.seed(1)
        lengths = []
        for _ in range(1000):
            one, two = LineageIndividual(Lineage(tuple(STEPS[:6]))), LineageIndividual(Lineage(tuple(STEPS[6:])))
            cxLineage(one, two)
            lengths.append(len(one))
        expected = 1000 * stats.binom(12, 0.5).pmf(range(13))
        assert stats.chisquare(np.bincount(lengths, minlength=13), expected).pvalue > 1e-3

    @given(LINEAGES)
    def test_equal_lineages_stay(self, lineage):
        one, two = LineageIndividual(lineage), LineageIndividual(lineage)
        cxLineage(one, two)
        assert one.lineage == two.lineage == lineage

    def test_it_follows_pythons_random_alone(self):
        def children():
            return cxLineage(*(LineageIndividual(Lineage(tuple(steps))) for steps in (STEPS[:6], STEPS[6:])))

        before = states()
        random.seed(5)
        first = children()
        assert states() == before
        random.seed(5)
        assert children() == first
        assert any(children() != first for _ in range(5))
