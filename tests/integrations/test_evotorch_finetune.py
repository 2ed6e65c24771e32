"""FinetuneProblem: lineages as rows, a parent that moves, and EvoTorch's genetic algorithms on them."""

import copy
import math
import pickle

import pytest
import torch
from evotorch import Problem, SolutionBatch
from evotorch.algorithms import GeneticAlgorithm, SteadyStateGA
from evotorch_helpers import (
    FOUR,
    RULE,
    Counting,
    check_refused,
    demo,
    evals,
    evaluated,
    make,
    passes,
    pickled,
    population,
)
from helpers import same_bits, state_bits
from torch import nn

from smd_evo import (
    AddMutation,
    Dense,
    Evaluator,
    FinetuneProblem,
    Lineage,
    ParameterSpace,
    PartitionSubspace,
    RandomSubspace,
    SubspaceES,
    SubspaceProblem,
    sample_mutations,
)
from smd_evo.errors import InvalidType, InvalidValue, WrongParent


class TestRepeats:
    @pytest.fixture
    def problem(self, network, samples):
        return make(FinetuneProblem, network, samples)

    def test_equal_solutions_are_evaluated_once(self, problem):
        calls, batch = passes(problem), population(problem, 3)
        twice = SolutionBatch.cat([batch, batch, problem.generate_batch(2)])
        values = evaluated(problem, twice)
        assert values[:3] == values[3:6]
        assert values[6:] == [problem.status["parent_eval"]] * 2
        assert problem.status["evaluations"] == len(calls) == 4

    def test_those_of_the_last_call_are_free_and_older_ones_are_not(self, problem):
        calls, batch, other = passes(problem), population(problem), population(problem, key=1)
        first = evaluated(problem, batch)
        batch.forget_evals()
        assert evaluated(problem, batch) == first
        assert problem.status["evaluations"] == len(calls) == 7
        problem.evaluate(SolutionBatch.cat([batch[:2], other]))
        assert len(calls) == 13
        assert evaluated(problem, batch) == first
        assert problem.status["evaluations"] == len(calls) == 17  # two were in the last call

    def test_not_if_the_minibatch_changes(self, network, samples):
        problem = make(FinetuneProblem, network, samples, minibatch_size=10)
        calls, batch = passes(problem), population(problem)
        first = evaluated(problem, batch)
        assert evaluated(problem, batch) != first
        assert problem.status["evaluations"] == len(calls) == 14

    def test_not_if_the_parent_changes(self, problem):
        calls = passes(problem)
        first = evaluated(problem, population(problem))
        problem.rebase(population(problem)[0])
        values = evaluated(problem, population(problem))
        assert problem.status["parent_eval"] == first[0]
        assert not set(values) & set(first)
        assert len(calls) == 14

    def test_points_of_a_subspace_that_come_again_are_known(self, network, samples):
        problem = make(SubspaceProblem, network, samples)
        calls, batch = passes(problem), population(problem)
        problem.evaluate(batch)
        expected = batch.evals.tolist()
        problem.evaluate(batch)
        assert batch.evals.tolist() == expected
        problem.evaluate(problem.generate_batch(9))
        assert problem.status["evaluations"] == len(calls) == 7

    def test_a_genetic_algorithm_evaluates_its_parents_once(self, problem):
        calls = passes(problem)
        mutate = AddMutation(problem, stdev=0.1, density=0.1)
        searcher = GeneticAlgorithm(problem, operators=[mutate], popsize=5)  # re_evaluate is the default
        searcher.run(2)
        assert searcher.status["evaluations"] == len(calls) == 1 + 2 * 5


