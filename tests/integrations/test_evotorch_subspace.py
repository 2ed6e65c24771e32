"""SubspaceProblem: k numbers for any of EvoTorch's continuous searchers."""

import math
import pickle

import pytest
import torch
from evotorch.algorithms import CEM, CMAES, PGPE, SNES, XNES, PyCMAES
from evotorch_helpers import (
    FOUR,
    Counting,
    check_refused,
    core_children,
    demo,
    evals,
    evaluated,
    make,
    pickled,
    population,
)
from helpers import same_bits, state_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from smd_evo import (
    Dense,
    Evaluator,
    Lineage,
    NeuronSubspace,
    PartitionSubspace,
    RandomSubspace,
    SubspaceProblem,
    TensorSubspace,
    gaussian,
)
from smd_evo.errors import InvalidType, InvalidValue

# EvoTorch's CMA-ES copies a tensor by torch.tensor(), and has numpy round one.
pytestmark = [
    pytest.mark.numeric,
    pytest.mark.filterwarnings(
        "ignore:To copy construct from a tensor:UserWarning:evotorch",
        "ignore:__array_wrap__ must accept:DeprecationWarning:evotorch",
    ),
]

SEARCHERS = {
    "SNES": lambda problem: SNES(problem, stdev_init=0.05, popsize=12),
    "PGPE": lambda problem: PGPE(
        problem, popsize=12, center_learning_rate=0.1, stdev_learning_rate=0.1, stdev_init=0.05
    ),
    "CEM": lambda problem: CEM(problem, popsize=12, parenthood_ratio=0.3, stdev_init=0.05),
    "XNES": lambda problem: XNES(problem, stdev_init=0.05, popsize=12),
    "CMAES": lambda problem: CMAES(problem, stdev_init=0.05, popsize=12),
    "PyCMAES": lambda problem: PyCMAES(problem, stdev_init=0.05, popsize=12),
}


@pytest.mark.parametrize("name", SEARCHERS)
class TestContinuousSearchers:
    def test_each_improves_a_real_network_and_again_after_a_rebase(self, name):
        problem = SubspaceProblem(demo()[0], demo()[1], dimensions=20, seed=4)
        problem.evaluate(problem.generate_batch(1))
        first = problem.status["parent_eval"]
        for _ in range(2):
            before = problem.status["parent_eval"]
            searcher = SEARCHERS[name](problem)
            searcher.run(8)
            best = searcher.status["best"]
            assert searcher.status["best_eval"] < before
            problem.rebase(best)
            problem.evaluate(problem.generate_batch(1))
            assert problem.status["parent_eval"] == float(best.evals[0])
        # Over twenty seeds of each searcher, the first quotient was at most 0.92, this one at most 0.77 (both CEM's).
        assert problem.status["parent_eval"] < 0.9 * first


