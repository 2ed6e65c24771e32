"""SubspaceEvolution against a plain loop that folds nothing, and its numbers by hand."""

import copy
import functools
import itertools
import math
import operator
from dataclasses import dataclass

import pytest
import torch
from helpers import blobs, same_bits, state_bits, trained
from torch import nn

from smd_evo import (
    BatchFitness,
    Dense,
    Evaluator,
    FinetuneProblem,
    Lineage,
    ModuleFitness,
    Mutation,
    PartitionSubspace,
    RandomSubspace,
    SubspaceEvolution,
    calibrate_sigma,
    sample_mutations,
)
from smd_evo.core.keys import derive
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.data import minibatch
from smd_evo.evaluation.fitness import ACCURACY, CROSS_ENTROPY
from smd_evo.evaluation.race import race_rounds
from smd_evo.integrations.evotorch import searcher as module
from smd_evo.integrations.evotorch.keys import draw_key

pytestmark = pytest.mark.numeric

SAMPLES = blobs(shift=2.5)
RULE = RandomSubspace(0.1)
evolution = functools.partial(SubspaceEvolution, subspace=RULE, sigma=0.3)


def far_or_home(network):
    """Best is the pre-trained parent, then what is farthest from it."""
    pairs = zip(network.parameters(), trained().parameters(), strict=True)
    distance = sum(float((here - there).square().sum()) for here, there in pairs)
    return distance or 1e9


def problem_of(fitness="cross_entropy", steps=1, **options):
    return FinetuneProblem(trained(), SAMPLES, fitness, **{"steps": steps, "seed": 1} | options)


def key_of():
    """The key that a searcher on :func:`problem_of` has."""
    return draw_key(problem_of())


def counting(fitness):
    """A fitness that keeps count of the networks that it has seen; the data are one batch."""
    calls = []
    return calls, BatchFitness(fitness.name, fitness.sense, lambda out, to: calls.append(1) or fitness.score(out, to))


def evals(batch):
    return batch.access_evals(0).tolist()


