"""The mutation window of a real network: fair, repeatable, chosen on one split and reported on another."""

import dataclasses
import json

import pytest
import torch
from helpers import Counter, blobs, trained

from smd_evo import Evaluator, Mutation
from smd_evo.errors import InvalidValue
from smd_evo.experiments.window.run import measure_window
from smd_evo.experiments.window.settings import WindowConfig

pytestmark = pytest.mark.numeric

CONFIG = WindowConfig(children=12, density=(1.0, 0.1, 0.01), seed=3)
FITNESS, VALIDATION = blobs(90, shift=1.5, key=4), blobs(70, shift=1.5, key=5)


def measure(config=CONFIG, *, fitness=FITNESS, validation=VALIDATION, progress=None, **changes):
    ranker = Evaluator(trained(), fitness, "accuracy")
    return measure_window(dataclasses.replace(config, **changes), ranker, ranker.on(validation), progress)


@pytest.fixture(scope="module")
def counter():
    return Counter()


@pytest.fixture(scope="module")
def result(counter):
    return measure(progress=counter)


def cells(result):
    return [cell for profile in result.profiles for cell in profile.cells]


def accuracy_on(samples, recipe=None):
    space = Evaluator(trained(), FITNESS).space
    network = space.make_child(Mutation.decode(recipe)) if recipe else space.module
    with torch.inference_mode():
        return float((network.eval()(samples[0]).argmax(1) == samples[1]).double().mean())


def test_each_rule_goes_from_what_keeps_everything_to_what_destroys(result):
    assert [(profile.rule, profile.kind) for profile in result.profiles] == [
        ("dense", "dense"),
        ("random:0.1", "random"),
        ("random:0.01", "random"),
    ]
    for profile in result.profiles:
        sigmas = [cell.sigma for cell in profile.cells]
        assert sigmas == sorted(sigmas)
        assert all(cell.median.low >= 0.99 * result.parent for cell in profile.cells[:2])
        assert all(cell.median.high < result.destroyed for cell in profile.cells[-2:])
        assert [window.beyond for window in profile.windows] == [None, None]


def test_norms_count_the_coordinates_that_are_touched(result):
    assert result.parameters == 36 + 8 + 192 + 3
    for profile, touched in zip(result.profiles, (239, 24, 2), strict=True):
        assert profile.density == pytest.approx(touched / 239)
        assert [cell.norm for cell in profile.cells] == pytest.approx(
            [cell.sigma * (touched / 239) ** 0.5 for cell in profile.cells]
        )


def test_ratios_are_of_the_edges_at_matched_sigma_and_at_matched_norm(result):
    dense, *sparse = result.profiles
    assert [(window.matched_sigma, window.matched_norm) for window in dense.windows] == [(None, None)] * 2
    for profile in sparse:
        for own, other in zip(profile.windows, dense.windows, strict=True):
            assert own.matched_sigma.value == pytest.approx(own.sigma.value / other.sigma.value)
            assert own.matched_norm.value == pytest.approx(own.norm.value / other.norm.value)
            for end in ("value", "low", "high"):
                if getattr(own.sigma, end) is not None:
                    norm = getattr(own.sigma, end) * profile.density**0.5
                    assert getattr(own.norm, end) == pytest.approx(norm)


def test_certain_cells_have_few_children_and_those_beside_an_edge_all(result):
    assert {len(cell.accuracies) for cell in cells(result)} == {6, 12}
    for profile in result.profiles:
        for window in profile.windows:
            below = max(place for place, cell in enumerate(profile.cells) if cell.sigma <= window.sigma.value)
            assert [len(cell.accuracies) for cell in profile.cells[below : below + 2]] == [12, 12]


def test_an_edge_between_certain_cells_gets_all_children_on_both_sides():
    far_apart = measure(sigma=(0.0001, 0.001, 10.0, 100.0), density=(1.0,)).profiles[0]
    assert [len(cell.accuracies) for cell in far_apart.cells] == [6, 12, 12, 6]


def test_evaluations_are_counted_and_shown(result, counter):
    spent = sum(len(cell.accuracies) for cell in cells(result))
    strengths = {cell.sigma for cell in cells(result)}
    assert result.evaluations == {
        "children": spent,
        "full grid": 3 * len(strengths) * 12,
        "validation": len(cells(result)),
    }
    assert spent < result.evaluations["full grid"] / 2
    assert [phase[:2] for phase in counter.phases[:3]] == [[f"children, {p.rule}", None] for p in result.profiles]
    assert sum(phase[2] for phase in counter.phases[:3]) == spent
    assert counter.phases[3:] == [["validation", 1 + len(cells(result)), 1 + len(cells(result))]]


def test_the_parent_and_chance_are_those_of_the_splits(result):
    assert (result.parent, result.parent_validation) == (accuracy_on(FITNESS), accuracy_on(VALIDATION))
    assert result.chance == pytest.approx(1 / 3)
    assert result.samples == {"fitness": 90, "validation": 70}


