"""ToolboxEvaluator in DEAP itself: its maps, its algorithms, its records, its processes."""

import copy
import functools
import math
import multiprocessing
import os
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
import torch
from deap import algorithms, base, creator, tools
from deap_helpers import (
    SAMPLES,
    check_refused,
    evaluator_of,
    hall,
    lineages,
    same,
    toolbox_of,
    values,
    where_and_what,
)
from helpers import blobs, same_bits, state_bits, trained
from torch import nn

from smd_evo import (
    DenseIndividual,
    Evaluator,
    FinetuneProblem,
    Lineage,
    LineageIndividual,
    ModuleFitness,
    RandomSubspace,
    ToolboxEvaluator,
    mutSparseGaussian,
)
from smd_evo.errors import InvalidType, InvalidValue, WrongParent
from smd_evo.integrations.deap.individuals import MaxFitness, MinFitness

creator.create("EvaluatorMulti", base.Fitness, weights=(-1.0, 1.0))
creator.create("EvaluatorMin", base.Fitness, weights=(-2.0,))
creator.create("EvaluatorList", list, fitness=creator.EvaluatorMin)

uniform = functools.partial(tools.cxUniform, indpb=0.3)
ALGORITHMS = {
    "eaSimple": functools.partial(algorithms.eaSimple, cxpb=0.3, mutpb=0.9),
    "eaMuPlusLambda": functools.partial(algorithms.eaMuPlusLambda, mu=6, lambda_=12, cxpb=0.3, mutpb=0.5),
    "eaMuCommaLambda": functools.partial(algorithms.eaMuCommaLambda, mu=6, lambda_=12, cxpb=0.3, mutpb=0.7),
}
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
every_sense = pytest.mark.parametrize("fitness", ["cross_entropy", "accuracy"])
every_encoding = pytest.mark.parametrize("encoding", ["lineage", "dense"])


def run(evaluator, algorithm, encoding="lineage", ngen=4, seed=1, **overrides):
    """One of DEAP's algorithms as it is, from eight times the parent."""
    random.seed(seed)
    options = {} if encoding == "lineage" else {"mate": uniform}
    toolbox = toolbox_of(evaluator, select=functools.partial(tools.selTournament, tournsize=3), **options)
    for name, function in overrides.items():
        toolbox.register(name, function)
    best = hall()
    population = [getattr(evaluator, encoding)() for _ in range(8)]
    population, logbook = algorithm(population, toolbox, ngen=ngen, halloffame=best, verbose=False)
    return population, best, logbook


@pytest.fixture
def generations(monkeypatch):
    """Numbers of children of each evaluation by the core."""
    sizes, evaluate = [], Evaluator.evaluate

    def counted(self, children, progress=None):
        sizes.append(len(children))
        return evaluate(self, children, progress)

    monkeypatch.setattr(Evaluator, "evaluate", counted)
    return sizes


