"""The page and the plot of a run over generations: the files' numbers, and no more than they show."""

import copy
import dataclasses
import html
import itertools
import json
import math
import re
import shlex

import pytest
from cli_helpers import here, refused
from evolution_helpers import TINY, options
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread
from page_helpers import Page
from report_helpers import ENVIRONMENT, around, finetune_results, png
from test_report import HOSTILE, finetune, places, put, replaced, shown
from test_report import TestPage as PageOfAnyRun
from test_report_commands import SETTINGS, SHARES, parsed

from smd_evo.errors import InvalidValue
from smd_evo.experiments.generations.metrics import read_metrics
from smd_evo.experiments.generations.plot import plot_evolution
from smd_evo.experiments.generations.run import Validation
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.experiments.generations.table import evolution_table, evolution_verdict, kept_generation
from smd_evo.experiments.record import RunRecord
from smd_evo.experiments.scores import Row
from smd_evo.report.commands import repeat
from smd_evo.report.page import render_page
from smd_evo.report.records import read_record
from smd_evo.statistics.tests import Estimate

START = Validation(accuracy=0.725, loss=0.7, best=True)
CONFIG = EvolutionConfig(generations=6, images="50,100@4", validate_every=2, patience=3, seed=4)


def lines(losses=(0.6, 0.4, 0.5), every=2, **changes):
    """Metrics of a run whose validations, one in so many generations, had these losses."""
    found, best = [], 0.7
    for generation in range(1, every * len(losses) + 1):
        due, loss = generation % every == 0, losses[(generation - 1) // every]
        validation = {"accuracy": 0.9 - loss / 4, "loss": loss, "best": loss < best} if due else None
        best = min(best, loss) if due else best
        line = {"generation": generation, "fitness": loss / 2, "median": 1.5 * loss, "parent": 0.8 * loss}
        line |= {"sigma": 0.02, "images": 50, "evaluations": 33 * generation, "image_evaluations": 1650 * generation}
        found.append(line | {"nonfinite": 0, "batch_limit": None, "validation": validation, "seconds": 0.5} | changes)
    return found


def results(generations, **changes):
    rows = [dict(row) for row in finetune_results()["rows"][:3]]
    rows[1] |= {"method": "gradient", "candidate": "best network", "density": None, "sigma": None}
    rows[2] |= {"method": "gradient", "candidate": "ensemble", "members": 2, "density": None, "sigma": None}
    return {
        "kind": "evolution",
        "rows": rows,
        "validation": dataclasses.asdict(START),
        "stopped": "generations",
        "generations": generations,
        "candidates": ["best parent", "late parent 1", "late parent 2", "child 1", "child 2"],
        "weights": {"child 1": 0.25, "best parent": 0.75},
        "calibration": 4900,
        "parameters": 14458,
        "fingerprint": "efb09efc",
        "data": finetune_results()["data"],
        "splits": {"fitness": [1], "validation": [2], "test": [3]},
        "environment": ENVIRONMENT,
    } | changes


def record(metrics=None, config=CONFIG, name="run", **changes):
    metrics = lines() if metrics is None else metrics
    return RunRecord(name, "evolution", config.as_dict(), results(len(metrics), **changes), png(), (), metrics)


def page(*arguments, **changes):
    return Page(render_page([record(*arguments, **changes)]))


def fact(found, name):
    return dict(zip(found.texts("dt"), found.texts("dd"), strict=True))[name]


def words(text):
    return " ".join(str(text).split())


RUNS = {"one": [record()], "several": [record(), finetune(), record(name="another")]}


class TestPage(PageOfAnyRun):
    """What holds for a page of any runs."""

    @pytest.fixture(params=RUNS)
    def runs(self, request):
        return RUNS[request.param]

    @pytest.fixture
    def page(self, runs):
        return Page(render_page(runs))


NAMES = ["run", "demo-cnn", "digits", "all", "best parent", "child 1", "gradient", "cross_entropy", "random", "cpu"]


@pytest.mark.parametrize("name", [*NAMES, "best network", "Linux-x86_64", "digits through a camera"])
def test_no_name_becomes_markup(name):
    before, after = (Page(render_page([replaced(record(), name, other)])) for other in ("other/name", HOSTILE))
    assert [each["tag"] for each in before.elements] == [each["tag"] for each in after.elements]
    assert HOSTILE in after.all("body")[0]["text"]


class TestSays:
    def test_the_terminals_table_and_sentences(self):
        found, gains = record(), ("accuracy_gain", "loss_gain")
        rows = [
            Row(**row | {name: row[name] and Estimate(**row[name]) for name in gains})
            for row in found.results["rows"]
        ]
        table, shown_page = evolution_table(rows), Page(render_page([found]))
        header, *cells = shown_page.table(words(table.title))
        assert header == [str(column.header) for column in table.columns]
        columns = [column.cells for column in table.columns]
        assert cells == [[words(text) for text in row] for row in zip(*columns, strict=True)]
        verdict = evolution_verdict(rows)
        assert len(verdict) == 2
        assert shown_page.texts("li")[:2] == verdict

    def test_its_numbers_are_the_files(self):
        rows = page().table("On the test split, read once")
        assert rows[1] == ["parent", "73.2", "", "", "0.868", ""]
        assert rows[2][:4] == ["best network", "71.4", shown(-0.018, -0.038, 0.002), "2e-23"]
        assert rows[3][:4] == ["ensemble (2)", "91.8", shown(0.186, 0.166, 0.206), "2e-23"]
        assert rows[3][4:] == ["0.250", "-0.600 [-0.620, -0.580]"]

    @pytest.mark.parametrize(
        ("gain", "spread", "p_value", "word"),
        [
            (0.05, 0.02, 0.001, "better"),
            (-0.05, 0.02, 0.001, "worse"),
            (0.05, 0.06, 0.001, "no difference shown"),
            (0.05, 0.02, 0.2, "no difference shown"),
            (-0.05, 0.02, 0.2, "no difference shown"),
        ],
    )
    def test_no_more_than_interval_and_p_value(self, gain, spread, p_value, word):
        found = record()
        for row in found.results["rows"][1:]:
            row |= {"accuracy_gain": around(gain, spread), "p_value": p_value}
        sentences = Page(render_page([found])).texts("li")
        for name in ("best network", "ensemble"):
            sentence = next(each for each in sentences if each.startswith(f"The {name} against the parent:"))
            assert sentence.endswith(f": {word}.")
            assert f"accuracy {shown(gain, gain - spread, gain + spread)} points" in sentence
        assert any("another seed finds another network" in sentence for sentence in sentences)

    def test_what_was_run_and_spent(self):
        found = page()
        assert fact(found, "Mutated").startswith("14,458 parameters")
        assert fact(found, "Children") == "32 a generation; images of each: 50, from generation 4 on 100"
        assert fact(found, "Evaluations") == (
            "198 networks, parents included, on 9,900 images in all; calibration: 4,900 more"
        )
        assert fact(found, "Stopped") == "after all 6 generations"
        assert fact(found, "Best network") == "the parent of generation 4, the best of 3 on validation"
        assert fact(found, "Searcher").endswith("step size of Adam 0.2 x sigma x sqrt(density)")
        assert fact(found, "Sigma").startswith("0.02, calibrated: the median child keeps 90 %")
        assert (fact(found, "Seed"), fact(found, "time")) == ("4", "25.6 s")
        for text in ("fitness 300 (ranks", "validation 310 (keeps a parent, stops", "test 1,500 (is reported, once)"):
            assert text in fact(found, "Samples")

    def test_settings_that_are_not_the_defaults(self):
        config = {"searcher": "selection", "adapt_sigma": True, "sigma": 0.02, "actors": 2, "fitness": "accuracy"}
        metrics = lines()
        metrics[-1]["sigma"] = 0.0123
        found = page(metrics, dataclasses.replace(CONFIG, **config))
        assert fact(found, "Searcher") == "selection: the best child is the next parent"
        assert fact(found, "Sigma") == "0.02; by the 1/5 success rule 0.0123 in the end"
        assert fact(found, "Computed on") == "cpu, float32, 2 actors of Ray"
        assert fact(found, "Fitness") == "accuracy, higher is better"
        gradient = page(config=dataclasses.replace(CONFIG, learning_rate=0.003))
        assert fact(gradient, "Searcher").endswith("Adam 0.003")

    def test_that_it_stopped_early(self):
        config = dataclasses.replace(CONFIG, generations=100)
        stopped = fact(page(config=config, stopped="patience"), "Stopped")
        assert stopped == "after 6 of 100 generations: 3 validations without a better parent"

    def test_that_no_parent_was_better_than_the_first(self):
        metrics = lines((0.8, 0.9))
        found = page(metrics)
        assert fact(found, "Best network").startswith("the pre-trained parent: none of 2")
        assert any("no parent was better" in sentence for sentence in found.texts("li"))
        assert not any("no parent was better" in sentence for sentence in page().texts("li"))

    @pytest.mark.parametrize(
        ("changes", "run", "said"),
        [
            ({"nonfinite": 2}, {}, "12 children had a non-finite fitness"),
            ({"batch_limit": 16}, {}, "forward passes were cut down to 16 samples"),
            ({}, {"weights": {"best parent": 1.0}}, "The ensemble is a single network"),
        ],
    )
    def test_what_went_otherwise(self, changes, run, said):
        assert any(said in sentence for sentence in page(lines(**changes), **run).texts("li"))
        assert not any(said in sentence for sentence in page().texts("li"))

    def test_who_votes_and_how_much(self):
        found = page()
        assert found.table("Who votes")[1:] == [["best parent", "75.0"], ["child 1", "25.0"]]
        assert any("greedily on validation from 5" in text for text in found.texts("p"))

    def test_the_validations_and_which_one_was_kept(self):
        rows = page().table("Parents on validation")
        assert rows[1:] == [
            ["0", "0", "", "72.5", "0.700"],
            ["2", "66", "0.02", "75.0", "0.600"],
            ["4 ★", "132", "0.02", "80.0", "0.400"],
            ["6", "198", "0.02", "77.5", "0.500"],
        ]

    @pytest.mark.parametrize(
        ("fitness", "head", "cells"),
        [
            ("macro_f1", "macro F1, %", ["219.7", "30.0", "not finite", "not finite"]),
            ("object:perplexity", "perplexity", ["2.197", "0.300", "not finite", "not finite"]),
        ],
    )
    @pytest.mark.parametrize("classes", [True, False])
    def test_a_fitness_by_name_is_a_share_of_classifiers_and_any_other_a_number(self, fitness, head, cells, classes):
        metrics, first = lines(), dataclasses.asdict(START) | {"fitness": 2.197}
        validations = [first, *(line["validation"] for line in metrics if line["validation"])]
        for found, value in zip(validations, (2.197, 0.3, -math.inf, None), strict=True):
            found |= {"fitness": value} | ({} if classes else {"accuracy": None, "loss": None})
        config = dataclasses.replace(CONFIG, fitness=fitness)
        columns = page(metrics, config, validation=first).table("Parents on validation")
        if not classes:
            head, cells = head.removesuffix(", %"), ["2.197", "0.300", "not finite", "not finite"]
        assert [row[-1] for row in columns] == [head, *cells]

    def test_the_pre_trained_parent_may_be_the_one_that_was_kept(self):
        places = [row[0] for row in page(lines((0.8, 0.9))).table("Parents on validation")[1:]]
        assert places == ["0 ★", "2", "4"]

    @given(st.integers(1, 200), st.integers(0, 199))
    def test_few_of_many_validations_but_the_kept_and_the_last_one(self, count, place):
        losses = [0.3 if number == place % count else 0.5 for number in range(count)]
        metrics = lines(tuple(losses))
        first, *shown_rows = [row[0] for row in page(metrics).table("Parents on validation")[1:]]
        assert first == "0"
        assert len(shown_rows) <= 22
        assert len(shown_rows) == len(losses) or len(losses) > 20
        assert shown_rows[-1].removesuffix(" ★") == str(2 * len(losses))
        kept = kept_generation(metrics)
        assert kept == 2 * (place % count + 1)
        assert [row for row in shown_rows if row.endswith("★")] == [f"{kept} ★"]
        assert shown_rows == sorted(shown_rows, key=lambda row: int(row.split()[0]))

    def test_images_that_were_left_out(self):
        data = finetune_results()["data"] | {"unreadable": ["n01/broken.JPEG"]}
        assert "n01/broken.JPEG" in page(data=data).texts("li")

    def test_its_plot_may_be_missing(self):
        assert not Page(render_page([dataclasses.replace(record(), plot=None)])).all("img")


@given(st.lists(st.none() | st.booleans(), min_size=1))
def test_the_kept_generation_is_the_last_that_was_best(found):
    metrics = [
        {"generation": number, "validation": None if best is None else {"best": best}}
        for number, best in enumerate(found, start=1)
    ]
    assert kept_generation(metrics) == max((number for number, best in enumerate(found, start=1) if best), default=0)


EVOLUTION = {name: SETTINGS[name] for name in SETTINGS if name not in ("children", "density")} | {
    "generations": st.integers(1, 9999) | st.just(100),
    "children": st.integers(1, 99).map(lambda pairs: 2 * pairs),
    "density": SHARES,
    "images": st.sampled_from(["50", "300,1000@50"]),
    "sigma": st.none() | SHARES,
    "patience": st.none() | st.integers(1, 99),
    "late_parents": st.integers(0, 9),
    "log": st.sampled_from([[], ["csv"], ["csv", "tensorboard"]]),
    "fitness": st.sampled_from(["cross_entropy", "accuracy", "balanced_accuracy", "macro_f1"]),
}
SEARCHERS = [{}, {"learning_rate": 0.001}, {"searcher": "selection"}, {"searcher": "selection", "adapt_sigma": True}]


@given(st.fixed_dictionaries({}, optional=EVOLUTION), st.sampled_from(SEARCHERS))
def test_its_command_gives_its_settings(settings, searcher):
    config = EvolutionConfig.read(settings | searcher | {"device": "cpu"})
    (line,) = repeat(record(config=config))
    name, given_options = parsed(line)
    assert (name, given_options.pop("out")) == ("finetune", "run-again")
    assert "generations" in given_options  # without them it is another experiment
    assert EvolutionConfig.read(given_options) == config


DAMAGED = record()
PLACES = [(inside, path) for inside in ("results", "config", "metrics") for path in places(getattr(DAMAGED, inside))]


@given(st.sampled_from(PLACES), st.sampled_from([None, "text", "<b>", 3, [], {}, [None], 1e308, True]))
def test_damaged_files_give_a_page_or_one_line(place, new):
    inside, path = place
    damaged = copy.deepcopy(DAMAGED)
    put(getattr(damaged, inside), path, new)
    try:
        found = Page(render_page([damaged]))
        assert not found.all("b")
        return
    except InvalidValue as error:
        message = str(error)
    assert re.fullmatch(r"run: expected results as smd-evo \S+ writes them, got run \(.*\); run it again", message)


class TestPlot:
    @pytest.fixture
    def figure(self, tmp_path, monkeypatch):
        """What is drawn of some metrics."""

        def drawn(metrics, start=START, **settings):
            kept = []
            with monkeypatch.context() as patch:
                patch.setattr(Figure, "savefig", lambda figure, *_, **__: kept.append(figure))
                plot_evolution(metrics, start, dataclasses.replace(CONFIG, **settings), tmp_path / "plot.png")
            return kept[0]

        return drawn

    @pytest.mark.parametrize(("fitness", "scale"), [("cross_entropy", 1), ("accuracy", 100)])
    def test_its_lines_are_the_metrics(self, figure, fitness, scale):
        metrics = lines()
        left, right = figure(metrics, fitness=fitness).axes
        for name, line in zip(("median", "fitness", "parent"), left.lines, strict=False):
            assert line.get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
            assert line.get_ydata().tolist() == [scale * each[name] for each in metrics]
        accuracy, loss = (left, right) if fitness == "accuracy" else (right, left)
        validations = [dataclasses.asdict(START), *(each["validation"] for each in metrics if each["validation"])]
        for axes, measure, factor in ((accuracy, "accuracy", 100), (loss, "loss", 1)):
            *_, validated, star = axes.lines
            assert validated.get_xdata().tolist() == [0, 2, 4, 6]
            assert validated.get_ydata().tolist() == [factor * each[measure] for each in validations]
            assert (star.get_xdata().tolist(), star.get_marker()) == ([4], "*")
            assert star.get_ydata().tolist() == [factor * validations[2][measure]]
        assert (accuracy.get_yscale(), loss.get_yscale()) == ("linear", "log")

    def test_a_fitness_of_its_own_has_the_left_side_and_the_loss_the_right(self, figure):
        metrics = lines()
        for line in metrics:
            if line["validation"]:
                line["validation"]["fitness"] = 0.3 + 0.01 * line["generation"]
        left, right = figure(metrics, start=dataclasses.replace(START, fitness=0.3), fitness="macro_f1").axes
        assert [axes.get_ylabel() for axes in (left, right)] == ["macro F1, %", "validation cross-entropy"]
        assert left.lines[-2].get_ydata().tolist() == pytest.approx([30, 32, 34, 36])

    @pytest.mark.parametrize(
        ("classes", "fitness", "labels"),
        [
            (True, "object:perplexity", ["perplexity", "validation cross-entropy"]),
            (False, "cross_entropy", ["cross-entropy", "validation cross-entropy"]),
            (False, "object:mae", ["mae", "validation mae"]),
        ],
    )
    def test_shares_alone_are_in_percent(self, figure, classes, fitness, labels):
        metrics, start = lines(), dataclasses.replace(START, fitness=2.2)
        for found in (line["validation"] for line in metrics if line["validation"]):
            found |= {"fitness": 2.5} | ({} if classes else {"accuracy": None, "loss": None})
        left, right = figure(metrics, start if classes else Validation(None, None, True, 2.2), fitness=fitness).axes
        assert [axes.get_ylabel() for axes in (left, right)] == labels
        assert left.lines[-2].get_ydata().tolist() == [2.2, 2.5, 2.5, 2.5]

    def test_names_lines_axes_and_what_was_kept(self, figure):
        drawn = figure(lines())
        assert [text.get_text() for text in drawn.legends[0].get_texts()] == [
            *("median child, minibatches", "best child, minibatches", "parent, minibatches", "parent, validation"),
            "kept: generation 4",
        ]
        assert [axes.get_ylabel() for axes in drawn.axes] == ["cross-entropy", "validation accuracy, %"]
        assert all(axes.get_xlabel() == "generation" for axes in drawn.axes)

    def test_the_star_is_on_the_first_where_none_was_better(self, figure):
        drawn = figure(lines((0.8, 0.9)))
        assert drawn.legends[0].get_texts()[-1].get_text() == "kept: the pre-trained parent"
        for axes in drawn.axes:
            (star,) = (line for line in axes.lines if line.get_marker() == "*")
            assert star.get_xdata().tolist() == [0]

    @pytest.mark.parametrize("changing", [(), ("sigma",), ("images",), ("sigma", "images")])
    def test_shows_settings_that_change_and_no_others(self, figure, changing):
        metrics = lines()
        for line in metrics[3:]:
            line |= {name: 2 * line[name] for name in changing}
        _, _, *below = figure(metrics).axes
        assert [axes.get_ylabel() for axes in below] == list(changing)
        for axes in below:
            assert axes.lines[0].get_ydata().tolist() == [line[axes.get_ylabel()] for line in metrics]

    @pytest.mark.parametrize(
        "metrics",
        [
            lines((0.5,), every=1),
            lines(tuple(0.4 + 0.1 * math.sin(place) for place in range(500)), every=4),
            lines((0.5, 20.0, 1e5)),
            lines((0.5, 1e9, 1e-9)),
            lines(fitness=math.inf, median=math.nan),
            lines((math.nan, math.inf), fitness=math.nan, median=math.nan, parent=math.inf),
            lines((0.0, 0.0)),
        ],
        ids=["one generation", "many", "diverging", "over decades", "not finite", "nothing finite", "no loss at all"],
    )
    def test_any_metrics_give_a_picture_in_which_no_labels_overlap(self, metrics, figure, tmp_path):
        plot_evolution(metrics, START, CONFIG, tmp_path / "plot.png")
        picture = imread(tmp_path / "plot.png")
        assert picture.shape[1] == 1320
        assert picture[..., :3].std() > 0.05
        drawn = figure(metrics)
        drawn.draw_without_rendering()
        (legend,) = drawn.legends
        assert legend.get_window_extent().x0 >= 0
        assert legend.get_window_extent().x1 <= drawn.bbox.x1
        for axes in drawn.axes:
            low, high = sorted(axes.get_ylim())
            boxes = [
                label.get_window_extent()
                for label, place in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
                if low <= place <= high and label.get_text()
            ]
            boxes.sort(key=lambda box: box.y0)
            assert all(before.y1 <= after.y0 for before, after in itertools.pairwise(boxes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a real run in it."""
    folder = tmp_path_factory.mktemp("runs")
    result = here("finetune", *options(TINY), "--out", str(folder / "run"))
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def damaged(folder, tmp_path):
    """The files of a run that a page is made of, to be changed."""
    for name in ("results.json", "metrics.jsonl", "config.yaml", "run.json"):
        (tmp_path / name).write_bytes((folder / "run" / name).read_bytes())
    return tmp_path


class TestRealRun:
    def test_its_record_is_its_files(self, folder):
        run = folder / "run"
        found = read_record(run)
        assert (found.name, found.kind, found.parts) == ("run", "evolution", ())
        assert found.results == json.loads((run / "results.json").read_text())
        assert list(found.metrics) == read_metrics(run, TINY["generations"])
        assert found.plot == (run / "plot.png").read_bytes()

    def test_its_page_and_what_its_command_writes(self, folder):
        assert here("report", "run", cwd=folder).returncode == 0
        text = (folder / "run" / "report.html").read_text()
        assert text.count("data:image/png;base64,") == 1
        found = json.loads((folder / "run" / "results.json").read_text())
        for row in found["rows"]:
            assert f">{100 * row['accuracy']:.1f}<" in text
        (code,) = re.findall(r"<pre><code>(.*?)</code>", text, re.DOTALL)
        program, *arguments = shlex.split(html.unescape(re.sub("<.*?>", "", code)))
        assert program == "smd-evo"
        assert here(*arguments, cwd=folder).returncode == 0
        again = json.loads((folder / "run-again" / "results.json").read_text())
        for each in (found, again):
            del each["environment"]
        assert again == found

    def test_the_same_run_has_the_same_plot(self, folder, tmp_path):
        found = read_record(folder / "run")
        config = EvolutionConfig.read(found.config)
        plot_evolution(found.metrics, Validation(**found.results["validation"]), config, tmp_path / "plot.png")
        assert (tmp_path / "plot.png").read_bytes() == found.plot


class TestDamagedRun:
    def test_an_unfinished_run_can_be_resumed(self, damaged):
        (damaged / "results.json").unlink()
        command = f"smd-evo resume {damaged} --trust"
        refused(here("report", str(damaged)), "run: expected a finished one", f"{command} goes on with it")

    @pytest.mark.parametrize("generations", [None, 0, -1, "7", 7.0, True, [7]])
    def test_a_number_of_generations_that_is_none(self, damaged, generations):
        found = json.loads((damaged / "results.json").read_text()) | {"generations": generations}
        (damaged / "results.json").write_text(json.dumps(found))
        with pytest.raises(InvalidValue, match="expected a number of generations"):
            read_record(damaged)

    def test_metrics_that_are_missing(self, damaged):
        (damaged / "metrics.jsonl").unlink()
        with pytest.raises(InvalidValue, match=r"metrics\.jsonl in .*got 7 and none"):
            read_record(damaged)

    @pytest.mark.parametrize("cut", [slice(0, 3), slice(1, None), slice(0, 0)])
    def test_metrics_that_lack_generations(self, damaged, cut):
        metrics = (damaged / "metrics.jsonl").read_text().splitlines(keepends=True)
        (damaged / "metrics.jsonl").write_text("".join(metrics[cut]))
        with pytest.raises(InvalidValue, match="expected generations 1 to 7"):
            read_record(damaged)

    def test_lines_behind_the_last_generation_are_left_out(self, damaged):
        with (damaged / "metrics.jsonl").open("a") as file:
            file.write('{"generation": 8}\n{"gen')
        assert len(read_record(damaged).metrics) == 7