def test_recipes_of_best_children_make_them_again(result):
    for cell in cells(result)[::3]:
        assert cell.best.accuracy == max(cell.accuracies) == pytest.approx(accuracy_on(FITNESS, cell.best.recipe))
        after = accuracy_on(VALIDATION, cell.best.recipe)
        assert cell.best.gain.value == pytest.approx(after - result.parent_validation)


def test_the_best_child_of_a_window_is_the_best_on_fitness_up_to_its_edge(result):
    for profile in result.profiles:
        for window in profile.windows:
            inside = [cell.best for cell in profile.cells if cell.sigma <= window.sigma.value]
            assert window.best in inside
            assert window.best.accuracy == max(best.accuracy for best in inside)


def test_validation_chooses_nothing(result):
    images, targets = VALIDATION
    other = measure(validation=(images, (targets + 1) % 3))

    def chosen(result):
        return [
            [(cell.sigma, cell.accuracies, cell.best.recipe) for cell in profile.cells]
            + [(window.sigma, window.matched_norm, window.best.recipe) for window in profile.windows]
            for profile in result.profiles
        ]

    assert chosen(other) == chosen(result)
    assert [cell.best.gain for cell in cells(other)] != [cell.best.gain for cell in cells(result)]


def test_the_same_seed_gives_the_same_result_and_another_seed_other_children(result):
    assert measure() == result
    assert {cell.accuracies for cell in cells(measure(seed=4))}.isdisjoint(
        cell.accuracies for cell in cells(result) if len(set(cell.accuracies)) > 3
    )


def test_children_of_a_cell_are_the_same_whatever_else_is_measured(result):
    sigma = result.profiles[1].cells[3].sigma
    alone = measure(density=(0.1,), sigma=(sigma,)).profiles[0].cells[0]
    beside = result.profiles[1].cells[3]
    assert all(one == two for one, two in zip(alone.accuracies, beside.accuracies, strict=False))


def test_given_strengths_are_all_measured_and_may_not_reach_an_edge():
    result = measure(sigma=(0.002, 0.001))
    assert [[cell.sigma for cell in profile.cells] for profile in result.profiles] == [[0.001, 0.002]] * 3
    for profile in result.profiles:
        assert [window.beyond for window in profile.windows] == ["above", "above"]
        assert all(window.sigma.value is None and window.best for window in profile.windows)
    sparse = result.profiles[1].windows[0]
    assert sparse.matched_sigma.value is None
    far = measure(sigma=(30.0,), density=(1.0,)).profiles[0]
    assert [(window.beyond, window.best) for window in far.windows] == [("below", None)] * 2


def test_children_that_are_not_finite_are_counted_as_wrong_and_stay_json():
    result = measure(sigma=(0.01, 1e38), density=(1.0,))
    weak, strong = result.profiles[0].cells
    assert (weak.nonfinite, strong.nonfinite) == (0, len(strong.accuracies))
    assert set(strong.accuracies) == {0.0}
    assert strong.best.gain.value == pytest.approx(-result.parent_validation)
    assert json.loads(json.dumps(dataclasses.asdict(result), allow_nan=False))["profiles"]


def test_density_1_is_one_rule_whatever_the_kind():
    alone = measure(density=(1.0,), subspace=("random", "neuron", "partition"))
    assert [profile.rule for profile in alone.profiles] == ["dense"]
    several = measure(density=(1.0, 0.3, 0.32), subspace=("partition", "neuron"), sigma=(0.1,))
    assert [profile.rule for profile in several.profiles] == ["dense", "partition:3", "neuron:0.3", "neuron:0.32"]


def test_without_dense_mutations_there_is_nothing_to_compare_with():
    windows = measure(density=(0.1,)).profiles[0].windows
    assert [(window.matched_sigma, window.matched_norm) for window in windows] == [(None, None)] * 2


def test_a_share_that_a_constant_answer_reaches_has_no_window():
    images, targets = blobs(600, shift=1.5, key=6)
    with torch.inference_mode():
        predicted = trained()(images).argmax(1)
    zeros, ones = ((predicted == number).nonzero().flatten() for number in (0, 1))
    # 80 of 100 right, 75 of the most frequent class.
    chosen = torch.cat([zeros[:85], ones[:15]])
    targets = torch.tensor([0] * 70 + [1] * 15 + [1] * 10 + [0] * 5)
    result = measure(fitness=(images[chosen], targets), density=(1.0,))
    assert (result.parent, result.chance) == (0.8, 0.75)
    assert [window.beyond == "chance" for window in result.profiles[0].windows] == [False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"children": 5}, "children: expected a whole number >= 6, got 5; .* try 24"),
        ({"fitness": (FITNESS[0], torch.zeros(90, dtype=torch.int64))}, "parent: expected an accuracy above chance"),
        ({"subspace": ("partition",), "density": (0.001,)}, "parts: expected at most D = 239 parts, got 1000"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, message):
    with pytest.raises(InvalidValue, match=message):
        measure(**changes)


def test_a_window_is_of_accuracies():
    ranker = Evaluator(trained(), FITNESS)
    with pytest.raises(InvalidValue, match="fitness: expected accuracy, got cross_entropy"):
        measure_window(CONFIG, ranker, ranker.on(VALIDATION, "accuracy"))
