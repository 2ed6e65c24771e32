"""Ensembles of what EvoTorch's and DEAP's searches found."""

import copy
import random

import pytest
import torch
from deap import algorithms, base, tools
from helpers import blobs, trained

from smd_evo import (
    Evaluator,
    FinetuneProblem,
    LineageIndividual,
    SparseEnsemble,
    SubspaceEvolution,
    ToolboxEvaluator,
    mutSparseGaussian,
    select_members,
)
from smd_evo.ensemble.combine import combined

pytestmark = pytest.mark.numeric

TRAIN, VALIDATION, TEST = (blobs(60, shift=2.5, key=key) for key in (3, 4, 5))


@pytest.mark.parametrize("generations", [1, 3])
def test_of_a_population_whatever_its_parent_has_become(generations):
    problem = FinetuneProblem(trained(), TRAIN, steps=2, seed=1)
    searcher = SubspaceEvolution(problem, popsize=8, density=0.2, sigma=0.3)
    searcher.run(generations)
    population = searcher.population
    children = problem.lineages(population)
    chosen = select_members(problem.evaluator.on(VALIDATION), children, method="top_k", size=3)
    # A copy: the search goes on, and its parent with it.
    ensemble = SparseEnsemble(copy.deepcopy(problem.space), [children[number] for number in chosen.members])
    networks = [problem.make_net(population[number]) for number in chosen.members]
    expected = combined([network(TEST[0]) for network in networks])
    searcher.run(2)
    assert torch.allclose(ensemble(TEST[0]), expected, atol=1e-6)


def test_of_a_toolboxs_individuals():
    evaluator = ToolboxEvaluator(trained(), TRAIN)
    toolbox = base.Toolbox()
    toolbox.register("evaluate", evaluator.evaluate)
    toolbox.register("map", evaluator.map)
    toolbox.register("mutate", mutSparseGaussian, mu=0, sigma=0.3, density=0.2)
    toolbox.register("select", tools.selBest)
    random.seed(1)
    population, _ = algorithms.eaMuPlusLambda(
        [LineageIndividual() for _ in range(4)], toolbox, mu=4, lambda_=8, cxpb=0, mutpb=1, ngen=2, verbose=False
    )
    network = trained()
    judge = Evaluator(network, VALIDATION)
    children = [individual.lineage for individual in population]
    chosen = select_members(judge, children, size=2)
    ensemble = SparseEnsemble(network, [children[number] for number in chosen.members], chosen.weights)
    assert float(judge.fitness.per_sample(ensemble(VALIDATION[0]), VALIDATION[1], 60).mean()) == pytest.approx(
        chosen.fitness, rel=1e-5
    )
