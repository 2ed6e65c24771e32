"""DenseIndividual and LineageIndividual in DEAP itself: clones, pickles, creator, crossovers, records."""

import copy
import functools
import pickle
import random

import numpy as np
import pytest
from deap import base, creator, tools
from deap_helpers import check_refused
from hypothesis import given
from hypothesis import strategies as st

from smd_evo import DenseIndividual, Lineage, LineageIndividual, PartitionSubspace, RandomSubspace, sample_mutations
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.integrations.deap.individuals import MaxFitness, MinFitness

creator.create("IndividualsMin", base.Fitness, weights=(-1.0,))
creator.create("IndividualsMulti", base.Fitness, weights=(-1.0, 1.0))
creator.create("IndividualsNumpy", np.ndarray, fitness=creator.IndividualsMin)
creator.create("IndividualsDense", DenseIndividual, fitness=creator.IndividualsMulti, history=list, island=3)
creator.create("IndividualsLineage", LineageIndividual, fitness=creator.IndividualsMulti, history=list, island=3)

STEPS = sample_mutations(0, 4, subspace=RandomSubspace(0.1), sigma=1.0)


def two_points(one, two):
    """As in DEAP's documentation of numpy arrays."""
    one[2:5], two[2:5] = two[2:5].copy(), one[2:5].copy()
    return one, two


def dense(genes=(1.0, 2.0, 3.0, 4.0), fitness=MinFitness, evaluated=(0.5,)):
    individual = DenseIndividual(genes, fitness)
    individual.fitness.values = evaluated
    return individual


