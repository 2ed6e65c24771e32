"""Classifiers: outputs and targets that do not belong together are refused, counts are the textbook's metrics."""

import math
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.classification import IGNORED, class_counts, class_range, logits_of
from smd_evo.evaluation.fitness import ACCURACY, BALANCED_ACCURACY, CROSS_ENTROPY, MACRO_F1

OF_CLASSES = [CROSS_ENTROPY, ACCURACY, BALANCED_ACCURACY, MACRO_F1]
every_fitness = pytest.mark.parametrize("fitness", OF_CLASSES, ids=lambda fitness: fitness.name)


@st.composite
def predictions(draw):
    """Outputs of a few classes, some of them rare or absent, and the true ones."""
    classes, count = draw(st.integers(2, 6)), draw(st.integers(1, 40))
    numbers = st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)
    true, predicted = torch.tensor(draw(numbers)), torch.tensor(draw(numbers))
    return functional.one_hot(predicted, classes).float(), true


class TestRight:
    @given(predictions())
    def test_balanced_accuracy_is_that_of_scikit_learn_and_of_torchmetrics(self, found):
        outputs, targets = found
        predicted, there = outputs.argmax(1), torch.bincount(targets, minlength=outputs.shape[1]) > 0
        recalls = multiclass_accuracy(predicted, targets, outputs.shape[1], average="none")
        assert BALANCED_ACCURACY.of(outputs, targets) == pytest.approx(float(recalls[there].mean()))
        if set(predicted.tolist()) <= set(targets.tolist()):  # scikit-learn warns of the others
            expected = balanced_accuracy_score(targets, predicted) if there.sum() > 1 else recalls[there].mean()
            assert BALANCED_ACCURACY.of(outputs, targets) == pytest.approx(float(expected))

    @given(predictions())
    def test_macro_f1_is_that_of_scikit_learn_and_of_torchmetrics(self, found):
        outputs, targets = found
        predicted = outputs.argmax(1)
        expected = f1_score(targets, predicted, average="macro", zero_division=0.0)
        assert MACRO_F1.of(outputs, targets) == pytest.approx(expected)
        other = multiclass_f1_score(predicted, targets, outputs.shape[1], average="macro")
        assert float(other) == pytest.approx(expected, abs=1e-6)

    @given(predictions(), st.integers(1, 40))
    def test_counts_of_parts_add_up(self, found, size):
        outputs, targets = found
        parts = [class_counts(*pair) for pair in zip(outputs.split(size), targets.split(size), strict=True)]
        assert torch.equal(sum(parts), class_counts(outputs, targets))

    def test_of_each_position_where_there_are_several(self):
        torch.manual_seed(0)
        outputs, targets = torch.randn(5, 3, 2, 4), torch.randint(3, (5, 2, 4))
        flat = outputs.movedim(1, -1).flatten(0, -2), targets.flatten()
        for fitness in OF_CLASSES:
            assert fitness.of(outputs, targets) == pytest.approx(fitness.of(*flat))

    @every_fitness
    def test_outputs_that_are_not_finite_predict_nothing(self, fitness):
        outputs = torch.eye(3)
        outputs[1, 0] = math.nan
        assert math.isnan(fitness.of(outputs, torch.arange(3)))

    def test_samples_without_a_class_do_not_count(self):
        outputs, targets = torch.eye(3), torch.tensor([0, IGNORED, 1])
        assert BALANCED_ACCURACY.of(outputs, targets) == 0.5
        assert CROSS_ENTROPY.per_sample(outputs, targets, 3)[1] == 0

    def test_cross_entropy_with_probabilities(self):
        torch.manual_seed(0)
        outputs, targets = torch.randn(5, 3), torch.randn(5, 3).softmax(1)
        assert CROSS_ENTROPY.of(outputs, targets) == pytest.approx(float(functional.cross_entropy(outputs, targets)))

    @every_fitness
    @pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.int8])
    def test_any_integers_are_class_numbers(self, fitness, dtype):
        torch.manual_seed(0)
        outputs, targets = torch.randn(9, 3), torch.arange(9) % 3
        assert fitness.of(outputs, targets.to(dtype)) == fitness.of(outputs, targets)


