"""Searches and a comparison over heads: the layers before these once for each sample, the numbers as if not."""

import copy

import pytest
import torch
from helpers import same_bits, state_bits
from reuse_helpers import Cnn, children, images, made

from smd_evo import Evaluator, FinetuneProblem, SubspaceES, SubspaceEvolution, SubspaceProblem, ToolboxEvaluator
from smd_evo.core.parameters import ParameterSpace
from smd_evo.experiments.compare.methods.base import Task
from smd_evo.experiments.compare.methods.registry import find_method


def searcher_of(kind, network, data):
    if kind is SubspaceES:
        problem = FinetuneProblem(network, data, select="head", minibatch_size=20, batch_size=16, seed=1)
        return SubspaceES(problem, popsize=6, density=0.5, sigma=0.1, center_learning_rate=0.05)
    problem = FinetuneProblem(network, data, select="head", minibatch_size=20, batch_size=16, seed=1, steps=3)
    return SubspaceEvolution(problem, popsize=6, density=0.5, sigma=0.1)


def state_of(searcher):
    status = {name: searcher.status[name] for name in ("iter", "parent_eval", "evaluations", "images", "forwards")}
    return status, searcher.population.evals[:, 0].tolist(), state_bits(searcher.problem.make_net())


@pytest.mark.parametrize("kind", [SubspaceES, SubspaceEvolution])
def test_the_trunk_once_and_the_same_numbers_when_resumed(kind):
    network, data = made(Cnn), images(60)
    whole = searcher_of(kind, copy.deepcopy(network), data)
    states = []
    for _ in range(50):
        states.append(copy.deepcopy(whole.state_dict()))
        whole.step()
    work = whole.problem.work
    assert 60 < work.forwards < 60 + 0.05 * work.images
    for at in (3, 25):
        again = searcher_of(kind, copy.deepcopy(network), data)
        again.load_state_dict(states[at])
        for _ in range(50 - at):
            again.step()
        assert state_of(again)[:2] == state_of(whole)[:2]
        assert same_bits(state_of(again)[2], state_of(whole)[2])


def test_a_subspace_problem():
    problem = SubspaceProblem(
        made(Cnn), images(60), select="head", dimensions=5, minibatch_size=20, batch_size=16, seed=1
    )
    for _ in range(20):
        problem.evaluate(problem.generate_batch(8))
    assert 60 < problem.work.forwards < 60 + 0.05 * problem.work.images


def test_deap():
    toolbox = ToolboxEvaluator(made(Cnn), images(60), select="head")
    one = toolbox.evaluator
    other = Evaluator(made(Cnn), images(60), select="head", reuse=False)
    for _ in range(3):
        assert torch.equal(one.evaluate(children()).fitness, other.evaluate(children()).fitness)
    assert 60 < one.work.forwards < 60 + 0.05 * one.work.images


def test_head_es_of_a_comparison():
    task = Task(ParameterSpace(made(Cnn)), images(60), "cross_entropy", 12, 20, 100_000, 0, batch_size=16)
    method = find_method("head-es")(task, sigma=1.0, rate=0.1)
    for _ in range(20):
        method.step()
    assert 60 < method.work.forwards < 60 + 0.05 * method.work.images
