"""Lineages cross over in EvoTorch's genetic algorithms; operators for numbers are refused on them."""

import copy

import pytest
import torch
from evotorch import Problem, SolutionBatch
from evotorch.algorithms import Cosyne, GeneticAlgorithm, SteadyStateGA
from evotorch.operators import (
    CosynePermutation,
    GaussianMutation,
    OnePointCrossOver,
    SimulatedBinaryCrossOver,
    TwoPointCrossOver,
)
from evotorch_helpers import RULE, check_refused, evals, evaluated, pickled
from helpers import blobs, same_bits, state_bits, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from smd_evo import AddMutation, Dense, Evaluator, FinetuneProblem, Lineage, LineageCrossOver, ParameterSpace
from smd_evo.core.mutation import sample_mutations
from smd_evo.core.rows import encode_rows
from smd_evo.errors import InvalidType, InvalidValue, WrongParent
from smd_evo.integrations.evotorch.solutions import sealed

SAMPLES = blobs(shift=2.5)
POOL = sample_mutations(3, 4, subspace=RULE, sigma=0.2)
LINEAGES = st.lists(st.sampled_from(POOL), max_size=4).map(lambda steps: Lineage(tuple(steps)))


def problem_of(steps=6, **options):
    return FinetuneProblem(trained(), SAMPLES, steps=steps, **{"seed": 1} | options)


def batch_of(problem, lineages, holes=None):
    """Solutions of given lineages, as rows that may have holes."""
    problem.rule(RULE)
    rows = torch.cat([torch.zeros(len(lineages), 1, dtype=torch.int64), encode_rows(lineages, problem.steps)], 1)
    for row, place in enumerate(holes or ()):
        steps = rows[row, 1:].view(-1, 3)
        steps[place + 1 :] = steps[place:-1].clone()
        steps[place] = 0
    batch = SolutionBatch(problem, len(lineages), empty=True)
    batch.set_values(sealed(rows, problem._past.key_of))
    return batch


def genetic(problem, algorithm=GeneticAlgorithm, **options):
    operators = [
        LineageCrossOver(problem, tournament_size=2, **options),
        AddMutation(problem, stdev=0.2, density=0.1),
    ]
    return algorithm(problem, operators=operators, popsize=10)


