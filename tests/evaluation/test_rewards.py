"""Rewards: of what a network writes, for each prompt, the same whatever the way to it; errors name the sample."""

import copy
import os
import pickle
import random
import signal
import sys
import threading
import time

import pytest
import torch
from cli_helpers import here as smd_evo_command
from cli_helpers import refused
from helpers import same_bits, state_bits
from torch import nn

import smd_evo
from smd_evo import (
    Evaluator,
    FinetuneProblem,
    Lineage,
    ModuleFitness,
    Objectives,
    RandomSubspace,
    RewardFitness,
    SubspaceEvolution,
    ToolboxEvaluator,
    sample_mutations,
    split,
)
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.race import race
from smd_evo.evaluation.rewards import RewardFitness as Home
from smd_evo.evaluation.timeout import TimedOut, in_time

LETTERS = "abcdefgh"
CHILDREN = [*sample_mutations(0, 8, subspace=RandomSubspace(0.5), sigma=0.7), Lineage()]
PROMPTS = [a + b for a in LETTERS for b in LETTERS[:5]]


class Letters(nn.Module):
    """A model of letters: the next one from the last one."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(len(LETTERS), len(LETTERS), generator=generator))

    def forward(self, letter):
        return self.table[letter]


def greedy(module, prompts):
    letter = torch.tensor([LETTERS.index(prompt[-1]) for prompt in prompts])
    texts = [""] * len(prompts)
    for _ in range(4):
        letter = module(letter).argmax(1)
        texts = [text + LETTERS[number] for text, number in zip(texts, letter.tolist(), strict=True)]
    return texts


def drawn(module, prompts):
    shares = module(torch.tensor([LETTERS.index(prompt[-1]) for prompt in prompts])).softmax(1)
    return [LETTERS[number] for number in shares.multinomial(1).flatten().tolist()]


def early(texts, references):
    """How many letters of a text do not come after the first one of its reference."""
    return [sum(own <= each[0] for own in text) for text, each in zip(texts, references, strict=True)]


@pytest.fixture
def network():
    return Letters()


@pytest.fixture
def fitness():
    return RewardFitness("early", greedy, early, PROMPTS)


def by_hand(network, child, prompts=PROMPTS):
    module = Evaluator(network, fitness=ModuleFitness("", "max", lambda _: 0.0)).space.make_child(child).eval()
    with torch.no_grad():
        return early(greedy(module, prompts), prompts)


class TestEvaluation:
    @pytest.mark.parametrize("batch_size", ["auto", 7, 100])
    def test_is_the_mean_reward_of_all_prompts(self, network, fitness, batch_size):
        before = state_bits(network)
        evaluator = Evaluator(network, fitness=fitness, batch_size=batch_size)
        expected = torch.tensor([by_hand(network, child) for child in CHILDREN]).double()
        assert evaluator.scores(CHILDREN).tolist() == expected.tolist()
        found = evaluator.evaluate(CHILDREN)
        assert found.fitness.tolist() == pytest.approx(expected.mean(1).tolist())
        assert (found.sense, len(set(found.fitness.tolist())) > 5) == ("max", True)
        assert fitness.of(network) == pytest.approx(float(found.fitness[-1]))
        assert same_bits(before, state_bits(network))

    def test_of_some_prompts_by_their_numbers(self, network, fitness):
        numbers = torch.tensor([3, 9, 30])
        prompts = [PROMPTS[number] for number in numbers]
        found = Evaluator(network, fitness=fitness).on_samples(numbers).scores(CHILDREN)
        assert found.tolist() == [by_hand(network, child, prompts) for child in CHILDREN]
        again = Evaluator(network, tuple(part[numbers] for part in fitness.samples), fitness).scores(CHILDREN)
        assert torch.equal(found, again)

    def test_generates_once_for_a_child_and_a_prompt(self, network):
        asked = []

        def generate(module, prompts):
            asked.append(len(prompts))
            return greedy(module, prompts)

        Evaluator(network, fitness=RewardFitness("", generate, early, PROMPTS), batch_size=16).evaluate(CHILDREN)
        assert asked == [16, 16, 8] * len(CHILDREN)

    def test_the_same_random_numbers_for_every_child_and_batch_and_none_of_the_users(self, network):
        seen = []

        def reward(texts, references):
            seen.append((random.random(), float(torch.rand(1))))
            return [1.0] * len(texts)

        before = torch.get_rng_state(), random.getstate()
        Evaluator(network, fitness=RewardFitness("", drawn, reward, PROMPTS), batch_size=20).evaluate(CHILDREN[:3])
        assert len(seen) == 6
        assert len({number for number, _ in seen}) == 1
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == random.getstate()

    def test_the_parent_twice_writes_the_same(self, network):
        evaluator = Evaluator(network, fitness=RewardFitness("", drawn, early, PROMPTS), batch_size=9)
        one, other = evaluator.scores([Lineage(), Lineage()])
        assert torch.equal(one, other)
        assert len(set(one.tolist())) > 1

    def test_references_are_told_beside_the_texts_of_their_prompts(self, network):
        told = {}

        def reward(texts, references):
            told.update(zip(references, texts, strict=True))
            return torch.zeros(len(texts))

        references = list(range(40))
        fitness = RewardFitness("", greedy, reward, PROMPTS, references)
        Evaluator(network, fitness=fitness, batch_size=7).evaluate([Lineage()])
        assert [told[number] for number in references] == greedy(network, PROMPTS)

    @pytest.mark.parametrize("who", ["generate", "reward"])
    def test_prompts_that_do_not_fit_together_are_answered_by_halves(self, network, fitness, who):
        def tightly(function):
            def limited(*arguments):
                if len(arguments[1]) > 12:
                    raise torch.cuda.OutOfMemoryError("no room")
                return function(*arguments)

            return limited

        both = {"generate": greedy, "reward": early}
        tight = RewardFitness("", **both | {who: tightly(both[who])}, prompts=PROMPTS)
        with pytest.warns(RuntimeWarning, match="out of memory"):
            found = Evaluator(network, fitness=tight).evaluate(CHILDREN)
        assert found.fitness.tolist() == pytest.approx(
            Evaluator(network, fitness=fitness).evaluate(CHILDREN).fitness.tolist()
        )


class TestCache:
    def test_asks_the_reward_once_for_each_answer_to_a_prompt(self, network, fitness):
        asked = []

        def reward(texts, references):
            asked.extend(zip(texts, references, strict=True))
            return early(texts, references)

        cached = RewardFitness("", greedy, reward, PROMPTS, cache=True)
        evaluator = Evaluator(network, fitness=cached, batch_size=8)
        expected = Evaluator(network, fitness=fitness).scores(CHILDREN)
        for _ in range(2):
            assert torch.equal(evaluator.scores(CHILDREN), expected)
        assert len(asked) == len(set(asked))

    def test_that_is_full_begins_again(self, network, fitness, monkeypatch):
        monkeypatch.setattr("smd_evo.evaluation.rewards._MOST", 10)
        cached = RewardFitness("", greedy, early, PROMPTS, cache=True)
        expected = Evaluator(network, fitness=fitness).scores(CHILDREN)
        assert torch.equal(Evaluator(network, fitness=cached, batch_size=8).scores(CHILDREN), expected)

    def test_needs_texts_that_can_be_compared(self, network):
        fitness = RewardFitness("odd", lambda _, prompts: [[0]] * len(prompts), early, PROMPTS, cache=True)
        with pytest.raises(
            InvalidType, match=r"^odd: expected texts that can be compared, got \[0\]; leave cache out"
        ):
            Evaluator(network, fitness=fitness).evaluate([Lineage()])


class TestSearch:
    def test_a_race_is_over_prompts(self, network, fitness):
        many = [*sample_mutations(1, 16, subspace=RandomSubspace(0.5), sigma=0.7), Lineage()]
        found = race(Evaluator(network, fitness=fitness), many)
        whole = Evaluator(network, fitness=fitness).evaluate(many)
        best = found.ranking()[0]
        assert found.fitness[best] == pytest.approx(float(whole.fitness[best]))
        assert found.parent == pytest.approx(whole.parent)

    def test_a_searcher_races_over_them(self, network, fitness):
        problem = FinetuneProblem(network, fitness=fitness, seed=1)
        searcher = SubspaceEvolution(problem, popsize=16, subspace=RandomSubspace(0.5), sigma=0.7, race=True)
        searcher.run(1)
        best = searcher.population[int(searcher.population.argbest())]
        whole = Evaluator(network, fitness=fitness).evaluate(problem.lineages(best)).fitness
        assert float(best.evals[0]) == pytest.approx(float(whole[0]))

    def test_both_hosts_take_them(self, network, fitness):
        problem = FinetuneProblem(network, fitness=fitness, seed=1, minibatch_size=10)
        assert (problem.samples, problem.evaluator.samples) == (40, 10)
        population = problem.mutate(problem.generate_batch(5), key=2, subspace=RandomSubspace(0.5), sigma=0.7)
        expected = problem.evaluator.evaluate(problem.lineages(population)).fitness.tolist()
        problem.evaluate(population)
        assert population.access_evals(0).tolist() == expected
        toolbox = ToolboxEvaluator(network, fitness=fitness)
        assert toolbox.evaluate(toolbox.lineage())[0] == pytest.approx(fitness.of(network))

    def test_are_one_of_several_objectives_beside_those_of_data(self, network, fitness):
        data = torch.arange(8).repeat(4), torch.arange(32) % 8
        objectives = Objectives([fitness, "cross_entropy", "change_norm"])
        found = objectives.evaluate(objectives.evaluator(network, data), CHILDREN)
        alone = [Evaluator(network, None, fitness), Evaluator(network, data)]
        for column, evaluator in zip(found.T, alone, strict=False):
            assert column.tolist() == evaluator.evaluate(CHILDREN).fitness.tolist()

    def test_a_run_over_generations_reports_prompts_that_it_has_not_seen(self, network, fitness):
        prompts = split(fitness.samples, fitness=16, validation=12)
        options = {"generations": 4, "children": 8, "sigma": 0.5, "density": 0.5, "images": 8, "callback": _quiet}
        result = smd_evo.evolve(network, prompts, fitness=fitness, **options)
        before, after = result.numbers["rows"]
        numbers = prompts.test[0]
        assert len(numbers) == 12
        test = (
            Evaluator(each, (numbers, numbers), fitness).scores([Lineage()])[0] for each in (network, result.best)
        )
        mine, best = test
        assert before["fitness"] == pytest.approx(float(mine.mean()))
        assert after["fitness"] == pytest.approx(float(best.mean()))
        assert after["fitness_gain"]["value"] == pytest.approx(float((best - mine).mean()))
        assert "Early, higher is better; difference: to the parent" in " ".join(repr(result).split())
        assert result.ensemble is None

    def test_it_deals_all_prompts_by_itself(self, network, fitness):
        options = {"generations": 1, "children": 4, "sigma": 0.5, "callback": _quiet}
        result = smd_evo.evolve(network, fitness=fitness, **options)
        assert sum(result.numbers["data"]["samples"].values()) == 40

    def test_they_choose_no_ensembles(self, network, fitness):
        with pytest.raises(InvalidType, match=r"^fitness: expected one of outputs for samples, got early"):
            smd_evo.finetune(network, None, fitness=fitness, children=4, sigma=0.5, callback=_quiet)


def _quiet(state):
    """Nothing is told."""


class TestRefusals:
    def refusal(self, network, reward, generate=greedy, **options):
        fitness = RewardFitness("mine", generate, reward, PROMPTS, **options)
        before = state_bits(network)
        with pytest.raises((InvalidValue, InvalidType)) as raised:
            Evaluator(network, fitness=fitness, batch_size=16).evaluate(CHILDREN)
        assert same_bits(before, state_bits(network))
        assert "\n" not in str(raised.value)
        return raised.value

    @pytest.mark.parametrize(
        ("found", "message"),
        [
            (1.0, "mine: expected 16 rewards, one a sample, got something else; return a list"),
            ([1.0], "mine: expected 16 rewards, one a sample, got 1; return a list"),
            (torch.tensor(1.0), "mine: expected 16 rewards, one a sample, got something else"),
            (
                [0.0] * 3 + [float("nan")] * 13,
                "mine: expected a finite reward of each sample, got nan for sample 3: prompt",
            ),
            (
                ["good"] * 16,
                "mine: expected a finite reward of each sample, got 'good' for sample 0: prompt 'aa', text",
            ),
            ([None] * 16, "mine: expected a finite reward of each sample, got None for sample 0: prompt 'aa', text"),
            (
                ["1.0"] * 16,
                "mine: expected a finite reward of each sample, got '1.0' for sample 0: prompt 'aa', text",
            ),
            ([torch.zeros(2)] * 16, "mine: expected a finite reward of each sample, got Tensor of shape [2] for"),
            ([10**400] * 16, "mine: expected a finite reward of each sample, got 1000"),
        ],
    )
    def test_rewards(self, network, found, message):
        assert str(self.refusal(network, lambda texts, references: found)).startswith(message)

    def test_an_exception_names_its_sample(self, network):
        def reward(texts, references):
            return [1 / (reference != "bc") for reference in references]

        error = self.refusal(network, reward)
        found = "got ZeroDivisionError: division by zero for sample 7: prompt 'bc', text"
        assert str(error).startswith(f"mine: expected a reward of each sample, {found}")
        assert isinstance(error.__cause__, ZeroDivisionError)

    def test_so_does_one_while_its_rewards_are_looked_at(self, network):
        def reward(texts, references):
            return (1 / (reference != "bc") for reference in references)

        found = "got ZeroDivisionError: division by zero for sample 7: prompt 'bc', text"
        assert found in str(self.refusal(network, reward))

    def test_or_the_batch_where_no_sample_raises_it_alone(self, network):
        def reward(texts, references):
            return [1.0] if len(texts) == 1 else texts[100]

        assert "IndexError: list index out of range for samples 0 to 15 together" in str(
            self.refusal(network, reward)
        )

    @pytest.mark.parametrize(("texts", "got"), [(["a"], "1"), ("aaaa", "something else"), (None, "something else")])
    def test_texts(self, network, texts, got):
        error = self.refusal(network, early, lambda module, prompts: texts)
        assert str(error) == f"mine: expected 16 texts from generate, one a prompt, got {got}; return a list"

    @pytest.mark.parametrize(
        ("arguments", "options", "message"),
        [
            ((greedy, early, "abc"), {}, "prompts: expected a list of them, got 'abc'"),
            ((greedy, early, {"a": "b"}), {}, "prompts: expected a list of them, got a dict; make a list of it"),
            ((greedy, early, {"a", "b"}), {}, "prompts: expected a list of them, got a set; make a list of it"),
            ((greedy, early, []), {}, "prompts: expected at least one, with a reference each, got none"),
            ((greedy, early, ["a"], ["b", "c"]), {}, "prompts: expected .* got 1 and 2 references"),
            ((greedy, "length", ["a"]), {}, "reward: expected a function, got 'length'"),
            ((None, early, ["a"]), {}, "generate: expected a function, got None"),
            ((greedy, early, ["a"]), {"sense": "up"}, "sense: expected one of min, max, got 'up'"),
            ((greedy, early, ["a"]), {"timeout": 0}, "timeout: expected a finite number > 0, got 0"),
            ((greedy, early, ["a"]), {"cache": "yes"}, "cache: expected true or false, got 'yes'"),
        ],
    )
    def test_arguments(self, arguments, options, message):
        with pytest.raises((InvalidValue, InvalidType), match=f"^{message}"):
            RewardFitness("mine", *arguments, **options)

    def test_samples_of_something_else(self, network, fitness, samples):
        for data in (
            samples,
            PROMPTS,
            torch.arange(3),
            (torch.arange(41), torch.zeros(41)),
            (torch.rand(3), torch.zeros(3)),
        ):
            with pytest.raises(
                InvalidValue, match=r"^data: expected numbers of the 40 prompts of 'early', got other"
            ):
                Evaluator(network, data, fitness)
        with pytest.raises(InvalidValue, match=r"^data: expected samples to predict"):
            Evaluator(network, None, fitness).predict(CHILDREN)

    def test_scores_of_what_is_no_mean(self, network):
        data = torch.arange(8), torch.arange(8)
        with pytest.raises(
            InvalidType, match=r"^fitness: expected a BatchFitness or a RewardFitness, got 'macro_f1'"
        ):
            Evaluator(network, data, "macro_f1").scores(CHILDREN)


class TestTimeout:
    def test_ends_a_reward_that_does_not_end_and_names_it(self, network):
        def reward(texts, references):
            while True:
                try:
                    time.sleep(0.01)
                except Exception:  # which the end of the time is not
                    continue

        threads = threading.active_count()
        fitness = RewardFitness("slow", greedy, reward, PROMPTS, timeout=0.2)
        with pytest.raises(
            InvalidValue, match=r"^slow: expected rewards of 32 samples within 0.2 s, got none \(sample 0"
        ):
            Evaluator(network, fitness=fitness).evaluate(CHILDREN)
        assert threading.active_count() == threads

    def test_ends_each_sample_that_catches_it_and_what_is_returned_bit_by_bit(self, network):
        def catching(texts, references):
            for _ in texts:
                try:
                    time.sleep(60)
                except BaseException:
                    continue

        def waiting(texts, references):
            for _ in texts:
                time.sleep(60)
                yield 1.0

        for reward in (catching, waiting):
            start = time.perf_counter()
            fitness = RewardFitness("slow", greedy, reward, PROMPTS[:3], timeout=0.05)
            with pytest.raises(InvalidValue, match=r"^slow: expected rewards of 3 samples within"):
                Evaluator(network, fitness=fitness).evaluate(CHILDREN)
            assert time.perf_counter() - start < 30

    def test_tells_one_that_has_set_another_alarm_once_it_returns(self, network):
        def verifying(texts, references):
            signal.alarm(3)
            signal.alarm(0)
            time.sleep(0.1)
            return [1.0] * len(texts)

        fitness = RewardFitness("slow", greedy, verifying, PROMPTS[:3], timeout=0.05)
        with pytest.raises(InvalidValue, match=r"^slow: expected rewards of 3 samples within"):
            Evaluator(network, fitness=fitness).evaluate(CHILDREN)

    def test_leaves_one_in_time_alone(self, network, fitness):
        slow = RewardFitness("slow", greedy, early, PROMPTS, timeout=1e12)
        found = Evaluator(network, fitness=slow).evaluate(CHILDREN).fitness
        assert found.tolist() == Evaluator(network, fitness=fitness).evaluate(CHILDREN).fitness.tolist()

    def test_in_a_thread_returns_and_raises_as_by_an_alarm(self):
        release = threading.Event()
        found = []

        def look():
            found.append(in_time(lambda: 3, 1000))
            for function in (release.wait, lambda: {}["key"]):
                try:
                    in_time(function, 0.05 if function == release.wait else 1000)
                except (TimedOut, KeyError) as error:
                    found.append(type(error))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        release.set()
        assert found == [3, TimedOut, KeyError]

    def test_in_a_thread_a_network_may_judge_too(self, network):
        judge, found = nn.Linear(len(LETTERS), 1), []

        def generate(module, prompts):
            return list(module(torch.arange(len(prompts)) % len(LETTERS)))

        def reward(rows, references):
            return [judge(row) for row in rows]

        def look(timeout):
            fitness = RewardFitness("judged", generate, reward, PROMPTS, timeout=timeout)
            found.append(Evaluator(network, fitness=fitness).evaluate(CHILDREN).fitness.tolist())

        thread = threading.Thread(target=look, args=(1000,))
        thread.start()
        thread.join()
        look(None)
        assert found[0] == found[1]

    @pytest.mark.skipif(os.name != "posix", reason="alarms are Unix's")
    def test_an_exception_of_the_functions_own_comes_through(self):
        with pytest.raises(KeyError):
            in_time(lambda: {}["key"], 1000)

    @pytest.mark.skipif(os.name != "posix", reason="alarms are Unix's")
    def test_what_swallows_the_end_of_its_time_has_ended_all_the_same(self):
        def swallowing():
            try:
                time.sleep(60)
            except BaseException:
                return 1

        with pytest.raises(TimedOut):
            in_time(swallowing, 0.05)


def test_it_goes_to_other_processes(fitness):
    for other in (pickle.loads(pickle.dumps(fitness)), copy.deepcopy(fitness)):
        assert (type(other), other.prompts) == (Home, fitness.prompts)


MINE = """
import torch
from torch import nn
from smd_evo import RewardFitness, split