class TestMap:
    @every_sense
    def test_as_one_by_one_and_as_the_core(self, fitness):
        random.seed(4)
        evaluator = evaluator_of(fitness)
        population = lineages(evaluator)
        expected = Evaluator(trained(), SAMPLES, fitness).evaluate([one.lineage for one in population]).fitness
        assert len(set(expected.tolist())) > 3
        toolbox = toolbox_of(evaluator)
        results = toolbox.map(toolbox.evaluate, population)
        assert results == [(value,) for value in expected.tolist()]
        assert results == [evaluator.evaluate(one) for one in population] == evaluator.evaluate_all(population)
        assert all(type(value) is float for (value,) in results)

    def test_order_and_length(self):
        evaluator = evaluator_of()
        population = lineages(evaluator)
        expected = evaluator.evaluate_all(population)
        assert evaluator.map(evaluator.evaluate, population[::-1]) == expected[::-1]
        assert evaluator.map(evaluator.evaluate, population * 2) == expected * 2
        assert evaluator.map(evaluator.evaluate, [population[1]] * 3) == [expected[1]] * 3
        assert evaluator.map(evaluator.evaluate, (one for one in population)) == expected
        assert evaluator.map(evaluator.evaluate, []) == []

    def test_one_evaluation_by_the_core_however_it_is_registered(self, generations):
        evaluator = evaluator_of()
        population, toolbox = lineages(evaluator), toolbox_of(evaluator)
        nested = functools.partial(functools.partial(evaluator.evaluate))
        for function in (evaluator.evaluate, toolbox.evaluate, nested):
            list(toolbox.map(function, population))
        assert generations == [6, 6, 6]

        def own(individual):
            return evaluator.evaluate(individual)

        list(evaluator.map(own, population))
        assert generations == [6, 6, 6] + [1] * 6

    def test_everything_else_is_the_builtin_map(self, generations):
        evaluator, other = evaluator_of(), evaluator_of("accuracy")
        assert isinstance(evaluator.map(abs, [-1]), map)
        assert list(evaluator.map(abs, [-1, 2])) == [1, 2]
        assert list(evaluator.map(lambda one, two: one - two, [5, 6, 7], [1, 2])) == [4, 4]
        assert next(iter(evaluator.map(abs, iter([-1, None])))) == 1  # lazy
        assert generations == []
        assert list(evaluator.map(other.evaluate, [other.lineage()])) == [other.evaluate(other.lineage())]

    @every_encoding
    def test_the_network_stays_bit_for_bit(self, encoding):
        network = trained().train()
        before = state_bits(network)
        run(evaluator_of(network=network), ALGORITHMS["eaSimple"], encoding, ngen=2)
        assert same_bits(state_bits(network), before)
        assert network.training

    def test_the_same_numbers_as_evotorchs_side(self):
        problem = FinetuneProblem(trained(), SAMPLES, steps=2, seed=1)
        batch = problem.generate_batch(10)
        for key in (1, 2):
            batch = problem.mutate(batch, key=key, subspace=RandomSubspace(0.2), sigma=0.3)
        problem.evaluate(batch)
        toolbox = toolbox_of(evaluator_of())
        population = [LineageIndividual(lineage) for lineage in problem.lineages(batch)]
        expected = batch.evals[:, 0]
        assert expected.dtype == torch.float64
        assert [value for (value,) in toolbox.map(toolbox.evaluate, population)] == expected.tolist()


class TestThreads:
    @pytest.mark.parametrize("encoding", ["lineage", "dense"])
    @pytest.mark.parametrize("pool", [ThreadPool, ThreadPoolExecutor], ids=["multiprocessing", "concurrent"])
    def test_get_what_one_thread_gets_and_the_network_stays(self, pool, encoding):
        network = trained().train()
        evaluator = ToolboxEvaluator(network, blobs())
        before, modes = state_bits(network), [part.training for part in network.modules()]
        random.seed(1)
        individuals = [getattr(evaluator, encoding)() for _ in range(20)]
        for individual in individuals:
            mutSparseGaussian(individual, mu=0, sigma=0.5, density=0.3)
        expected = [evaluator.evaluate(individual) for individual in individuals]
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        with pool(4) as threads:
            assert list(threads.map(evaluator.evaluate, individuals)) == expected
            one, other = (threads.map(evaluator.evaluate, individuals) for _ in range(2))
            assert list(one) == list(other) == expected
        assert len(set(expected)) > 10
        assert same_bits(before, state_bits(network))
        assert modes == [part.training for part in network.modules()]
        assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


