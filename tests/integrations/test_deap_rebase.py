"""rebase() of DEAP's evaluator: long runs whose children cost few steps, and everything else as it was."""

import copy
import functools
import pickle
import random
from contextlib import nullcontext
from multiprocessing.dummy import Pool

import numpy as np
import pytest
import torch
from deap import algorithms, tools
from deap_helpers import SAMPLES, check_refused, evaluator_of, hall, lineages, toolbox_of, values
from helpers import same_bits, state_bits, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from smd_evo import (
    Evaluator,
    Lineage,
    LineageIndividual,
    ParameterSpace,
    RandomSubspace,
    sample_mutations,
)
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.integrations.deap.rebased import common_steps

STEPS = sample_mutations(5, 4, subspace=RandomSubspace(0.3), sigma=0.3)
LINEAGES = st.lists(st.sampled_from(STEPS), max_size=4).map(lambda steps: Lineage(tuple(steps)))
POPULATIONS = st.builds(
    lambda common, rests: [LineageIndividual(Lineage(common.steps + rest.steps)) for rest in rests],
    LINEAGES,
    st.lists(LINEAGES, min_size=1, max_size=4),
)


def test_a_network_whose_copy_computes_something_else_is_refused():
    network = trained()
    network.head.register_forward_hook(lambda _module, _inputs, outputs: outputs + network.head.bias.mean())
    evaluator = evaluator_of(network=network)
    one = LineageIndividual(Lineage(STEPS[:2]))
    before, expected = evaluator.evaluate(one), state_bits(evaluator.make_net(one))
    for steps in (2, 1, 0, 2):
        refused = pytest.raises(InvalidValue, match="network: expected a copy that computes what the network does")
        with refused if steps else nullcontext():
            evaluator.rebase([LineageIndividual(Lineage(STEPS[:steps]))])
        assert evaluator.evaluate(one) == before  # whatever was refused is not used either
        assert same_bits(state_bits(evaluator.make_net(one)), expected)


def test_a_network_that_was_changed_since_is_refused():
    network = trained()
    evaluator = evaluator_of(network=network)
    one = LineageIndividual(Lineage(STEPS[:2]))
    assert evaluator.rebase([LineageIndividual(Lineage(STEPS[:1]))]) == 1
    network.head.bias.data += 1
    for child in (one, LineageIndividual(Lineage(STEPS[1:]))):  # of the network as it is, whichever steps it has
        plain = evaluator_of(network=network)
        assert evaluator.evaluate(child) == plain.evaluate(child)
        assert same_bits(state_bits(evaluator.make_net(child)), state_bits(plain.make_net(child)))
    with pytest.raises(InvalidValue, match="network: expected it as it was at the first rebase, got other values"):
        evaluator.rebase([one])
    assert evaluator.evaluate(one) == evaluator_of(network=network).evaluate(one)


def generation(toolbox, evaluator, population, best=None, rebase=True, children=12):
    """One of (mu, lambda), as a user writes it."""
    offspring = algorithms.varOr(population, toolbox, children, cxpb=0.2, mutpb=0.8)
    new = [individual for individual in offspring if not individual.fitness.valid]
    for individual, fitness in zip(new, toolbox.map(toolbox.evaluate, new), strict=True):
        individual.fitness.values = fitness
    if best is not None:
        best.update(offspring)
    population = toolbox.select(offspring, len(population))
    if rebase:
        evaluator.rebase(population)
    return population


def run(generations, rebase, fitness="cross_entropy", network=None, seed=1, **options):
    random.seed(seed)
    evaluator = evaluator_of(fitness, network, **options)
    toolbox, best = toolbox_of(evaluator), hall(3)
    population = [evaluator.lineage() for _ in range(4)]
    for _ in range(generations):
        population = generation(toolbox, evaluator, population, best, rebase)
    return evaluator, population, best


@pytest.fixture
def replayed(monkeypatch):
    """Numbers of steps of all that is evaluated."""
    counts: list[int] = []
    evaluate = Evaluator.evaluate

    def spied(self, children, *rest):
        children = [*children]
        counts.extend(len(child) for child in children)
        return evaluate(self, children, *rest)

    monkeypatch.setattr(Evaluator, "evaluate", spied)
    return counts


PLAIN, REBASED = evaluator_of(), evaluator_of()
"""One that never is, and one that is again and again."""