class TestSubspaceProblem:
    @given(st.data())
    def test_exactly_k_dimensions(self, data):
        shape = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
        torch.manual_seed(0)
        network, samples = nn.Linear(*shape), (torch.zeros(1, shape[0]), torch.zeros(1, dtype=torch.int64))
        k = data.draw(st.integers(1, shape[1] * (shape[0] + 1)))
        problem = SubspaceProblem(network, samples, dimensions=k, seed=data.draw(st.integers(0, 9)))
        assert problem.solution_length == k
        for _ in range(2):
            net = problem.make_net(torch.ones(k))
            old, new = (nn.utils.parameters_to_vector(one.parameters()) for one in (problem.make_net(), net))
            assert int((old != new).sum()) == k
            problem.rebase(torch.zeros(k))

    @pytest.mark.parametrize("size", [10**9 + 7, 2**40 - 1])
    def test_exactly_k_dimensions_of_a_network_too_big_for_a_test(self, size):
        for k in (1, 2, 3, 999_999_937, size - 1, size):
            assert round(RandomSubspace(k / size).density * size) == k

    @pytest.mark.parametrize(
        ("subspace", "k"),
        [
            (RandomSubspace(0.1), 24),
            (RandomSubspace(0.1, static=True), 24),
            (PartitionSubspace(10, static=True), 23),
            (TensorSubspace(1, static=True), None),
            (NeuronSubspace(0.2, static=True), None),
            (Dense(), 239),
        ],
        ids=str,
    )
    def test_any_subspace_whose_size_stays(self, subspace, k, network, samples):
        problem = SubspaceProblem(network, samples, subspace=subspace, seed=1)
        assert problem.space.size == 239
        assert problem.solution_length == (k or problem.solution_length)
        chosen = []
        for _ in range(2):
            batch = population(problem)
            expected = Evaluator(problem.make_net(), samples).evaluate(core_children(problem, batch))
            assert evaluated(problem, batch) == expected.fitness.tolist()
            chosen.append(core_children(problem, batch)[0].indices.tolist())
            problem.rebase(batch[0])
        assert (chosen[0] == chosen[1]) == subspace.static

    def test_relative_values_are_times_each_tensors_deviation(self, network, samples):
        problem = make(SubspaceProblem, network, samples, subspace=Dense(), dimensions=None, scale="relative")
        child = problem.make_net(torch.ones(problem.solution_length))
        for old, new in zip(network.parameters(), child.parameters(), strict=True):
            # All elements of the normalisation's weights and biases are equal: they have no deviation.
            scale = float(old.detach().double().std(correction=0)) or 1.0
            assert torch.allclose(new, old + scale, atol=1e-6)

    @pytest.mark.parametrize("scale", ["absolute", "relative"])
    def test_rebase_folds_a_point_exactly(self, scale, network, samples):
        problem = make(SubspaceProblem, network, samples, scale=scale)
        for key in range(3):
            batch = population(problem, key=key)
            values, net = evaluated(problem, batch), problem.make_net(batch[2])
            problem.rebase(batch[2].values if key else batch[2])
            assert same_bits(state_bits(problem.make_net()), state_bits(net))
            assert same_bits(state_bits(problem.make_net(torch.zeros(20))), state_bits(net))
            problem.evaluate(problem.generate_batch(1))
            assert problem.status["parent_eval"] == values[2]

    def test_an_evaluation_that_a_hook_has_ended_is_no_other_points_fitness(self, network, samples):
        problem = SubspaceProblem(network, samples, dimensions=5, seed=1)
        one, other = (problem.generate_batch(3) for _ in range(2))
        one.set_values(torch.ones(3, 5))
        other.set_values(-torch.ones(3, 5))
        problem.after_eval_hook.append(lambda batch: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            problem.evaluate(one)
        problem.after_eval_hook.clear()
        problem.evaluate(other)
        expected = SubspaceProblem(network, samples, dimensions=5, seed=1)
        again = expected.generate_batch(3)
        again.set_values(-torch.ones(3, 5))
        expected.evaluate(again)
        assert other.evals.tolist() == again.evals.tolist()

    def test_best_and_worst_begin_anew_after_a_rebase(self, network, samples):
        problem = make(SubspaceProblem, network, samples)
        batch = population(problem, sigma=1.0)
        problem.evaluate(batch)
        worst = batch[int(batch.argworst())]
        best_before = problem.status["best_eval"]
        problem.rebase(worst)
        again = population(problem, sigma=1e-3)
        problem.evaluate(again)
        assert problem.status["best_eval"] == min(evals(again)) > best_before
        assert problem.status["worst_eval"] == max(evals(again))
        net = problem.make_net(problem.status["best"])
        assert float(Evaluator(net, samples).evaluate([Lineage()]).fitness[0]) == min(evals(again))

    def test_coordinates_are_not_stored_nor_sent(self, network, samples):
        """They may be as many as the network has parameters, and follow from the key."""
        problem = make(SubspaceProblem, network, samples, subspace=Dense(), dimensions=None)
        before = len(pickle.dumps(problem))
        net = problem.make_net(torch.ones(239))
        assert len(pickle.dumps(problem)) == before
        assert same_bits(state_bits(pickled(problem).make_net(torch.ones(239))), state_bits(net))

    def test_a_point_that_changes_after_the_rebase_changes_nothing(self, network, samples):
        """SNES fills one population again and again."""
        problem = make(SubspaceProblem, network, samples)
        batch, tensor = population(problem), torch.full((20,), 0.1)
        problem.rebase(batch[0])
        problem.rebase(tensor)
        before = [change.values.clone() for change in problem._log]
        batch.access_values().zero_()
        tensor.zero_()
        assert all(torch.equal(change.values, old) for change, old in zip(problem._log, before, strict=True))


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "kind", "message"),
        [
            ({"dimensions": 52}, InvalidValue, "dimensions: expected at most the 51 selected parameters, got 52"),
            ({"dimensions": 4, "select": "bias"}, InvalidValue, "at most the 3 selected parameters, got 4"),
            ({"dimensions": 0}, InvalidValue, "dimensions: .*got 0"),
            ({"dimensions": 2.0}, InvalidType, "dimensions: .*got 2.0"),
            ({"dimensions": None}, InvalidValue, "dimensions: expected it or subspace, got neither"),
            ({"subspace": Dense()}, InvalidValue, "dimensions: expected it or subspace, got both"),
            ({"dimensions": None, "subspace": 0.1}, InvalidType, "subspace: expected e.g. RandomSubspace"),
            ({"dimensions": None, "subspace": PartitionSubspace(3)}, InvalidValue, "partition:3; make it static"),
            ({"dimensions": None, "subspace": NeuronSubspace(0.5)}, InvalidValue, "neuron:0.5; make it static"),
            ({"dimensions": None, "subspace": TensorSubspace()}, InvalidValue, "make it static"),
            ({"dimensions": None, "subspace": PartitionSubspace(52, static=True)}, InvalidValue, "parts: .*got 52"),
            ({"scale": "relativ"}, InvalidValue, "scale: .*did you mean 'relative'"),
        ],
        ids=str,
    )
    def test_subspaces(self, options, kind, message):
        options = {"dimensions": 5} | options
        check_refused(lambda: make(SubspaceProblem, Counting(), FOUR, **options), kind, message)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (torch.zeros(19), r"values: expected \[20\] numbers, got shape \[19\]"),
            (torch.zeros(1, 20), r"values: .*got shape \[1, 20\]"),
            (torch.zeros(()), r"values: .*got shape \[\]"),
            (torch.full((20,), math.nan), "values: expected finite ones, .*has the searcher diverged"),
            (torch.full((20,), math.inf), "values: expected finite ones"),
        ],
        ids=str,
    )
    def test_points(self, values, message):
        problem = make(SubspaceProblem, Counting(), FOUR)
        check_refused(lambda: problem.rebase(values), InvalidValue, message)
        if values.shape != (20,):
            check_refused(lambda: problem.make_net(values), InvalidValue, message)
        assert problem.changes == 0

    @pytest.mark.parametrize("values", [None, "center"])  # a searcher without a center has None of it
    def test_what_are_no_points(self, values):
        problem = make(SubspaceProblem, Counting(), FOUR)
        message = rf"values: expected a solution or \[20\] numbers, got {values!r}"
        check_refused(lambda: problem.rebase(values), InvalidType, message)
        assert problem.changes == 0


def test_points_of_any_floating_type_are_evaluated_as_their_children_are_made():
    network, samples = demo()
    problem = make(SubspaceProblem, network, samples)
    points = gaussian(3, torch.arange(3 * problem.solution_length), torch.float64).view(3, -1)
    evaluate = problem.make_callable_evaluator()
    assert torch.equal(evaluate(points), evaluate(points.float()))
