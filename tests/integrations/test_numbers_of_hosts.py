"""EvoTorch's and DEAP's side: numeric arguments become plain numbers where they enter, or are refused in a line."""

import array
import random
import re

import numpy as np
import pytest
import torch
from evotorch import Problem
from numbers_helpers import fulfils_the_contract
from torch import nn

from smd_evo import (
    AddMutation,
    FinetuneProblem,
    LineageIndividual,
    OpenAIES,
    RandomSubspace,
    SparseGaussianMutation,
    SubspaceES,
    SubspaceEvolution,
    SubspaceProblem,
    SubspaceStrategy,
    ToolboxEvaluator,
    cxLineage,
    mutSparseGaussian,
)
from smd_evo.errors import SmdEvoError

DATA = torch.eye(4), torch.arange(4)
RULE = RandomSubspace(0.25)


def net():
    torch.manual_seed(0)
    return nn.Linear(4, 4)


def problem(kind=FinetuneProblem, **options):
    own = {"dimensions": 5} if kind is SubspaceProblem else {"steps": 3}
    return kind(net(), DATA, **({"seed": 1} | own | options))


def finetune(**options):
    made = problem(**options)
    children = made.mutate(made.generate_batch(2), key=1, subspace=RULE, sigma=0.5)
    drawn = made.generator.get_state().sum().item()
    return [made.solution_length, made.minibatch_size, made.key, drawn, children.values.tolist()]


def mutated(**options):
    made = problem()
    own = {"key": 1, "subspace": RULE, "sigma": 0.5}
    return made.mutate(made.generate_batch(2), **(own | options)).values.tolist()


def evolved(kind, generations=1, **options):
    own = {"popsize": 4, "sigma": 0.5} | ({} if kind is OpenAIES else {"density": 0.25})
    own |= {"center_learning_rate": 0.5} if kind is SubspaceES else {}
    searcher = kind(problem(), **(own | options))
    searcher.run(generations)
    searcher.problem.evaluate(searcher.problem.generate_batch(1))
    return [searcher.sigma, searcher.status["parent_eval"], searcher.population.values.tolist()]


def operated(operator, host, **options):
    made = operator(host, **({"stdev": 0.5, "density": 0.25} | options))
    return made(host.generate_batch(2)).values.tolist()


def numeric():
    return Problem("min", torch.linalg.norm, initial_bounds=(-1, 1), solution_length=9, seed=1)


def strategy(**options):
    random.seed(1)
    evaluator = ToolboxEvaluator(net(), DATA)
    made = SubspaceStrategy(evaluator, **({"dimensions": 5, "sigma": 0.5} | options))
    return [list(map(float, individual)) for individual in made.generate(list)]


def noisy(individual, **options):
    random.seed(1)
    (found,) = mutSparseGaussian(individual, **({"mu": 0, "sigma": 0.5, "density": 0.5} | options))
    return found.lineage.encode() if isinstance(found, LineageIndividual) else list(found)