class TestFinetuneProblem:
    @pytest.fixture
    def problem(self, network, samples):
        return make(FinetuneProblem, network, samples)

    @pytest.mark.parametrize("steps", [1, 4])
    def test_rows_of_int64(self, steps, network, samples, devices):
        for device in devices:
            problem = make(FinetuneProblem, network, samples, steps=steps, device=device)
            batch = problem.generate_batch(3)
            assert batch.values.dtype == torch.int64
            assert batch.values.shape == (3, 1 + 3 * steps)
            assert batch.device.type == device.type
            assert problem.lineages(batch) == [Lineage()] * 3

    @pytest.mark.parametrize("antithetic", [False, True])
    @pytest.mark.parametrize("scale", ["absolute", "relative"])
    def test_children_are_the_cores_recipes(self, antithetic, scale, problem):
        options = {"subspace": RULE, "sigma": 0.3, "scale": scale, "antithetic": antithetic}
        parents = problem.generate_batch(6)
        for generation in range(2):
            parents = problem.mutate(parents, key=5, generation=generation, **options)
        recipes = [sample_mutations(5, 6, generation=generation, **options) for generation in range(2)]
        assert problem.lineages(parents) == [Lineage(steps) for steps in zip(*recipes, strict=True)]
        assert problem.lineages(parents[2]) == [Lineage((recipes[0][2], recipes[1][2]))]

    def test_mutating_leaves_the_parents_and_their_fitness(self, problem):
        parents = problem.generate_batch(3)
        problem.evaluate(parents)
        before = parents.values.clone(), evals(parents)
        children = population(problem, 3)
        assert torch.equal(parents.values, before[0])
        assert evals(parents) == before[1]
        assert bool(children.evals.isnan().all())

    def test_lineages_of_different_rules_in_one_population(self, problem, network, samples):
        other = problem.mutate(problem.generate_batch(3), key=4, subspace=Dense(), sigma=0.01, scale="relative")
        both = SolutionBatch.cat([population(problem, 3), other, problem.generate_batch(1)])
        expected = Evaluator(network, samples).evaluate(problem.lineages(both)).fitness.tolist()
        assert evaluated(problem, both) == expected
        assert len(set(expected)) == 7

    def test_two_rules_in_one_lineage_are_refused(self, problem):
        batch = population(problem)
        for other in ({"subspace": Dense()}, {"scale": "relative"}):
            check_refused(
                lambda other=other: problem.mutate(batch, **{"key": 1, "subspace": RULE, "sigma": 0.1} | other),
                InvalidValue,
                r"subspace: expected that of the lineages' other steps, .*rebase\(\)",
            )

    def test_lineages_that_are_full_are_refused(self, problem):
        batch = population(problem)
        batch = problem.mutate(batch, key=1, subspace=RULE, sigma=0.1)
        with pytest.raises(
            InvalidValue, match=r"steps: expected room for another one.*, got 2 of 2 taken; FinetuneProblem\(steps="
        ):
            problem.mutate(batch, key=2, subspace=RULE, sigma=0.1)
        problem.evaluate(batch)
        problem.rebase(batch[0])  # which makes room
        problem.mutate(problem.generate_batch(6), key=2, subspace=RULE, sigma=0.1)

    def test_a_network_too_small_for_a_rule_is_refused(self, problem):
        check_refused(lambda: problem.rule(PartitionSubspace(10**6)), InvalidValue, "parts: expected at most D")
        check_refused(lambda: problem.rule(RULE, "relativ"), InvalidValue, "scale: .*did you mean 'relative'")

    def test_tied_parameters_stay_tied_in_a_child(self, samples):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 3))
        network[3].weight = network[1].weight
        problem = make(FinetuneProblem, network, samples)
        assert problem.space.size == 16 * 16 + 16 + 16 + 51
        child = problem.make_net(population(problem)[0])
        assert child[1].weight is child[3].weight

    def test_frozen_parameters_are_left_out(self, network, samples):
        network.conv.requires_grad_(False)
        problem = make(FinetuneProblem, network, samples)
        dense = problem.mutate(problem.generate_batch(1), key=1, subspace=Dense(), sigma=1.0)
        child = problem.make_net(dense[0])
        assert torch.equal(child.conv.weight, network.conv.weight)
        assert not child.conv.weight.requires_grad
        assert not bool((child.head.weight == network.head.weight).any())

    def test_rebase_makes_a_child_the_parent(self, network, samples):
        problems = [make(FinetuneProblem, network, samples) for _ in range(3)]
        batch = population(problems[0])
        lineage = problems[0].lineages(batch[4])[0]
        expected = ParameterSpace(network).make_child(lineage)
        for problem, child in zip(problems, (population(problems[0])[4], lineage, lineage.steps[0]), strict=True):
            problem.rule(RULE)
            problem.rebase(child)
            assert same_bits(state_bits(problem.make_net()), state_bits(expected))
            assert same_bits(state_bits(problem.make_net(problem.generate_batch(1)[0])), state_bits(expected))
            problem.evaluate(problem.generate_batch(1))
            assert problem.changes == 1
        assert len({problem.status["parent_eval"] for problem in problems}) == 1

    def test_rebase_keeps_the_scales_of_the_first_parent(self, network, samples):
        """So that relative steps mean the same before and after."""
        problem = make(FinetuneProblem, network, samples)
        options = {"subspace": RULE, "scale": "relative"}
        first = problem.mutate(problem.generate_batch(1), key=1, sigma=3.0, **options)
        second = problem.mutate(first, key=2, sigma=0.3, **options)
        expected = state_bits(problem.make_net(second[0]))
        lineage = problem.lineages(first)[0]
        for one in (problem, make(FinetuneProblem, network, samples)):
            one.rebase(lineage)
            later = one.mutate(one.generate_batch(1), key=2, sigma=0.3, **options)
            assert same_bits(state_bits(one.make_net(later[0])), expected)

    def test_children_of_another_parent_are_refused(self, problem):
        old = population(problem)
        problem.evaluate(old)
        kept = old.clone()
        problem.rebase(old[0])
        new = population(problem)
        mixed = SolutionBatch.cat([new, old[:1]])
        grown = problem.mutate(old, key=1, subspace=RULE, sigma=0.1)  # still of the old parent
        stale = "expected children of the present parent, number 1, got one of parent 0; generate a new population"
        for batch in (old, mixed, grown):
            check_refused(lambda batch=batch: problem.evaluate(batch), WrongParent, stale)
            check_refused(lambda batch=batch: problem.fold_common(batch), WrongParent, stale)
        check_refused(lambda: problem.evaluate(old[1]), WrongParent, stale)
        check_refused(lambda: problem.rebase(old[1]), WrongParent, stale)
        assert torch.equal(old.values, kept.values)
        assert problem.changes == 1
        problem.evaluate(new)
        other = make(FinetuneProblem, problem.make_net(), (torch.zeros(1, 1, 4, 4), torch.zeros(1).long()))
        check_refused(
            lambda: other.make_net(new[0]), WrongParent, "expected one of parents 0 to 0, got one of parent 1"
        )
        check_refused(lambda: problem.rebase("best"), InvalidType, "child: expected a Mutation")

    def test_steps_of_an_unknown_rule_are_refused(self, problem, samples):
        """They are of another problem: here they would stand for something else, or for nothing."""
        batch, other = population(problem), make(FinetuneProblem, Counting(), samples)
        message = "solutions: expected steps of the 0 rules that this problem knows, got rule 0; were they made by"
        for call in (other.evaluate, other.lineages, lambda foreign: other.make_net(foreign[0])):
            check_refused(lambda call=call: call(batch), WrongParent, message)
        other.rule(RULE)
        other.evaluate(batch)
        assert len(set(evals(batch))) == 6

    def test_networks_of_old_solutions_stay_the_same(self, problem):
        kept = []
        for key in range(3):
            batch = population(problem, key=key)
            kept += [(solution.clone(), state_bits(problem.make_net(solution))) for solution in batch]
            problem.rebase(batch[1])
        for optimizer in ("adam", "clipup"):
            searcher = SubspaceES(
                problem, popsize=4, density=0.2, sigma=0.1, center_learning_rate=0.1, optimizer=optimizer
            )
            for _ in range(2):
                searcher.step()
                pop = searcher.population
                net = copy.deepcopy(problem)._parent_at(problem.changes - 1).make_child(problem.lineages(pop[0])[0])
                kept.append((pop[0].clone(), state_bits(net)))
        assert len({pickle.dumps({name: bits.tolist() for name, bits in state.items()}) for _, state in kept}) == 22
        for one in (problem, pickled(problem)):
            for solution, before in kept:
                assert same_bits(state_bits(one.make_net(solution)), before)

    def test_the_best_solution_of_all_parents_is_still_a_network(self, problem, samples):
        for key in range(4):
            batch = population(problem, key=key)
            problem.evaluate(batch)
            problem.rebase(batch[int(batch.argworst())])
        status = problem.status
        net = problem.make_net(status["best"])
        assert float(Evaluator(net, samples).evaluate([Lineage()]).fitness[0]) == status["best_eval"]


