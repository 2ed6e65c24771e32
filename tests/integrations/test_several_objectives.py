"""Several objectives and evaluation data in EvoTorch and DEAP themselves: NSGA-II, NSGA-III, MAP-Elites."""

import copy
import functools
import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from deap import algorithms, base, creator, tools
from deap_helpers import evaluator_of, lineages, toolbox_of
from evotorch import Problem
from evotorch.algorithms import SNES, GeneticAlgorithm, MAPElites
from evotorch.operators import GaussianMutation
from evotorch_helpers import FOUR, Counting, check_refused, core_children, make, passes, population
from helpers import blobs, same_bits, state_bits, trained

from smd_evo import (
    AddMutation,
    BatchFitness,
    Evaluator,
    FinetuneProblem,
    Lineage,
    ModuleFitness,
    Objectives,
    OpenAIES,
    SparseGaussianMutation,
    SubspaceEvolution,
    SubspaceNewton,
    SubspaceProblem,
    SubspaceStrategy,
)
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.fitness import WORST

SAMPLES = blobs(shift=2.5)
"""Of these the parent is right about two of three."""
PARTS = ["accuracy", "cross_entropy", "change_norm"]
every_kind = pytest.mark.parametrize("kind", [FinetuneProblem, SubspaceProblem])


def problem_of(kind=FinetuneProblem, fitness=PARTS, **options):
    return make(kind, trained(), SAMPLES, fitness, **options)


def searched(problem, popsize=16, generations=4):
    """EvoTorch's NSGA-II as it is."""
    operators = [AddMutation(problem, stdev=0.1, density=0.2)]
    searcher = GeneticAlgorithm(problem, operators=operators, popsize=popsize)
    searcher.run(generations)
    return searcher


