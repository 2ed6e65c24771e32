"""Tables, sentences and the plot of mutation windows."""

import dataclasses
import io

import pytest
from helpers import blobs, trained
from matplotlib.image import imread
from rich.console import Console

from smd_evo import Evaluator
from smd_evo.experiments.sections import printed as on_page
from smd_evo.experiments.window.numbers import PartialEstimate
from smd_evo.experiments.window.plot import plot_window
from smd_evo.experiments.window.results import BestChild, Cell, Profile, Window, WindowResult
from smd_evo.experiments.window.run import measure_window
from smd_evo.experiments.window.settings import WindowConfig
from smd_evo.experiments.window.table import window_tables, window_verdict
from smd_evo.statistics.tests import Estimate

UNKNOWN = PartialEstimate(None, None, None)
SIGMAS = (0.01, 0.1)


def best(gain=(0.02, -0.01, 0.05), p_value=0.3):
    return BestChild(0.01, "", 0.85, Estimate(*gain), p_value)


def window(share, sigma=(0.0512, 0.0478, 0.0549), beyond=None, matched_sigma=None, matched_norm=None, child=None):
    sigma, *ratios = (values and PartialEstimate(*values) for values in (sigma, matched_sigma, matched_norm))
    return Window(share, sigma or UNKNOWN, sigma or UNKNOWN, beyond, *ratios, child or best())


def profile(rule, *windows, nonfinite=0):
    cells = [Cell(sigma, sigma, (0.8, 0.7), nonfinite, Estimate(0.75, 0.7, 0.8), best()) for sigma in SIGMAS]
    return Profile(rule, rule.partition(":")[0], 0.01, tuple(cells), windows)


def result(*profiles):
    return WindowResult(
        config=WindowConfig(density=(1.0, 0.01)),
        parameters=1000,
        samples={"fitness": 1200, "validation": 900},
        parent=0.8,
        parent_validation=0.79,
        chance=0.1,
        destroyed=0.45,
        profiles=profiles,
        evaluations={"children": 1234, "full grid": 4321, "validation": 40},
    )


DENSE = profile("dense", window(0.99), window(0.9))


def printed(table, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def one(**values):
    """The verdict on a sparse rule with this 90 % window."""
    return window_verdict(result(DENSE, profile("random:0.01", window(0.9, **values))))


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        ((9.8, 8.91, 10.9), "wider, 9.80 [8.91, 10.9] times, at matched sigma"),
        ((0.8, 0.7, 0.99), "narrower, 0.80 [0.70, 0.99] times, at matched sigma"),
        ((1.1, 1.0, 1.2), "no difference shown, 1.10 [1.00, 1.20] times, at matched sigma"),
        ((0.9, None, 1.2), "no difference shown, 0.90 [?, 1.20] times, at matched sigma"),
        ((3.0, 1.5, None), "wider, 3.00 [1.50, ?] times, at matched sigma"),
        ((None, 2.0, None), "no ratio shown at matched sigma"),
        ((110.0, 98.2, 123.4), "wider, 110 [98.2, 123] times, at matched sigma"),
    ],
)
def test_a_window_is_called_wider_only_where_its_interval_says_so(ratio, words):
    line = one(matched_sigma=ratio, matched_norm=(1.0, 0.9, 1.1))[0]
    assert line.startswith(f"random:0.01 against dense, 90 % kept: {words};")
    assert line.endswith("no difference shown, 1.00 [0.90, 1.10] times, at matched norm.")


def test_without_dense_mutations_there_is_no_comparison_in_words():
    lines = window_verdict(result(profile("random:0.01", window(0.99), window(0.9))))
    assert not any("against dense" in line for line in lines)


def test_best_children_are_claimed_with_the_p_values_of_all_of_them():
    sure, edge = best((0.05, 0.03, 0.07), 0.001), best((0.03, 0.01, 0.05), 0.03)
    lines = window_verdict(
        result(
            profile("dense", window(0.9, child=edge)),
            profile("random:0.1", window(0.9, child=sure)),
            profile("random:0.01", window(0.9, child=best())),
        )
    )
    claims = [line for line in lines if line.startswith("Best child")]
    assert claims == [
        "Best child of dense within 90 %, p adjusted by Holm, the interval not: "
        "accuracy +3.0 [+1.0, +5.0] points, p = 0.060: no difference shown.",
        "Best child of random:0.1 within 90 %, p adjusted by Holm, the interval not: "
        "accuracy +5.0 [+3.0, +7.0] points, p = 0.003: better.",
        "Best child of random:0.01 within 90 %, p adjusted by Holm, the interval not: "
        "accuracy +2.0 [-1.0, +5.0] points, p = 0.300: no difference shown.",
    ]


