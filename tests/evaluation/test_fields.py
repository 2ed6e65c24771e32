"""Fields: of several outputs the logits are found, or a name says which, or the error says which there are."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from smd_evo import BatchFitness, Evaluator, RandomSubspace, SparseEnsemble, TakeOutput, sample_mutations
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.fitness import TotalFitness
from smd_evo.evaluation.objectives import Objectives


@dataclass
class Output:
    logits: torch.Tensor
    other: torch.Tensor


@dataclass
class Nameless:
    start: torch.Tensor
    end: torch.Tensor


class Several(nn.Module):
    """A linear layer, whose outputs come as something else."""

    def __init__(self, made):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.made = nn.Linear(4, 3), made

    def forward(self, x):
        return self.made(self.head(x))


DATA = torch.eye(4), torch.tensor([0, 1, 2, 0])
CHILDREN = sample_mutations(0, 3, subspace=RandomSubspace(0.5), sigma=0.5)
MARGIN = BatchFitness("margin", "max", lambda outputs, targets: outputs.float().gather(1, targets[:, None])[:, 0])
TOTAL = TotalFitness("sum", "max", lambda outputs, targets: outputs.sum(0), lambda sums: sums.sum(-1))
NAMED = {
    "object": lambda x: Output(x, -x),
    "dict": lambda x: {"other": -x, "logits": x},
}


def fitness(made, kind=MARGIN, **options):
    return Evaluator(Several(made), DATA, kind, **options).evaluate(CHILDREN).fitness


@pytest.mark.parametrize("made", NAMED.values(), ids=NAMED)
class TestLogits:
    @pytest.mark.parametrize(
        "kind", [MARGIN, TOTAL, "cross_entropy", "macro_f1"], ids=["margin", "sum", "cross_entropy", "macro_f1"]
    )
    @pytest.mark.parametrize("options", [{}, {"together": 2}, {"reuse": False}], ids=str)
    def test_are_what_a_score_gets(self, made, kind, options):
        torch.testing.assert_close(fitness(made, kind, **options), fitness(lambda x: x, kind, **options))

    def test_of_several_objectives(self, made):
        objectives = Objectives([MARGIN, "accuracy"])
        found = [
            objectives.evaluate(objectives.evaluator(Several(each), DATA), CHILDREN) for each in (made, lambda x: x)
        ]
        assert torch.equal(*found)

    def test_of_ensembles(self, made):
        found = [SparseEnsemble(Several(each), CHILDREN)(DATA[0]) for each in (made, lambda x: x)]
        assert torch.equal(*found)

    def test_what_is_wrong_with_targets_is_told_as_of_a_plain_tensor(self, made):
        with pytest.raises(
            InvalidType, match=r"^targets: expected class numbers, got float32 \[\d+\]; use targets.long\(\)$"
        ):
            Evaluator(Several(made), (DATA[0], DATA[1].float()), "accuracy").evaluate(CHILDREN)

    def test_a_score_that_looks_for_them_itself_is_told(self, made):
        with pytest.raises(InvalidType, match=r"^own: expected a score that takes the logits of \w+, a tensor, got"):
            fitness(made, BatchFitness("own", "max", lambda outputs, targets: outputs.logits[:, 0]))


class TestTakeOutput:
    @pytest.mark.parametrize(
        ("made", "field"),
        [
            (lambda x: Nameless(-x, x), "end"),
            (lambda x: {"start": -x, "end": x}, "end"),
            (lambda x: (-x, x), 1),
        ],
    )
    def test_says_which_counts(self, made, field):
        network = Several(made)
        handle = network.register_forward_hook(TakeOutput(field))
        assert torch.equal(Evaluator(network, DATA).evaluate(CHILDREN).fitness, fitness(lambda x: x, "cross_entropy"))
        predicted = SparseEnsemble(network, CHILDREN)(DATA[0])
        assert torch.equal(predicted, SparseEnsemble(Several(lambda x: x), CHILDREN)(DATA[0]))
        assert list(network.state_dict()) == ["head.weight", "head.bias"]
        handle.remove()
        assert not isinstance(network(DATA[0]), torch.Tensor)

    @pytest.mark.parametrize(
        ("made", "field", "got"),
        [
            (lambda x: Nameless(-x, x), "stop", "'stop' among those of Several, got Nameless of start, end"),
            (lambda x: {"start": x, "end": None}, "end", "'end' among those of Several, got dict of start, end"),
            (lambda x: (x, x), 2, "2 among those of Several, got tuple of 2"),
            (lambda x: (x, x), "end", "'end' among those of Several, got tuple of 2"),
            (lambda x: x, "end", "'end' among those of Several, got Tensor of none with names"),
        ],
    )
    def test_an_output_that_is_not_there(self, made, field, got):
        network = Several(made)
        network.register_forward_hook(TakeOutput(field))
        with pytest.raises(InvalidValue, match=f"^outputs: expected {got}$"):
            Evaluator(network, DATA).evaluate(CHILDREN)

    def test_a_number_is_counted_from_0(self):
        with pytest.raises(InvalidValue, match="field: expected a whole number >= 0, got -1; or give a name"):
            TakeOutput(-1)


def test_outputs_without_logits_are_a_users_own_score_to_read():
    kind = BatchFitness("own", "max", lambda outputs, targets: outputs.start[:, 0])
    assert len(fitness(lambda x: Nameless(x, -x), kind)) == 3


@pytest.mark.parametrize("kind", [MARGIN, "cross_entropy"], ids=["margin", "cross_entropy"])
def test_where_there_are_none_the_error_says_which_fields_there_are(kind):
    with pytest.raises(InvalidType, match=r"got Nameless of start, end|takes Nameless of start, end") as caught:
        fitness(lambda x: Nameless(x, -x), kind)
    assert "TakeOutput(NAME)" in str(caught.value)
    assert "\n" not in str(caught.value)