@every_fitness
class TestRefused:
    @pytest.mark.parametrize(
        ("outputs", "targets", "message"),
        [
            ((8, 3), (8, 1), r"targets: expected \[8\] for outputs \[8, 3\], got \[8, 1\]; use targets.squeeze\(1\)"),
            ((8, 3), (8, 3), r"targets: expected \[8\] for outputs \[8, 3\], got \[8, 3\]; classes are dimension 1"),
            ((8, 5, 3), (8, 5), r"targets: expected \[8, 3\] .* got \[8, 5\]; classes are dimension 1"),
            ((8, 1), (8,), r"outputs: expected \[n, classes\] of two classes or more, got \[8, 1\]; for a network"),
            ((8,), (8,), r"outputs: expected \[n, classes\] of two classes or more, got \[8\]"),
        ],
    )
    def test_shapes_that_do_not_belong_together(self, fitness, outputs, targets, message):
        with pytest.raises(InvalidValue, match=f"^{message}"):
            fitness.of(torch.zeros(outputs), torch.zeros(targets, dtype=torch.int64))

    @pytest.mark.parametrize("targets", [torch.zeros(8), torch.zeros(8, dtype=torch.complex64)])
    def test_targets_that_are_no_class_numbers(self, fitness, targets):
        with pytest.raises(InvalidType, match=r"targets: expected class numbers, got (float|complex).* \[8\]; use"):
            fitness.of(torch.zeros(8, 3), targets)
        with pytest.raises(InvalidType, match=r"targets: expected one tensor of class numbers, got dict"):
            fitness.of(torch.zeros(8, 3), {"a": targets})

    def test_one_output_and_float_targets(self, fitness):
        """Of one class the cross-entropy is 0 whatever the network says."""
        with pytest.raises(InvalidValue, match=r"two classes or more, got \[8, 1\]; .* give a BatchFitness"):
            fitness.of(torch.zeros(8, 1), torch.ones(8, 1))


def test_probabilities_of_other_classes_than_the_networks():
    with pytest.raises(InvalidValue, match=r"^targets: expected \[8, 3\] for outputs \[8, 3\], got \[8, 4\]"):
        CROSS_ENTROPY.of(torch.zeros(8, 3), torch.ones(8, 4))


class TestRange:
    @given(st.lists(st.lists(st.integers(0, 99) | st.just(IGNORED), max_size=5), max_size=5))
    def test_of_all_batches_and_without_what_is_ignored(self, batches):
        known = [number for batch in batches for number in batch if number != IGNORED]
        expected = (min(known), max(known)) if known else None
        assert class_range(torch.tensor(batch, dtype=torch.int64) for batch in batches) == expected

    @pytest.mark.parametrize("targets", [torch.ones(3), {"a": torch.ones(3)}, torch.ones(3, dtype=torch.complex64)])
    def test_there_is_none_of_other_targets(self, targets):
        assert class_range([torch.arange(3), targets]) is None


class Output(OrderedDict):
    """As transformers' ModelOutput: a mapping whose items are attributes, too."""

    __getattr__ = OrderedDict.__getitem__


LOGITS = torch.ones(2, 3)


class TestLogits:
    @pytest.mark.parametrize(
        "outputs",
        [
            LOGITS,
            (LOGITS, None),
            [LOGITS, torch.zeros(9)],
            {"loss": torch.zeros(()), "logits": LOGITS},
            Output(loss=None, logits=LOGITS, hidden_states=(torch.zeros(2),)),
            SimpleNamespace(logits=LOGITS),
        ],
        ids=lambda outputs: type(outputs).__name__,
    )
    def test_of_what_networks_return(self, outputs):
        assert logits_of(outputs) is LOGITS
        assert ACCURACY.of(outputs, torch.tensor([0, 2])) == 0.5

    @pytest.mark.parametrize(
        ("outputs", "got"),
        [
            ({"out": LOGITS, "aux": LOGITS}, "dict of out, aux"),
            ((None, LOGITS), "tuple"),
            ((), "tuple"),
            (None, "NoneType"),
            (np.ones((2, 3)), "ndarray"),
        ],
    )
    def test_other_things_are_refused(self, outputs, got):
        with pytest.raises(
            InvalidType,
            match=f"^outputs: expected a tensor, .* with logits, .* got {got}; network.register_forward_hook",
        ):
            logits_of(outputs)
