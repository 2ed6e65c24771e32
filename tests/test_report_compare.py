"""The page of a comparison says what the terminal says, and which settings were tried."""

import dataclasses
import math

import pytest
from compare_helpers import compare_result, compare_results
from matplotlib.image import imread
from page_helpers import Page
from report_helpers import ENVIRONMENT, finetune_results, png

from smd_evo.errors import InvalidValue
from smd_evo.experiments.compare.plot import plot_compare
from smd_evo.experiments.compare.results import Trial
from smd_evo.experiments.compare.run import Score
from smd_evo.experiments.compare.table import compare_tables, compare_verdict
from smd_evo.experiments.folders.content import write_config, write_results
from smd_evo.experiments.record import RunRecord
from smd_evo.report.commands import repeat
from smd_evo.report.page import render_page
from smd_evo.report.records import read_record


def record(result=None, **changes):
    result = result or compare_result()
    results = compare_results(result) | changes
    return RunRecord("run", "compare", result.config.as_dict(), results, png())


def page(*arguments, **changes):
    return Page(render_page([record(*arguments, **changes)]))


def fact(found, name):
    return dict(zip(found.texts("dt"), found.texts("dd"), strict=True))[name]


def with_trials(method, *trials):
    result = compare_result()
    return dataclasses.replace(result, trials=result.trials | {method: trials})


@pytest.fixture
def stored(tmp_path):
    """A result and the folder that it was written to, among its losses one that JSON has no number for."""
    result = with_trials(
        "smd", Trial({"density": 0.1}, Score(0.1, math.nan)), Trial({"density": 0.01}, Score(0.8, 1))
    )
    written = {name: value for name, value in dataclasses.asdict(result).items() if name != "config"}
    data = finetune_results()["data"]
    write_config(tmp_path, result.config)
    write_results(tmp_path / "results.json", "compare", {**written, "data": data}, 40.6)
    (tmp_path / "plot.png").write_bytes(png())
    return result, tmp_path


def words(text):
    return " ".join(str(text).split())


def test_its_plot_is_drawn_as_large_as_a_page(tmp_path):
    plot_compare(compare_result(), tmp_path / "plot.png")
    height, width, _ = imread(tmp_path / "plot.png").shape
    assert width > height > 300


def test_has_the_terminals_tables_and_sentences_from_what_is_stored(stored):
    result, folder = stored
    found = Page(render_page([read_record(folder)]))
    tables = compare_tables(result)
    assert found.texts("caption")[: len(tables)] == [words(table.title) for table in tables]
    for table in tables:
        columns = [column.cells for column in table.columns]
        header, *rows = found.table(words(table.title))
        assert header == [str(column.header) for column in table.columns]
        assert rows == [[words(text) for text in row] for row in zip(*columns, strict=True)]
    assert found.texts("li")[: len(compare_verdict(result))] == compare_verdict(result)


def test_its_numbers_are_the_files():
    found = page()
    (scores, *_) = compare_tables(compare_result())
    rows = {row[0]: row[1:] for row in found.table(words(scores.title))}
    assert rows["parent"] == ["73.2", "0.868"]
    assert rows["sparse-es"] == ["95.0 [94.0, 96.0]", "0.200 [0.190, 0.210]"]
    verdict = {line.partition(" ")[0]: line for line in found.texts("li")[:3]}
    assert verdict["sparse-es"].count("better") == 2
    assert verdict["smd"].count("worse") == 2
    assert verdict["mine:Method"].count("no difference shown") == 2


def test_says_what_each_split_is_for_and_what_was_spent():
    found = page()
    samples = fact(found, "Samples")
    for text in ("fitness 300 (ranks children)", "validation 310 (chooses settings", "test 1,500 (is reported, once"):
        assert text in samples
    assert fact(found, "Budget") == "8,000 image evaluations a run"
    assert fact(found, "Generations").startswith("20 children on 100 of the 300 fitness images")
    assert fact(found, "Runs").startswith("3 of each method")
    assert fact(found, "Seed") == "4"
    assert fact(found, "Mutated").startswith("14,458 parameters")