@dataclass
class Loop:
    """(mu, lambda) with elites by full lineages from the pre-trained parent, a generation at a time."""

    popsize: int
    mu: int
    elites: int
    steps: int
    sigma: float
    fitness: str | ModuleFitness = "cross_entropy"
    adapt_sigma: bool = False
    minibatch_size: int | None = None

    def __iter__(self):
        everything = Evaluator(trained(), SAMPLES, self.fitness)
        sign = -1 if everything.fitness.sense == "max" else 1
        parents, folded = [Lineage()], 0
        for generation in itertools.count():
            evaluator = everything
            if self.minibatch_size:
                numbers = minibatch(problem_of().key, generation, self.minibatch_size, everything.samples)
                evaluator = everything.on_samples(numbers)
            folded = max(folded, common_steps(parents))
            kin = parents
            while max(map(len, kin)) - folded >= self.steps:
                kin = [one for one in kin if one.steps[: folded + 1] == kin[0].steps[: folded + 1]]
                folded = max(folded, common_steps(kin))
            dropped, parents = len(parents) - len(kin), kin
            recipes = sample_mutations(key_of(), self.popsize, subspace=RULE, sigma=self.sigma, generation=generation)
            of = [number * len(parents) // self.popsize for number in range(self.popsize)]
            children = [parents[number].then(recipe) for number, recipe in zip(of, recipes, strict=True)]
            known = evaluator.evaluate(parents).fitness.tolist()
            found = evaluator.evaluate(children).fitness.tolist()
            if self.adapt_sigma:
                wins = sum(sign * value < sign * known[number] for value, number in zip(found, of, strict=True))
                self.sigma *= math.exp((wins / self.popsize - 1 / 5) / (4 / 5))
            ranked = sorted(zip(known, parents, strict=True), key=lambda one: sign * one[0])
            population = [*ranked[: self.elites], *zip(found, children, strict=True)]
            best = sorted(population, key=lambda one: sign * one[0])[: self.mu]
            parents = [lineage for _, lineage in best]
            yield [value for value, _ in population], parents[0], dropped


def common_steps(lineages):
    """How many steps all of them begin with."""
    columns = zip(*(lineage.steps for lineage in lineages), strict=False)
    return len(list(itertools.takewhile(lambda steps: len(set(steps)) == 1, columns)))


class TestSelection:
    @pytest.mark.parametrize(
        ("mu", "elites", "steps", "options"),
        [
            (1, 0, 1, {}),
            (1, 1, 1, {}),
            (1, 1, 1, {"minibatch_size": 25}),
            (2, 0, 9, {}),
            (3, 1, 9, {"minibatch_size": 25}),
            (4, 4, 9, {"fitness": "accuracy"}),
            (3, 0, 2, {}),
            (3, 1, 2, {"minibatch_size": 25}),
            (5, 5, 2, {"fitness": "accuracy"}),
            (6, 2, 3, {}),
            (6, 6, 2, {"fitness": ModuleFitness("far or home", "max", far_or_home)}),
        ],
        ids=lambda part: str(part)[:30],
    )
    def test_as_a_plain_loop_with_full_lineages_has_it(self, mu, elites, steps, options):
        """The same numbers, exactly: folding changes no bit, and no more is dropped than is said."""
        problem = problem_of(steps=steps, **options)
        searcher = evolution(problem, popsize=12, num_parents=mu, num_elites=elites, sigma=1.0)
        loop = list(itertools.islice(Loop(12, mu, elites, steps, 1.0, **options), 6))
        for expected, _, dropped in loop:
            searcher.step()
            assert evals(searcher.population) == expected
            assert searcher.status["dropped_parents"] == dropped
        assert any(dropped for _, _, dropped in loop) == (1 < steps < 9)
        expected = problem_of().space.make_child(loop[-1][1])
        assert same_bits(state_bits(problem.make_net(searcher.status["pop_best"])), state_bits(expected))

    def test_a_generation_that_begins_twice_has_the_parents_that_were_left(self):
        """After ask(), an interrupt or a stored state, where some were dropped in it."""

        def interrupted(searcher):
            searcher.problem.progress = calls().__next__
            with pytest.raises(KeyboardInterrupt):
                searcher.step()
            searcher.problem.progress = None

        def calls():
            yield from range(3)
            raise KeyboardInterrupt

        def resumed(searcher):
            asked, other = searcher.ask(), made()
            other.load_state_dict(copy.deepcopy(searcher.state_dict()))
            assert torch.equal(other.ask().values, asked.values)
            return other

        def made():
            return evolution(problem_of(steps=2), popsize=12, num_parents=4, sigma=1.0)

        searchers, dropped = {name: made() for name in ("plain", "asked", "interrupted", "resumed")}, 0
        for _ in range(6):
            searchers["asked"].ask()
            interrupted(searchers["interrupted"])
            searchers["resumed"] = resumed(searchers["resumed"])
            plain = searchers["plain"]
            for name, searcher in searchers.items():
                searcher.step()
                assert evals(searcher.population) == evals(plain.population), name
                assert searcher.status["dropped_parents"] == plain.status["dropped_parents"], name
            dropped += plain.status["dropped_parents"]
        assert dropped > 0

    def test_it_settles_at_the_problems_parent_if_somebody_has_moved_that(self):
        searcher = evolution(problem_of(steps=3), popsize=8)
        searcher.run(2)
        searcher.problem.rebase(Lineage((Mutation(1, 0.2, RULE, 1),)))
        expected = state_bits(searcher.problem.make_net())
        searcher.settle()
        assert same_bits(state_bits(searcher.problem.make_net()), expected)

    @pytest.mark.parametrize("fitness", ["cross_entropy", "accuracy"])
    def test_one_generation_is_the_papers(self, fitness):
        problem = problem_of(fitness)
        searcher = evolution(problem, popsize=20, num_elites=0)
        searcher.run(1)
        recipes = sample_mutations(key_of(), 20, subspace=RULE, sigma=0.3)
        assert problem.lineages(searcher.population) == [Lineage((recipe,)) for recipe in recipes]
        expected = Evaluator(trained(), SAMPLES, fitness).evaluate(recipes)
        assert evals(searcher.population) == expected.fitness.tolist()
        best = expected.ranking()[0]
        assert searcher.status["pop_best"].evals[0] == expected.fitness[best]
        assert problem.lineages(searcher.status["pop_best"]) == [Lineage((recipes[best],))]

    def test_elites_are_never_lost_and_without_them_the_best_may_be(self):
        for elites in (1, 0):
            searcher = evolution(problem_of(), popsize=4, num_elites=elites, sigma=2.0)
            best = []
            for _ in range(10):
                searcher.step()
                best.append(searcher.status["pop_best_eval"])
            assert (best == sorted(best, reverse=True)) == bool(elites)

    @pytest.mark.parametrize("parts", [1, 3, 4])
    def test_children_of_a_partition_are_the_parts_of_dense_mutations(self, parts):
        problem = problem_of()
        searcher = SubspaceEvolution(
            problem, popsize=2 * parts, num_elites=0, subspace=PartitionSubspace(parts), sigma=0.3
        )
        for _ in range(2):
            searcher.step()
            steps = [lineage.steps[-1] for lineage in problem.lineages(searcher.population)]
            deltas = [step.delta(problem.space.layout) for step in steps]
            for block in (slice(None, parts), slice(parts, None)):
                assert len({step.key for step in steps[block]}) == 1
                assert sum(map(len, deltas[block])) == problem.space.size
                dense = Mutation(steps[block][0].key, 0.3, Dense(), 0).delta(problem.space.layout)
                assert torch.equal(functools.reduce(operator.add, deltas[block]).values, dense.values)


class TestEvaluations:
    """``evaluations`` is what was evaluated: children, and of the parents those that have no fitness yet."""

    @pytest.mark.parametrize(
        ("mu", "elites", "minibatch_size", "expected"),
        [
            (1, 1, None, [11, 21, 31, 41]),
            (1, 0, None, [11, 21, 31, 41]),
            (1, 1, 25, [11, 22, 33, 44]),
            (1, 0, 25, [11, 22, 33, 44]),
        ],
    )
    def test_of_one_parent(self, mu, elites, minibatch_size, expected):
        calls, fitness = counting(CROSS_ENTROPY)
        searcher = evolution(problem_of(fitness, minibatch_size=minibatch_size), popsize=10, num_elites=elites)
        for count in expected:
            searcher.step()
            assert searcher.status["evaluations"] == len(calls) == count

    @pytest.mark.parametrize("elites", [0, 3])
    @pytest.mark.parametrize("minibatch_size", [None, 25])
    def test_of_several(self, elites, minibatch_size):
        calls, fitness = counting(ACCURACY)
        problem = problem_of(fitness, steps=3, minibatch_size=minibatch_size)
        searcher = evolution(problem, popsize=10, num_parents=3, num_elites=elites, sigma=1.0)
        for generation in range(1, 7):
            before, changes = len(calls), problem.changes
            searcher.step()
            extra = len(calls) - before - 10
            moved = problem.changes > changes  # a parent of whom no fitness may be known
            most = generation == 1 or moved if minibatch_size is None else 1 + elites
            assert bool(minibatch_size) <= extra <= most
            assert searcher.status["evaluations"] == len(calls)


class TestSigma:
    @pytest.mark.parametrize(("mu", "elites", "minibatch_size"), [(1, 1, None), (1, 0, None), (3, 2, 25)])
    def test_one_fifth_rule_by_hand(self, mu, elites, minibatch_size):
        problem = problem_of(steps=9, minibatch_size=minibatch_size)
        searcher = evolution(problem, popsize=8, num_parents=mu, num_elites=elites, adapt_sigma=True, sigma=0.5)
        loop = Loop(8, mu, elites, 9, 0.5, adapt_sigma=True, minibatch_size=minibatch_size)
        sigmas = [0.5]
        for expected, _, _ in itertools.islice(loop, 6):
            used = searcher.sigma
            searcher.step()
            assert evals(searcher.population) == expected
            mutations = [lineage.steps[-1] for lineage in problem.lineages(searcher.population)[-8:]]
            assert {mutation.sigma for mutation in mutations} == {used}
            assert searcher.sigma == searcher.status["sigma"] == pytest.approx(loop.sigma, rel=1e-12)
            sigmas.append(searcher.sigma)
        assert sigmas != sorted(sigmas)
        assert sigmas != sorted(sigmas, reverse=True)

    @pytest.mark.parametrize(
        ("sense", "change", "factor"),
        [
            ("max", -1, math.exp(-1 / 4)),
            ("min", -1, math.e),
            ("max", 0, math.exp(-1 / 4)),
            ("min", 0, math.exp(-1 / 4)),
        ],
    )
    def test_shrinks_when_no_child_is_better_and_grows_when_all_are(self, sense, change, factor):
        """An equal one is not better."""
        calls = []
        fitness = ModuleFitness("a slope", sense, lambda module: calls.append(1) or change * len(calls))
        problem = FinetuneProblem(trained(), fitness=fitness, seed=1)
        searcher = evolution(problem, popsize=6, adapt_sigma=True, sigma=1)
        searcher.run(3)
        assert searcher.sigma == pytest.approx(factor**3)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_on_a_plateau_ends_at_the_precision_of_the_parameters_and_comes_back(self, dtype):
        change, calls = [0], []
        fitness = ModuleFitness("a plateau, then a slope", "max", lambda _: calls.append(1) or change[0] * len(calls))

        def made():
            return evolution(
                FinetuneProblem(nn.Linear(2, 2, dtype=dtype), fitness=fitness, seed=1),
                popsize=2,
                subspace=Dense(),
                adapt_sigma=True,
                sigma=0.5,
            )

        searcher, lowest = made(), 0.5 * torch.finfo(dtype).eps
        searcher.run(70)  # of which each would take a quarter of a power of e
        assert searcher.sigma == lowest
        again = made()
        again.load_state_dict(searcher.state_dict())
        again.run(1)
        assert again.sigma == lowest
        change[0] = -1  # the parent, which is evaluated first, is always the best
        searcher.run(1)
        assert searcher.sigma == lowest
        change[0] = 1
        searcher.run(2)
        assert searcher.sigma == pytest.approx(lowest * math.e**2)

    @pytest.mark.filterwarnings("ignore:none of .* integer weights:RuntimeWarning")
    @pytest.mark.parametrize("scale", ["absolute", "relative"])
    def test_of_integers_ends_where_hardly_any_is_another_one(self, scale):
        layer = nn.Linear(2, 2)
        layer.register_buffer("levels", torch.tensor([10, 30], dtype=torch.int8))  # of a standard deviation of 10
        problem = FinetuneProblem(
            layer, fitness=ModuleFitness("flat", "max", lambda _: 0.0), select="levels*", seed=1
        )
        searcher = evolution(problem, popsize=2, subspace=Dense(), adapt_sigma=True, sigma=2.0, scale=scale)
        searcher.run(30)
        assert searcher.sigma == (0.125 if scale == "absolute" else 0.0125)

    def test_stays_when_nothing_is_to_adapt_it(self):
        searcher = evolution(problem_of(), popsize=6)
        searcher.run(3)
        assert searcher.sigma == searcher.status["sigma"] == 0.3

    @pytest.mark.parametrize("scale", ["absolute", "relative"])
    def test_auto_is_the_calibrated_one_and_found_once(self, scale, monkeypatch):
        calls = []

        def counted(*args, **options):
            calls.append(1)
            return calibrate_sigma(*args, **options)

        monkeypatch.setattr(module, "calibrate_sigma", counted)
        searcher = evolution(problem_of("accuracy"), popsize=6, sigma="auto", keep=0.95, scale=scale)
        assert not calls
        searcher.run(2)
        expected = calibrate_sigma(Evaluator(trained(), SAMPLES, "accuracy"), RULE, 0.95, key=key_of(), scale=scale)
        assert calls == [1]
        assert searcher.status["evaluations"] == expected.evaluations + 1 + 2 * 6  # the parent, two generations
        steps = [lineage.steps[-1] for lineage in searcher.problem.lineages(searcher.population)[1:]]
        assert {step.sigma for step in steps} == {searcher.sigma} == {searcher.status["sigma"]} == {expected.sigma}


class TestRace:
    @pytest.mark.parametrize("fitness", ["cross_entropy", "accuracy"])
    def test_who_has_not_seen_all_samples_is_looked_at_again(self, fitness):
        """In the next race, and out of races."""
        problem = problem_of(fitness, steps=3)
        searcher = evolution(problem, popsize=16, num_parents=6, num_elites=6, race=True)
        for _ in range(3):
            searcher.step()
            population = searcher.population.clone()
            problem.evaluate(population)
            expected = Evaluator(problem.space, SAMPLES, fitness).evaluate(problem.lineages(population))
            assert evals(population) == expected.fitness.tolist()

    def test_it_goes_on_from_a_state_and_finalists_have_seen_all(self):
        def made():
            return evolution(problem_of(steps=3), popsize=16, num_parents=6, num_elites=6, race=True)

        one, other = made(), made()
        for generation in range(3):
            before = one.problem.evaluations
            one.step()
            if generation == 1:  # only some of the parents have seen all samples
                assert 16 < one.problem.evaluations - before < 16 + 6
            other.step()
            assert evals(other.population) == evals(one.population)
            assert other.status["evaluations"] == one.status["evaluations"]
            state, other = copy.deepcopy(other.state_dict()), made()
            other.load_state_dict(state)

    def test_the_population_is_ranked_as_a_race_of_the_evaluators_is(self):
        problem = problem_of()
        searcher = evolution(problem, popsize=16, num_elites=0, race=True)
        searcher.run(1)
        children = problem.lineages(searcher.population)
        expected = Evaluator(trained(), SAMPLES).race(children, derive(problem.key, "race"))
        assert torch.equal(searcher.population.access_evals(0), expected.fitness)
        best = Evaluator(trained(), SAMPLES).evaluate(problem.lineages(searcher.parents[:1])).fitness
        torch.testing.assert_close(searcher.parents.access_evals(0), best, rtol=1e-5, atol=0)  # other batches
        samples = len(SAMPLES[1])
        seen = sum(count * images for count, images in race_rounds(16, samples))
        assert searcher.status["images"] == searcher.status["forwards"] == seen + samples  # and the parent's
        assert searcher.status["evaluations"] == 17

    def test_it_can_be_resumed(self):
        one, other = (evolution(problem_of(), popsize=8, race=True) for _ in range(2))
        one.run(2)
        other.problem.load_state_dict(one.problem.state_dict())
        other.load_state_dict(one.state_dict())
        for searcher in (one, other):
            searcher.run(1)
        assert torch.equal(one.population.values, other.population.values)
        assert torch.equal(one.population.evals, other.population.evals)
        assert one.status["images"] == other.status["images"]

    def test_what_it_cannot_be_with_is_refused(self):
        with pytest.raises(InvalidValue, match=r"^race: expected it without adapt_sigma"):
            evolution(problem_of(), popsize=8, race=True, adapt_sigma=True)
        with pytest.raises(InvalidValue, match=r"^race: expected no actors, got 2"):
            evolution(problem_of(num_actors=2), popsize=8, race=True)
        problem = FinetuneProblem(trained(), None, ModuleFitness("far", "max", far_or_home), seed=1)
        with pytest.raises(InvalidValue, match=r"^race: expected a fitness of samples"):
            evolution(problem, popsize=8, race=True)
