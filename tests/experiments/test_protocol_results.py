"""What a study says: of each network over its seeds, and over networks that count alike."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from smd_evo.errors import InvalidValue
from smd_evo.experiments.protocol.across import PARENT
from smd_evo.experiments.protocol.networks import MATCHED, Gain, Run
from smd_evo.experiments.protocol.plot import plot_summary
from smd_evo.experiments.protocol.results import summarise
from smd_evo.experiments.protocol.table import protocol_table, protocol_verdict
from smd_evo.experiments.scores import Row
from smd_evo.experiments.tables import BEST_FREE
from smd_evo.statistics.bootstrap import paired_difference
from smd_evo.statistics.tests import holm, mcnemar_exact, sign_test, t_interval, wilcoxon

NAMES = [
    ("parent", "parent"),
    ("sparse", "best child"),
    ("sparse", "ensemble"),
    (MATCHED, "best child"),
    (MATCHED, "ensemble"),
    ("nearly free", "views"),
    ("nearly free", "head-tuned"),
]
SAMPLES = 80


def run(name, seed=0, parameters=1000, right=None, keeps=True):
    """A run whose rows have each sample right by chance, the more often the further down; no seed shares any."""
    draws = np.random.default_rng([seed, parameters])
    if right is None:
        right = np.stack([draws.random(SAMPLES) < 0.4 + 0.05 * place for place in range(len(NAMES))])
    rows = []
    for place, (method, candidate) in enumerate(NAMES):
        row = Row(method, candidate, 1, None, None, float(right[place].mean()), 1.0)
        if place:
            gain, p_value = paired_difference(right[place], right[0]), mcnemar_exact(right[place], right[0])
            row = dataclasses.replace(row, accuracy_gain=gain, loss_gain=gain, p_value=p_value)
        rows.append(row)
    against = {}
    for other, place in ((MATCHED, 4), (BEST_FREE, 5)):
        p_value = mcnemar_exact(right[2], right[place])
        against[other] = Gain(paired_difference(right[2], right[place]), p_value, p_value)
    groups = {"sparse": [(0.1, 1.0), (0.01, 1.2)], MATCHED: [(1.0, 1.1), (1.0, 1.1)]}
    samples = SAMPLES * seed + np.arange(SAMPLES)
    return Run(name, seed, f"timm:{name}", parameters, rows, right if keeps else None, samples, against, groups)


def test_a_network_with_one_seed_has_the_numbers_of_its_run():
    one = run("a")
    (line,) = summarise([one]).networks
    assert (line.name, line.seeds, line.accuracy) == ("a", (0,), one.rows[0].accuracy)
    assert line.gains["sparse"]["ensemble"].value == one.rows[2].accuracy_gain
    assert line.against["ensemble"][MATCHED].value == one.against[MATCHED].value
    assert line.gains["nearly free"][BEST_FREE].value == one.rows[5].accuracy_gain
    expected = paired_difference(one.right[1], one.right[3])
    assert line.against["best child"][MATCHED].value.value == pytest.approx(expected.value)


def test_one_of_before_samples_were_kept_has_what_was_stored():
    (line,) = summarise([run("a", keeps=False)]).networks
    assert set(line.against["ensemble"]) == {MATCHED, BEST_FREE}
    assert line.against["best child"] == {}


def test_of_several_seeds_all_images_count_alike():
    runs = [run("a", seed) for seed in range(3)]
    (line,) = summarise(runs).networks
    assert line.seeds == (0, 1, 2)
    assert line.accuracy == pytest.approx(np.mean([each.rows[0].accuracy for each in runs]))
    for place, found in ((1, line.gains["sparse"]["best child"]), (5, line.gains["nearly free"][BEST_FREE])):
        now, before = (np.concatenate([each.right[number] for each in runs]) for number in (place, 0))
        assert found.value.value == pytest.approx(now.mean() - before.mean())
        assert found.value.low < found.value.value < found.value.high
        assert found.p_value == pytest.approx(mcnemar_exact(now, before))
    sparse, dense = (np.concatenate([each.right[number] for each in runs]) for number in (2, 4))
    assert line.against["ensemble"][MATCHED].p_value == pytest.approx(mcnemar_exact(sparse, dense))


def test_an_image_that_several_seeds_have_seen_is_drawn_once():
    one = run("a")
    same = [dataclasses.replace(one, seed=seed) for seed in range(3)]
    (line,), (alone,) = summarise(same).networks, summarise([one]).networks
    for name in ("best child", "ensemble"):
        for found, expected in (
            (line.gains["sparse"][name], alone.gains["sparse"][name]),
            (line.against[name][MATCHED], alone.against[name][MATCHED]),
        ):
            assert found.value.value == pytest.approx(expected.value.value)
            assert found.value.high - found.value.low > 0.85 * (expected.value.high - expected.value.low)
            assert found.p_value == pytest.approx(expected.p_value)


def test_p_values_are_adjusted_for_every_network_of_a_table():
    networks = summarise([run(name, parameters=number) for number, name in enumerate("abc")]).networks
    gains = [each.gains["sparse"][name] for each in networks for name in ("best child", "ensemble")]
    assert [gain.adjusted for gain in gains] == holm([gain.p_value for gain in gains])
    against = [gain for each in networks for gain in each.against["ensemble"].values()]
    assert [gain.adjusted for gain in against] == holm([gain.p_value for gain in against])


def test_each_network_counts_once_however_many_seeds_it_has():
    runs = [run(name, seed, number) for number, name in enumerate("abcdef", 1) for seed in range(number % 3 + 1)]
    summary = summarise(runs)
    for name in ("best child", "ensemble"):
        for other, found in summary.overall[name].items():
            own = [
                (each.gains["sparse"][name] if other == PARENT else each.against[name][other]).value.value
                for each in summary.networks
            ]
            assert found.mean == t_interval(own)
            assert (found.wilcoxon, found.sign) == (wilcoxon(own, [0] * 6), sign_test(own, [0] * 6))
            assert (found.better, found.networks) == (sum(each > 0 for each in own), 6)
    asked = [summary.overall[name][MATCHED].wilcoxon for name in ("best child", "ensemble")]
    assert [*summary.question.values()] == holm(asked)


def test_trends_need_five_networks_and_leave_out_those_that_lack_a_number():
    runs = [run(name, parameters=1000 * number) for number, name in enumerate("abcdef", 1)]
    assert summarise(runs[:4]).trends == []
    trends = {(each.of, each.by): each for each in summarise(runs).trends}
    assert len(trends) == 4
    assert {each.networks for each in trends.values()} == {6}
    bare = dataclasses.replace(runs[0], rows=runs[0].rows[:-1], right=runs[0].right[:-1])
    trends = {(each.of, each.by): each for each in summarise([bare, *runs[1:]]).trends}
    assert trends["gain of the sparse ensemble", "gain of head-tuned"].networks == 5
    assert trends["gain of the sparse ensemble", "parameters"].networks == 6


def test_each_density_stands_beside_the_dense_group_of_its_norm():
    """A loss of 1.0 beside 1.1 is better by 0.1; one of 1.2 is worse by as much."""
    first, second = summarise([run("a"), run("b")]).densities
    assert (first.density, second.density) == (0.1, 0.01)
    assert first.gain.mean.value == pytest.approx(0.1)
    assert second.gain.mean.value == pytest.approx(-0.1)
    better = [dataclasses.replace(run(name), sense="max") for name in "ab"]
    assert summarise(better).densities[0].gain.mean.value == pytest.approx(-0.1)
    bare = [dataclasses.replace(run(name), groups={"sparse": [(0.1, 1.0), (0.01, 1.0)]}) for name in "ab"]
    assert summarise(bare).densities == []


def test_a_control_that_not_every_run_has_is_left_out():
    other = run("a", 1)
    fewer = dataclasses.replace(other, rows=other.rows[:-1], right=other.right[:-1])
    (line,) = summarise([run("a"), fewer]).networks
    assert set(line.gains["nearly free"]) == {"views", BEST_FREE}


def test_what_cannot_be_put_together_is_refused_in_one_line():
    with pytest.raises(
        InvalidValue, match="run: expected results that say which samples are right, got older ones of a"
    ):
        summarise([run("a"), run("a", 1, keeps=False)])
    other = run("a", 1)
    with pytest.raises(
        InvalidValue, match="run: expected the same arms with every seed, got others of a with seed 1"
    ):
        summarise([run("a"), dataclasses.replace(other, rows=other.rows[:3], right=other.right[:3])])
    rows = [dataclasses.replace(row, accuracy=None) for row in other.rows]
    with pytest.raises(InvalidValue, match="run: expected classifiers, got a on samples without classes"):
        summarise([dataclasses.replace(other, rows=rows)])


@pytest.mark.parametrize("names", ["a", "ab", "abcdef"])
def test_it_is_told_and_drawn_for_any_number_of_networks(names, tmp_path):
    summary = summarise([run(name, seed, number + 1) for seed in (0, 1) for number, name in enumerate(names)])
    assert protocol_table(summary).row_count == len(names)
    lines = protocol_verdict(summary)
    asked = [line for line in lines if "Holm's correction for both candidates" in line]
    assert len(asked) == (2 if len(names) > 1 else 0)
    plot_summary(summary, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.size[0] > 800


def test_without_dense_arms_the_picture_has_one_half(tmp_path):
    own = run("a")
    places = [0, 1, 2, 5, 6]
    bare = dataclasses.replace(own, rows=[own.rows[place] for place in places], right=own.right[places], against={})
    plot_summary(summarise([bare]), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size