def test_a_generation_has_no_more_images_than_there_are():
    assert "20 children on 300 of the 300 fitness images" in fact(page(compare_result(images=500)), "Generations")


@pytest.mark.parametrize(("tuning", "shown"), [(None, "8,000"), (4000, "4,000")])
@pytest.mark.parametrize(("metric", "name"), [("cross_entropy", "cross-entropy"), ("accuracy", "accuracy")])
def test_says_how_settings_were_chosen(tuning, shown, metric, name):
    tuned = fact(page(compare_result(tuning_budget=tuning, metric=metric)), "Tuning")
    assert tuned.startswith(f"2 trials of each method, of {shown} image evaluations each")
    assert f"best by {name} on validation" in tuned


def test_says_where_nothing_was_chosen():
    result = compare_result(trials=1)
    rows = page(dataclasses.replace(result, trials=dict.fromkeys(result.trials, ())))
    assert fact(rows, "Tuning").startswith("each method has the first of its settings, untried")
    assert rows.table("All settings that were tried") == [["settings", "accuracy, %", "loss"]]


def test_a_star_marks_what_was_chosen_of_all_that_was_tried():
    rows = page().table("All settings that were tried")
    assert rows[1:] == [
        ["openai-es"],
        ["rate 0.2, sigma 1.0", "80.0", "0.500"],
        ["rate 0.4, sigma 1.0 ★", "90.0", "0.400"],
        ["smd"],
        ["density 0.1", "80.0", "0.500"],
        ["density 0.01 ★", "90.0", "0.400"],
        ["sparse-es"],
        ["rate 0.2, sigma 1.0 ★", "80.0", "0.500"],
        ["rate 0.4, sigma 1.0", "90.0", "0.400"],
        ["mine:Method"],
        ["none ★", "80.0", "0.500"],
        ["rate 3", "90.0", "0.400"],
    ]


def test_settings_that_a_method_of_ones_own_has_twice_get_one_star():
    trials = Trial({"density": 0.01}, Score(0.8, 0.5)), Trial({"density": 0.01}, Score(0.8, 0.5))
    rows = page(with_trials("smd", *trials)).table("All settings that were tried")
    assert [row[0] for row in rows if row[0].startswith("density")] == ["density 0.01 ★", "density 0.01"]


def test_a_trial_may_have_diverged(stored):
    rows = Page(render_page([read_record(stored[1])])).table("All settings that were tried")
    assert ["density 0.1", "10.0", "not finite"] in rows


def test_says_what_the_methods_are():
    methods = [method.method for method in compare_result().methods]
    rows = page().table("What the methods are")
    assert rows == [["method"], *([f"{name} what {name} is"] for name in methods)]


def test_shows_how_to_repeat_it_and_with_what_it_was_made():
    own = record()
    found = Page(render_page([own]))
    assert [code["text"].strip() for code in found.all("code")] == repeat(own)
    assert fact(found, "PyTorch") == ENVIRONMENT["torch"]
    assert fact(found, "time") == "25.6 s"


def test_names_images_that_were_left_out():
    data = finetune_results()["data"] | {"unreadable": ["n01/broken.JPEG"]}
    assert "n01/broken.JPEG" in page(data=data).texts("li")


def test_its_plot_may_be_missing():
    assert not Page(render_page([dataclasses.replace(record(), plot=None)])).all("img")


@pytest.mark.parametrize("name", ["parameters", "parent", "methods", "trials", "data", "environment"])
def test_numbers_that_are_missing_are_named(name):
    own = record()
    del own.results[name]
    with pytest.raises(InvalidValue, match=f"got run .*{name}"):
        render_page([own])


def test_reported_settings_that_were_never_tried():
    with pytest.raises(InvalidValue, match=r"got run .*run it again"):
        page(with_trials("smd", Trial({"density": 0.5}, Score(0.8, 0.5))))