def test_costs_and_lost_children_are_told():
    lines = window_verdict(result(profile("dense", window(0.9), nonfinite=3)))
    assert lines[-2:] == [
        "6 children had outputs that are not finite; their accuracy counts as 0.",
        "1,234 children were evaluated; the full grid of the same strengths has 4,321.",
    ]
    assert not any("not finite" in line for line in window_verdict(result(DENSE)))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "0.0512 [0.048, 0.055]"),
        ({"sigma": (0.0512, None, 0.0549)}, "0.0512 [?, 0.055]"),
        ({"sigma": (None, 0.05, None), "beyond": "above"}, "> 0.1"),
        ({"sigma": None, "beyond": "below"}, "< 0.01"),
        ({"sigma": None, "beyond": "chance"}, "no more than chance"),
    ],
)
def test_the_table_says_where_an_edge_is_or_why_it_is_unknown(values, text):
    edges, _ = window_tables(result(profile("random:0.01", window(0.9, **values))))
    assert [" ".join(line.split()) for line in printed(edges).splitlines() if "90 %" in line] == [f"90 % {text}"]


def test_a_window_without_a_child_is_a_row_of_the_page_and_no_heading():
    nothing = dataclasses.replace(window(0.99, sigma=None, beyond="below"), best=None)
    _, children = window_tables(result(profile("random:0.01", nothing, window(0.9))))
    (group,) = on_page(children).groups
    assert group.heading == "random:0.01"
    assert [[cell.text for cell in row[:2]] for row in group.rows] == [["99 %", "none"], ["90 %", "0.01"]]


@pytest.fixture(scope="module")
def measured():
    ranker = Evaluator(trained(), blobs(90, shift=1.5, key=4), "accuracy")
    judge = ranker.on(blobs(70, shift=1.5, key=5))
    return lambda **settings: measure_window(WindowConfig(children=6, **settings), ranker, judge)


MEASURED = {
    "default": {},
    "kinds": {"density": (1.0, 0.1), "subspace": ("random", "partition", "neuron")},
    "one cell": {"density": (1.0,), "sigma": (0.1,)},
    "nothing kept": {"density": (0.1,), "sigma": (100.0, 200.0)},
    "not finite": {"density": (1.0,), "sigma": (0.01, 1e38)},
    "many": {"density": (1.0, 0.1), "sigma": tuple(0.001 * 1.3**number for number in range(30))},
}


@pytest.mark.parametrize("settings", MEASURED.values(), ids=MEASURED)
def test_tables_fit_a_terminal_and_the_plot_is_written(measured, settings, tmp_path):
    result = measured(**settings)
    for table in window_tables(result):
        text = printed(table, width=200)
        assert max(map(len, text.splitlines())) <= 80
        assert all(profile.rule in text for profile in result.profiles)
    plot_window(result, tmp_path / "plot.png")
    picture = imread(tmp_path / "plot.png")
    assert picture.shape[1] == 1284
    assert picture[..., :3].std() > 0.05


def test_the_plot_names_every_rule_and_both_axes(measured, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: kept.append(figure))
    result = measured(density=(1.0, 0.1))
    plot_window(result, tmp_path / "plot.png")
    heat, left, right, *_ = kept[0].axes
    assert [label.get_text() for label in heat.get_yticklabels()] == ["dense", "random:0.1"]
    assert (left.get_xlabel(), right.get_xlabel()) == ("sigma", "sigma · √density (matched norm)")
    legend = [text.get_text() for text in kept[0].legends[0].get_texts()]
    assert legend == ["dense", "random:0.1", "parent", "90 % of it", "chance", "keeps 99 %", "keeps 90 %"]
    for axes, name in ((left, "sigma"), (right, "norm")):
        for line, profile in zip(axes.lines, result.profiles, strict=False):
            assert line.get_xdata().tolist() == [getattr(cell, name) for cell in profile.cells]
            assert line.get_ydata().tolist() == [100 * cell.median.value for cell in profile.cells]
    # Cells that were not sampled have neither colour nor number.
    sampled = sum(len(profile.cells) for profile in result.profiles)
    assert len(heat.texts) == sampled
    assert heat.collections[0].get_array().count() == sampled


def test_dataclasses_go_to_json_and_stay_numbers(measured):
    values = dataclasses.asdict(measured(density=(1.0,)))
    assert isinstance(values["profiles"][0]["cells"][0]["accuracies"][0], float)