class TestAlgorithms:
    @every_encoding
    @every_sense
    @every_algorithm
    def test_they_improve_the_parent(self, algorithm, fitness, encoding):
        evaluator = evaluator_of(fitness)
        ((before,),) = evaluator.evaluate_all([evaluator.lineage()])
        _, best, _ = run(evaluator, algorithm, encoding)
        (after,) = best[0].fitness.values
        assert after > before + 0.05 if fitness == "accuracy" else after < before - 0.1
        network = evaluator.make_net(best[0])
        assert Evaluator(network, SAMPLES, fitness).evaluate([Lineage()]).fitness.item() == after
        network.head.weight.data.zero_()
        assert evaluator.evaluate(best[0]) == (after,)  # nothing shared

    @every_algorithm
    def test_one_evaluation_by_the_core_a_generation(self, algorithm, generations):
        _, _, logbook = run(evaluator_of(), algorithm, ngen=3)
        assert generations == logbook.select("nevals")
        assert len(generations) == 4

    @every_encoding
    @every_algorithm
    def test_random_seed_alone_repeats_a_run(self, algorithm, encoding):
        runs = []
        for seed in (1, 1, 2):
            np.random.random(3)
            torch.rand(3)
            runs.append(run(evaluator_of(), algorithm, encoding, ngen=3, seed=seed)[0])
        assert all(map(same, runs[0], runs[1]))
        assert values(runs[0]) == values(runs[1]) != values(runs[2])

    def test_reproduction_appends_parents_as_they_are(self):
        """varOr's third branch does not clone: such individuals keep their fitness and are not evaluated again."""
        evaluator = evaluator_of()
        few = functools.partial(algorithms.eaMuPlusLambda, mu=6, lambda_=30, cxpb=0.1, mutpb=0.1)
        population, _, logbook = run(evaluator, few, ngen=3)
        assert all(0 < count < 20 for count in logbook.select("nevals")[1:])
        assert values(population) == evaluator.evaluate_all(population)

    def test_statistics_and_logbook(self):
        evaluator = evaluator_of()
        statistics = tools.Statistics(lambda individual: individual.fitness.values)
        statistics.register("min", np.min)
        _, best, logbook = run(evaluator, functools.partial(ALGORITHMS["eaMuPlusLambda"], stats=statistics))
        assert len(logbook.select("min")) == 5
        assert min(logbook.select("min")) >= best[0].fitness.values[0]  # a child that is not selected is not in it

    @pytest.mark.parametrize("sense", ["min", "max"])
    @pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf], ids=str)
    def test_what_is_not_finite_is_the_worst(self, broken, sense):
        """A NaN enters DEAP's HallOfFame as the best of all; here none gets there."""
        start = trained().head.bias[0].item()

        def bias(module):
            value = module.head.bias[0].item()
            return value if value == start else broken

        evaluator = evaluator_of(ModuleFitness("bias", sense, bias), data=None)
        toolbox, best = toolbox_of(evaluator, density=1), hall(10)
        population = [evaluator.lineage(), *(toolbox.mutate(evaluator.lineage())[0] for _ in range(3))]
        for individual, fitness in zip(population, toolbox.map(toolbox.evaluate, population), strict=True):
            individual.fitness.values = fitness
        best.update(population)
        worst = 1e18 if sense == "min" else -1e18
        assert values(best) == [(start,)] + [(worst,)] * 3

    def test_the_trap_itself(self):
        one, best = DenseIndividual([1.0]), hall()
        for value in (1.0, math.nan):
            one.fitness.values = (value,)
            one[0] += 1
            best.update([one])
        assert math.isnan(best[0].fitness.values[0])


class TestDense:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
    def test_the_parent_has_the_parents_fitness(self, dtype):
        data = (SAMPLES[0].to(dtype), SAMPLES[1])
        evaluator = evaluator_of(network=trained().to(dtype), data=data)
        assert evaluator.dense().dtype == np.float32
        assert evaluator.evaluate(evaluator.dense()) == evaluator.evaluate(evaluator.lineage())
        assert same_bits(state_bits(evaluator.make_net(evaluator.dense())), state_bits(trained().to(dtype)))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("density", [0.05, 1.0])
    def test_genes_are_the_parameters(self, dtype, density):
        network = trained().to(dtype)
        evaluator = evaluator_of(network=network, data=(SAMPLES[0].to(dtype), SAMPLES[1]))
        (individual,) = toolbox_of(evaluator, density=density).mutate(evaluator.dense())
        expected = copy.deepcopy(network)
        vector = torch.from_numpy(np.array(individual)).to(dtype)
        torch.nn.utils.vector_to_parameters(vector, expected.parameters())
        made = evaluator.make_net(individual)
        assert same_bits(state_bits(made), state_bits(expected))
        assert not same_bits(state_bits(made), state_bits(network))
        core = Evaluator(expected, (SAMPLES[0].to(dtype), SAMPLES[1])).evaluate([Lineage()])
        assert evaluator.evaluate(individual) == (core.fitness.item(),)

    def test_any_sequence_will_do(self):
        evaluator = evaluator_of()
        genes = evaluator.dense() + np.float32(0.125)
        expected = evaluator.evaluate(genes)
        for kind in (list, tuple, np.array, creator.EvaluatorList, torch.tensor):
            assert evaluator.evaluate(kind(genes.tolist())) == expected

    def test_selected_parameters_only(self):
        evaluator = evaluator_of(select="head")
        assert len(evaluator.dense()) == 3 * 64 + 3
        made = evaluator.make_net(np.zeros(195))
        assert not made.head.weight.any()
        assert torch.equal(made.conv.weight, trained().conv.weight)

    def test_each_is_of_its_own(self):
        evaluator = evaluator_of()
        evaluator.dense()[:] = 0
        assert evaluator.evaluate(evaluator.dense()) == evaluator.evaluate(evaluator.lineage())

    def test_is_what_its_genes_say_also_when_the_network_was_trained_since(self):
        network = trained()
        evaluator = evaluator_of(network=network)
        (individual,) = toolbox_of(evaluator, density=0.1).mutate(evaluator.dense())
        before, made = evaluator.evaluate(individual), state_bits(evaluator.make_net(individual))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.5
        assert evaluator.evaluate(individual) == before
        assert same_bits(state_bits(evaluator.make_net(individual)), made)
        assert not np.array_equal(evaluator.dense(), individual)
        assert evaluator.evaluate(evaluator.dense()) == evaluator.evaluate(evaluator.lineage()) != before

    @pytest.mark.parametrize("genes", [[], [0.0], np.zeros((20, 13)), 1.0], ids=["none", "one", "2-d", "0-d"])
    def test_another_number_of_genes(self, genes):
        evaluator = evaluator_of()
        check_refused(lambda: evaluator.evaluate(genes), WrongParent, r"expected \d+ numbers, .* evaluator.dense\(\)")
        check_refused(lambda: evaluator.make_net(genes), WrongParent, "expected")

    @pytest.mark.parametrize("individual", ["genes", Lineage(), trained(), ["a"]], ids=lambda one: type(one).__name__)
    def test_what_has_no_genes(self, individual):
        message = r"individual: expected real numbers, in a row, got .*; evaluator.dense\(\) is one"
        check_refused(lambda: evaluator_of().evaluate(individual), InvalidType, message)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
    def test_the_parameters_themselves(self, dtype):
        """They have gradients, of which numpy wants to know nothing."""
        network = trained().to(dtype)
        evaluator = evaluator_of(network=network, data=(SAMPLES[0].to(dtype), SAMPLES[1]))
        vector = nn.utils.parameters_to_vector(network.parameters())
        assert np.array_equal(DenseIndividual(vector), evaluator.dense())
        assert evaluator.evaluate(vector) == evaluator.evaluate(evaluator.lineage())
        assert evaluator.evaluate(DenseIndividual(vector + 1)) == evaluator.evaluate(vector + 1)