class TestColumns:
    @every_kind
    def test_are_the_cores_to_the_bit(self, kind):
        problem = problem_of(kind, ["accuracy", "change_norm"], eval_data=["changed_values", "macro_f1"])
        batch = population(problem)
        problem.evaluate(batch)
        core = Objectives(["accuracy", "change_norm", "changed_values", "macro_f1"])
        alone = problem_of(kind).space
        expected = core.evaluate(core.evaluator(alone, SAMPLES), core_children(problem, batch))
        assert batch.evals.tolist() == expected.tolist()
        assert problem.senses == ["max", "min"]
        assert problem.eval_data_length == 2
        assert (
            problem.status["obj0_parent_eval"]
            == Evaluator(trained(), SAMPLES, "accuracy").evaluate([Lineage()]).fitness.item()
        )
        assert problem.status["obj1_parent_eval"] == 0

    @every_kind
    def test_of_one_fitness_in_a_list_are_those_of_the_fitness(self, kind):
        one, other = (problem_of(kind, fitness) for fitness in ("accuracy", ["accuracy"]))
        for problem in (one, other):
            problem.evaluate(population(problem))
        assert one.objective_sense == other.objective_sense == "max"
        assert one.status.keys() == other.status.keys()
        assert one.status["parent_eval"] == other.status["parent_eval"]

    def test_may_be_sought_alone_by_evotorchs_searchers_of_one(self):
        searcher = SNES(problem_of(SubspaceProblem), stdev_init=0.1, obj_index=1, popsize=10)
        searcher.run(3)
        assert searcher.status["pop_best_eval"] < searcher.problem.status["obj1_parent_eval"]

    def test_cost_one_forward_pass_for_each_child_that_differs(self):
        problem = problem_of(eval_data=["macro_f1"])
        calls = passes(problem)
        batch = population(problem)
        batch.access_values()[3:] = batch.values[:3].clone()  # three children, each twice
        problem.evaluate(batch)
        assert len(calls) == 3 + 1  # and the parent
        problem.evaluate(batch)
        assert len(calls) == 3 + 1
        assert batch.evals[:3].tolist() == batch.evals[3:].tolist()

    def test_on_minibatches_are_all_of_the_same_samples(self):
        problem = problem_of(fitness=["accuracy", "change_norm"], eval_data="macro_f1")
        problem.minibatch_size = 10
        before = problem.evaluator
        batch = population(problem)
        problem.evaluate(batch)
        found = Objectives(["accuracy", "macro_f1"]).evaluate(before, problem.lineages(batch))
        assert batch.evals[:, [0, 2]].tolist() == found.tolist()

    def test_that_are_no_numbers_are_the_worst_of_their_own_sense(self):
        limit = ModuleFitness(
            "limit", "max", lambda m: -1.0 if float(m.head.weight.abs().max()) < 1 else float("nan")
        )
        problem = problem_of(fitness=["accuracy", limit])
        batch = population(problem, sigma=2.0)
        problem.evaluate(batch)
        assert batch.evals[:, 1].tolist() == [-WORST] * len(batch)
        assert problem.status["nonfinite"] == len(batch)
        wrong = problem_of(fitness=["accuracy", ModuleFitness("limit", "max", lambda _: float("nan"))])
        batch = wrong.generate_batch(2)
        with pytest.raises(InvalidValue, match="expected a finite limit of the parent, got NaN"):
            wrong.evaluate(batch)

    def test_of_changes_do_not_hide_that_nothing_else_changes(self):
        constant = BatchFitness("constant", "min", lambda out, _: out[:, 0] * 0)
        for fitness, alike in ((["change_norm", constant], True), ([constant, "cross_entropy"], False)):
            problem = problem_of(fitness=fitness)
            batch = population(problem, count=8)
            if alike:
                with pytest.warns(RuntimeWarning, match="all 8 children have exactly the fitness of their parent"):
                    problem.evaluate(batch)
            else:
                problem.evaluate(batch)

    def test_of_outputs_stay_where_lineages_are_folded(self):
        problem = problem_of(fitness=["accuracy", "cross_entropy"], steps=3)
        first = population(problem, count=1)
        second = problem.generate_batch(4)
        second.set_values(first.values.clone().expand(4, -1))
        batch = problem.mutate(second, key=3, subspace=problem._past.rules[0][0], sigma=0.2)
        problem.evaluate(batch)
        expected, calls = batch.evals.tolist(), passes(problem)
        assert problem.fold_common(batch) == 1
        problem.evaluate(batch)
        assert batch.evals.tolist() == expected
        assert len(calls) == 1  # the new parent

    def test_are_known_again_after_a_pickle_and_from_a_state(self):
        problem = problem_of(eval_data=["macro_f1"])
        batch = population(problem)
        problem.evaluate(batch)
        other = problem_of(eval_data=["macro_f1"])
        other.rule(*problem._past.rules[0])
        other.load_state_dict(problem.state_dict())
        for twin in (pickle.loads(pickle.dumps(problem)), other):
            calls = passes(twin)
            again = twin.generate_batch(len(batch))
            again.set_values(batch.values.clone())
            twin.evaluate(again)
            assert again.evals.tolist() == batch.evals.tolist()
            assert not calls


def test_nothing_depends_on_the_default_device():
    """On torch's meta device, which holds no values, every tensor made without a device shows.

    Without what EvoTorch itself does after an evaluation, which reads values from there.
    """

    network = trained()

    def told():
        options = {"fitness": ["accuracy", "change_norm", "macro_f1"], "eval_data": ["changed_values"]}
        problem = make(FinetuneProblem, network, SAMPLES, **options)
        batch = population(problem)
        problem._evaluate_all(batch)
        random.seed(1)
        evaluator = evaluator_of(["accuracy", "change_norm"], network)
        individuals = lineages(evaluator)
        for individual, values in zip(individuals, evaluator.evaluate_all(individuals), strict=True):
            individual.fitness.values = values
        return batch.access_evals().tolist(), problem.front(batch).table(), evaluator.front(individuals).table()

    expected = told()
    with torch.device("meta"):
        assert told() == expected