class TestChildren:
    @settings(max_examples=20)
    @given(st.lists(POPULATIONS, min_size=1, max_size=3), LINEAGES)
    def test_they_are_the_same_to_the_bit_wherever_it_was_rebased_to(self, populations, stranger):
        others = [LineageIndividual(stranger), REBASED.dense()]
        for population in populations:
            expected = common_steps([individual.lineage for individual in population])
            assert REBASED.rebase(population) == len(expected)
            everyone = [*others, *population]
            assert REBASED.evaluate_all(everyone) == PLAIN.evaluate_all(everyone)
            for individual in (population[-1], *others):
                nets = [state_bits(evaluator.make_net(individual)) for evaluator in (REBASED, PLAIN)]
                assert same_bits(*nets)

    @given(st.lists(LINEAGES, max_size=4))
    def test_common_steps(self, many):
        expected = []
        while many and all(len(one) > len(expected) for one in many):
            step = many[0].steps[len(expected)]
            if any(one.steps[len(expected)] != step for one in many):
                break
            expected.append(step)
        assert common_steps(many) == tuple(expected)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
    def test_every_type_rounds_the_same(self, dtype):
        data = SAMPLES[0].to(dtype), SAMPLES[1]
        runs = [run(5, rebase, network=trained().to(dtype), data=data) for rebase in (True, False)]
        assert runs[0][1] == runs[1][1]
        assert values(runs[0][1]) == values(runs[1][1])
        nets = [state_bits(evaluator.make_net(best[0])) for evaluator, _, best in runs]
        assert same_bits(*nets)

    def test_several_in_a_pass(self):
        runs = [run(5, rebase, together=4) for rebase in (True, False)]
        assert values(runs[0][1]) == values(runs[1][1])

    def test_relative_steps_keep_the_scales_of_the_first_parent(self):
        evaluator, space = evaluator_of(), ParameterSpace(trained())
        steps = sample_mutations(1, 3, subspace=RandomSubspace(0.3), sigma=2.0, scale="relative")
        whole = LineageIndividual(Lineage(tuple(steps)))
        evaluator.rebase([LineageIndividual(Lineage(tuple(steps[:2])))])
        assert same_bits(state_bits(evaluator.make_net(whole)), state_bits(space.make_child(whole.lineage)))


class TestRuns:
    def test_a_run_is_the_same_and_its_children_cost_few_steps(self, replayed):
        """Coalescence: what all have in common is some generations old, not as old as the run."""
        _, population, best = run(40, True)
        few = replayed.copy()
        replayed.clear()
        _, expected, hall_ = run(40, False)
        assert population == expected
        assert values(population) == values(expected)
        assert [*best] == [*hall_]
        assert values(best) == values(hall_)
        longest = max(map(len, population))
        assert max(replayed) >= longest > 15
        assert sum(few) < sum(replayed) / 2

    def test_the_network_and_the_individuals_stay_as_they_are(self):
        network = trained()
        before = state_bits(network)
        evaluator, population, _ = run(8, True, network=network)
        twins = copy.deepcopy(population)
        assert evaluator.rebase(population[:1]) > 0
        assert population == twins
        assert values(population) == values(twins)
        assert same_bits(state_bits(network), before)
        assert evaluator.evaluator.space.module is network

    def test_a_hall_of_fame_and_a_history_stay_right(self):
        """tools.History, with the genealogy of a lineage: who is in it is as old as the run."""
        random.seed(2)
        evaluator, plain = evaluator_of(), evaluator_of()
        toolbox, history, best = toolbox_of(evaluator), tools.History(), hall(5)
        toolbox.decorate("mate", history.decorator)
        toolbox.decorate("mutate", history.decorator)
        population = [evaluator.lineage() for _ in range(4)]
        history.update(population)
        for _ in range(8):
            population = generation(toolbox, evaluator, population, best)
        assert evaluator.rebase(population[:1]) > 0
        known = history.genealogy_history
        assert values(best) == evaluator.evaluate_all(best) == plain.evaluate_all(best)
        genealogy = history.getGenealogy(best[0])
        assert len(genealogy) > 2
        for number, parents in genealogy.items():
            assert isinstance(known[number], LineageIndividual)
            family = {step for parent in parents for step in known[parent].lineage.steps}
            assert len(set(known[number].lineage.steps) - family) <= 1  # one mutation, or none of a cross-over
        everyone = [*known.values()]
        assert evaluator.evaluate_all(everyone) == plain.evaluate_all(everyone)

    def test_a_checkpoint_goes_on_exactly(self, tmp_path):
        """As in DEAP's documentation: population, generation, halloffame, logbook and rndstate in one pickle."""

        def search(evaluator, state, until, file=None):
            toolbox = toolbox_of(evaluator)
            statistics = tools.Statistics(lambda individual: individual.fitness.values)
            statistics.register("min", np.min)
            population, start, best, logbook = (
                state[name] for name in ("population", "generation", "halloffame", "logbook")
            )
            random.setstate(state["rndstate"])
            for number in range(start, until):
                population = generation(toolbox, evaluator, population, best)
                logbook.record(gen=number, **statistics.compile(population))
            state = {
                "population": population,
                "generation": until,
                "halloffame": best,
                "logbook": logbook,
                "rndstate": random.getstate(),
            }
            if file is not None:
                file.write_bytes(pickle.dumps(state))
            return state

        random.seed(3)
        evaluator, file = evaluator_of(), tmp_path / "checkpoint.pkl"
        start = {
            "population": [evaluator.lineage() for _ in range(4)],
            "generation": 0,
            "halloffame": hall(2),
            "logbook": tools.Logbook(),
            "rndstate": random.getstate(),
        }
        middle = search(evaluator, start, 6, file)
        whole = search(evaluator, middle, 12)
        resumed = search(evaluator_of(), pickle.loads(file.read_bytes()), 12)
        assert resumed["population"] == whole["population"]
        assert values(resumed["population"]) == values(whole["population"])
        assert [*resumed["halloffame"]] == [*whole["halloffame"]]
        assert resumed["logbook"] == whole["logbook"]
        assert resumed["rndstate"] == whole["rndstate"]

    def test_islands(self):
        """tools.migRing between populations, each with an evaluator that is rebased to it; migrants are strangers."""
        random.seed(4)
        evaluators, plain = [evaluator_of() for _ in range(3)], evaluator_of()
        toolboxes = [toolbox_of(evaluator) for evaluator in evaluators]
        islands = [[evaluator.lineage() for _ in range(4)] for evaluator in evaluators]
        for number in range(9):
            for place, (toolbox, evaluator) in enumerate(zip(toolboxes, evaluators, strict=True)):
                islands[place] = generation(toolbox, evaluator, islands[place])
            if number % 3 == 2:
                tools.migRing(islands, 1, tools.selBest)
                for evaluator, island in zip(evaluators, islands, strict=True):
                    assert evaluator.evaluate_all(island) == plain.evaluate_all(island) == values(island)
        ((before,),) = plain.evaluate_all([plain.lineage()])
        assert min(values(sum(islands, []))) < (before,)  # noqa: RUF017  # three of them

    @pytest.mark.parametrize(
        "algorithm",
        [
            functools.partial(algorithms.eaSimple, cxpb=0.2, mutpb=0.9),
            functools.partial(algorithms.eaMuPlusLambda, mu=6, lambda_=10, cxpb=0.2, mutpb=0.8),
        ],
        ids=lambda algorithm: algorithm.func.__name__,
    )
    def test_deaps_own_loops_with_a_select_that_rebases(self, algorithm):
        found = []
        for rebase in (True, False):
            random.seed(5)
            evaluator = evaluator_of()

            def select(individuals, count, evaluator=evaluator, rebase=rebase):
                chosen = tools.selTournament(individuals, count, tournsize=3)
                if rebase:
                    evaluator.rebase(chosen)
                return chosen

            toolbox = toolbox_of(evaluator, select=select)
            population = [evaluator.lineage() for _ in range(6)]
            population, _ = algorithm(population, toolbox, ngen=8, verbose=False)
            found.append((population, values(population)))
        assert found[0] == found[1]
        assert len(set(found[0][1])) > 1


