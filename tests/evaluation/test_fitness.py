"""Fitness in an evaluator: of any data the same, and what makes no sense is one line."""

import numpy as np
import pytest
import torch
from helpers import SmallNet, same_bits, state_bits
from torch import nn

from smd_evo import BatchFitness, Evaluator, Lineage, ModuleFitness, RandomSubspace, calibrate_sigma, sample_mutations
from smd_evo.ensemble.combine import combined
from smd_evo.ensemble.selection import select_members
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.fitness import BALANCED_ACCURACY, MACRO_F1, NAMES, TotalFitness, get_fitness
from smd_evo.evaluation.metrics import METRICS
from smd_evo.evaluation.stream import Stream
from smd_evo.experiments.settings import FITNESSES

TOTALS = [BALANCED_ACCURACY, MACRO_F1]
every_total = pytest.mark.parametrize("fitness", TOTALS, ids=lambda fitness: fitness.name)
CHILDREN = [*sample_mutations(0, 8, subspace=RandomSubspace(0.3), sigma=0.5), Lineage()]


@pytest.fixture
def uneven(samples):
    """Samples of which 30 are of one class, 9 of another, 1 of the third."""
    return samples[0], torch.tensor([0] * 30 + [1] * 9 + [2])


def test_settings_know_all_names():
    assert tuple(FITNESSES) == (*NAMES, *METRICS) == tuple(get_fitness(name).name for name in FITNESSES)