CASES = {
    "FinetuneProblem, seed": (lambda v: finetune(seed=v), 7),
    "FinetuneProblem, steps": (lambda v: finetune(steps=v), 2),
    "FinetuneProblem, minibatch_size": (lambda v: finetune(minibatch_size=v), 2),
    "FinetuneProblem, batch_size": (lambda v: finetune(batch_size=v), 2),
    "FinetuneProblem, num_actors": (lambda v: finetune(num_actors=v), 1),
    "FinetuneProblem, num_gpus_per_actor": (lambda v: finetune(num_gpus_per_actor=v), 0.5),
    "FinetuneProblem, subbatch_size": (lambda v: finetune(subbatch_size=v), 2),
    "FinetuneProblem, num_subbatches": (lambda v: finetune(num_subbatches=v), 2),
    "FinetuneProblem.mutate, key": (lambda v: mutated(key=v), 7),
    "FinetuneProblem.mutate, sigma": (lambda v: mutated(sigma=v), 0.25),
    "FinetuneProblem.mutate, generation": (lambda v: mutated(generation=v), 7),
    "FinetuneProblem.mutate, antithetic": (lambda v: mutated(antithetic=v), True),
    "SubspaceProblem, seed": (lambda v: problem(SubspaceProblem, seed=v).key, 7),
    "SubspaceProblem, dimensions": (lambda v: problem(SubspaceProblem, dimensions=v).subspace.spec, 4),
    "SubspaceEvolution, popsize": (lambda v: evolved(SubspaceEvolution, popsize=v), 3),
    "SubspaceEvolution, density": (lambda v: evolved(SubspaceEvolution, density=v), 0.5),
    "SubspaceEvolution, static": (lambda v: evolved(SubspaceEvolution, static=v), True),
    "SubspaceEvolution, sigma": (lambda v: evolved(SubspaceEvolution, sigma=v), 0.25),
    "SubspaceEvolution, keep": (lambda v: evolved(SubspaceEvolution, keep=v), 0.75),
    "SubspaceEvolution, num_parents": (lambda v: evolved(SubspaceEvolution, num_parents=v), 2),
    "SubspaceEvolution, num_elites": (lambda v: evolved(SubspaceEvolution, num_elites=v), 1),
    "SubspaceEvolution, adapt_sigma": (lambda v: evolved(SubspaceEvolution, adapt_sigma=v), True),
    "SubspaceES, popsize": (lambda v: evolved(SubspaceES, popsize=v), 2),
    "SubspaceES, center_learning_rate": (lambda v: evolved(SubspaceES, center_learning_rate=v), 0.25),
    "SubspaceES, weight_decay": (lambda v: evolved(SubspaceES, weight_decay=v), 0.25),
    "SubspaceES, no weight_decay": (lambda v: evolved(SubspaceES, weight_decay=v), 0.0),
    "SubspaceES, optimizer_config": (
        lambda v: evolved(SubspaceES, 2, optimizer="sgd", optimizer_config={"momentum": v}),
        0.5,
    ),
    "OpenAIES, sigma": (lambda v: evolved(OpenAIES, sigma=v), 0.25),
    "SparseGaussianMutation, stdev": (lambda v: operated(SparseGaussianMutation, numeric(), stdev=v), 0.25),
    "SparseGaussianMutation, density": (lambda v: operated(SparseGaussianMutation, numeric(), density=v), 0.5),
    "SparseGaussianMutation, static": (lambda v: operated(SparseGaussianMutation, numeric(), static=v), True),
    "AddMutation, stdev": (lambda v: operated(AddMutation, problem(), stdev=v), 0.25),
    "AddMutation, density": (lambda v: operated(AddMutation, problem(), density=v), 0.5),
    "ToolboxEvaluator": (lambda v: ToolboxEvaluator(net(), DATA, batch_size=v).evaluator.batch_size, 2),
    "SubspaceStrategy, dimensions": (lambda v: strategy(dimensions=v), 4),
    "SubspaceStrategy, sigma": (lambda v: strategy(sigma=v), 0.25),
    "SubspaceStrategy, lambda_": (lambda v: strategy(lambda_=v), 3),
    "SubspaceStrategy, cs": (lambda v: strategy(cs=v), 0.5),
    "mutSparseGaussian, mu": (lambda v: noisy([0.0] * 4, mu=v), 0.5),
    "mutSparseGaussian, sigma": (lambda v: noisy(array.array("d", [0] * 4), sigma=v), 0.25),
    "mutSparseGaussian, density": (lambda v: noisy(np.zeros(4).tolist(), density=v), 0.25),
    "mutSparseGaussian of a lineage, mu": (lambda v: noisy(LineageIndividual(), mu=v), 0),
    "mutSparseGaussian of a lineage, sigma": (lambda v: noisy(LineageIndividual(), sigma=v), 0.25),
    "mutSparseGaussian of a lineage, density": (lambda v: noisy(LineageIndividual(), density=v), 0.25),
}
SEVERAL = "list", "one in an array", "one in a tensor", "many"
OF_THEIR_OWN = {
    "FinetuneProblem, num_actors": ["text"],
    "mutSparseGaussian, mu": SEVERAL,
    "mutSparseGaussian, sigma": SEVERAL,
}
"""Kinds with a meaning: "max"; one number a gene, and DEAP's IndexError if there are fewer."""


