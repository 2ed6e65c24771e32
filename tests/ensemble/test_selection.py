"""Which candidates make up an ensemble: against slow loops, in little memory, and with clear errors."""

import errno
import gc
import math
import os
import random
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import same_bits, state_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from smd_evo import BatchFitness, Evaluator, Lineage, ModuleFitness, RandomSubspace, sample_mutations, select_members
from smd_evo.ensemble.combine import COMBINES, combined
from smd_evo.ensemble.selection import METHODS, select_from, stored
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.fitness import ACCURACY, CROSS_ENTROPY, best_of

MEAN_RIGHT = BatchFitness("mean right", "max", lambda out, target: out.softmax(1).gather(1, target[:, None])[:, 0])
BRIER = BatchFitness(
    "brier", "min", lambda out, target: (out.softmax(1) - functional.one_hot(target, out.shape[1])).square().sum(1)
)
FITNESSES = [CROSS_ENTROPY, ACCURACY, MEAN_RIGHT, BRIER]
every_fitness = pytest.mark.parametrize("fitness", FITNESSES, ids=lambda fitness: fitness.name)
every_combine = pytest.mark.parametrize("combine", COMBINES)
FULL = replace(CROSS_ENTROPY, name="the same, of all outputs")
"""Cross-entropy that the selection does not know for what it is."""