class TestOlderPickles:
    """Made before there were several objectives: one fitness, and a number for each solution."""

    @every_kind
    def test_of_problems_go_on(self, kind):
        problem, other = (problem_of(kind, "accuracy") for _ in range(2))
        for each in (problem, other):
            each.evaluate(population(each))
        state = {
            name: value for name, value in problem.__getstate__().items() if name not in ("objectives", "_measures")
        }
        state["_seen"] = {label: value for label, (value,) in state["_seen"].items()}
        (state["_parent_eval"],) = state["_parent_eval"]
        old = kind.__new__(kind)
        old.__setstate__(state)
        assert old.state_dict()["seen"] == other.state_dict()["seen"]
        for each in (old, other):
            each.evaluate(population(each, key=1))
        assert old.status["parent_eval"] == other.status["parent_eval"]
        assert old.state_dict()["seen"] == other.state_dict()["seen"]

    def test_of_evaluators_go_on(self):
        evaluator = evaluator_of("accuracy")
        old = type(evaluator).__new__(type(evaluator))
        old.__setstate__({name: value for name, value in vars(evaluator).items() if name != "objectives"})
        assert old.evaluate(old.lineage()) == evaluator.evaluate(evaluator.lineage())


class TestNSGA2:
    def test_goes_on_from_a_pickle_to_the_bit(self):
        problem = problem_of(fitness=["cross_entropy", "change_norm"], steps=8)
        searcher = searched(problem)
        twin = copy.deepcopy(searcher)
        for each in (searcher, twin):
            each.run(3)
        assert searcher.population.evals.tolist() == twin.population.evals.tolist()
        assert same_bits(state_bits(problem.make_net()), state_bits(trained()))

    def test_finds_children_that_neither_the_parent_nor_chance_dominates(self):
        problem = problem_of(fitness=["cross_entropy", "change_norm"], steps=8)
        searcher = searched(problem, popsize=24, generations=8)
        front = problem.front(searcher.population)
        values = front.values[front.numbers]
        assert len(set(map(tuple, values.tolist()))) >= 5
        assert front.parent == (problem.status["obj0_parent_eval"], 0.0)
        assert values[:, 0].min() < front.parent[0]
        ranks = searcher.population.compute_pareto_ranks(crowdsort=False)[0]
        assert sorted(front.numbers) == (ranks == 0).nonzero().flatten().tolist()
        with pytest.raises(InvalidValue, match=r"^values: expected numbers, got NaN; are all of them evaluated"):
            problem.front(problem.generate_batch(2))
        best = problem.make_net(searcher.population[front.numbers[0]])
        alone = Evaluator(best, SAMPLES).evaluate([Lineage()]).fitness.item()
        assert alone == pytest.approx(float(values[0, 0]), rel=1e-5)

    def test_on_kursawe_is_as_near_as_with_evotorchs_own_mutation(self):
        """Two objectives of three numbers, whose front is known: Kursawe 1990, as in EvoTorch's documentation."""

        def kursawe(x):
            first = (-10 * (-0.2 * (x[:, :-1].square() + x[:, 1:].square()).sqrt()).exp()).sum(1)
            return torch.stack([first, (x.abs() ** 0.8 + 5 * (x**3).sin()).sum(1)], 1)

        def volume(operator, **options):
            """The area that the front dominates below (-10, 5), at most some 130."""
            problem = Problem(
                ["min", "min"],
                kursawe,
                solution_length=3,
                bounds=(-5, 5),
                vectorized=True,
                seed=1,
                dtype=torch.float64,
            )
            searcher = GeneticAlgorithm(problem, operators=[operator(problem, stdev=0.5, **options)], popsize=60)
            searcher.run(40)
            assert bool((searcher.population.values.abs() <= 5).all())
            evals = searcher.population.evals.clone().as_subclass(torch.Tensor)
            area, low = 0.0, 5.0
            for x, y in evals[evals[:, 0].argsort()].tolist():
                area, low = area + max(0.0, -10 - x) * max(0.0, low - y), min(low, y)
            return area

        own, sparse = volume(GaussianMutation), volume(SparseGaussianMutation, density=0.34)
        assert sparse > 0.9 * own > 50