class Unchanging(nn.Module):
    """Always the same class."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([9.0, 0.0, 0.0]))

    def forward(self, x):
        return self.bias.expand(len(x), 3)


class TestTotals:
    @every_total
    def test_are_of_all_predictions_together_whatever_the_batches(self, network, uneven, fitness):
        expected = [fitness.of(outputs, uneven[1]) for outputs in Evaluator(network, uneven).predict(CHILDREN)]
        assert len(set(expected)) > 3
        images, targets = uneven
        batches = [(images[:13], targets[:13]), (images[13:], targets[13:])]
        for data in (uneven, batches, Stream(*uneven)):
            found = Evaluator(network, data, fitness.name, batch_size=7).evaluate(CHILDREN)
            assert found.fitness.tolist() == pytest.approx(expected)
            assert found.sense == "max"

    def test_do_not_reward_what_always_says_the_largest_class(self, uneven):
        fitness = {
            name: float(Evaluator(Unchanging(), uneven, name).evaluate([Lineage()]).fitness[0]) for name in NAMES[1:]
        }
        assert fitness["accuracy"] == 0.75
        assert fitness["balanced_accuracy"] == pytest.approx(1 / 3)
        assert fitness["macro_f1"] == pytest.approx(2 * 30 / 70 / 3)

    @every_total
    def test_of_minibatches(self, network, uneven, fitness):
        numbers = torch.tensor([0, 3, 5, 31, 33, 39])
        part = tuple(each[numbers] for each in uneven)
        found = Evaluator(network, uneven, fitness).on_samples(numbers).evaluate(CHILDREN).fitness
        assert found.tolist() == Evaluator(network, part, fitness).evaluate(CHILDREN).fitness.tolist()

    @every_total
    def test_choose_ensembles(self, network, uneven, fitness):
        judge = Evaluator(network, uneven, fitness)
        members = judge.predict(CHILDREN)
        for method in ("greedy", "top_k"):
            chosen = select_members(judge, CHILDREN, method=method, size=3)
            together = combined([members[number] for number in chosen.members], chosen.weights, "probabilities")
            assert chosen.fitness == pytest.approx(fitness.of(together, uneven[1]))

    def test_calibrate(self, network, samples):
        """Of targets that the parent predicts, so that it has all there is to keep."""
        images = samples[0]
        own = Evaluator(network, samples).predict([Lineage()])[0].argmax(1)
        evaluator = Evaluator(network, (images, own), "balanced_accuracy")
        found = calibrate_sigma(evaluator, RandomSubspace(0.3), 0.9, bisections=2)
        assert found.kept >= 0.9

    def test_of_ones_own(self, samples):
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))
        targets = torch.randn(40)

        def sums(out, target):
            return torch.stack([(out - target).square().sum(), target.square().sum()])

        fitness = TotalFitness("unexplained", "min", sums, lambda total: total[..., 0] / total[..., 1])
        found = Evaluator(network, (samples[0], targets), fitness, batch_size=9).evaluate([Lineage()]).fitness
        with torch.no_grad():
            expected = (network(samples[0]) - targets).square().sum() / targets.square().sum()
        assert float(found[0]) == pytest.approx(float(expected), rel=1e-5)

    def test_of_ones_own_that_is_no_number_for_each_network(self, network, samples):
        each = f"expected one number for each of {len(CHILDREN)} networks from score"
        for count, score, message in (
            (lambda out, target: 1.0, lambda sums: sums, "expected a tensor of numbers from count, got float"),
            (lambda out, target: out.sum(0), lambda sums: sums, each),
            (lambda out, target: out.sum(), lambda sums: sums.sum(), each),
        ):
            with pytest.raises(InvalidValue, match=f"^mine: {message}"):
                Evaluator(network, samples, TotalFitness("mine", "min", count, score)).evaluate(CHILDREN)


class TestTargets:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("form", ["memory", "batches", "stream"])
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [(3, "below 3, which the network knows, got 3"), (-1, "from 0 on, or -100 for none, got -1")],
    )
    def test_classes_that_the_network_does_not_have(self, network, samples, name, form, wrong, message):
        images, targets = samples[0], samples[1].clone()
        targets[35] = wrong
        data = {"memory": (images, targets), "batches": [(images, targets)], "stream": Stream(images, targets)}[form]
        before = state_bits(network)
        with pytest.raises(InvalidValue, match=f"^targets: expected classes {message}"):
            Evaluator(network, data, name, batch_size=8).evaluate(CHILDREN)
        assert same_bits(before, state_bits(network))

    def test_are_looked_at_once_for_all_children_and_evaluations(self, network, samples, monkeypatch):
        looks = []
        monkeypatch.setattr("smd_evo.evaluation.evaluator.class_range", lambda _: looks.append(1))
        evaluator = Evaluator(network, samples)
        for _ in range(3):
            evaluator.evaluate(CHILDREN)
        evaluator.on_samples(torch.arange(5)).evaluate(CHILDREN)
        assert len(looks) == 1

    def test_of_padded_batches_need_not_fit_together(self):
        """Labels of each word, of texts that are padded to the longest of their batch."""
        network = nn.Conv1d(2, 3, 1)
        batches = [(torch.randn(4, 2, length), torch.randint(3, (4, length))) for length in (5, 7)]
        Evaluator(network, batches).evaluate([Lineage()])
        batches[1][1][0, 0] = 3
        with pytest.raises(InvalidValue, match="expected classes below 3"):
            Evaluator(network, batches).evaluate([Lineage()])

    def test_are_not_looked_at_where_they_are_no_classes(self, network, samples):
        fitness = BatchFitness("distance", "min", lambda out, target: (out[:, 0] - target).abs())
        Evaluator(network, (samples[0], torch.full((40,), -7)), fitness).evaluate(CHILDREN)


class TestScores:
    @pytest.mark.parametrize(
        ("outputs", "targets"), [((6, 1), (6,)), ((6,), (6, 1)), ((6, 4, 4), (6, 1, 4, 4)), ((6, 2), (6, 1, 2))]
    )
    def test_of_each_output_with_each_target_are_refused(self, outputs, targets):
        fitness = BatchFitness("distance", "min", lambda out, target: (out - target).abs())
        with pytest.raises(InvalidValue, match=r"^distance: expected scores of each sample's own target, got "):
            fitness.per_sample(torch.zeros(outputs), torch.zeros(targets), 6)

    @pytest.mark.parametrize(
        ("outputs", "targets"), [((6, 1), (6, 1)), ((6,), (6,)), ((6, 4), (6, 1)), ((6, 1), (6, 4)), ((1, 1), (1,))]
    )
    def test_of_each_sample_are_taken(self, outputs, targets):
        fitness = BatchFitness("distance", "min", lambda out, target: (out - target).abs())
        count = outputs[0]
        assert fitness.per_sample(torch.zeros(outputs), torch.ones(targets), count).tolist() == [1.0] * count

    def test_more_than_there_are_outputs_are_taken_where_they_are_no_pairs(self):
        prototypes = torch.eye(6)
        fitness = BatchFitness("nearest", "min", lambda out, target: torch.cdist(out, prototypes))
        assert len(fitness.per_sample(torch.zeros(6, 6), torch.arange(6), 6)) == 6

    def test_complex_ones_are_refused(self):
        fitness = BatchFitness("phase", "min", lambda out, target: out)
        with pytest.raises(
            InvalidValue, match=r"^phase: expected one score a sample, \[6, ...\], got \[6\] of compl"
        ):
            fitness.per_sample(torch.zeros(6, dtype=torch.complex64), torch.zeros(6), 6)


class TestOfModules:
    @pytest.mark.parametrize(
        "value",
        [1, 1.5, True, torch.tensor(1.5), torch.full((1, 1), 1.5), np.float32(1.5), np.array([1.5])],
        ids=repr,
    )
    def test_one_number_of_any_kind(self, value):
        fitness = ModuleFitness("own", "min", lambda module: value)
        expected = 1.5 if value not in (1, True) else 1.0
        assert Evaluator(SmallNet(), fitness=fitness).evaluate([Lineage()]).fitness.tolist() == [expected]

    @pytest.mark.parametrize(
        ("value", "got"),
        [
            (None, "None"),
            (torch.zeros(2), r"\[2\] of float32"),
            (torch.zeros((), dtype=torch.complex64), r"\[\] of complex64|0j"),
            ("0.5", "'0.5'"),
            (1j, "1j"),
            ([0.5], r"\[0.5\]"),
            (np.zeros(2), r"array\(\[0., 0.\]\)"),
        ],
        ids=repr,
    )
    def test_other_things_are_refused(self, value, got):
        network = SmallNet()
        before = state_bits(network)
        evaluator = Evaluator(network, fitness=ModuleFitness("own", "min", lambda module: value))
        with pytest.raises(InvalidType, match=rf"^own: expected one real number from its function, got ({got}); "):
            evaluator.evaluate(CHILDREN)
        assert same_bits(before, state_bits(network))
