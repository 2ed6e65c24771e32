"""A parent that does no more than guess is told of, once, with what to look at."""

import pytest
import torch
from torch import nn

import smd_evo
from smd_evo.experiments.chance import near_chance, remark

EVEN = torch.arange(10).repeat(10)  # chance is 10 %, and told below 14.5 %


def answering(right, targets=EVEN, classes=10):
    """Outputs of a network that is right about so many samples, the first ones."""
    answers = torch.where(torch.arange(len(targets)) < right, targets, (targets + 1) % classes)
    return torch.nn.functional.one_hot(answers, classes).float()


@pytest.mark.parametrize(("right", "told"), [(0, True), (10, True), (14, True), (15, False), (100, False)])
def test_below_a_twentieth_of_the_way_from_chance_to_certainty(right, told):
    assert bool(remark(answering(right), EVEN)) == told
    assert remark(answering(right), EVEN) == near_chance(right / 100, EVEN)


def test_chance_is_the_most_frequent_class():
    targets = torch.tensor([0] * 90 + [1] * 10)
    assert "above chance on the fitness split (90.0 %, its most frequent class), got 90.0 %; " in remark(
        answering(90, targets, 2), targets
    )
    assert remark(answering(95, targets, 2), targets) == ""


def test_it_names_what_to_check_in_one_line():
    line = near_chance(0.1, EVEN, "validation")
    for word in ("validation", "mean, std, scale", "resizing (preprocessing)", "order of the labels", "checkpoint"):
        assert word in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.zeros(100, 10), torch.zeros(100, dtype=torch.int64)),
        (torch.zeros(100, 1), torch.zeros(100, dtype=torch.int64)),
        (torch.zeros(100, 2), torch.zeros(100, 2)),
        (torch.zeros(100, 1), torch.zeros(100)),
    ],
    ids=["one class", "one output", "several labels", "numbers"],
)
def test_nothing_where_chance_means_nothing(outputs, targets):
    assert remark(outputs, targets) == ""


def test_outputs_that_are_not_finite_are_wrong_answers():
    assert "got 0.0 %" in remark(torch.full((100, 10), torch.nan), EVEN)


class Guessing(nn.Module):
    """It always answers the first class."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)
        with torch.no_grad():
            self.head.weight.mul_(1e-3)
            self.head.bias.copy_(torch.tensor([9.0, 0.0, 0.0, 0.0]))

    def forward(self, inputs):
        return self.head(inputs)


def samples():
    targets = torch.arange(40) % 4
    return smd_evo.Splits(
        *[(torch.rand(40, 3, generator=torch.Generator().manual_seed(part)), targets) for part in range(3)]
    )


def test_runs_over_generations_tell_of_it(tmp_path):
    with pytest.warns(UserWarning, match=r"^parent: expected .* on the validation split .*, got 25\.0 %; check"):
        smd_evo.evolve(Guessing(), samples(), generations=1, children=4, sigma=0.01, out=tmp_path / "run")


def test_comparisons_tell_of_it_once(tmp_path):
    with pytest.warns(UserWarning, match=r"^parent: expected .* on the fitness split .*, got 25\.0 %; check") as told:
        smd_evo.compare(
            *(Guessing(), samples()),
            **{"methods": ("smd",), "controls": False, "budget": 320, "children": 8, "images": 20},
            **{"trials": 1, "seeds": 2, "checkpoints": 1, "out": tmp_path / "run"},
        )
    assert len([each for each in told if "above chance" in str(each.message)]) == 1