class TestSearches:
    @pytest.mark.parametrize("algorithm", [GeneticAlgorithm, SteadyStateGA])
    def test_they_improve_the_parent_and_fit_into_the_steps(self, algorithm):
        problem = problem_of()
        searcher = genetic(problem, algorithm)
        searcher.run(6)  # as many generations as steps
        status = searcher.status
        assert status["best_eval"] < status["parent_eval"] - 0.1
        net = problem.make_net(status["best"])
        assert float(Evaluator(net, SAMPLES).evaluate([Lineage()]).fitness[0]) == status["best_eval"]

    def test_a_run_repeats_under_its_seed_and_goes_on_from_a_copy(self):
        runs = []
        for seed in (1, 1, 2):
            searcher = genetic(problem_of(seed=seed))
            searcher.run(2)
            stored = copy.deepcopy(searcher), pickled(searcher)
            searcher.run(2)
            for other in stored:
                other.run(2)
                assert torch.equal(other.population.values, searcher.population.values)
                assert evals(other.population) == evals(searcher.population)
            runs.append(searcher.population.values.tolist())
        assert runs[0] == runs[1] != runs[2]

    def test_one_of_several_objectives_may_say_which_is_the_best(self):
        problem = FinetuneProblem(trained(), SAMPLES, ["cross_entropy", "change_norm"], steps=6, seed=1)
        parents = AddMutation(problem, stdev=0.2, density=0.1)(problem.generate_batch(10))
        problem.evaluate(parents)
        for number in (0, 1, -1):
            cross = LineageCrossOver(problem, tournament_size=200, obj_index=number)  # all pairs are of the best
            best = problem.lineages(parents)[int(parents.evals[:, number].argmin())]
            assert set(problem.lineages(cross(parents))) == {best}
        for number, kind in ((2, InvalidValue), (-3, InvalidValue), (0.5, InvalidType)):
            check_refused(
                lambda number=number: LineageCrossOver(problem, tournament_size=2, obj_index=number),
                kind,
                "obj_index: ",
            )

    @pytest.mark.parametrize(
        ("options", "count"), [({}, 10), ({"num_children": 4}, 4), ({"cross_over_rate": 0.6}, 6)], ids=str
    )
    def test_children_are_made_of_their_parents_steps(self, options, count):
        problem = problem_of()
        mutate, cross = (
            AddMutation(problem, stdev=0.2, density=0.1),
            LineageCrossOver(problem, tournament_size=3, **options),
        )
        parents = mutate(mutate(problem.generate_batch(10)))
        before = parents.values.clone()
        problem.evaluate(parents)
        children = cross(parents)
        assert torch.equal(parents.values, before)
        assert len(children) == count
        found = {step for lineage in problem.lineages(parents) for step in lineage.steps}
        lineages = problem.lineages(children)
        assert all(len(lineage) == 2 and found.issuperset(lineage.steps) for lineage in lineages)
        if count == 10:
            assert set(lineages) - set(problem.lineages(parents))
        expected = Evaluator(trained(), SAMPLES).evaluate(lineages).fitness.tolist()
        assert evaluated(problem, children) == expected

    def test_what_all_share_can_be_folded(self):
        searcher = genetic(problem_of(steps=30))
        folded = 0
        for _ in range(30):
            searcher.step()
            values = evals(searcher.population)
            folded += searcher.problem.fold_common(searcher.population)
            assert evals(searcher.population) == values
        assert folded > 0
        best = searcher.population.take_best(1)
        net = searcher.problem.make_net(best)
        assert float(Evaluator(net, SAMPLES).evaluate([Lineage()]).fitness[0]) == evals(best)[0]