@pytest.mark.filterwarnings("ignore:generation 1. expected children of a finite fitness:RuntimeWarning")
@pytest.mark.parametrize("case", CASES)
def test_every_argument_keeps_plain_numbers(case):
    fulfils_the_contract(*CASES[case], but=OF_THEIR_OWN.get(case, ()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FinetuneProblem(net(), "cross_entropy", DATA), "fitness: .*; the order is parent, data, fitness"),
        (lambda: FinetuneProblem(DATA, net()), "parent: .*; the order is parent, data, fitness"),
        (lambda: SubspaceProblem(DATA, net(), dimensions=2), "parent: .*; the order is parent, data, fitness"),
        (
            lambda: FinetuneProblem(net(), DATA, device="gpu"),
            "device: expected one that is there, got 'gpu' .*; try 'cpu'",
        ),
        (
            lambda: SubspaceProblem(net(), DATA, dimensions=2, device=3.5),
            "device: expected one that is there, got 3.5",
        ),
        (lambda: ToolboxEvaluator(DATA, net()), "parent: .*; the order is parent, data, fitness"),
        (
            lambda: SubspaceEvolution(net(), popsize=4, density=0.1),
            "problem: expected a FinetuneProblem, got a Linear",
        ),
        (
            lambda: SubspaceEvolution(problem(), popsize=4, subspace="random:0.1"),
            re.escape("parse_subspace('random:0.1')"),
        ),
        (
            lambda: SubspaceES(problem(), popsize=4, density=0.1, center_learning_rate=1, scale=1),
            "scale: expected one of",
        ),
        (
            lambda: SubspaceEvolution(problem(), popsize=4, density=0.1, sigma="aut"),
            "sigma: expected a number > 0, got 'aut'",
        ),
        (lambda: SparseGaussianMutation(net(), stdev=1, density=0.1), "problem: expected an EvoTorch Problem"),
        (lambda: AddMutation(numeric(), stdev=1, density=0.1), "problem: expected a FinetuneProblem"),
        (lambda: problem().mutate(problem().generate_batch(1), key=1, subspace="dense", sigma=1), "parse_subspace"),
        (lambda: SubspaceStrategy(net(), dimensions=2, sigma=1), "evaluator: expected a ToolboxEvaluator"),
        (lambda: LineageIndividual("dense"), "lineage: expected a Lineage, got 'dense'"),
        (lambda: cxLineage([0.0], [1.0]), "individual: expected a LineageIndividual"),
    ],
)
def test_wrong_orders_and_kinds_are_told_in_a_line(call, message):
    with pytest.raises(SmdEvoError, match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


class TestSeeds:
    """All 64 bits count, also where torch's generator of the CPU takes 32."""

    def children(self, seed):
        host = problem(seed=seed)
        searcher = SubspaceEvolution(host, popsize=3, density=0.25, sigma=0.5)
        searcher.run(1)
        operator = AddMutation(host, stdev=0.5, density=0.25)(host.generate_batch(1))
        drawn = torch.rand(4, generator=host.generator).tolist()
        return host.key, searcher.population.values.tolist(), operator.values.tolist(), drawn

    def test_seeds_that_differ_in_any_bit_draw_other_children(self):
        found = [self.children(3 ^ (bit and 2 ** (bit - 1))) for bit in (0, 1, 31, 32, 33, 34, 50, 64)]
        for parts in zip(*found, strict=True):
            assert len({str(part) for part in parts}) == len(found)

    def test_below_32_bits_the_generator_is_torchs_own(self):
        host = problem(seed=2**32 - 1)
        assert torch.equal(host.generator.get_state(), torch.Generator().manual_seed(2**32 - 1).get_state())

    def test_all_bits_of_torchs_global_seed_count_where_there_is_no_other(self):
        found = []
        for seed in (3, 3 + 2**32, 3 + 2**63, 3):
            host = Problem("min", torch.linalg.norm, initial_bounds=(-1, 1), solution_length=9)
            torch.manual_seed(seed)
            operator = SparseGaussianMutation(host, stdev=0.5, density=0.25)
            batch = host.generate_batch(1)
            found.append((operator(batch).values - batch.values).tolist())
        assert found[0] == found[3]
        assert len({str(each) for each in found}) == 3

    def test_a_seed_given_later_counts_in_all_bits_too(self):
        found = []
        for seed in (3, 3 + 2**32, 3):
            host = problem()
            host.manual_seed(seed)
            found.append(operated(AddMutation, host))
        assert found[0] == found[2] != found[1]
