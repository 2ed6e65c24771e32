"""SubspaceStrategy in DEAP itself: its CMA-ES on some coordinates of a network."""

import functools
import pickle
import random

import numpy as np
import pytest
import torch
from deap import algorithms, base
from deap_helpers import SAMPLES, check_refused, evaluator_of, hall, same, values
from helpers import same_bits, state_bits, trained

from smd_evo import DenseIndividual, Evaluator, Lineage, RandomSubspace, SparseDelta, SubspaceStrategy, TensorSubspace
from smd_evo.errors import InvalidType, InvalidValue, WrongParent
from smd_evo.integrations.deap.individuals import MaxFitness

pytestmark = pytest.mark.numeric

every_sense = pytest.mark.parametrize("fitness", ["cross_entropy", "accuracy"])


def strategy_of(evaluator=None, seed=1, **options):
    random.seed(seed)
    if not {"dimensions", "subspace"} & set(options):
        options["dimensions"] = 20
    return SubspaceStrategy(evaluator or evaluator_of(), **{"sigma": 0.3, "lambda_": 10} | options)


def toolbox_of(strategy, kind=DenseIndividual):
    toolbox = base.Toolbox()
    toolbox.register("generate", strategy.generate, kind)
    toolbox.register("update", strategy.update)
    toolbox.register("evaluate", strategy.evaluate)
    toolbox.register("map", strategy.map)
    return toolbox


def run(toolbox, ngen=6):
    best = hall()
    population, logbook = algorithms.eaGenerateUpdate(toolbox, ngen=ngen, halloffame=best, verbose=False)
    return population, best, logbook


class TestRun:
    @every_sense
    def test_it_improves_the_parent_and_leaves_it_alone(self, fitness):
        network = trained()
        evaluator = evaluator_of(fitness, network)
        (before,) = evaluator.evaluate(evaluator.lineage())
        strategy = strategy_of(evaluator, sigma=0.5)
        _, best, _ = run(toolbox_of(strategy, functools.partial(DenseIndividual, fitness=evaluator.fitness)))
        (after,) = best[0].fitness.values
        assert after > before + 0.05 if fitness == "accuracy" else after < before - 0.1
        assert same_bits(state_bits(network), state_bits(trained()))
        made = Evaluator(strategy.make_net(best[0]), SAMPLES, fitness).evaluate([Lineage()])
        assert made.fitness.item() == after

    def test_one_evaluation_by_the_core_a_generation(self, monkeypatch):
        sizes, evaluate = [], Evaluator.evaluate
        monkeypatch.setattr(Evaluator, "evaluate", lambda self, some: sizes.append(len(some)) or evaluate(self, some))
        run(toolbox_of(strategy_of()), ngen=3)
        assert sizes == [10, 10, 10]

    def test_random_seed_alone_repeats_it(self):
        runs = []
        for seed in (1, 1, 2):
            np.random.random(3)
            torch.rand(3)
            runs.append(run(toolbox_of(strategy_of(seed=seed)))[0])
        assert all(map(same, runs[0], runs[1]))
        assert values(runs[0]) == values(runs[1]) != values(runs[2])

    def test_a_pickle_resumes_exactly(self):
        strategy = strategy_of()
        run(toolbox_of(strategy), ngen=3)
        checkpoint = pickle.dumps((strategy, random.getstate()))
        expected, _, _ = run(toolbox_of(strategy), ngen=3)
        strategy, state = pickle.loads(checkpoint)
        random.setstate(state)
        resumed, _, _ = run(toolbox_of(strategy), ngen=3)
        assert all(map(same, resumed, expected))
        assert values(resumed) == values(expected)

    def test_deaps_settings_reach_it(self):
        strategy = strategy_of(lambda_=7, mu=2)
        assert (len(strategy.generate(list)), strategy.strategy.mu, strategy.strategy.dim) == (7, 2, 20)


class TestRandomNumbers:
    """DEAP's own generates from numpy's global generator; here that one is as it was."""

    def test_generate_follows_pythons_random_and_leaves_numpys(self):
        strategy = strategy_of()
        before = np.random.get_state()
        population = strategy.generate(np.array)
        after = np.random.get_state()
        assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
        assert len({tuple(genes) for genes in (*population, *strategy.generate(np.array))}) == 20
        np.random.random(3)
        assert np.array_equal(strategy_of().generate(np.array), population)

    def test_also_when_the_individual_cannot_be_made(self):
        def broken(genes):
            np.random.random(3)
            raise RuntimeError("broken")

        before = np.random.get_state()[1].tolist(), np.random.get_state()[2]
        with pytest.raises(RuntimeError, match="broken"):
            strategy_of().generate(broken)
        assert (np.random.get_state()[1].tolist(), np.random.get_state()[2]) == before


