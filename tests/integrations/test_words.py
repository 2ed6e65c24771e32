"""What EvoTorch's and DEAP's users write out of habit: it works, or one line says what to write."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from deap import cma, tools
from deap_helpers import check_refused
from evotorch import Problem
from evotorch.operators import GaussianMutation
from torch import nn
from torch.nn import functional

import smd_evo
from smd_evo import (
    AddMutation,
    DenseIndividual,
    Evaluator,
    FinetuneProblem,
    Lineage,
    LineageIndividual,
    OpenAIES,
    ParameterSpace,
    RandomSubspace,
    SparseGaussianMutation,
    SubspaceES,
    SubspaceEvolution,
    SubspaceNewton,
    SubspaceProblem,
    SubspaceStrategy,
    ToolboxEvaluator,
    mutSparseGaussian,
    sample_mutations,
)
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.fitness import loss_mend
from smd_evo.integrations.words import OPERATOR_WORDS, PROBLEM_WORDS, SEARCHER_WORDS, TOOLBOX_WORDS

DATA = torch.eye(4), torch.arange(4)


def network():
    return nn.Linear(4, 4)


@pytest.fixture(scope="module")
def problem():
    return FinetuneProblem(network(), DATA, seed=1)


@pytest.fixture(scope="module")
def evaluator():
    return ToolboxEvaluator(network(), DATA)


def numbers():
    return Problem(
        "min", lambda x: x.square().sum(1), solution_length=20, initial_bounds=(-1, 1), vectorized=True, seed=1
    )


CALLS = [
    (SparseGaussianMutation, {"stdev": 0.1, "density": 0.1}, OPERATOR_WORDS),
    (AddMutation, {"stdev": 0.1, "density": 0.1}, OPERATOR_WORDS),
    (SubspaceEvolution, {"popsize": 4, "density": 0.1}, SEARCHER_WORDS),
    (SubspaceES, {"popsize": 4, "density": 0.1}, SEARCHER_WORDS),
    (OpenAIES, {"popsize": 4}, SEARCHER_WORDS),
    (SubspaceNewton, {"popsize": 4, "density": 0.1}, SEARCHER_WORDS),
    (FinetuneProblem, {}, PROBLEM_WORDS),
    (SubspaceProblem, {"dimensions": 3}, PROBLEM_WORDS),
    (ToolboxEvaluator, {}, TOOLBOX_WORDS),
    (mutSparseGaussian, {"mu": 0, "sigma": 1}, ["indpb", "stdev"]),
    (SubspaceStrategy, {"sigma": 0.1}, ["centroid", "density"]),
]


@pytest.mark.parametrize(
    ("call", "options", "word"),
    [(call, options, word) for call, options, words in CALLS for word in words],
    ids=lambda part: getattr(part, "__name__", None) or (part if isinstance(part, str) else ""),
)
def test_their_words_are_answered(call, options, word):
    """Also where an argument of ours is missing for it, and before anything is looked at."""
    check_refused(
        lambda: call(None, **options, **{word: 1}), InvalidType, f"^{word}: expected no such argument, got 1; ."
    )


def test_words_that_nobody_has():
    for kind in (FinetuneProblem, SubspaceProblem):
        check_refused(
            lambda kind=kind: (
                kind(network(), DATA, dimensions=3, num_actor=2)
                if kind is SubspaceProblem
                else kind(network(), DATA, num_actor=2)
            ),
            InvalidType,
            "num_actor: expected a keyword of .*; did you mean 'num_actors'",
        )


class TestSigmaAndStdev:
    def test_one_number_by_either_word(self, problem):
        parents = numbers().generate_batch(3)
        for make, batch in ((numbers, parents), (lambda: FinetuneProblem(network(), DATA, seed=1), None)):
            kind, children = SparseGaussianMutation if batch is not None else AddMutation, []
            for word in ("stdev", "sigma"):
                own = make()
                mutate = kind(own, **{word: 0.3}, density=0.2)
                children.append(mutate(own.generate_batch(3)).values.clone())
            assert torch.equal(*children)

    @pytest.mark.parametrize("kind", [SparseGaussianMutation, AddMutation])
    def test_refused(self, problem, kind):
        own = problem if kind is AddMutation else numbers()
        for options, message in (
            ({}, "stdev: expected it or sigma, which is the same, got neither"),
            ({"stdev": 1, "sigma": 1}, "got both"),
            ({"sigma": 0}, "sigma: expected a finite number > 0, got 0"),
            ({"stdev": -1}, "stdev: expected a finite number > 0, got -1"),
        ):
            check_refused(lambda options=options: kind(own, density=0.1, **options), InvalidValue, message)
        check_refused(lambda: kind(own, density=0.1, sigma=[1.0]), InvalidType, "sigma: expected a number > 0")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (nn.Linear, r"that is a class, give an instance of it: Linear\(...\)"),
        ("Linear(4, 3) >> Tanh()", "smd_evo.zoo.load"),
        (network, "that is a function, give the network that it returns"),
        (None, "got None"),
    ],
    ids=["class", "text", "function", "nothing"],
)
@pytest.mark.parametrize(
    "take",
    [
        lambda given: FinetuneProblem(given, DATA),
        lambda given: SubspaceProblem(given, DATA, dimensions=3),
        lambda given: ToolboxEvaluator(given, DATA),
        lambda given: Evaluator(given, DATA),
        ParameterSpace,
    ],
    ids=["FinetuneProblem", "SubspaceProblem", "ToolboxEvaluator", "Evaluator", "ParameterSpace"],
)
def test_a_network_that_is_none(take, given, message):
    check_refused(lambda: take(given), InvalidType, f"(parent|module): expected a torch.nn.Module.*{message}")


LOSSES = [
    (nn.CrossEntropyLoss(), 'write "cross_entropy"$'),
    (nn.CrossEntropyLoss, 'write "cross_entropy"$'),
    (functional.cross_entropy, 'write "cross_entropy"$'),
    (
        nn.CrossEntropyLoss(label_smoothing=0.1),
        r'write BatchFitness\("CrossEntropyLoss", "min", .*reduction="none"\)\)$',
    ),
    (nn.MSELoss(), r'write BatchFitness\("MSELoss", "min", MSELoss\(reduction="none"\)\)$'),
    (functional.l1_loss, r'write BatchFitness\("l1_loss", "min", partial\(l1_loss, reduction="none"\)\)$'),
]


@pytest.mark.parametrize(("loss", "message"), LOSSES, ids=range(len(LOSSES)))
def test_a_loss_as_fitness(loss, message):
    for take in (FinetuneProblem, ToolboxEvaluator):
        check_refused(lambda take=take: take(network(), DATA, loss), InvalidType, message)
    check_refused(lambda: smd_evo.finetune(network(), DATA, fitness=loss), InvalidType, message)


def test_what_it_says_of_a_loss_works():
    made = eval(
        loss_mend(nn.MSELoss()).removeprefix("write "),
        {**vars(smd_evo), **vars(nn), "BatchFitness": smd_evo.BatchFitness},
    )
    evaluated = ToolboxEvaluator(network(), (torch.eye(4), torch.zeros(4, 4)), made)
    assert evaluated.evaluate(evaluated.lineage())[0] > 0


def test_no_actors_to_kill(problem):
    with pytest.raises(TypeError):  # if EvoTorch mends it one day, this says so
        numbers().kill_actors()
    for own in (problem, SubspaceProblem(network(), DATA, dimensions=3)):
        own.kill_actors()
        own.evaluate(own.generate_batch(2))


class TestLineages:
    """Rows of words and lists of mutations are no numbers that noise may be added to."""

    def test_evotorchs_mutation(self, problem):
        for options in ({}, {"mutation_probability": 0.5}):
            mutate, batch = GaussianMutation(problem, stdev=0.1, **options), problem.generate_batch(3)
            before = batch.values.clone()
            check_refused(lambda mutate=mutate, batch=batch: mutate(batch), InvalidType, "solutions: .* AddMutation")
            assert torch.equal(batch.values, before)

    @pytest.mark.parametrize(
        "operate",
        [
            lambda one: tools.mutGaussian(one, 0, 1, 1.0),
            lambda one: tools.mutShuffleIndexes(one, 1.0),
            lambda one: tools.cxTwoPoint(one, copy.deepcopy(one)),
            lambda one: tools.cxUniform(one, copy.deepcopy(one), 1.0),
            lambda one: tools.cxBlend(one, copy.deepcopy(one), 0.5),
            list,
        ],
    )
    def test_deaps_operators(self, operate):
        one = LineageIndividual(Lineage(tuple(sample_mutations(0, 4, subspace=RandomSubspace(0.1), sigma=1.0))))
        before = copy.deepcopy(one)
        check_refused(lambda: operate(one), InvalidType, "individual: expected an operator for lineages.*mutSparse")
        assert one == before

    def test_numpy_still_takes_one_for_a_thing(self):
        one = LineageIndividual()
        mutSparseGaussian(one, 0, 1, 0.1)
        assert np.array_equal(one, copy.deepcopy(one))
        assert not np.array_equal(one, LineageIndividual())
        pair = np.array([one, LineageIndividual()])
        assert (pair.shape, pair[0] is one) == ((2,), True)

    def test_a_search_that_mutates_nothing_is_told(self, evaluator):
        """Of a lineage without mutations DEAP's own operators find no gene, and so say nothing."""
        parents = [evaluator.lineage() for _ in range(3)]
        evaluator.evaluate_all(parents)
        (same,) = tools.mutGaussian(parents[0], 0, 1, 1.0)
        with pytest.warns(UserWarning, match="expected mutations in the second generation"):
            evaluator.evaluate_all([same, *parents[1:]])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            random.seed(1)
            children = [mutSparseGaussian(copy.deepcopy(one), 0, 1, 0.1)[0] for one in parents]
            for generation in (children, parents, children, parents[:1], parents[:1], parents):
                evaluator.evaluate_all(generation)


class TestStrategy:
    def test_it_has_what_deaps_has(self, evaluator):
        random.seed(1)
        strategy = SubspaceStrategy(evaluator, dimensions=5, sigma=0.3, lambda_=6)
        theirs = cma.Strategy([0.0] * 5, 0.3, lambda_=6)
        for name, value in vars(theirs).items():
            if name != "params":
                assert np.array_equal(getattr(strategy, name), value), name
        for individual in (population := strategy.generate(DenseIndividual)):
            individual.fitness.values = strategy.evaluate(individual)
        strategy.update(population)
        assert strategy.centroid is strategy.strategy.centroid
        assert strategy.centroid.any()
        strategy.sigma = 0.01
        assert strategy.strategy.sigma == 0.01
        assert copy.deepcopy(strategy).sigma == 0.01
        with pytest.raises(AttributeError, match="nothing"):
            strategy.nothing  # noqa: B018

    def test_a_setting_that_it_lacks(self, evaluator):
        check_refused(
            lambda: SubspaceStrategy(evaluator, dimensions=5, sigma=1, **{"lambda": 4}),
            InvalidValue,
            "option: expected one of lambda_, .*got 'lambda'; did you mean 'lambda_'",
        )