class TestDenseIndividual:
    @pytest.mark.parametrize(
        "derived",
        [
            lambda individual: individual[:2],
            lambda individual: individual[[0, 2]],
            lambda individual: individual[individual > 2],
            lambda individual: individual.reshape(2, 2),
            lambda individual: individual.copy(),
            copy.copy,
            lambda individual: individual.view(),
            lambda individual: individual.astype(np.float32),
            lambda individual: individual + 1,
            lambda individual: 0.5 * (individual + individual[::-1]),
            np.sqrt,
            lambda individual: np.clip(individual, 2, 3),
        ],
        ids=[
            "slice",
            "places",
            "mask",
            "reshape",
            "copy",
            "copy.copy",
            "view",
            "astype",
            "sum",
            "mean",
            "ufunc",
            "clip",
        ],
    )
    @pytest.mark.parametrize("fitness", [MinFitness, MaxFitness, creator.IndividualsMin])
    def test_what_is_made_of_it_has_a_fitness_of_its_own(self, derived, fitness):
        """A fresh one of the same class: not the class itself, as for creator's numpy arrays, and not shared."""
        individual = dense(fitness=fitness)
        made = derived(individual)
        assert type(made) is DenseIndividual
        assert type(made.fitness) is fitness
        assert not made.fitness.valid
        made.fitness.values = (9.0,)
        assert individual.fitness.values == (0.5,)

    def test_creators_own_arrays_share_the_class(self):
        """The trap that it is there for: if DEAP mends it one day, this says so."""
        assert isinstance(creator.IndividualsNumpy([1.0, 2.0])[:1].fitness, type)

    def test_numbers(self):
        assert DenseIndividual([1, 2]).dtype == DenseIndividual([True]).dtype == np.float32
        assert DenseIndividual(np.zeros(2, np.float16)).dtype == np.float16
        source = np.zeros(3)
        DenseIndividual(source)[0] = 1
        assert source[0] == 0

    @pytest.mark.parametrize("kind", [DenseIndividual, LineageIndividual])
    @pytest.mark.parametrize("fitness", [None, 3, int, MinFitness()], ids=["None", "3", "int", "instance"])
    def test_a_fitness_that_is_none(self, kind, fitness):
        genes = Lineage() if kind is LineageIndividual else [1.0]
        check_refused(lambda: kind(genes, fitness), InvalidType, "fitness: expected a class of deap.base.Fitness")

    def test_deepcopy_keeps_all_and_shares_nothing(self):
        individual = dense()
        individual.history = [[1]]
        twin = copy.deepcopy(individual)
        assert type(twin) is DenseIndividual
        assert np.array_equal(twin, individual)
        assert (twin.fitness.values, twin.history) == ((0.5,), [[1]])
        twin[0], twin.fitness.values = 7, (8.0,)
        twin.history[0].append(2)
        assert (individual[0], individual.fitness.values, individual.history) == (1, (0.5,), [[1]])

    @pytest.mark.parametrize("protocol", range(2, 6))
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    @pytest.mark.parametrize(
        "part",
        [np.s_[:], np.s_[::3], np.s_[:0], np.s_[:, None], np.s_[0, ...]],
        ids=["all", "steps", "none", "2-d", "0-d"],
    )
    def test_pickle(self, protocol, dtype, part):
        individual = DenseIndividual(np.linspace(0, 1, 10).astype(dtype), MaxFitness)[part]
        individual.fitness.values, individual.history = (0.25,), [1]
        twin = pickle.loads(pickle.dumps(individual, protocol))
        assert type(twin) is DenseIndividual
        assert (twin.dtype, twin.shape) == (individual.dtype, individual.shape)
        assert np.array_equal(twin, individual)
        assert (type(twin.fitness), twin.fitness.values, twin.history) == (MaxFitness, (0.25,), [1])
        assert twin.flags.writeable

    def test_a_million_parameters_travel_as_their_bytes(self):
        """Not as a list of a million Python numbers, as those of creator's numpy arrays."""
        individual = DenseIndividual(np.linspace(0, 1, 10**6, dtype=np.float32))
        assert len(pickle.dumps(individual)) == pytest.approx(4e6, rel=0.001)

    def test_with_creator(self):
        individual = creator.IndividualsDense([1, 2, 3])
        assert (type(individual), individual.island, individual.history) == (creator.IndividualsDense, 3, [])
        assert individual.fitness.weights == individual[:1].fitness.weights == (-1.0, 1.0)
        individual.fitness.values, individual.history = (1.0, 2.0), [4]
        assert not (individual + 1).fitness.valid
        for twin in (copy.deepcopy(individual), pickle.loads(pickle.dumps(individual))):
            assert type(twin).__name__ == "IndividualsDense"
            assert twin.fitness.values == (1.0, 2.0)
            assert (twin.history, twin.island, twin.tolist()) == ([4], 3, [1, 2, 3])

    @pytest.mark.parametrize(
        "mate",
        [
            functools.partial(tools.cxBlend, alpha=0.5),
            functools.partial(tools.cxUniform, indpb=0.5),
            functools.partial(tools.cxSimulatedBinary, eta=2),
            two_points,
        ],
        ids=["blend", "uniform", "simulated binary", "two points"],
    )
    def test_deaps_crossovers(self, mate):
        random.seed(2)
        one, two = dense(range(10)), dense(range(10, 20))
        children = mate(*map(copy.deepcopy, (one, two)))
        assert np.allclose(children[0] + children[1], one + two)
        assert not np.array_equal(children[0], one)
        assert [type(child.fitness) for child in children] == [MinFitness, MinFitness]

    @pytest.mark.parametrize("mate", [tools.cxOnePoint, tools.cxTwoPoint])
    @pytest.mark.parametrize("kind", [DenseIndividual, creator.IndividualsDense], ids=["dense", "creator's"])
    @given(length=st.integers(2, 12), seed=st.integers(0, 2**32))
    def test_deaps_crossovers_of_slices_do_as_with_lists(self, mate, kind, length, seed):
        """Slices of numpy's own arrays are views: each of two that are swapped would overwrite the other."""
        genes = list(range(length)), list(range(length, 2 * length))
        random.seed(seed)
        expected = mate(*map(list, genes))
        random.seed(seed)
        children = mate(*map(kind, genes))
        assert [child.tolist() for child in children] == list(expected)

    def test_deaps_crossover_of_strategies(self):
        one, two = DenseIndividual(range(8)), DenseIndividual(range(8, 16))
        one.strategy, two.strategy = [0.0] * 8, [1.0] * 8
        children = tools.cxESTwoPoint(one, two)
        assert sorted(np.concatenate(children).tolist()) == list(range(16))
        assert [(genes >= 8).tolist() for genes in children] == [[s == 1 for s in g.strategy] for g in children]

    def test_slices_are_copies_as_of_lists_and_can_be_written_to(self):
        individual = DenseIndividual(np.arange(12.0).reshape(3, 4))
        for place in (np.s_[1:], np.s_[:, 2], np.s_[0:2, 1:3]):
            part = individual[place]
            part += 100
            assert individual.max() == 11
            individual[place] += 1
            individual[place] = individual[place] - 1
            assert individual.tolist() == np.arange(12.0).reshape(3, 4).tolist()
        individual[0][1] = 7  # a row of a table is the table's
        assert individual[0, 1] == 7

    def test_a_crossover_that_changes_lengths_is_told(self):
        individual = DenseIndividual(range(5))
        for part in (individual[:1], individual[:3]):
            check_refused(
                lambda part=part: individual.__setitem__(slice(1, 3), part), InvalidValue, "expected 2 genes .* got"
            )
        individual[1:3] = 9
        assert individual.tolist() == [0, 9, 9, 3, 4]

    @pytest.mark.parametrize("kind", [DenseIndividual, creator.IndividualsDense], ids=["dense", "creator's"])
    def test_deaps_initializers(self, kind):
        toolbox = base.Toolbox()
        toolbox.register("repeat", tools.initRepeat, kind, lambda: 1.5, 3)
        toolbox.register("cycle", tools.initCycle, kind, (lambda: 1.5, lambda: 2), 2)
        toolbox.register("iterate", tools.initIterate, kind, lambda: map(float, range(3)))
        toolbox.register("sample", tools.initIterate, kind, lambda: random.sample(range(3), 3))
        population = [toolbox.repeat(), toolbox.cycle(), toolbox.iterate(), toolbox.sample()]
        assert [one.tolist() for one in population[:3]] == [[1.5] * 3, [1.5, 2, 1.5, 2], [0, 1, 2]]
        assert sorted(population[3].tolist()) == [0, 1, 2]
        assert all(type(one) is kind and one.dtype.kind == "f" and not one.fitness.valid for one in population)
        assert len(kind(iter([]))) == 0

    @pytest.mark.parametrize("values", ["genes", ["1"], [1j], [None, 1], {"a": 1}, None, [[1], [1, 2]]], ids=str)
    def test_what_are_no_numbers(self, values):
        check_refused(lambda: DenseIndividual(values), InvalidType, "values: expected")

    def test_deaps_records(self):
        population = [dense([number, 1.0], evaluated=(number,)) for number in (3.0, 1.0, 1.0, 2.0)]
        best, front = tools.HallOfFame(3, similar=np.array_equal), tools.ParetoFront(similar=np.array_equal)
        best.update(population)
        front.update(population)
        assert [individual.tolist() for individual in best] == [[1, 1], [2, 1], [3, 1]]
        assert [individual.tolist() for individual in front] == [[1, 1]]
        population[1][0] = 9
        assert best[0][0] == front[0][0] == 1
        statistics, logbook = tools.Statistics(lambda individual: individual.fitness.values), tools.Logbook()
        statistics.register("mean", np.mean)
        logbook.record(gen=0, **statistics.compile(population))
        assert logbook.select("mean") == [1.75]