class TestRefused:
    @pytest.mark.parametrize("encoding", ["lineage", "dense"])
    @pytest.mark.parametrize(
        ("fitness", "kind", "message"),
        [
            ("cross_entropy", MaxFitness, r"weights \(-1.0,\), as cross_entropy is to be low, got \(1.0,\)"),
            ("accuracy", MinFitness, r"weights \(1.0,\), as accuracy is to be high, got \(-1.0,\)"),
            ("cross_entropy", creator.EvaluatorMulti, r"got \(-1.0, 1.0\)"),
        ],
    )
    def test_weights_that_lead_elsewhere(self, encoding, fitness, kind, message):
        evaluator = evaluator_of(fitness)
        individual = getattr(evaluator, encoding)()
        assert evaluator.evaluate(individual)
        individual.fitness = kind()
        check_refused(lambda: evaluator.evaluate(individual), InvalidValue, message)

    def test_other_weights_that_lead_the_same_way(self):
        evaluator = evaluator_of()
        individual = LineageIndividual(Lineage(), creator.EvaluatorMin)
        assert evaluator.evaluate(individual) == evaluator.evaluate(evaluator.lineage())

    @pytest.mark.parametrize(
        ("options", "kind", "message"),
        [
            ({"fitness": "entropy"}, InvalidValue, "did you mean 'cross_entropy'"),
            ({"fitness": lambda module: 0.0}, InvalidType, "ModuleFitness"),
            ({"data": None}, InvalidValue, "data: expected samples"),
            ({"data": (torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64))}, InvalidValue, "data"),
            ({"network": "resnet"}, InvalidType, "parent: expected a torch.nn.Module"),
            ({"network": nn.ReLU()}, InvalidValue, "parameter"),
        ],
        ids=["unknown fitness", "bare function", "no data", "empty data", "no network", "no parameters"],
    )
    def test_a_bad_parent_or_data(self, options, kind, message):
        check_refused(lambda: evaluator_of(**options), kind, message)


class TestConstraints:
    """DEAP's decorators of ``evaluate``."""

    def test_delta_penalty(self):
        evaluator = evaluator_of()
        population, toolbox = lineages(evaluator), toolbox_of(evaluator)
        toolbox.decorate("evaluate", tools.DeltaPenalty(lambda one: len(one) < 3, 100.0, len))
        expected = [*evaluator.evaluate_all(population[:3]), (103.0,), (104.0,), (105.0,)]
        assert list(toolbox.map(toolbox.evaluate, population)) == expected

    def test_closest_valid_penalty(self):
        def clipped(individual):
            twin = copy.deepcopy(individual)
            np.clip(twin, -1, 1, out=twin)
            return twin

        evaluator = evaluator_of()
        toolbox, individual = toolbox_of(evaluator), evaluator.dense()
        individual[5] = 4
        penalty = tools.ClosestValidPenalty(
            lambda one: bool((abs(one) <= 1).all()), clipped, 10, lambda valid, one: float(abs(one - valid).sum())
        )
        toolbox.decorate("evaluate", penalty)
        excess = float(abs(individual - clipped(individual)).sum())
        ((value,),) = toolbox.map(toolbox.evaluate, [individual])
        assert value == evaluator.evaluate(clipped(individual))[0] + 10 * excess

    def test_a_whole_run(self):
        evaluator = evaluator_of()
        bound = tools.DeltaPenalty(lambda one: len(one) <= 2, 1e6)
        _, best, _ = run(evaluator, ALGORITHMS["eaSimple"], evaluate=bound(evaluator.evaluate))
        assert 1 <= len(best[0]) <= 2