def library(count=12, samples=30, classes=4, seed=0):
    """Outputs [N, n, C] of candidates that are a little better than chance, and the targets."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (samples,), generator=generator)
    outputs = 2 * torch.randn(count, samples, classes, generator=generator)
    return outputs + 1.5 * functional.one_hot(targets, classes), targets


def spoiled(outputs, numbers, value=math.nan):
    """The same, but one output of each of these candidates is another."""
    outputs = outputs.clone()
    outputs[numbers, 3, 1] = value
    return outputs


def choose(outputs, targets, fitness=CROSS_ENTROPY, **options):
    return select_from(stored(outputs), len(outputs), targets, fitness, **options)


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def slow_fitness(outputs, chosen, targets, fitness, combine):
    """Of an ensemble, from the outputs of all its members, in float64."""
    members = outputs[chosen].double().numpy()
    if combine == "logits":
        shares = softmax(members.mean(0))
    else:
        shares = softmax(members)
        if combine == "majority":
            shares = 0.999 * np.eye(members.shape[-1])[members.argmax(-1)] + 0.001 * shares
        shares = shares.mean(0)
    truth = targets.numpy()
    right = shares[np.arange(len(truth)), truth]
    if fitness == ACCURACY:
        return (shares.argmax(-1) == truth).mean()
    if fitness == MEAN_RIGHT:
        return right.mean()
    if fitness == BRIER:
        return np.square(shares - np.eye(shares.shape[-1])[truth]).sum(-1).mean()
    return -np.log(right).mean()


def slow_choice(outputs, targets, fitness, combine, size, diversity=None):
    """Forward selection that starts anew for each candidate of each round: members in order, and the curve."""
    sign = 1 if fitness.sense == "max" else -1
    classes = outputs.argmax(-1)
    chosen, curve = [], []
    for _ in range(size):
        merits = []
        for number in range(len(outputs)):
            merit = sign * slow_fitness(outputs, [*chosen, number], targets, fitness, combine)
            if diversity is not None:
                apart = [float((classes[number] != classes[other]).double().mean()) for other in chosen]
                merit += diversity * sum(apart) / max(1, len(apart))
                merit = -math.inf if number in chosen else merit
            merits.append(merit)
        chosen.append(merits.index(max(merits)))
        curve.append(slow_fitness(outputs, chosen, targets, fitness, combine))
    return chosen, curve


def same_choice(one, other, tolerance=1e-5):
    assert (one.members, one.weights) == (other.members, other.weights)
    assert one.curve == pytest.approx(other.curve, abs=tolerance)


@every_fitness
@every_combine
@pytest.mark.parametrize("seed", [0, 1])
class TestAgainstASlowLoop:
    def test_greedy(self, fitness, combine, seed):
        outputs, targets = library(seed=seed)
        chosen, curve = slow_choice(outputs, targets, fitness, combine, 7)
        selection = choose(outputs, targets, fitness, combine=combine, size=7)
        assert selection.members == tuple(dict.fromkeys(chosen))
        assert selection.weights == pytest.approx([chosen.count(member) / 7 for member in selection.members])
        assert selection.curve == pytest.approx(curve, abs=1e-5)
        assert selection.fitness == selection.curve[-1]
        assert (selection.method, selection.combine) == ("greedy", combine)

    @pytest.mark.parametrize("diversity", [0, 0.1, 5.0])
    def test_diverse(self, fitness, combine, seed, diversity):
        outputs, targets = library(seed=seed)
        chosen, curve = slow_choice(outputs, targets, fitness, combine, 5, diversity)
        selection = choose(outputs, targets, fitness, combine=combine, method="diverse", size=5, diversity=diversity)
        assert selection.members == tuple(chosen)
        assert selection.weights == pytest.approx([0.2] * 5)
        assert selection.curve == pytest.approx(curve, abs=1e-5)

    def test_top_k_and_all(self, fitness, combine, seed):
        outputs, targets = library(seed=seed)
        alone = [slow_fitness(outputs, [number], targets, fitness, "logits") for number in range(12)]
        order = sorted(range(12), key=lambda number: alone[number], reverse=fitness.sense == "max")
        for method, size, members in (("top_k", 5, order[:5]), ("top_k", 1, order[:1]), ("all", None, range(12))):
            selection = choose(outputs, targets, fitness, combine=combine, method=method, size=size)
            curve = [
                slow_fitness(outputs, list(members[:length]), targets, fitness, combine)
                for length in range(1, len(members) + 1)
            ]
            assert selection.members == tuple(members)
            assert selection.weights == pytest.approx([1 / len(members)] * len(members))
            assert selection.curve == pytest.approx(curve, abs=1e-5)

    @pytest.mark.parametrize("method", METHODS)
    def test_fitness_is_that_of_the_combined_prediction(self, fitness, combine, seed, method):
        outputs, targets = library(seed=seed)
        selection = choose(outputs, targets, fitness, combine=combine, method=method)
        together = combined(outputs[list(selection.members)], selection.weights, combine)
        expected = float(fitness.per_sample(together, targets, len(targets)).mean())
        assert selection.fitness == pytest.approx(expected, abs=1e-5)


class TestGreedy:
    def test_a_candidate_that_is_chosen_again_weighs_more(self):
        targets = torch.zeros(8, dtype=torch.int64)
        good, bad = torch.tensor([2.0, 0.0]).repeat(8, 1), torch.tensor([0.0, 2.0]).repeat(8, 1)
        selection = choose(torch.stack([bad, good, bad]), targets, size=3)
        assert (selection.members, selection.weights) == ((1,), (1.0,))

    def test_two_that_complete_each_other_rather_than_the_two_best(self):
        targets = torch.arange(12) % 2
        outputs = torch.zeros(3, 12, 2)
        for number, known in enumerate((range(8), range(7), range(6, 12))):
            sure = torch.tensor([4.0 if sample in known else -0.5 for sample in range(12)])
            outputs[number] = sure[:, None] * functional.one_hot(targets, 2)
        greedy, best = (choose(outputs, targets, ACCURACY, size=2, method=method) for method in ("greedy", "top_k"))
        assert (greedy.members, greedy.fitness) == ((0, 2), 1)
        assert (best.members, best.fitness) == ((0, 1), pytest.approx(8 / 12))

    def test_the_first_of_equals(self):
        outputs, targets = library(1)
        assert choose(outputs.repeat(4, 1, 1), targets, size=3).members == (0,)

    @given(seed=st.integers(0, 1000), size=st.integers(1, 12))
    def test_a_longer_choice_begins_with_the_shorter_one(self, seed, size):
        outputs, targets = library(seed=seed)
        short, long = (choose(outputs, targets, size=number) for number in (size, 12))
        assert long.curve[:size] == short.curve
        assert long.members[: len(short.members)] == short.members
        assert sum(short.weights) == pytest.approx(1)


class TestDiverse:
    @pytest.mark.parametrize("fitness", [CROSS_ENTROPY, ACCURACY], ids=lambda fitness: fitness.name)
    @given(seed=st.integers(0, 1000), low=st.integers(0, 9), more=st.integers(0, 30))
    def test_the_more_diversity_counts_the_less_two_members_agree(self, fitness, seed, low, more):
        outputs, targets = library(seed=seed)

        def apart(diversity):
            first, second = choose(outputs, targets, fitness, method="diverse", size=2, diversity=diversity).members
            return int((outputs[first].argmax(1) != outputs[second].argmax(1)).sum())

        assert apart((low + more) / 7) >= apart(low / 7)

    @given(seed=st.integers(0, 1000))
    def test_everyone_is_chosen_once(self, seed):
        outputs, targets = library(seed=seed)
        selection = choose(outputs, targets, method="diverse", size=12)
        assert sorted(selection.members) == list(range(12))
        assert selection.fitness == pytest.approx(choose(outputs, targets, method="all").fitness, abs=1e-5)

    @pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 2, 3)])
    def test_needs_classes_that_can_differ(self, shape):
        squared = BatchFitness("squared", "min", lambda out, target: (out - target).square())
        outputs, targets = torch.zeros(5, *shape), torch.zeros(shape)
        assert choose(outputs, targets, squared, combine="logits", size=2).members == (0,)
        with pytest.raises(InvalidValue, match=r'scores of classes, \[n, classes\], for "diverse", got .* "greedy"'):
            choose(outputs, targets, squared, combine="logits", method="diverse")


class TestTopK:
    def test_takes_the_best_of_the_result(self, network, samples):
        judge, children = Evaluator(network, samples), candidates(10)
        other = judge.on((samples[0].flip(0), samples[1])).evaluate(children)
        selection = select_members(judge, children, other, method="top_k", size=4)
        assert selection.members == tuple(other.ranking()[:4])

    @pytest.mark.parametrize("fitness", ["cross_entropy", "accuracy"])
    @every_combine
    def test_without_a_result_the_judge_ranks(self, network, samples, fitness, combine):
        judge, children = Evaluator(network, samples, fitness, batch_size=7), candidates(10)
        result = judge.evaluate(children)
        expected = select_members(judge, children, result, method="top_k", size=4, combine=combine)
        assert select_members(judge, children, method="top_k", size=4, combine=combine) == expected

    def test_asks_only_for_those_that_it_takes(self):
        outputs, targets = library()
        asked = []

        def source(numbers):
            asked.extend(numbers)
            return stored(outputs)(numbers)

        ranking = [5, 3, 1, 11, 0, 2, 4, 6, 7, 8, 9, 10]
        selection = select_from(source, 12, targets, CROSS_ENTROPY, ranking=ranking, method="top_k", size=3)
        assert selection.members == tuple(asked) == (5, 3, 1)


@pytest.mark.parametrize("method", ["top_k", "greedy", "diverse"])
class TestSize:
    @every_fitness
    def test_is_the_best_of_2_to_20_on_validation(self, method, fitness):
        outputs, targets = library(25)
        selection = choose(outputs, targets, fitness, method=method)
        assert len(selection.curve) == 20
        length = 2 + best_of(selection.curve[1:], fitness.sense)
        assert selection.fitness == selection.curve[length - 1]
        expected = choose(outputs, targets, fitness, method=method, size=length)
        assert (selection.members, selection.weights) == (expected.members, expected.weights)

    def test_is_the_smallest_of_equals(self, method):
        outputs, targets = library(1)
        selection = choose(outputs.repeat(6, 1, 1), targets, ACCURACY, method=method)
        assert len(selection.curve) == 6
        assert selection.weights == ((1.0,) if method == "greedy" else (0.5, 0.5))

    def test_is_one_of_one_candidate(self, method):
        outputs, targets = library(1)
        assert choose(outputs, targets, method=method).members == (0,)

    def test_is_what_was_asked_for(self, method):
        outputs, targets = library()
        for size in (1, 5, 12):
            selection = choose(outputs, targets, method=method, size=size)
            assert len(selection.curve) == size
            assert [weight * size for weight in selection.weights] == pytest.approx(
                [round(weight * size) for weight in selection.weights]
            )


class TestMemory:
    @pytest.mark.parametrize("method", ["greedy", "diverse", "top_k"])
    @every_combine
    @pytest.mark.parametrize("seed", range(3))
    def test_one_number_a_sample_is_enough_for_the_cross_entropy(self, method, combine, seed):
        outputs, targets = library(seed=seed)
        few, full = (
            choose(outputs, targets, fitness, method=method, combine=combine, size=6)
            for fitness in (CROSS_ENTROPY, FULL)
        )
        same_choice(few, full)

    def test_and_no_more_is_held(self):
        count, samples, classes = 2000, 500, 100
        base, targets = library(1, samples, classes)
        scales = torch.linspace(0.2, 3, count)
        alive: list[weakref.ref[Tensor]] = []

        def source(numbers):
            for number in numbers:
                outputs = base[0].roll(number, 0) * scales[number]
                alive.append(weakref.ref(outputs))
                yield outputs
                del outputs
                assert sum(ref() is not None for ref in alive[-5:]) <= 2

        with Largest() as seen:
            selection = select_from(source, count, targets, CROSS_ENTROPY, size=2)
        assert len(alive) == count
        assert not any(ref() is not None for ref in alive)
        assert len(selection.curve) == 2
        assert seen.numbers <= count * samples == count * samples * classes / 100

    @every_fitness
    @pytest.mark.parametrize("method", ["greedy", "diverse"])
    @pytest.mark.parametrize("numbers", [1, 250, 10**4])
    def test_a_round_in_pieces_gives_the_same(self, monkeypatch, fitness, method, numbers):
        outputs, targets = library()
        expected = choose(outputs, targets, fitness, method=method)
        monkeypatch.setattr("smd_evo.ensemble.candidates._CHUNK", numbers)
        same_choice(choose(outputs, targets, fitness, method=method), expected)

    @every_fitness
    @pytest.mark.parametrize("method", METHODS)
    def test_a_gradient_is_no_reason_to_hold_more(self, fitness, method):
        outputs, targets = library()
        expected = choose(outputs, targets, fitness, method=method)
        assert choose(outputs.requires_grad_(), targets, fitness, method=method) == expected


class Largest(TorchFunctionMode):
    """Numbers in the largest tensor that any operation returned."""

    numbers = 0

    def __torch_function__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


@pytest.mark.parametrize("method", ["greedy", "diverse"])
class TestSpill:
    @every_fitness
    @every_combine
    def test_gives_the_same_choice_up_to_float16(self, tmp_path, method, fitness, combine):
        outputs, targets = library()
        options = {"method": method, "combine": combine, "size": 6}
        selection = choose(outputs, targets, fitness, spill=tmp_path, **options)
        same_choice(selection, choose(outputs, targets, fitness, **options), 5e-3)
        assert os.listdir(tmp_path) == []

    def test_really_goes_there(self, tmp_path, method, monkeypatch):
        """And fills the room that it needs at the start, where a full disk is still an error."""
        outputs, targets = library()
        taken = []
        monkeypatch.setattr(os, "posix_fallocate", lambda *arguments: taken.append(arguments[1:]), raising=False)
        choose(outputs, targets, ACCURACY, method=method, spill=str(tmp_path))
        assert taken == [(0, 12 * 30 * 4 * 2)]

    def test_leaves_no_file_behind_after_an_error(self, tmp_path, method):
        outputs, targets = library()
        during = []

        def source(numbers):
            for number in numbers:
                if number == 7:
                    raise RuntimeError("out of memory")
                yield outputs[number]
                during.extend(os.listdir(tmp_path))

        with pytest.raises(RuntimeError, match="out of memory"):
            select_from(source, 12, targets, ACCURACY, method=method, spill=tmp_path)
        gc.collect()
        assert os.listdir(tmp_path) == during == []

    def test_extreme_outputs_fit(self, tmp_path, method):
        outputs, targets = library()
        selection = choose(1e6 * outputs, targets, method=method, combine="logits", spill=tmp_path)
        assert math.isfinite(selection.fitness)

    @pytest.mark.parametrize("folder", ["nowhere", "file"])
    def test_a_folder_that_is_none(self, tmp_path, method, folder):
        (tmp_path / "file").touch()
        with pytest.raises(InvalidValue, match="spill: expected a folder with room for a file, got"):
            choose(*library(), method=method, spill=tmp_path / folder)

    @pytest.mark.skipif(sys.platform != "linux", reason="file systems that take any bytes as names")
    def test_a_folder_whose_name_is_no_text(self, tmp_path, method):
        folder = tmp_path / os.fsdecode(b"a\xff")
        folder.mkdir()
        same_choice(
            choose(*library(), method=method, spill=folder), choose(*library(), method=method, spill=tmp_path)
        )
        assert os.listdir(folder) == []

    def test_a_full_disk(self, tmp_path, method, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
        with pytest.raises(InvalidValue, match="No space left on device"):
            choose(*library(), method=method, spill=tmp_path)
        assert os.listdir(tmp_path) == []


class TestBadCandidates:
    @every_fitness
    @every_combine
    @pytest.mark.parametrize("method", ["greedy", "diverse", "top_k"])
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_are_not_chosen_while_others_are_there(self, fitness, combine, method, value):
        outputs, targets = library()
        outputs = spoiled(outputs, [0, 2, 5, 11], value)
        selection = choose(outputs, targets, fitness, combine=combine, method=method, size=8)
        assert not {0, 2, 5, 11} & set(selection.members)
        assert math.isfinite(selection.fitness)

    @every_fitness
    @pytest.mark.parametrize("method", ["greedy", "diverse", "top_k"])
    def test_nor_when_the_size_is_to_be_found(self, fitness, method):
        outputs, targets = library()
        selection = choose(spoiled(outputs, [0, 2, 5, 11]), targets, fitness, method=method)
        assert not {0, 2, 5, 11} & set(selection.members)

    def test_nor_from_a_file(self, tmp_path):
        outputs, targets = library()
        for fitness in FITNESSES:
            selection = choose(spoiled(outputs, [0, 1]), targets, fitness, spill=tmp_path)
            assert not {0, 1} & set(selection.members)

    @pytest.mark.parametrize("method", ["diverse", "top_k"])
    def test_are_chosen_last_and_once(self, method):
        outputs, targets = library()
        selection = choose(spoiled(outputs, [0, 2, 5]), targets, method=method, size=12)
        assert sorted(selection.members) == list(range(12))
        assert set(selection.members[-3:]) == {0, 2, 5}
        assert math.isnan(selection.fitness)

    @pytest.mark.parametrize("method", METHODS)
    def test_alone_they_are_no_error(self, method):
        outputs, targets = library(3)
        selection = choose(spoiled(outputs, [0, 1, 2]), targets, method=method)
        assert math.isnan(selection.fitness)

    @pytest.mark.parametrize("sense", ["min", "max"])
    @pytest.mark.parametrize("method", ["greedy", "diverse", "top_k"])
    def test_an_infinitely_good_fitness_is_an_accident_too(self, sense, method):
        good = math.inf if sense == "max" else -math.inf
        fitness = BatchFitness("odd", sense, lambda out, target: torch.where(out[:, 0] > 100, good, out[:, 1]))
        outputs, targets = library()
        outputs = spoiled(outputs, [4], 0.0)
        outputs[4, 3, 0] = 1e4
        assert 4 not in choose(outputs, targets, fitness, combine="logits", method=method, size=3).members

    def test_a_class_that_a_candidate_rules_out_is_worse_than_any_other_mistake(self):
        outputs, targets = library()
        outputs[4] = 20.0 * functional.one_hot(targets, 4)
        outputs[4, 0, targets[0]] = -math.inf
        selection = choose(outputs, targets, size=1)
        assert selection.members != (4,)
        assert choose(outputs[4:5], targets).fitness == math.inf


class TestSenses:
    @pytest.mark.parametrize("method", METHODS)
    @every_combine
    def test_more_is_better_where_the_negative_is_less(self, method, combine):
        outputs, targets = library()
        low = BRIER
        high = BatchFitness("minus", "max", lambda out, target: -BRIER.score(out, target))
        one, other = (choose(outputs, targets, way, method=method, combine=combine) for way in (low, high))
        assert (one.members, one.weights) == (other.members, other.weights)
        assert list(one.curve) == [-value for value in other.curve]


class TestTargets:
    def test_of_a_regression_may_be_whole_numbers(self):
        """Which no class is compared with: the network has one output and the largest target is 9."""
        absolute = BatchFitness("absolute", "min", lambda out, target: (out[:, 0] - target).abs())
        targets = torch.arange(10)
        outputs = torch.stack([targets[:, None] + 2.0, targets[:, None] - 1.0, targets[:, None] + 9.0])
        selection = choose(outputs, targets, absolute, combine="logits", size=3)
        assert (selection.members, selection.weights) == ((1, 0), (2 / 3, 1 / 3))
        assert selection.fitness == 0

    @pytest.mark.parametrize("method", METHODS)
    def test_that_are_to_be_ignored(self, method):
        outputs, targets = library()
        targets[:5] = -100
        same_choice(
            choose(outputs, targets, CROSS_ENTROPY, method=method), choose(outputs, targets, FULL, method=method)
        )

    def test_of_any_shape(self):
        squared = BatchFitness("squared", "min", lambda out, target: (out - target).square())
        targets = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
        outputs = targets + torch.tensor([1.0, -1.0, 3.0]).view(3, 1, 1, 1)
        selection = choose(outputs, targets, squared, combine="logits", size=2)
        assert (selection.members, selection.fitness) == ((0, 1), pytest.approx(0, abs=1e-6))

    @pytest.mark.parametrize("fitness", [CROSS_ENTROPY, ACCURACY], ids=lambda fitness: fitness.name)
    @pytest.mark.parametrize("method", METHODS)
    @every_combine
    def test_beyond_the_networks_classes(self, fitness, method, combine):
        outputs, targets = library()
        targets[7] = 4
        with pytest.raises(InvalidValue, match="targets: expected classes below 4, which the network knows, got 4"):
            choose(outputs, targets, fitness, method=method, combine=combine)


def candidates(count=10, key=0):
    return sample_mutations(key, count, subspace=RandomSubspace(0.2), sigma=0.4)


class TestMembersOfAParent:
    @pytest.mark.parametrize("method", METHODS)
    @every_combine
    def test_are_those_of_the_stored_predictions(self, network, samples, method, combine):
        judge, children = Evaluator(network, samples), candidates()
        expected = choose(judge.predict(children), samples[1], method=method, combine=combine)
        assert select_members(judge, children, method=method, combine=combine) == expected

    @pytest.mark.parametrize("method", METHODS)
    def test_leave_the_parent_and_all_random_states_as_they_were(self, network, samples, method):
        network.train()
        network.bn.eval()
        before, modes = state_bits(network), [part.training for part in network.modules()]
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        first = select_members(Evaluator(network, samples), candidates(), method=method)
        assert same_bits(before, state_bits(network))
        assert [part.training for part in network.modules()] == modes
        assert torch.equal(states[0], torch.get_rng_state())
        assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
        assert select_members(Evaluator(network, samples), candidates(), method=method) == first

    def test_leave_it_so_after_an_error_too(self, network, samples):
        before = state_bits(network)
        done = []

        def stop():
            done.append(1)
            if len(done) == 5:
                raise KeyboardInterrupt

        network.train()
        with pytest.raises(KeyboardInterrupt):
            select_members(Evaluator(network, samples), candidates(), progress=stop)
        assert same_bits(before, state_bits(network))
        assert all(part.training for part in network.modules())
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()

    def test_may_be_lineages_and_deltas(self, network, samples):
        judge, recipes = Evaluator(network, samples), candidates()
        expected = select_members(judge, recipes)
        for children in (
            [Lineage((recipe,)) for recipe in recipes],
            [recipe.delta(judge.space.layout) for recipe in recipes],
        ):
            same_choice(select_members(judge, children), expected)

    @pytest.mark.parametrize(
        ("method", "ranked", "predictions"),
        [("greedy", False, 10), ("diverse", False, 10), ("all", False, 10), ("top_k", True, 3), ("top_k", False, 13)],
    )
    def test_progress_once_a_prediction(self, network, samples, method, ranked, predictions):
        judge, children, calls = Evaluator(network, samples), candidates(), []
        select_members(
            judge,
            children,
            judge.evaluate(children) if ranked else None,
            method=method,
            size=None if method == "all" else 3,
            progress=lambda: calls.append(1),
        )
        assert len(calls) == predictions

    def test_a_result_of_other_candidates(self, network, samples):
        judge, children = Evaluator(network, samples), candidates()
        with pytest.raises(InvalidValue, match="result: expected the fitness of 10 candidates, got 9"):
            select_members(judge, children, judge.evaluate(children[:9]))

    def test_a_judge_of_whole_networks(self, network):
        judge = Evaluator(network, None, ModuleFitness("norm", "min", lambda module: 0.0))
        with pytest.raises(InvalidType, match=r"a fitness of the network's outputs, got 'norm'; use judge\.on"):
            select_members(judge, candidates())

    def test_classes_that_the_network_does_not_know(self, network, samples):
        judge = Evaluator(network, (samples[0], samples[1] + 1), "accuracy")
        with pytest.raises(InvalidValue, match="targets: expected classes below 3"):
            select_members(judge, candidates())

    @pytest.mark.parametrize("several", [lambda target: {"a": target}, lambda target: (target, target)])
    def test_several_tensors_of_targets(self, network, samples, several):
        fitness = BatchFitness("first", "min", lambda out, target: out[:, 0])
        judge = Evaluator(network, (samples[0], several(samples[1])), fitness)
        with pytest.raises(InvalidType, match="targets: expected one tensor to choose by, got several; choose by"):
            select_members(judge, candidates(), combine="logits")

    def test_a_network_with_one_output(self, samples):
        judge = Evaluator(nn.Sequential(nn.Flatten(), nn.Linear(16, 1)), samples, BRIER)
        with pytest.raises(InvalidValue, match=r"scores of two classes or more, .* got \[40, 1\]"):
            select_members(judge, candidates())

    def test_no_candidates(self, network, samples):
        with pytest.raises(InvalidValue, match="candidates: expected at least one, got none"):
            select_members(Evaluator(network, samples), [])


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"size": 13}, "size: expected at most the 12 candidates that there are, got 13; make more children"),
            ({"size": 0}, "size: expected a whole number >= 1, got 0"),
            ({"method": "all", "size": 5}, 'size: expected none for "all", which takes all 12, got 5; try "top_k"'),
            ({"method": "greedi"}, "method: expected one of top_k, .*, got 'greedi'; did you mean 'greedy'"),
            ({"combine": "logit"}, "combine: .*did you mean 'logits'"),
            ({"diversity": -0.1}, "diversity: expected a finite number >= 0, got -0.1; try 0.1, or 0 for none"),
            ({"diversity": math.nan}, "diversity: expected a finite number"),
            ({"ranking": [0, 1, 2]}, r"ranking: expected each number of the 12 candidates once, got \[0, 1, 2\]"),
            ({"ranking": [0] * 12}, "ranking: expected each number of the 12 candidates once"),
        ],
    )
    def test_unusable_options(self, options, message):
        with pytest.raises(InvalidValue, match=message):
            choose(*library(), **options)

    def test_targets_that_are_no_tensor(self):
        outputs, targets = library()
        with pytest.raises(InvalidType, match="targets: expected one tensor to choose by, got list"):
            choose(outputs, targets.tolist())

    def test_no_samples(self):
        with pytest.raises(InvalidValue, match="validation: expected at least one sample to choose by, got none"):
            choose(torch.zeros(3, 0, 4), torch.zeros(0, dtype=torch.int64))

    @pytest.mark.parametrize("method", METHODS)
    def test_other_samples(self, method):
        outputs, targets = library()
        with pytest.raises(InvalidValue, match="outputs: expected those of 29 samples, got 30"):
            choose(outputs, targets[1:], method=method)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("given", [0, 11, 13])
    def test_a_source_of_other_candidates(self, method, given):
        outputs, targets = library(13)
        with pytest.raises(InvalidValue, match=f"source: expected the outputs of 12 candidates, got {given}"):
            select_from(lambda _: iter(outputs[:given]), 12, targets, ACCURACY, method=method, size=12)

    @pytest.mark.parametrize("method", METHODS)
    def test_outputs_of_several_shapes(self, method):
        outputs = [torch.zeros(30, 4), torch.zeros(30, 5)]
        with pytest.raises(InvalidValue, match=r"outputs: expected .* of each candidate, got \[30, 5\]"):
            select_from(stored(outputs), 2, library()[1], ACCURACY, method=method)