class TestLineageIndividual:
    def test_without_mutations_it_is_the_parent(self):
        individual = LineageIndividual()
        assert (len(individual), individual.lineage, type(individual.fitness)) == (0, Lineage(), MinFitness)
        assert individual == LineageIndividual()
        assert individual != Lineage()
        check_refused(lambda: LineageIndividual([1.0]), InvalidType, r"lineage: expected a Lineage, got \[1.0\]")

    def test_equal_is_what_makes_the_same_network(self):
        one, two = (LineageIndividual(Lineage((step,))) for step in STEPS[:2])
        assert one != two
        two.lineage = one.lineage
        one.fitness.values = (1.0,)
        assert one == two
        with pytest.raises(TypeError, match="unhashable"):
            hash(one)
        assert repr(one) == f"LineageIndividual({STEPS[0].encode()!r})"

    def test_deepcopy_shares_the_steps_alone(self):
        individual = LineageIndividual(Lineage(tuple(STEPS[:2])), MaxFitness)
        individual.fitness.values, individual.history = (0.5,), [[1]]
        twin = copy.deepcopy(individual)
        assert twin == individual
        assert twin.lineage.steps is individual.lineage.steps
        assert (type(twin.fitness), twin.fitness.values, twin.history) == (MaxFitness, (0.5,), [[1]])
        twin.fitness.values = (8.0,)
        twin.history[0].append(2)
        assert (individual.fitness.values, individual.history) == ((0.5,), [[1]])

    @pytest.mark.parametrize("protocol", range(2, 6))
    def test_pickle(self, protocol):
        steps = (*STEPS[:2], *sample_mutations(1, 1, subspace=PartitionSubspace(3), sigma=2.0, scale="relative"))
        individual = LineageIndividual(Lineage(steps), MaxFitness)
        individual.fitness.values, individual.history = (0.5,), [1]
        twin = pickle.loads(pickle.dumps(individual, protocol))
        assert twin == individual
        assert (type(twin), type(twin.fitness)) == (LineageIndividual, MaxFitness)
        assert (twin.fitness.values, twin.history) == ((0.5,), [1])

    def test_with_creator(self):
        individual = creator.IndividualsLineage(Lineage(tuple(STEPS[:1])))
        assert (len(individual), individual.island, individual.history) == (1, 3, [])
        assert individual.fitness.weights == (-1.0, 1.0)
        assert creator.IndividualsLineage(Lineage(), MinFitness).fitness.weights == (-1.0, 1.0)
        individual.fitness.values, individual.history = (1.0, 2.0), [4]
        for twin in (copy.deepcopy(individual), pickle.loads(pickle.dumps(individual))):
            assert type(twin).__name__ == "IndividualsLineage"
            assert twin == individual
            assert (twin.fitness.values, twin.history, twin.island) == ((1.0, 2.0), [4], 3)

    def test_a_hall_of_fame_as_it_is(self):
        population = [LineageIndividual(Lineage((STEPS[number],))) for number in (3, 1, 1, 2)]
        for individual, value in zip(population, (3.0, 1.0, 1.0, 2.0), strict=True):
            individual.fitness.values = (value,)
        best, front = tools.HallOfFame(3), tools.ParetoFront()
        best.update(population)
        front.update(population)
        assert [individual.lineage.steps for individual in best] == [(STEPS[number],) for number in (1, 2, 3)]
        assert len(front) == 1