class TestIndividuals:
    @every_sense
    def test_zero_is_the_parent(self, fitness):
        evaluator = evaluator_of(fitness)
        strategy = strategy_of(evaluator)
        assert strategy.evaluate([0.0] * 20) == evaluator.evaluate(evaluator.lineage())
        assert same_bits(state_bits(strategy.make_net(np.zeros(20))), state_bits(trained()))

    @pytest.mark.parametrize(
        "kind", [DenseIndividual, list, tuple, np.float32], ids=["dense", "list", "tuple", "float32"]
    )
    def test_they_are_added_at_the_subspaces_coordinates(self, kind):
        """The same fitness as the core's Evaluator gives the delta, and the same network."""
        strategy = strategy_of()
        point = strategy.generate(np.array)[0]
        alone = strategy.make_net(np.eye(20)[3])
        reference, flat = trained(), torch.nn.utils.parameters_to_vector
        changed = (flat(alone.parameters()) != flat(reference.parameters())).nonzero().flatten()
        assert len(changed) == 1
        everywhere = strategy.make_net(np.full(20, 5.0))
        coordinates = (flat(everywhere.parameters()) != flat(reference.parameters())).nonzero().flatten()
        assert len(coordinates) == 20
        assert changed[0] == coordinates[3]
        delta = SparseDelta(coordinates, torch.tensor(point, dtype=torch.float32))
        expected = Evaluator(reference, SAMPLES).evaluate([delta]).fitness.item()
        assert strategy.evaluate(kind(point)) == (expected,)
        with Evaluator(reference, SAMPLES).space.applied(delta):
            assert same_bits(state_bits(strategy.make_net(kind(point))), state_bits(reference))

    def test_map_of_a_generation_and_of_anything_else(self):
        strategy = strategy_of()
        population = strategy.generate(DenseIndividual)
        toolbox = toolbox_of(strategy)
        expected = [strategy.evaluate(individual) for individual in population]
        assert len(set(expected)) == 10
        assert (
            toolbox.map(toolbox.evaluate, (one for one in population))
            == expected
            == strategy.evaluate_all(population)
        )
        assert toolbox.map(toolbox.evaluate, []) == []
        assert list(toolbox.map(max, [1, 2], [3, 0])) == [3, 2]

    @pytest.mark.parametrize("dimensions", [1, 2, 399, 455])
    def test_exactly_so_many_dimensions(self, dimensions):
        evaluator = evaluator_of()
        dimensions = min(dimensions, len(evaluator.dense()))
        assert len(strategy_of(evaluator, dimensions=dimensions).generate(list)[0]) == dimensions

    def test_another_rule(self):
        strategy = strategy_of(evaluator_of(select="conv,head.bias"), subspace=TensorSubspace(1))
        assert strategy.strategy.dim in (36, 3)
        half = strategy_of(evaluator_of(select="head"), subspace=RandomSubspace(0.5))
        assert half.strategy.dim == round(195 / 2)

    def test_another_draw_for_each_strategy(self):
        one, two = (strategy_of(seed=seed).make_net(np.ones(20)) for seed in (1, 2))
        assert not same_bits(state_bits(one), state_bits(two))


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "kind", "message"),
        [
            ({"dimensions": None}, InvalidValue, "expected it or subspace, got neither"),
            ({"dimensions": 3, "subspace": RandomSubspace(0.1)}, InvalidValue, "got both"),
            ({"dimensions": 0}, InvalidValue, "dimensions: expected a whole number >= 1, got 0"),
            ({"dimensions": 2.5}, InvalidType, "dimensions"),
            ({"dimensions": 10**6}, InvalidValue, r"at most the \d+ selected parameters, got 1000000"),
            ({"subspace": 0.1}, InvalidType, r"subspace: expected e.g. RandomSubspace\(0.01\), got 0.1"),
            ({"sigma": 0}, InvalidValue, "sigma: expected a finite number > 0, got 0"),
            ({"sigma": -1.0}, InvalidValue, "sigma"),
            ({"sigma": "big"}, InvalidType, "sigma"),
            ({"lambda_": 1}, InvalidValue, "mu: expected 1 to lambda_ = 1, got 0; half of them by default"),
            ({"lambda_": 4, "mu": 5}, InvalidValue, "mu: expected 1 to lambda_ = 4, got 5"),
            ({"weights": "x"}, InvalidValue, "weights: expected .*superlinear.*, got 'x'"),
            ({"weights": None}, InvalidValue, "weights"),
            ({"cmatrix": np.eye(3)}, InvalidValue, r"cmatrix: expected shape \(\d+, \d+\), .*, got \(3, 3\)"),
            ({"cmatrix": "x"}, InvalidType, "cmatrix: expected numbers, got 'x'"),
            ({"evaluator": Evaluator(trained(), SAMPLES)}, InvalidType, "expected a ToolboxEvaluator, got Evaluator"),
            ({"evaluator": trained()}, InvalidType, "expected a ToolboxEvaluator, got SmallNet"),
        ],
        ids=lambda part: "" if isinstance(part, dict) else None,
    )
    def test_settings(self, options, kind, message):
        check_refused(lambda: strategy_of(**options), kind, message)

    @pytest.mark.parametrize("genes", [[], [0.0] * 19, np.zeros((4, 5)), 0.0], ids=["none", "19", "2-d", "0-d"])
    def test_another_number_of_genes(self, genes):
        strategy = strategy_of()
        for function in (strategy.evaluate, strategy.make_net):
            check_refused(lambda function=function: function(genes), WrongParent, "expected 20 numbers, one for each")

    def test_weights_that_lead_elsewhere(self):
        individual = DenseIndividual(np.zeros(20), MaxFitness)
        check_refused(
            lambda: strategy_of().evaluate(individual), InvalidValue, r"weights \(-1.0,\), as cross_entropy"
        )