class TestFoldCommon:
    def kin(self, problem, count=5):
        """A first step, and children that have it in common."""
        problem.rule(Dense())  # so that theirs is not the first
        first = population(problem, 1)
        return first, problem.mutate(first.take([0] * count), key=3, subspace=RULE, sigma=0.1, generation=1)

    @pytest.mark.parametrize("known", [False, True])
    def test_they_stay_the_same_children_and_keep_their_fitness(self, known, network, samples):
        problem = make(FinetuneProblem, network, samples)
        calls = passes(problem)
        first, children = self.kin(problem)
        batch = SolutionBatch.cat([first, children]) if known else children
        values, nets = evaluated(problem, batch), [state_bits(problem.make_net(solution)) for solution in batch]
        lineages, evaluations = problem.lineages(batch), len(calls)
        assert problem.fold_common(batch) == 1
        assert problem.changes == 1
        assert problem.lineages(batch) == [Lineage(lineage.steps[1:]) for lineage in lineages]
        assert [state_bits(problem.make_net(solution)).keys() for solution in batch] == [net.keys() for net in nets]
        for solution, before in zip(batch, nets, strict=True):
            assert same_bits(state_bits(problem.make_net(solution)), before)
        assert evals(batch) == values
        batch.forget_evals()
        assert evaluated(problem, batch) == values
        # The new parent, which is the common step, is evaluated if it was not among them.
        assert problem.status["evaluations"] == len(calls) == evaluations + (not known)
        fresh = Evaluator(problem.make_net(), samples).evaluate(problem.lineages(batch))
        assert fresh.fitness.tolist() == values
        assert problem.fold_common(batch) == 0

    def test_everything_is_folded_if_they_are_all_one(self, network, samples):
        problem = make(FinetuneProblem, network, samples)
        calls, (_, children) = passes(problem), self.kin(problem, 1)
        batch = children.take([0, 0])
        values, expected = evaluated(problem, batch), state_bits(problem.make_net(batch[0]))
        assert problem.fold_common(batch) == 2
        assert problem.lineages(batch) == [Lineage()] * 2
        assert same_bits(state_bits(problem.make_net()), expected)
        assert evaluated(problem, batch) == values == [problem.status["parent_eval"]] * 2
        assert len(calls) == 2

    def test_nothing_is_folded_if_they_share_nothing(self, network, samples):
        problem = make(FinetuneProblem, network, samples)
        other = problem.mutate(problem.generate_batch(1), key=0, subspace=RandomSubspace(0.3), sigma=0.3)
        for batch in (
            population(problem),
            problem.generate_batch(3),
            SolutionBatch.cat([population(problem, 1), other]),  # the same words under another rule
            SolutionBatch.cat([self.kin(problem)[1], problem.generate_batch(1)]),
        ):
            before = batch.values.clone()
            assert problem.fold_common(batch) == 0
            assert torch.equal(batch.values, before)
        assert problem.changes == 0

    def test_with_minibatches_nothing_is_remembered(self, network, samples):
        problem = make(FinetuneProblem, network, samples, minibatch_size=10)
        calls, (first, children) = passes(problem), self.kin(problem)
        batch = SolutionBatch.cat([first, children])
        values = evaluated(problem, batch)
        problem.fold_common(batch)
        assert evals(batch) == values
        assert evaluated(problem, batch) != values
        assert len(calls) == 7 + 6  # the parent was the first of them


