"""Metrics of all samples together: of the same outputs whatever the way to them, refused where they make no sense."""

import logging
import math
import pickle

import numpy as np
import pytest
import torch
from helpers import same_bits, state_bits
from sklearn import metrics as reference
from torch import nn

from smd_evo import (
    BatchFitness,
    Evaluator,
    FinetuneProblem,
    Lineage,
    ModuleFitness,
    Objectives,
    RandomSubspace,
    ToolboxEvaluator,
    WholeFitness,
    sample_mutations,
)
from smd_evo.ensemble.combine import combined
from smd_evo.ensemble.selection import select_members
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation import whole
from smd_evo.evaluation.fitness import NAMES, get_fitness
from smd_evo.evaluation.metrics import METRICS
from smd_evo.evaluation.race import race
from smd_evo.evaluation.stream import Stream

CHILDREN = [*sample_mutations(0, 8, subspace=RandomSubspace(0.3), sigma=0.5), Lineage()]


def quotient(outputs, targets):
    """No sum over samples, and another number in another order of them."""
    return (outputs[:, 0] * torch.arange(1.0, len(targets) + 1)).sum() / (targets + 1).sum()


QUOTIENT = WholeFitness("quotient", "max", quotient)


def batched(images, targets):
    return [(images[:13], targets[:13]), (images[13:], targets[13:])]


DATA = pytest.mark.parametrize("data", [lambda *both: both, batched, Stream], ids=["tensors", "batches", "stream"])