class TestWhatMayHappenToIt:
    def test_ctrl_c_leaves_children_as_they_are(self, monkeypatch):
        evaluator, plain = evaluator_of(), evaluator_of()
        population = lineages(evaluator, 5)
        expected = plain.evaluate_all(population)
        evaluator.rebase(population[2:])
        for name in ("fold", "load"):
            for before in (True, False):  # what it is to do is done, or is not
                with monkeypatch.context() as patch:
                    patch.setattr(ParameterSpace, name, stopped(getattr(ParameterSpace, name), before))
                    with pytest.raises(KeyboardInterrupt):
                        evaluator.rebase(population[4:] if name == "fold" else population[1:])
                assert evaluator.evaluate_all(population) == expected
                assert evaluator.rebase(population[2:]) == 2
                assert evaluator.evaluate_all(population) == expected

    def test_threads_evaluate_while_others_rebase(self):
        evaluator = evaluator_of()
        population = lineages(evaluator, 8)
        expected = evaluator.evaluate_all(population)

        def work(number):
            if number % 3 == 0:
                evaluator.rebase(population[number % 8 :])
            return evaluator.evaluate(population[number % 8])

        with Pool(4) as pool:
            assert pool.map(work, range(48), chunksize=1) == expected * 6

    def test_copies_and_pickles_go_on_alone(self):
        evaluator = evaluator_of()
        population = lineages(evaluator, 5)
        expected = evaluator.evaluate_all(population)
        evaluator.rebase(population[2:])
        for other in (copy.deepcopy(evaluator), pickle.loads(pickle.dumps(evaluator))):
            assert other.evaluate_all(population) == expected
            assert other.rebase(population[3:]) == 3
            assert other.evaluate_all(population) == evaluator.evaluate_all(population) == expected

    def test_nothing_in_common_costs_nothing(self):
        evaluator = evaluator_of()
        for population in ([], [evaluator.lineage()], lineages(evaluator, 3)):
            assert evaluator.rebase(iter(population)) == 0
        assert evaluator._rebased is None

    def test_other_individuals_are_refused(self):
        evaluator = evaluator_of()
        for population in ([evaluator.dense()], [evaluator.lineage(), [1.0]], [Lineage()]):
            check_refused(
                lambda population=population: evaluator.rebase(population),
                InvalidType,
                "population: expected LineageIndividuals, got ",
            )


def stopped(method, before):
    def call(*arguments):
        if not before:
            method(*arguments)
        raise KeyboardInterrupt

    return call
