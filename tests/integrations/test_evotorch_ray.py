"""Ray: actors change nothing but the time, and what travels to them is small."""

import copy
import random
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import ray
import torch
from evotorch.algorithms import SNES, GeneticAlgorithm
from evotorch_helpers import RULE, Heavy, evals, evaluated, make, pickled, population
from helpers import same_bits, state_bits
from ray._private.serialization import SerializationContext
from ray_helpers import Cramped, Flip, Levels, Slow, cluster, deadly
from torch import nn

from smd_evo import (
    AddMutation,
    Dense,
    FinetuneProblem,
    ModuleFitness,
    OpenAIES,
    Staged,
    SubspaceES,
    SubspaceEvolution,
    SubspaceProblem,
    UnitSubspace,
)
from smd_evo.errors import ActorsDiverged, ActorsLost, InvalidType, InvalidValue

KB = 1000


@dataclass
class Message:
    """What one object took on its way to the actors, or from them."""

    what: str
    size: int
    networks: int = 0


@pytest.fixture(scope="module")
def wire(lean):
    """A cluster, and a list of all that travels between this process and the actors."""
    messages: list[Message] = []
    serialize, deserialize = SerializationContext.serialize, SerializationContext.deserialize_objects

    def sending(self, value):
        before = Heavy.pickles
        result = serialize(self, value)
        messages.append(Message(type(value).__name__, result.total_bytes, Heavy.pickles - before))
        return result

    def receiving(self, found, *others):
        messages.extend(Message("result", sum(len(memoryview(part)) for part in one[:2] if part)) for one in found)
        return deserialize(self, found, *others)

    with cluster(lean, num_gpus=1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(SerializationContext, "serialize", sending)
        patch.setattr(SerializationContext, "deserialize_objects", receiving)
        yield messages


def random_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(40, 1, 4, 4, generator=generator), torch.randint(3, (40,), generator=generator)


class Pair:
    """The same problem twice: in this process, and with actors. Whatever is done is done to both."""

    def __init__(self, kind, num_actors=2, **options):
        torch.manual_seed(0)
        parent, options = Heavy(), {"minibatch_size": 20} | options
        self.alone = make(kind, parent, data(), **options)
        self.parallel = make(kind, parent, data(), num_actors=num_actors, **options)

    def both(self, function):
        """What a function of the problem returns: the same for both, as is all that one can see of them."""
        results = [function(problem) for problem in (self.alone, self.parallel)]
        assert results[0] == results[1]
        one, other = (
            {
                name: value.tolist() if name == "history" else value
                for name, value in problem.status.items()
                if name not in ("best", "worst", "restarts", "images", "forwards")
            }
            for problem in (self.alone, self.parallel)
        )
        assert one == other
        assert self.alone.changes == self.parallel.changes
        assert same_bits(self.parent, state_bits(self.parallel.make_net()))
        return results[0]

    def evaluate(self, **options):
        return self.both(lambda problem: evaluated(problem, population(problem, **options)))

    def search(self, make_searcher, generations=3):
        def run(problem):
            searcher = make_searcher(problem)
            told = []
            for _ in range(generations):
                searcher.step()
                told.append((searcher.population.values.tolist(), evals(searcher.population)))
            return told

        return self.both(run)

    @property
    def parent(self):
        return state_bits(self.alone.make_net())

    def check_actors(self):
        """Each has the present parent, once it has been told in an evaluation."""
        self.evaluate()
        parents = [state_bits(network) for network in self.parallel.all_remote_problems().make_net()]
        assert len(parents) == self.parallel.num_actors
        assert all(same_bits(parent, self.parent) for parent in parents)


@pytest.fixture(scope="module")
def first(wire):
    """Both problems after their first evaluation, what travelled for it, and whether random states moved."""
    pair = Pair(FinetuneProblem, steps=8)
    own, before = pair.parallel.generator.get_state(), random_states()
    wire.clear()
    pair.parallel.evaluate(population(pair.parallel))
    states = before == random_states() and torch.equal(own, pair.parallel.generator.get_state())
    messages = list(wire)
    pair.alone.evaluate(population(pair.alone))
    return pair, messages, states


@pytest.fixture(scope="module")
def pair(first):
    return first[0]


@pytest.fixture(scope="module")
def subspaces(wire):
    """A SubspaceProblem, and another one whose three actors share one GPU, on two CPUs."""
    pair = Pair(SubspaceProblem, num_actors=3, num_gpus_per_actor=0.25)
    started = threading.Thread(target=pair.evaluate, daemon=True)
    started.start()
    started.join(240)  # actors that want a CPU each wait for it for ever
    assert not started.is_alive()
    return pair


SEARCHERS = {
    "SubspaceEvolution": lambda problem: SubspaceEvolution(problem, popsize=8, subspace=RULE, sigma=0.1),
    "SubspaceEvolution, several parents": lambda problem: SubspaceEvolution(
        problem, popsize=8, density=0.1, sigma="auto", num_parents=3, num_elites=2, adapt_sigma=True
    ),
    "SubspaceES": lambda problem: SubspaceES(
        problem, popsize=8, density=0.1, sigma=0.1, center_learning_rate=0.05, weight_decay=0.01
    ),
    "SubspaceES, static": lambda problem: SubspaceES(
        problem, popsize=8, density=0.1, static=True, sigma=0.1, center_learning_rate=0.05, optimizer="clipup"
    ),
    "SubspaceES, units": lambda problem: SubspaceES(
        problem, popsize=8, subspace=UnitSubspace(1, Dense()), sigma=0.1, center_learning_rate=0.05
    ),
    "OpenAIES": lambda problem: OpenAIES(problem, popsize=8),
    "Staged": lambda problem: Staged(
        problem, [(2, SEARCHERS["SubspaceEvolution"]), (1, SEARCHERS["SubspaceES, static"])]
    ),
    "GeneticAlgorithm": lambda problem: GeneticAlgorithm(
        problem, operators=[AddMutation(problem, stdev=0.1, density=0.1)], popsize=8
    ),
}


class TestTheSame:
    def test_main_draws_the_same_random_numbers(self, first):
        """EvoTorch draws the actors' seeds from the problem's generator."""
        assert first[2]

    def test_rebases(self, pair):
        for key in range(2):
            pair.evaluate(key=key)
            pair.both(lambda problem, key=key: problem.rebase(population(problem, key=key)[1]))
        pair.evaluate()

    def test_actors_have_the_present_parent_after_several_changes_at_once(self, pair):
        def move(problem):
            for key in range(3):
                problem.rebase(population(problem, key=key)[0])
            problem.rebase(problem.lineages(population(problem))[1])

        pair.both(move)
        pair.check_actors()

    def test_shares_of_the_samples(self, pair):
        def run(problem):
            size, problem.minibatch_size = problem.minibatch_size, None
            told = []
            for share in ((0, 2), (1, 2), None):
                problem.share = share
                told.append(evaluated(problem, population(problem)))
            problem.minibatch_size = size
            return told

        told = pair.both(run)
        assert len(set(map(str, told))) == 3

    def test_a_schedule_of_minibatches(self, pair):
        """Of sizes, with one's solutions again in the next: nothing that is known of one passes for another."""

        def run(problem):
            told = []
            for size in (7, None, None, 30, 20):
                problem.minibatch_size = size
                before = problem.status["evaluations"]
                told.append((evaluated(problem, population(problem, key=3)), problem.status["evaluations"] - before))
            return told

        told = pair.both(run)
        assert len({str(found) for found, _ in told}) == 4
        assert [count for _, count in told] == [7, 7, 0, 7, 7]

    def test_in_low_precision(self, pair):
        """Autocast is of one thread of one process: actors have to be told."""
        children = pair.alone.lineages(population(pair.alone))
        whole = pair.alone.evaluator.evaluate(children).fitness.tolist()  # on the same samples
        with torch.autocast("cpu", torch.bfloat16):
            low = pair.evaluate()
        assert low != whole
        assert low == pytest.approx(whole, rel=0.1)

    def test_a_search_that_goes_on_from_a_state(self, pair):
        """The actors' own parent is another one by then."""

        def run(problem):
            searcher = SEARCHERS["SubspaceES"](problem)
            searcher.step()
            state = copy.deepcopy(searcher.state_dict())
            told = [evals((searcher.step(), searcher.population)[1]) for _ in range(2)]
            searcher.load_state_dict(state)
            assert [evals((searcher.step(), searcher.population)[1]) for _ in range(2)] == told
            return told

        pair.both(run)
        pair.check_actors()

    def test_several_objectives_and_what_comes_with_them(self, wire):
        """All columns come home from the actors, in a search that is NSGA-II's."""
        pair = Pair(FinetuneProblem, fitness=["accuracy", "change_norm"], eval_data=["cross_entropy"], steps=4)
        searchers = [SEARCHERS["GeneticAlgorithm"](problem) for problem in (pair.alone, pair.parallel)]
        for searcher in searchers:
            searcher.run(3)
        one, other = (searcher.population.evals for searcher in searchers)
        assert torch.equal(one, other)
        assert one.shape == (8, 3)
        assert len(pair.both(lambda problem: [problem.status[f"obj{n}_parent_eval"] for n in range(2)])) == 2
        pair.parallel.kill_actors()

    def test_one_solution_only(self, pair):
        """There is nothing to do for the second actor."""
        pair.evaluate(count=1)
        pair.both(lambda problem: problem.evaluate(population(problem, 3)[1]))

    def test_after_an_error_in_the_actors(self, pair):
        """Both fail, and neither's error turns up in the next evaluation."""

        def fail(problem):
            with pytest.raises(RuntimeError, match="broken"):
                problem.evaluate(population(problem, sigma=1e9))

        pair.both(fail)
        pair.evaluate()
        pair.check_actors()

    def test_an_actor_that_cannot_load_the_parent_says_why(self, pair, monkeypatch):
        class Unloadable:
            def __reduce__(self):
                return int, ("a module of the user's that is only here",)

        monkeypatch.setattr(pair.parallel, "_replica", Unloadable())
        with pytest.raises(ray.exceptions.RaySystemError, match="that is only here"):
            pair.parallel._share_attributes()


class TestTheWire:
    def test_the_parent_travels_once_for_both_actors(self, first):
        messages = first[1]
        heavy = [message for message in messages if message.size > 20 * KB]
        assert [message.what for message in heavy] == ["Replica"]
        assert heavy[0].size < 100 * KB  # 84 kB of weights, 3 kB of data
        assert sum(message.networks for message in messages) == 1
        problems = [message.size for message in messages if message.what == "FinetuneProblem"]
        assert len(problems) == 2
        assert max(problems) < 10 * KB

    def test_a_child_costs_at_most_a_hundred_bytes_in_both_directions(self, pair, wire):
        """Also with room for eight steps in each lineage."""
        wire.clear()
        pair.evaluate(count=1000, key=5)
        assert sum(message.size for message in wire) < 1000 * 60  # a row of 32, a fitness of 8 twice, and messages

    @pytest.mark.parametrize("name", SEARCHERS)
    def test_nothing_big_travels_in_later_generations(self, name, pair, wire):
        pair.evaluate(count=1)  # so that the actors know of what was before
        wire.clear()
        pair.search(SEARCHERS[name])
        assert sum(message.size for message in wire) < 20 * KB  # for three generations
        assert not any(message.networks for message in wire)

    def test_a_move_of_the_parent_costs_a_few_bytes_a_child(self, pair, wire):
        def move(problem):
            SEARCHERS["OpenAIES"](problem).step()
            problem.rebase(population(problem)[0])

        pair.both(move)
        wire.clear()
        pair.parallel._sync_before()
        assert sum(message.size for message in wire) < 3 * KB  # for two actors
        pair.check_actors()


class TestOtherActors:
    def test_a_problem_stored_while_it_has_actors_and_one_whose_actors_were_killed(self, pair, wire):
        pair.both(lambda problem: problem.rebase(population(problem)[0]))  # which the actors do not know yet
        stored = copy.copy(pair)
        stored.alone, stored.parallel = pickled(pair.alone), pickled(pair.parallel)
        assert stored.parallel.actors is None
        pair.parallel.kill_actors()
        for one in (stored, pair):
            wire.clear()
            one.check_actors()
            assert [message.what for message in wire if message.networks] == ["Replica"]  # however many there were
            one.both(lambda problem: problem.rebase(population(problem)[1]))
            one.search(SEARCHERS["SubspaceES"])
            one.check_actors()
            one.parallel.kill_actors()


def test_integers_and_what_steps_of_them_have_left_also_for_later_actors(wire):
    """All actors and this process round alike, and are compared after each step."""
    parents = []
    for actors in (0, 2):
        problem = FinetuneProblem(Levels(), data(), select="levels*", seed=1, num_actors=actors)
        searcher = SubspaceES(problem, popsize=8, density=0.5, sigma=3.0, center_learning_rate=0.2)
        for _ in range(2):
            searcher.run(4)
            problem.kill_actors()
        parents.append((problem.make_net().levels, problem.replica.rest))
    assert torch.equal(parents[0][0], parents[1][0])
    assert torch.equal(parents[0][1], parents[1][1])
    assert not torch.equal(parents[0][0], Levels().levels)


def test_a_size_of_minibatches_is_checked_and_does_not_pass_for_another():
    problem = make(FinetuneProblem, Heavy(), data(), minibatch_size=20)
    first = evaluated(problem, population(problem))
    problem.minibatch_size = None
    assert evaluated(problem, population(problem)) != first  # the first minibatch is number 0, all samples are, too
    for size, kind, builtin in (
        (41, InvalidValue, ValueError),
        (0, InvalidValue, ValueError),
        (2.5, InvalidType, TypeError),
    ):
        check_error(
            lambda size=size: setattr(problem, "minibatch_size", size), kind, builtin, "^minibatch_size: expected"
        )
        assert problem.minibatch_size is None


def check_error(call, kind, builtin, message):
    with pytest.raises(kind, match=message) as caught:
        call()
    assert isinstance(caught.value, builtin)
    assert "\n" not in str(caught.value)


class TestMemory:
    def test_what_fits_into_an_actor_is_told_once_and_all_keep_to_it(self, wire, tmp_path):
        torch.manual_seed(0)
        network, options = Cramped(tmp_path), {"minibatch_size": 20, "batch_size": 20}
        alone, parallel = (make(FinetuneProblem, network, data(), num_actors=number, **options) for number in (0, 2))
        expected = [evaluated(alone, population(alone, key=key)) for key in range(3)]
        with pytest.warns(RuntimeWarning, match="^out of memory in an actor; from now on at most 5: fitness may"):
            assert evaluated(parallel, population(parallel, key=0)) == pytest.approx(expected[0])
        assert parallel.evaluator.limit.samples == 5
        failures = sorted(tmp_path.iterdir())
        # Eight samples are those of the trial of the weights.
        assert {file.name.split()[0] for file in failures} - {"8"} == {"10", "20"}
        assert evaluated(parallel, population(parallel, key=1)) == pytest.approx(expected[1])
        parallel.kill_actors()
        assert evaluated(parallel, population(parallel, key=2)) == pytest.approx(expected[2])
        assert sorted(tmp_path.iterdir()) == failures  # new actors know what fits
        parallel.kill_actors()


class TestDeaths:
    def test_in_mid_generation(self, wire, tmp_path):
        """New actors take over, from the present parent; nothing else changes."""
        slow = Slow(tmp_path, 0.1)
        pair = Pair(FinetuneProblem, fitness=ModuleFitness("sum", "min", slow), minibatch_size=None)
        searchers = [SEARCHERS["SubspaceES"](problem) for problem in (pair.alone, pair.parallel)]
        seen = []
        for number in range(3):
            if number == 1:
                threading.Thread(target=slow.kill_one, daemon=True).start()
            for searcher in searchers:
                searcher.step()
            one, other = (searcher.population for searcher in searchers)
            assert torch.equal(one.values, other.values)
            assert torch.equal(one.evals, other.evals)
            seen.append(searchers[1].status["restarts"])
        assert seen == [0, 1, 1]
        pair.check_actors()
        pair.parallel.kill_actors()

    def test_again_and_again(self, wire, monkeypatch):
        monkeypatch.setattr("smd_evo.integrations.evotorch.actors._LOSSES", 2)
        network = nn.Linear(4, 4)
        for parameter in network.parameters():
            parameter.data.zero_()
        problem = make(FinetuneProblem, network, None, ModuleFitness("deadly", "min", deadly), num_actors=2)
        check_error(
            lambda: problem.evaluate(population(problem)), ActorsLost, RuntimeError, "^actors: .* deaths in a row: 2"
        )
        assert problem.restarts == 1
        problem.kill_actors()

    def test_between_generations_and_then_no_processors_for_new_actors(self, pair, monkeypatch):
        pair.evaluate()
        monkeypatch.setattr("smd_evo.integrations.evotorch.actors._START", 1)
        monkeypatch.setattr("smd_evo.integrations.evotorch.actors._LOOK", 0.5)
        monkeypatch.setattr(pair.parallel, "_actor_config", {"num_cpus": 64})
        ray.kill(pair.parallel.actors[0])
        check_error(
            lambda: pair.parallel.evaluate(population(pair.parallel, key=9)),
            ActorsLost,
            RuntimeError,
            "^actors: expected 2 to start",
        )
        monkeypatch.undo()
        pair.evaluate(key=9)
        pair.check_actors()


class TestFingerprints:
    def test_a_flipped_bit_in_one_actor_is_told_in_the_same_generation(self, pair, tmp_path):
        pair.both(lambda problem: problem.change(Flip(tmp_path / "flipped")))
        check_error(
            lambda: pair.parallel.evaluate(population(pair.parallel)),
            ActorsDiverged,
            RuntimeError,
            r"^actor \d: expected .* checksum [0-9a-f]{8}, got [0-9a-f]{8}; kill_actors",
        )
        pair.parallel.kill_actors()
        pair.alone.count(7)  # which are to be evaluated once more
        pair.evaluate()
        pair.check_actors()

    def test_actors_on_other_devices_must_agree_with_each_other(self, pair):
        kind, own = pair.parallel._replica.checksum()

        def receive(parents):
            pair.parallel._use_sync_data_from_actors([(None, *parent) for parent in parents])

        for good in ([(kind, own), ("cuda", 1), ("cuda", 1)], [("cuda", own)]):
            receive(good)
        for bad in ([(kind, own), (kind, own ^ 1)], [("cuda", 1), ("cuda", 2)]):
            with pytest.raises(ActorsDiverged, match=f"actor {len(bad) - 1}"):
                receive(bad)

    def test_actors_that_had_nothing_to_do_follow_all_the_same(self, subspaces):
        for _ in range(3):
            subspaces.both(lambda problem: problem.rebase(population(problem)[0]))
            subspaces.evaluate(count=1)  # with the parent work for two of three
        subspaces.check_actors()


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({"num_gpus_per_actor": 0.25}, {"num_cpus": 0.25}),
        ({"actor_config": {"num_gpus": 0.5}}, {"num_gpus": 0.5, "num_cpus": 0.5}),
        ({"num_gpus_per_actor": 0.5, "actor_config": {"num_cpus": 1, "memory": 9}}, {"num_cpus": 1, "memory": 9}),
        ({"num_gpus_per_actor": 1}, None),
        ({"num_gpus_per_actor": "all"}, None),
        ({}, None),
    ],
)
def test_actors_that_share_a_gpu_share_a_processor(options, config):
    """Ray would keep a whole one for each; the user's own word stands."""
    problem = make(FinetuneProblem, Heavy(), data(), num_actors=4, **options)
    assert problem._actor_config == config


class TestSubspaces:
    def test_three_actors_share_a_gpu_and_two_processors(self, subspaces):
        subspaces.check_actors()

    def test_snes_with_a_rebase(self, subspaces):
        for _ in range(2):
            subspaces.search(lambda problem: SNES(problem, stdev_init=0.05, popsize=10))
            subspaces.both(lambda problem: problem.rebase(problem.status["best"]))
        subspaces.check_actors()

    def test_a_point_that_changes_between_the_rebase_and_the_next_evaluation(self, subspaces):
        """SNES fills one population again and again."""

        def move(problem):
            batch = population(problem)
            problem.rebase(batch[0])
            batch.access_values().zero_()

        subspaces.both(move)
        subspaces.check_actors()

    def test_what_travels_is_the_points_and_the_rebase(self, subspaces, wire):
        subspaces.both(lambda problem: problem.rebase(population(problem)[0]))
        wire.clear()
        subspaces.evaluate(count=100)
        points = 100 * (4 * 20 + 8 + 8)
        assert points < sum(message.size for message in wire) < points + 12 * KB