class TestOperatorsForNumbers:
    @pytest.mark.parametrize(
        "make",
        [
            lambda problem: OnePointCrossOver(problem, tournament_size=2),
            lambda problem: TwoPointCrossOver(problem, tournament_size=2),
            lambda problem: SimulatedBinaryCrossOver(problem, tournament_size=2, eta=8),
            lambda problem: CosynePermutation(problem, permute_all=True),
            lambda problem: GaussianMutation(problem, stdev=10.0),
            lambda problem: lambda values: values + 1,
            lambda problem: lambda values: values.flip(1),
        ],
        ids=["one point", "two points", "simulated binary", "permutation", "gaussian", "a function", "another"],
    )
    @pytest.mark.parametrize("mutates", [True, False], ids=["before a mutation", "last"])
    def test_they_are_refused_before_any_child_is_evaluated(self, make, mutates):
        problem = problem_of()
        operator, mutate = make(problem), AddMutation(problem, stdev=0.2, density=0.1)
        start = mutate(mutate(problem.generate_batch(10)))
        searcher = GeneticAlgorithm(problem, operators=[operator, mutate] if mutates else [operator], popsize=10)
        searcher.population.set_values(start.values.clone())
        problem.evaluate(start)
        evaluations = problem.evaluations
        with pytest.raises(
            (WrongParent, InvalidType), match=r"solutions: .*AddMutation and LineageCrossOver"
        ) as caught:
            searcher.step()
        assert "\n" not in str(caught.value)
        assert problem.evaluations == evaluations

    def test_searchers_on_numbers_still_say_so(self):
        problem = problem_of()
        check_refused(
            lambda: Cosyne(problem, popsize=4, tournament_size=2, mutation_stdev=0.1),
            InvalidType,
            "problem: expected decision variables that are numbers",
        )


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "kind", "message"),
        [
            ({"tournament_size": 0}, InvalidValue, "tournament_size: expected a whole number >= 1, got 0"),
            ({"tournament_size": 1.5}, InvalidType, "tournament_size: .*got 1.5"),
            ({"num_children": 3}, InvalidValue, "num_children: expected an even number, got 3; each pair has two"),
            ({"num_children": 0}, InvalidValue, "num_children: .*got 0"),
            ({"cross_over_rate": 0}, InvalidValue, "cross_over_rate: expected a finite number > 0, got 0"),
            (
                {"num_children": 2, "cross_over_rate": 1.0},
                InvalidValue,
                "num_children: expected it or cross_over_rate",
            ),
        ],
        ids=str,
    )
    def test_settings(self, options, kind, message):
        problem = problem_of()
        check_refused(lambda: LineageCrossOver(problem, **{"tournament_size": 2} | options), kind, message)

    def test_lineages_to_mutate_come_in_batches_and_none_is_a_batch_too(self):
        problem = problem_of()
        mutate = AddMutation(problem, stdev=0.1, density=0.5)
        assert len(mutate(problem.generate_batch(3)[:0])) == 0
        for wrong in (problem.generate_values(3), problem.generate_batch(3)[0], None):
            check_refused(lambda wrong=wrong: mutate(wrong), InvalidType, "parents: expected a SolutionBatch, got a ")

    def test_a_problem_of_numbers(self):
        numbers = Problem("min", torch.linalg.norm, solution_length=3, initial_bounds=(-1, 1))
        check_refused(
            lambda: LineageCrossOver(numbers, tournament_size=2),
            InvalidType,
            "problem: expected a FinetuneProblem, got a Problem; EvoTorch's own cross-overs",
        )

    def test_two_rules_and_two_parents(self):
        problem = problem_of()
        one = problem.mutate(problem.generate_batch(2), key=1, subspace=RULE, sigma=0.1).values.clone()
        other = problem.mutate(problem.generate_batch(2), key=1, subspace=Dense(), sigma=0.1).values.clone()
        none = problem.generate_values(2)
        check_refused(
            lambda: problem.cross(one, other, key=0),
            InvalidValue,
            "subspace: expected one of all lineages that cross",
        )
        for pair in ((none, other), (other, none)):  # the parent has no rule
            batch = SolutionBatch(problem, 4, empty=True)
            batch.set_values(problem.cross(*pair, key=0))
            lineages = problem.lineages(batch)
            assert sorted(map(len, lineages)) == [0, 0, 1, 1]
            assert all(step.subspace == Dense() for lineage in lineages for step in lineage.steps)
        problem.rebase(Lineage())
        check_refused(
            lambda: problem.cross(one, one, key=0), WrongParent, "solutions: expected children of the present"
        )


@settings(max_examples=40)
@given(LINEAGES, st.lists(LINEAGES, min_size=1, max_size=4), st.lists(st.integers(0, 8), max_size=4))
def test_folding_is_right_on_any_rows(common, rests, holes):
    """Against lists of steps: crossed rows, holes, all lengths."""
    problem, expected = problem_of(steps=10), []
    lineages = [Lineage(common.steps + rest.steps) for rest in rests]
    batch = batch_of(problem, lineages, holes[: len(lineages)])
    steps = [lineage.steps for lineage in problem.lineages(batch)]
    assert steps == [lineage.steps for lineage in lineages]
    while all(len(own) > len(expected) and own[len(expected)] == steps[0][len(expected)] for own in steps):
        expected.append(steps[0][len(expected)])
    assert problem.fold_common(batch) == len(expected)
    assert [lineage.steps for lineage in problem.lineages(batch)] == [own[len(expected) :] for own in steps]
    parent = ParameterSpace(trained())
    parent.fold(Lineage(tuple(expected)))
    assert same_bits(state_bits(problem.make_net()), state_bits(parent.module))
    last = state_bits(problem.make_net(batch[-1:]))
    assert same_bits(last, state_bits(ParameterSpace(trained()).make_child(lineages[-1])))