class TestMapElites:
    def test_fills_cells_of_features_of_the_networks(self):
        shares = BatchFitness("first", "max", lambda out, _: (out.argmax(1) == 0).double())
        problem = problem_of(fitness="cross_entropy", eval_data=["change_norm", shares], steps=8)
        grid = MAPElites.make_feature_grid([0.5, 0.2], [3.0, 0.6], [5, 4], dtype=problem.eval_dtype)
        searcher = MAPElites(problem, operators=[AddMutation(problem, stdev=0.1, density=0.3)], feature_grid=grid)
        filled = []
        for _ in range(8):
            searcher.step()
            filled.append(int(searcher.filled.sum()))
        assert filled == sorted(filled)
        assert filled[-1] >= 4
        core = Objectives(["cross_entropy", "change_norm", shares])
        evaluator = core.evaluator(trained(), SAMPLES)
        for number in searcher.filled.nonzero().flatten().tolist():
            elite = searcher.population[number]
            assert bool(
                (grid[number, :, 0] <= elite.evals[1:]).all() and (elite.evals[1:] <= grid[number, :, 1]).all()
            )
            assert elite.evals.tolist() == core.evaluate(evaluator, problem.lineages(elite))[0].tolist()

    def test_takes_points_of_a_subspace(self):
        problem = problem_of(SubspaceProblem, "cross_entropy", eval_data=["change_norm"])
        grid = MAPElites.make_feature_grid([0.1], [0.5], [6], dtype=problem.eval_dtype)
        searcher = MAPElites(problem, operators=[GaussianMutation(problem, stdev=0.05)], feature_grid=grid)
        searcher.run(4)
        assert searcher.filled.sum() >= 2


class TestRefused:
    @pytest.mark.parametrize("options", [{"fitness": PARTS}, {"fitness": "accuracy", "eval_data": ["change_norm"]}])
    def test_by_searchers_of_one_fitness(self, options):
        problem = make(FinetuneProblem, Counting(), FOUR, **options)
        for kind in (SubspaceEvolution, OpenAIES, SubspaceNewton):
            rule = {} if kind is OpenAIES else {"density": 0.5}
            message = f"^fitness: expected a single one for a {kind.__name__}, got accuracy, .*GeneticAlgorithm"
            check_refused(lambda kind=kind, rule=rule: kind(problem, popsize=4, **rule), InvalidValue, message)
        check_refused(lambda: SNES(problem, stdev_init=0.1), InvalidType, "^problem: .* use SubspaceProblem")
        check_refused(
            lambda: problem.racing().__enter__(), InvalidValue, "^fitness: expected a single one for a race"
        )
        check_refused(lambda: problem.observing().__enter__(), InvalidValue, "single one for outputs")
        check_refused(
            lambda: problem.fold_common(problem.generate_batch(2)),
            InvalidValue,
            "^fitness: expected none of the change where steps become part",
        )

    def test_by_evotorchs_own(self):
        with pytest.raises(ValueError, match="This problem is multi-objective"):
            SNES(make(SubspaceProblem, Counting(), FOUR, PARTS), stdev_init=0.1)
        with pytest.raises(ValueError, match="single-objective"):
            MAPElites(make(FinetuneProblem, Counting(), FOUR, PARTS), operators=[], feature_grid=torch.zeros(1, 1, 2))

    @pytest.mark.parametrize("name", ["objective_sense", "eval_data_length"])
    def test_what_the_fitnesses_say_already(self, name):
        message = f"^{name}: expected no such argument, got 2; .*says it"
        check_refused(lambda: make(FinetuneProblem, Counting(), FOUR, **{name: 2}), InvalidType, message)

    def test_change_alone_in_both_hosts(self):
        message = "^fitness: expected at least one of outputs or of the network, got change_norm"
        check_refused(lambda: make(FinetuneProblem, Counting(), FOUR, "change_norm"), InvalidValue, message)
        check_refused(lambda: evaluator_of("change_norm"), InvalidValue, message)

    def test_by_a_strategy_of_deap(self):
        evaluator = evaluator_of(["accuracy", "change_norm"])
        message = "^evaluator: expected one fitness for CMA-ES, got accuracy, change_norm; tools.selNSGA2"
        check_refused(lambda: SubspaceStrategy(evaluator, dimensions=3, sigma=0.1), InvalidValue, message)