class TestGeneticAlgorithms:
    @pytest.mark.parametrize("algorithm", [GeneticAlgorithm, SteadyStateGA])
    @pytest.mark.parametrize("fitness", ["cross_entropy", "accuracy"])
    def test_add_mutation_improves_a_real_network(self, algorithm, fitness):
        problem = FinetuneProblem(demo()[0], demo()[1], fitness, steps=8, select="weight,bias", seed=3)
        mutate = AddMutation(problem, stdev=0.05, density=0.3)
        searcher = algorithm(problem, operators=[mutate], popsize=10)
        searcher.run(8)
        status = searcher.status
        gain = status["best_eval"] - status["parent_eval"]
        assert gain > 0.03 if fitness == "accuracy" else gain < -0.15
        net = problem.make_net(status["best"])
        assert float(Evaluator(net, demo()[1], fitness).evaluate([Lineage()]).fitness[0]) == status["best_eval"]
        assert max(map(len, problem.lineages(searcher.population))) > 1

    @pytest.mark.parametrize("store", [copy.deepcopy, pickled])
    @pytest.mark.parametrize("options", [{"density": 0.1}, {"density": 0.1, "static": True}, {"subspace": Dense()}])
    def test_a_stored_search_goes_on_exactly(self, store, options, network, samples):
        problem = make(FinetuneProblem, network, samples, steps=6)
        mutate = AddMutation(problem, stdev=0.1, **options)
        searcher = GeneticAlgorithm(problem, operators=[mutate], popsize=6)
        searcher.run(2)
        stored = store(searcher)
        assert stored.problem is not problem
        searcher.run(3)
        torch.manual_seed(9)
        stored.run(3)
        assert torch.equal(stored.population.values, searcher.population.values)
        assert evals(stored.population) == evals(searcher.population)
        for name in ("best_eval", "worst_eval", "parent_eval", "evaluations", "iter"):
            assert stored.status[name] == searcher.status[name]
        nets = [one.problem.make_net(one.status["best"]) for one in (searcher, stored)]
        assert same_bits(*map(state_bits, nets))

    def test_a_run_longer_than_the_lineages_is_stopped_with_advice(self, network, samples):
        problem = make(FinetuneProblem, network, samples, steps=2)
        searcher = GeneticAlgorithm(problem, operators=[AddMutation(problem, stdev=0.01, density=0.1)], popsize=4)
        with pytest.raises(InvalidValue, match=r"FinetuneProblem\(steps="):
            searcher.run(50)

    def test_static_is_one_subspace_for_the_whole_run(self, network, samples):
        problem = make(FinetuneProblem, network, samples, steps=3)
        mutate = AddMutation(problem, stdev=0.1, density=0.1, static=True)
        batch = mutate(mutate(problem.generate_batch(4)))
        assert len({step.draw for lineage in problem.lineages(batch) for step in lineage.steps}) == 1
        assert len({step.key for lineage in problem.lineages(batch) for step in lineage.steps}) == 8