class TestAnEvaluator:
    @DATA
    @pytest.mark.parametrize("select", ["all", "head"])
    @pytest.mark.parametrize("reuse", [True, False])
    def test_has_what_the_metric_says_of_all_predictions(self, network, samples, data, select, reuse):
        evaluator = Evaluator(network, data(*samples), QUOTIENT, select=select, batch_size=7, reuse=reuse)
        before = state_bits(network)
        found = evaluator.evaluate(CHILDREN).fitness
        expected = [QUOTIENT.of(outputs, samples[1]) for outputs in evaluator.predict(CHILDREN)]
        assert found.tolist() == expected
        assert len(set(expected)) > 6
        assert same_bits(before, state_bits(network))

    @pytest.mark.parametrize("select", ["all", "head"])
    def test_of_minibatches_has_their_samples_alone(self, network, samples, select):
        """But for rounding, as before the head all samples go together."""
        numbers = torch.tensor([0, 3, 5, 31, 33, 39])
        part = tuple(each[numbers] for each in samples)
        some = Evaluator(network, samples, QUOTIENT, select=select, reuse=True).on_samples(numbers)
        alone = Evaluator(network, part, QUOTIENT, select=select)
        expected = alone.evaluate(CHILDREN).fitness.tolist()
        assert some.evaluate(CHILDREN).fitness.tolist() == pytest.approx(expected, rel=1e-4)

    def test_of_children_that_go_together_is_that_of_each(self, network, samples):
        together = Evaluator(network, samples, QUOTIENT, together=4, batch_size=7).evaluate(CHILDREN).fitness
        expected = Evaluator(network, samples, QUOTIENT, batch_size=7).evaluate(CHILDREN).fitness
        assert together.tolist() == pytest.approx(expected.tolist(), rel=1e-4)

    @DATA
    def test_with_room_for_few_children_has_the_same_from_some_at_a_time(
        self, network, samples, data, monkeypatch, caplog
    ):
        def evaluator():
            return Evaluator(network, data(*samples), QUOTIENT, batch_size=7, reuse=data is Stream)

        expected = evaluator().observe(CHILDREN)
        monkeypatch.setattr(whole, "_MOST", 3 * 40 * 3 * 4)
        ended = []
        with caplog.at_level(logging.INFO, "smd_evo"):
            found = evaluator().evaluate(CHILDREN, lambda: ended.append(1))
        assert found.fitness.tolist() == expected[0].fitness.tolist()
        assert len(ended) == len(CHILDREN)
        assert ("3 take turns together" in caplog.text) == (data is Stream)
        outputs = evaluator().observe(CHILDREN)[1]
        assert torch.equal(outputs, expected[1])

    def test_keeps_its_outputs_no_longer_than_it_has_to(self, network, samples, monkeypatch):
        monkeypatch.setattr(whole, "_MOST", 40 * 3 * 4)
        found = Evaluator(network, samples, QUOTIENT, batch_size=7, reuse=False)._totals(CHILDREN, None, None)
        assert len(found) == len(CHILDREN)

    def test_after_running_out_of_memory_begins_again(self, network, samples):
        full = []

        class Greedy(nn.Module):
            def __init__(self):
                super().__init__()
                self.network = network

            def forward(self, x):
                if len(x) > 10:
                    full.append(len(x))
                    raise torch.cuda.OutOfMemoryError("no room")
                return self.network(x)

        with pytest.warns(RuntimeWarning, match="out of memory"):
            found = Evaluator(Greedy(), samples, QUOTIENT, batch_size=20, reuse=False).evaluate(CHILDREN[-1:])
        assert full
        halves = Evaluator(network, samples, QUOTIENT, batch_size=10, reuse=False).evaluate(CHILDREN[-1:])
        assert found.fitness.tolist() == halves.fitness.tolist()

    def test_refuses_outputs_of_one_network_that_do_not_fit(self, network, samples, monkeypatch):
        monkeypatch.setattr("smd_evo.evaluation.sharing.room", lambda device: 479)
        with pytest.raises(InvalidValue, match=r"^outputs: expected at most .* of one network for 40 samples, got"):
            Evaluator(network, samples, QUOTIENT, reuse=False).evaluate(CHILDREN)

    def test_gives_the_metric_what_the_network_returns(self, samples):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(16, 4)

            def forward(self, x):
                found = self.head(x.flatten(1))
                return {"query": found[:, :2].bfloat16(), "answer": found[:, 2:]}

        def own(outputs, targets):
            assert outputs["query"].dtype == torch.float32
            assert (len(outputs["query"]), len(outputs["answer"]), len(targets["class"])) == (40, 40, 40)
            assert not outputs["answer"].is_inference()
            return (outputs["query"] @ outputs["answer"].T).diagonal().sum()

        data = samples[0], {"class": samples[1]}
        found = Evaluator(Two(), [data], WholeFitness("own", "max", own)).evaluate([Lineage()])
        assert math.isfinite(found.fitness[0])

    def test_gives_the_metric_the_logits_where_outputs_have_that_name(self, samples):
        class Named(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(16, 3)

            def forward(self, x):
                return {"loss": None, "logits": self.head(x.flatten(1)), "states": torch.zeros(2, len(x))}

        network = Named()
        found = Evaluator(network, samples, QUOTIENT, batch_size=7).evaluate([Lineage()]).fitness[0]
        predicted = Evaluator(network, samples, batch_size=7).predict([Lineage()])[0]
        assert float(found) == QUOTIENT.of(predicted, samples[1])

    def test_takes_the_worst_for_a_number_that_is_none(self, network, samples):
        fitness = WholeFitness("none", "max", lambda outputs, targets: math.nan)
        found = Evaluator(network, samples, fitness).evaluate(CHILDREN)
        assert (found.nonfinite, found.fitness.unique().tolist()) == (len(CHILDREN), [-1e18])

    def test_refuses_what_is_no_number(self, network, samples):
        fitness = WholeFitness("pair", "max", lambda outputs, targets: outputs[0])
        with pytest.raises(
            InvalidType, match=r"^pair: expected one real number from its metric, got \[3\] of float32;"
        ):
            Evaluator(network, samples, fitness).evaluate(CHILDREN)

    def test_refuses_outputs_of_other_shapes_in_each_batch(self):
        network = nn.Conv1d(1, 1, 3)
        data = [(torch.ones(2, 1, size), torch.zeros(2)) for size in (5, 6)]
        with pytest.raises(
            InvalidValue, match=r"^outputs: expected \[\[2, 1, 3\]\] for a batch .* got \[\[2, 1, 4\]\]"
        ):
            Evaluator(network, data, QUOTIENT).evaluate([Lineage()])


class TestElsewhere:
    def test_is_one_of_several_objectives_for_the_same_forward_passes(self, network, samples):
        error = BatchFitness("error", "min", lambda outputs, targets: outputs.square())
        size = ModuleFitness("size", "min", lambda module: module.head.weight.abs().sum())
        objectives = Objectives([QUOTIENT, "macro_f1", error, "auroc", size, "change_norm"])
        evaluator = objectives.evaluator(network, samples, batch_size=7)
        found = objectives.evaluate(evaluator, CHILDREN)
        for column, part in zip(found.T, objectives.parts[:-1], strict=False):
            alone = Evaluator(network, samples, part, batch_size=7).evaluate(CHILDREN).fitness
            assert column.tolist() == alone.tolist()
        calls = []
        network.register_forward_hook(lambda *_: calls.append(1))
        Objectives([QUOTIENT, "auroc"]).evaluate(evaluator, CHILDREN[-1:])
        assert len(calls) <= 6 + 5  # of six batches, and the probe's

    def test_alone_is_one_objective(self, network, samples):
        objectives = Objectives(["auroc"])
        found = objectives.evaluate(objectives.evaluator(network, samples), CHILDREN)
        assert found[:, 0].tolist() == Evaluator(network, samples, "auroc").evaluate(CHILDREN).fitness.tolist()

    def test_chooses_ensembles(self, network, samples):
        judge = Evaluator(network, samples, "auroc")
        chosen = select_members(judge, CHILDREN, method="greedy", size=3)
        members = judge.predict(CHILDREN)
        together = combined([members[number] for number in chosen.members], chosen.weights, "probabilities")
        assert chosen.fitness == pytest.approx(judge.fitness.of(together, samples[1]))

    def test_does_not_race(self, network, samples):
        with pytest.raises(InvalidValue, match=r"^race: expected a fitness that adds up over samples, got 'auroc'"):
            race(Evaluator(network, samples, "auroc"), CHILDREN)

    def test_goes_to_other_processes(self):
        for name in METRICS:
            assert pickle.loads(pickle.dumps(get_fitness(name))) == get_fitness(name)


def scores(columns=3, count=50):
    generator = np.random.default_rng(columns)
    return torch.tensor(generator.normal(size=(count, columns))), torch.tensor(
        generator.integers(columns, size=count)
    )


class TestNamedMetrics:
    @pytest.mark.parametrize(
        ("name", "near"), [("F1", "f1"), ("MRR@10", "mrr@10"), ("AUC", "auroc"), ("ndgc@10", "ndcg@10")]
    )
    def test_that_are_misspelt_are_told_the_nearest(self, name, near):
        with pytest.raises(InvalidValue, match=f"; did you mean '{near}'\\?$"):
            get_fitness(name)

    def test_are_names_of_fitnesses(self):
        assert [get_fitness(name).name for name in METRICS] == list(METRICS)
        assert not {*METRICS} & {*NAMES}
        assert get_fitness("ndcg@3").name == "ndcg@3"
        for name in ("ndcg@0", "ndcg", "f1@10", "auroc@"):
            with pytest.raises(InvalidValue, match=r"^fitness: expected one of cross_entropy, .* r2, got"):
                get_fitness(name)

    def test_f1_is_of_the_second_of_two_classes(self):
        outputs, targets = scores(2)
        expected = reference.f1_score(targets, outputs.argmax(1))
        assert get_fitness("f1").of(outputs, targets) == expected
        assert get_fitness("f1").of(outputs[:, 1] - outputs[:, 0], targets.double()) == expected
        assert get_fitness("f1").of((outputs[:, 1:] - outputs[:, :1]), targets[:, None]) == expected

    @pytest.mark.parametrize(
        ("name", "function"),
        [("auroc", reference.roc_auc_score), ("average_precision", reference.average_precision_score)],
    )
    def test_of_scores_for_each_class(self, name, function):
        metric = get_fitness(name)
        outputs, targets = scores(2)
        assert metric.of(outputs, targets) == pytest.approx(function(targets, outputs[:, 1] - outputs[:, 0]))
        outputs, targets = scores(4)
        shares = outputs.softmax(1)
        each = [function(targets == number, shares[:, number]) for number in range(4)]
        assert metric.of(outputs, targets) == pytest.approx(np.mean(each))
        several = (scores(4)[0] > 0).long().flip(0)
        assert metric.of(outputs, several) == pytest.approx(function(several, outputs, average="macro"))

    def test_ranked_lists_have_one_right_item_or_many(self):
        outputs, targets = scores(20)
        worth = nn.functional.one_hot(targets, 20)
        expected = reference.ndcg_score(worth.numpy(), outputs.numpy(), k=10)
        assert get_fitness("ndcg@10").of(outputs, targets) == pytest.approx(expected)
        graded = torch.randint(4, outputs.shape, generator=torch.Generator().manual_seed(0)).float()
        expected = reference.ndcg_score(graded.numpy(), outputs.numpy(), k=5)
        assert get_fitness("ndcg@5").of(outputs, graded) == pytest.approx(expected)
        places = 1 + (outputs > outputs.gather(1, targets[:, None])).sum(1)
        expected = torch.where(places <= 10, 1 / places, 0).mean()
        assert get_fitness("mrr@10").of(outputs, targets) == pytest.approx(float(expected))

    @pytest.mark.parametrize(
        ("name", "function"),
        [("auroc", reference.roc_auc_score), ("average_precision", reference.average_precision_score)],
    )
    def test_equal_scores_are_one_threshold(self, name, function):
        outputs, targets = scores(2)
        rounded = outputs.round()
        assert len(rounded.unique()) < len(rounded)
        expected = function(targets, rounded[:, 1] - rounded[:, 0])
        assert get_fitness(name).of(rounded, targets) == pytest.approx(expected)

    @pytest.mark.parametrize("name", ["ndcg@10", "ndcg@2", "mrr@10", "mrr@1"])
    def test_rankings_are_means_over_the_samples_that_have_a_target(self, name):
        outputs, targets = scores(20)
        targets[3] = -100
        each = get_fitness(name).metric.of_each(outputs, targets)
        assert len(each) == len(targets) - 1
        assert get_fitness(name).of(outputs, targets) == pytest.approx(float(each.mean()))
        first = get_fitness(name).of(outputs[:1], targets[:1])
        assert float(each[0]) == pytest.approx(first)
        assert get_fitness(name).metric.of_each(outputs.log(), targets) is None  # not finite
        assert get_fitness("auroc").metric.of_each(outputs, targets) is None
        assert get_fitness("mrr@10").of(torch.zeros(1, 4), torch.tensor([0])) == 0.25  # nothing is for free

    def test_of_numbers(self):
        outputs, targets = scores(1)[0].float(), scores(2)[0][:, 0]
        both = np.corrcoef(outputs[:, 0], targets)[0, 1]
        assert get_fitness("pearson").of(outputs, targets) == pytest.approx(both)
        ranks = [part.flatten().argsort().argsort().double() for part in (outputs, targets)]
        assert get_fitness("spearman").of(outputs, targets) == pytest.approx(np.corrcoef(*ranks)[0, 1])
        assert get_fitness("r2").of(outputs, targets) == pytest.approx(
            reference.r2_score(targets.numpy(), outputs.numpy())
        )

    @pytest.mark.parametrize("name", METRICS)
    def test_are_nan_where_they_are_not_defined(self, name):
        outputs, targets = scores(2)
        targets = outputs if name in ("pearson", "spearman", "r2") else targets
        outputs = outputs.clone()
        outputs[3, 1] = math.inf
        assert math.isnan(get_fitness(name).of(outputs, targets))

    @pytest.mark.parametrize("name", [name for name in METRICS if name not in ("pearson", "spearman", "r2")])
    def test_leave_samples_out_that_are_of_no_class(self, name):
        outputs, targets = scores(2)
        known = torch.arange(len(targets)) % 3 > 0
        some = get_fitness(name).of(outputs[known], targets[known])
        assert get_fitness(name).of(outputs, targets.where(known, -100)) == pytest.approx(some)
        assert math.isnan(get_fitness(name).of(outputs, torch.full_like(targets, -100)))

    @pytest.mark.parametrize("name", ["f1", "auroc", "average_precision"])
    def test_take_true_and_false_for_classes(self, name):
        outputs, targets = scores(2)
        for some in (outputs, outputs[:, :1]):
            found = get_fitness(name).of(some, targets > 0)
            assert found == get_fitness(name).of(some, (targets > 0).long())

    def test_of_one_class_or_constant_numbers_are_nan(self):
        outputs, targets = scores(2)
        assert math.isnan(get_fitness("auroc").of(outputs, torch.zeros_like(targets)))
        for name in ("pearson", "spearman", "r2"):
            assert math.isnan(get_fitness(name).of(outputs, torch.zeros_like(outputs)))

    @pytest.mark.parametrize(
        ("name", "outputs", "targets", "message"),
        [
            (
                "f1",
                (9, 3),
                torch.zeros(9),
                r"f1: expected outputs \[n\].* got outputs \[9, 3\] .*; f1 is of two",
            ),
            ("auroc", (9, 3), torch.rand(9), "auroc: expected class numbers"),
            ("auroc", (9,), torch.arange(9), "auroc: expected targets 0 and 1 for one output, got 2"),
            ("auroc", (9, 2), torch.tensor([[0, 3]] * 9), "auroc: expected targets 0 and 1 for each output, got 3"),
            ("f1", (9,), torch.tensor([-1, 1, 1] * 3), "f1: expected targets 0 and 1 for one output, got -1"),
            ("mrr@10", (9, 4), torch.arange(9), "mrr@10: expected numbers of 4 items, or -100 for none, got 4"),
            ("mrr@10", (9, 4), torch.full((9,), 156, dtype=torch.uint8), "mrr@10: expected numbers of 4 items.* 156"),
            ("ndcg@10", (9, 1), torch.zeros(9).long(), "ndcg@10: expected scores"),
            ("mrr@10", (9, 4), torch.rand(9), "mrr@10: expected scores"),
            ("pearson", (9, 2), torch.rand(9), "pearson: expected targets of the outputs' shape"),
            ("r2", (9, 2), torch.rand(8), "r2: expected a target for each output"),
        ],
    )
    def test_say_what_they_are_of(self, name, outputs, targets, message):
        with pytest.raises(InvalidValue, match=f"^{message}"):
            get_fitness(name).of(torch.rand(outputs), targets)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
    def test_worths_are_numbers_of_any_size(self, dtype):
        worths = torch.tensor([[10, 0, 3], [0, 7, 1]]).to(dtype)
        found = Evaluator(torch.nn.Linear(4, 3), (torch.ones(2, 4), worths), "ndcg@2").evaluate([Lineage()])
        assert 0 < float(found.fitness[0]) <= 1


class TestHosts:
    def test_both_have_the_evaluators_fitness(self, network, samples):
        parent = Evaluator(network, samples, "auroc").evaluate([Lineage()])
        problem = FinetuneProblem(network, samples, "auroc", seed=1, minibatch_size=20)
        population = problem.mutate(problem.generate_batch(6), key=2, subspace=RandomSubspace(0.3), sigma=0.5)
        problem.evaluate(population)
        assert (problem.objective_sense, problem.evaluator.samples) == ("max", 20)
        problem.minibatch_size = None
        problem.evaluate(population)
        lineages = problem.lineages(population)
        expected = Evaluator(network, samples, "auroc").evaluate(lineages).fitness
        assert population.access_evals(0).tolist() == expected.tolist()
        toolbox = ToolboxEvaluator(network, samples, "auroc")
        individual = toolbox.lineage()
        assert toolbox.evaluate(individual) == (float(parent.fitness[0]),)