@pytest.fixture(params=["fork", "spawn"], scope="module")
def pool(request):
    """torch may fork where it has used one thread only, so its workers have one."""
    with multiprocessing.get_context(request.param).Pool(2, torch.set_num_threads, (1,)) as pool:
        yield pool


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
class TestProcesses:
    @every_encoding
    def test_a_pool_makes_the_same_run(self, pool, encoding):
        """``toolbox.register("map", pool.map)``, as DEAP's documentation has it."""
        algorithm = ALGORITHMS["eaSimple"]
        network = trained()
        for ngen in (1, 3):
            expected, _, _ = run(evaluator_of(), algorithm, encoding, ngen=ngen)
            result, _, _ = run(evaluator_of(network=network), algorithm, encoding, ngen=ngen, map=pool.map)
            assert values(result) == values(expected)
            assert all(map(same, result, expected))
        assert same_bits(state_bits(network), state_bits(trained()))

    def test_the_workers_networks_are_their_own(self, pool):
        """torch sends tensors as shared memory, in which each worker would patch the network of all."""
        evaluator, before = evaluator_of(), state_bits(trained())
        population = lineages(evaluator, 12)
        results = pool.starmap(where_and_what, [(evaluator, one) for one in population], chunksize=1)
        assert os.getpid() not in {process for process, *_ in results}
        assert not any(shared for _, shared, _, _ in results)
        assert not any(tensor.is_shared() for tensor in evaluator.evaluator.space.module.state_dict().values())
        assert all(same_bits(bits, before) for _, _, bits, _ in results)
        assert [fitness for *_, fitness in results] == evaluator.evaluate_all(population)

    @every_encoding
    def test_a_checkpoint_resumes_exactly(self, encoding):
        """The loop of DEAP's documentation of checkpoints, to its end and cut in two."""
        whole = checkpointed(encoding, None, 6)
        half = checkpointed(encoding, None, 3)
        random.seed(99)
        resumed = checkpointed(encoding, half, 6)
        one, other = pickle.loads(whole), pickle.loads(resumed)
        assert all(map(same, one["population"], other["population"]))
        assert values(one["population"]) == values(other["population"])
        assert values(one["halloffame"]) == values(other["halloffame"])
        assert one["logbook"] == other["logbook"]
        assert one["rndstate"] == other["rndstate"]


def checkpointed(encoding, checkpoint, until):
    evaluator = evaluator_of()
    options = {} if encoding == "lineage" else {"mate": uniform}
    toolbox = toolbox_of(evaluator, select=functools.partial(tools.selTournament, tournsize=3), **options)
    statistics = tools.Statistics(lambda individual: individual.fitness.values[0])
    statistics.register("min", min)
    if checkpoint:
        state = pickle.loads(checkpoint)
        population, start, best, logbook = (
            state[key] for key in ("population", "generation", "halloffame", "logbook")
        )
        random.setstate(state["rndstate"])
    else:
        random.seed(1)
        population, start, best, logbook = (
            [getattr(evaluator, encoding)() for _ in range(6)],
            0,
            hall(2),
            tools.Logbook(),
        )
    for generation in range(start, until):
        population = algorithms.varAnd(population, toolbox, cxpb=0.5, mutpb=0.8)
        invalid = [individual for individual in population if not individual.fitness.valid]
        for individual, fitness in zip(invalid, toolbox.map(toolbox.evaluate, invalid), strict=True):
            individual.fitness.values = fitness
        best.update(population)
        logbook.record(gen=generation, evals=len(invalid), **statistics.compile(population))
        population = toolbox.select(population, k=len(population))
    return pickle.dumps(
        {
            "population": population,
            "generation": until,
            "halloffame": best,
            "logbook": logbook,
            "rndstate": random.getstate(),
        }
    )