class TestBadInput:
    @pytest.mark.parametrize(("steps", "kind"), [(0, InvalidValue), (-1, InvalidValue), (1.5, InvalidType)])
    def test_steps(self, steps, kind):
        call = lambda: make(FinetuneProblem, Counting(), FOUR, steps=steps)  # noqa: E731
        check_refused(call, kind, f"steps: expected a whole number >= 1, got {steps}")

    @pytest.mark.parametrize(
        ("options", "kind", "message"),
        [
            ({"stdev": 0.0}, InvalidValue, "stdev: expected a finite number > 0, got 0"),
            ({"stdev": -1}, InvalidValue, "stdev: .*got -1"),
            ({"stdev": math.nan}, InvalidValue, "stdev: .*got nan"),
            ({"stdev": "auto"}, InvalidType, "stdev: .*got 'auto'"),
            ({"density": 0.0}, InvalidValue, "density: .*got 0"),
            ({"density": 1.1}, InvalidValue, "density: .*got 1.1"),
            ({"density": math.nan}, InvalidValue, "density: .*got nan"),
            ({"density": None}, InvalidValue, "density: expected it or subspace, got neither"),
            ({"subspace": Dense()}, InvalidValue, "density: expected it or subspace, got both"),
            ({"density": None, "subspace": "dense"}, InvalidType, "subspace: expected"),
            (
                {"density": None, "subspace": Dense(), "static": True},
                InvalidValue,
                "static: expected it with density",
            ),
            ({"density": None, "subspace": PartitionSubspace(52)}, InvalidValue, "parts: .*at most D = 51"),
            ({"scale": "log"}, InvalidValue, "scale: expected one of absolute, relative, got 'log'"),
        ],
        ids=str,
    )
    def test_add_mutation(self, options, kind, message):
        problem = make(FinetuneProblem, Counting(), FOUR)
        check_refused(lambda: AddMutation(problem, **{"stdev": 0.1, "density": 0.1} | options), kind, message)

    def test_add_mutation_of_other_problems(self):
        numbers = Problem("min", torch.linalg.norm, solution_length=3, initial_bounds=(-1, 1))
        subspace = make(SubspaceProblem, Counting(), FOUR)
        for problem in (numbers, subspace):
            message = f"expected a FinetuneProblem, got a {type(problem).__name__}; SparseGaussianMutation is for"
            check_refused(lambda p=problem: AddMutation(p, stdev=0.1, density=0.1), InvalidType, message)