creator.create("ObjectivesWrong", base.Fitness, weights=(1.0, 1.0))


class TestDeap:
    def test_values_are_the_cores_to_the_bit(self):
        evaluator = evaluator_of(PARTS)
        individuals = [*lineages(evaluator), evaluator.dense()]
        core = Objectives(PARTS)
        children = [individual.lineage for individual in individuals[:-1]] + [Lineage()]
        expected = core.evaluate(core.evaluator(trained(), SAMPLES), children).tolist()
        assert [list(own) for own in evaluator.map(evaluator.evaluate, individuals)] == expected
        assert list(evaluator.evaluate(individuals[2])) == expected[2]

    def test_the_fitness_of_individuals_goes_the_right_way(self):
        evaluator = evaluator_of(["accuracy", "change_norm"])
        individual = evaluator.lineage()
        assert individual.fitness.weights == (1.0, -1.0)
        individual.fitness.values = evaluator.evaluate(individual)
        for twin in (pickle.loads(pickle.dumps(individual)), copy.deepcopy(individual)):
            assert twin.fitness == individual.fitness
            assert type(twin.fitness) is type(individual.fitness)
            assert twin.fitness.values == individual.fitness.values
        individual.fitness = creator.ObjectivesWrong()
        message = (
            r"^fitness: expected weights \(1.0, -1.0\), as accuracy is to be high and change_norm is to be low, "
            r"got \(1.0, 1.0\)"
        )
        with pytest.raises(InvalidValue, match=message):
            evaluator.evaluate(individual)

    def test_threads_take_turns(self):
        evaluator = evaluator_of(PARTS)
        individuals = lineages(evaluator)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(evaluator.evaluate, individuals * 3))
        assert found == evaluator.evaluate_all(individuals) * 3
        assert same_bits(state_bits(evaluator.evaluator.space.module), state_bits(trained()))

    @pytest.mark.parametrize(
        "select",
        [tools.selNSGA2, functools.partial(tools.selNSGA3, ref_points=tools.uniform_reference_points(2, 8))],
        ids=["NSGA-II", "NSGA-III"],
    )
    def test_nsga_finds_a_front(self, select):
        def run():
            random.seed(1)
            np.random.seed(1)
            evaluator = evaluator_of(["cross_entropy", "change_norm"])
            toolbox = toolbox_of(evaluator, select=select, sigma=0.1, density=0.2)
            population = [evaluator.lineage() for _ in range(16)]
            hall = tools.ParetoFront()
            options = {"mu": 16, "lambda_": 24, "cxpb": 0.3, "mutpb": 0.7, "ngen": 6, "verbose": False}
            population, _ = algorithms.eaMuPlusLambda(population, toolbox, halloffame=hall, **options)
            return evaluator, population, hall

        evaluator, population, hall = run()
        front = evaluator.front(hall)
        assert front.numbers == [*range(len(hall))]  # DEAP sorts its front, too, the best in the first first
        assert len(hall) >= 4
        assert front.values[0, 0] < evaluator.evaluate(evaluator.lineage())[0]
        first = tools.sortNondominated(population, len(population), first_front_only=True)[0]
        own = evaluator.front(population).numbers
        assert sorted(map(id, first)) == sorted(id(population[number]) for number in own)
        assert [each.fitness.values for each in run()[1]] == [each.fitness.values for each in population]

    def test_a_front_wants_all_evaluated(self):
        evaluator = evaluator_of(["accuracy", "change_norm"])
        with pytest.raises(
            InvalidValue, match=r"^individuals: expected 2 values of fitness, got 0 in number 0; evalua"
        ):
            evaluator.front([evaluator.lineage()])