class Squares(nn.Linear):
    pass

def network():
    torch.manual_seed(0)
    return Squares(1, 4)

def generate(module, prompts):
    return [tuple(row) for row in module(torch.tensor(prompts)[:, None].float()).round().tolist()]

def near(texts, references):
    return [-sum(abs(value - reference) for value in text) for text, reference in zip(texts, references)]

fitness = RewardFitness("near", generate, near, [*range(30)])

def prompts():
    return split(fitness.samples)
"""


class TestCommandLine:
    WORDS = ("--generations", "2", "--children", "6", "--sigma", "0.5", "--density", "0.5", "--model", "mine:network")

    def test_names_the_prompts_as_data_and_the_reward_as_fitness(self, here):
        (here / "mine.py").write_text(MINE)
        words = [*self.WORDS, "--data", "mine:prompts", "--fitness", "mine:fitness", "--images", "5", "--out", "run"]
        done = smd_evo_command("finetune", *words)
        assert done.returncode == 0, done.stderr
        before, after = smd_evo.load_run(here / "run").numbers["rows"]
        assert after["fitness_gain"]["value"] == pytest.approx(after["fitness"] - before["fitness"])
        del sys.modules["mine"]  # what the reward has said is forgotten
        verified = smd_evo_command("verify", "run", "--trust")
        assert verified.returncode == 0, verified.stderr

    def test_refuses_other_samples(self, here):
        (here / "mine.py").write_text(
            MINE + "\ndef others():\n    return split((torch.rand(30, 1), torch.zeros(30)))\n"
        )
        words = [*self.WORDS, "--data", "mine:others", "--fitness", "mine:fitness", "--out", "run"]
        refused(smd_evo_command("finetune", *words), "data: expected numbers of the 30 prompts of 'near'")
