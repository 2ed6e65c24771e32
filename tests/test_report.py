"""One page of any runs: it needs nothing else, says what the files say, and claims no more than intervals show."""

import base64
import copy
import json
import re
from dataclasses import replace

import pytest
from compare_helpers import compare_result, compare_results
from hypothesis import given
from hypothesis import strategies as st
from page_helpers import Page
from report_helpers import (
    CONFIG,
    METHODS,
    WINDOW,
    around,
    ensemble_results,
    finetune_results,
    png,
    summary_results,
    window_results,
)

from smd_evo.errors import InvalidValue
from smd_evo.experiments.record import RunRecord
from smd_evo.report.commands import repeat
from smd_evo.report.page import render_page

HOSTILE = "<script>alert(1)</script>\"'&amp;</td><img/src=x/onerror=y>"


def ensemble(name="ensemble-greedy-probabilities", **options):
    return RunRecord(name, "ensemble", {}, ensemble_results(**options), png(9, 3))


def finetune(name="run", parts=(), gain=0.186, **config):
    return RunRecord(name, "finetune", CONFIG | config, finetune_results(gain), png(12, 5), tuple(parts))


def window(name="window"):
    return RunRecord(name, "window", WINDOW, window_results(), png(8, 8))


def compare(name="comparison", **settings):
    result = compare_result(**settings)
    return RunRecord(name, "compare", result.config.as_dict(), compare_results(result), png(7, 4))


def protocol(models=("resnet18", "vgg16"), seeds=None):
    summary = summary_results(models, seeds)
    every = [(model, seed) for seed in seeds or (0,) for model in models]
    own = [
        finetune(folder, model=f"timm:{model}", seed=seed, checkpoint=f"weights/{model}.pth")
        for folder, (model, seed) in zip(summary["runs"], every, strict=True)
    ]
    return RunRecord("study", "protocol", {}, summary, None, tuple(own))


RUNS = {
    "finetune": [finetune()],
    "with ensembles": [finetune(parts=[ensemble(), ensemble("another", method="diverse")])],
    "window": [window()],
    "protocol": [protocol()],
    "comparison": [compare()],
    "comparisons": [compare(), compare("another", budget=16000)],
    "several": [finetune(parts=[ensemble()]), window(), finetune("again", seed=1), protocol(), window("again")],
}


@pytest.fixture(params=RUNS)
def runs(request):
    return RUNS[request.param]


@pytest.fixture
def page(runs):
    return Page(render_page(runs))


def every(records):
    for record in records:
        yield record
        yield from every(record.parts)


class TestPage:
    def test_needs_nothing_else(self, runs, page):
        text = render_page(runs)
        assert not page.all("script", "link", "iframe", "object", "embed")
        assert "@import" not in text
        assert "url(" not in text
        for element in page.elements:
            assert element.get("src", "data:").startswith("data:")
            assert element.get("href", "#").startswith("#")
            assert not [name for name in element if name.startswith("on")]
        policy = next(each["content"] for each in page.all("meta") if "http-equiv" in each)
        assert "default-src 'none'" in policy

    def test_shows_each_plot_as_it_is_at_its_size(self, runs, page):
        plots = [record.plot for record in every(runs) if record.plot]
        images = page.all("img")
        found = [base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) for image in images]
        assert sorted(found) == sorted(plots)
        for image, plot in zip(images, found, strict=True):
            assert plot == png(int(image["width"]), int(image["height"]))

    def test_can_be_read_without_seeing_it(self, page):
        assert page.all("html")[0]["lang"] == "en"
        assert page.all("title")[0]["text"] == page.all("h1")[0]["text"]
        assert all(len(image["alt"]) > 40 for image in page.all("img"))
        assert len(page.all("caption")) == len(page.all("table")) > 0
        assert all(header["scope"] in ("col", "row", "rowgroup") for header in page.all("th"))
        assert all(header["text"].strip() for header in page.all("th", "h1", "h2", "h3", "h4", "caption"))
        levels = [int(heading["tag"][1]) for heading in page.all("h1", "h2", "h3", "h4", "h5", "h6")]
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in zip([0, *levels], levels, strict=False))

    def test_links_and_labels_lead_somewhere(self, page):
        ids = [element["id"] for element in page.elements if "id" in element]
        assert len(set(ids)) == len(ids)
        assert {link["href"][1:] for link in page.all("a")} <= set(ids)
        assert {each["aria-labelledby"] for each in page.elements if "aria-labelledby" in each} <= set(ids)

    def test_all_rows_of_a_table_are_equally_long(self, page):
        lengths = []
        for element in page.elements:
            if element["tag"] == "table":
                lengths.append([])
            elif element["tag"] == "tr":
                lengths[-1].append(0)
            elif element["tag"] in ("th", "td"):
                lengths[-1][-1] += int(element.get("colspan", 1))
        assert lengths
        assert all(len(set(own)) == 1 for own in lengths)

    def test_is_the_same_each_time(self, runs):
        assert render_page(runs) == render_page(copy.deepcopy(runs))


def replaced(value, old, new):
    """The same with one name for another."""
    if isinstance(value, dict):
        return {replaced(name, old, new): replaced(item, old, new) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(replaced(item, old, new) for item in value)
    if isinstance(value, RunRecord):
        names = ("name", "config", "results", "parts")
        return replace(value, **{name: replaced(getattr(value, name), old, new) for name in names})
    return new if value == old else value


NAMES = [
    "demo-cnn",
    "digits",
    "study",
    "again",
    "greedy",
    "diverse",
    "Linux-x86_64",
    "python",
    "random:0.03",
    "resnet18",
]
NAMES += ["timm:vgg16", "dense, own sigma", "the parent", "digits through a camera", "weights/vgg16.pth"]
NAMES += ["smd", "mine:Method", "what smd is", "rate"]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_becomes_markup(name):
    """Whatever a name holds, the elements are the same and the name is to be read as it is."""
    runs = [*RUNS["several"], *RUNS["with ensembles"], *RUNS["comparison"]]
    before, after = (Page(render_page(replaced(runs, name, other))) for other in ("other/name", HOSTILE))

    def shape(page):
        return [(element["tag"], sorted(element)) for element in page.elements]

    assert shape(before) == shape(after)
    assert HOSTILE in after.all("body")[0]["text"]


def shown(value, low, high):
    """A difference in points, written independently."""
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


class TestFinetune:
    def test_the_table_is_the_files_rows(self):
        record = finetune()
        table = Page(render_page([record])).table("Accuracy and loss on 1,500 test images")
        lines = [row for row in table if len(row) > 1]
        assert len(lines) == 1 + len(record.results["rows"])
        for row, line in zip(record.results["rows"], lines[1:], strict=True):
            members = f" ({row['members']})" if row["members"] > 1 else ""
            assert line[0] == row["candidate"] + members
            assert line[1] == f"{100 * row['accuracy']:.1f}"
            assert line[4] == f"{row['loss']:.3f}"
            gain = row["accuracy_gain"]
            assert line[2:4] == ([shown(**gain), "2e-23"] if gain else ["", ""])

    def test_says_what_was_run(self):
        record = finetune(checkpoint="weights/best.pth", seed=7)
        facts = Page(render_page([record])).texts("dd")
        for text in ("demo-cnn, weights from weights/best.pth", "digits through a camera; 10 classes", "7", "25.6 s"):
            assert text in facts
        for text in ("14,458", "fitness 300", "validation 310", "test 1,500", "0.3, 0.1, 0.03", "90 %", "0.1.0"):
            assert any(text in fact for fact in facts), text

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
    def test_claims_no_more_than_interval_and_p_value(self, gain, spread, p_value, word):
        record = finetune()
        row = next(row for row in record.results["rows"] if row["candidate"] == "best child")
        row |= {"accuracy_gain": around(gain, spread), "p_value": p_value}
        record.results["sparse_ensemble_against"] = {
            "other": {"accuracy_gain": around(gain, spread), "p_value": p_value}
        }
        sentences = Page(render_page([record])).texts("li")
        for start in ("Sparse best child against the parent:", "Sparse ensemble against that of other:"):
            sentence = next(each for each in sentences if each.startswith(start))
            assert sentence.endswith(f": {word}.")
            assert f"accuracy {shown(gain, gain - spread, gain + spread)} points" in sentence

    def test_speaks_of_the_sparse_best_child_and_ensemble_and_of_each_control(self):
        sentences = [each.partition(":")[0] for each in Page(render_page([finetune()])).texts("li")]
        assert sentences == [
            "Sparse best child against the parent",
            "Sparse ensemble against the parent",
            "Sparse ensemble against that of dense, matched sigma",
            "Sparse ensemble against that of dense, matched norm",
            "All of this speaks of these very children",
        ]

    def test_names_images_that_were_left_out(self):
        record = finetune()
        assert "left out" not in render_page([record])
        record.results["data"]["unreadable"] = ["n01/broken.JPEG", "n02/empty.JPEG"]
        page = Page(render_page([record]))
        assert {"n01/broken.JPEG", "n02/empty.JPEG"} <= set(page.texts("li"))

    def test_its_commands_can_be_copied(self):
        record = finetune(name="a  'b'", parts=[ensemble(method="top_k")])
        (code,) = (each["text"] for each in Page(render_page([record])).all("code"))
        assert code.splitlines() == repeat(record)

    def test_names_of_files_need_not_be_text(self):
        record = finetune()
        record.results["data"]["unreadable"] = ["n01/\udcff.JPEG"]
        assert "n01/?.JPEG" in render_page([record]).encode().decode()

    def test_counts_children_that_gave_nothing(self):
        record = finetune()
        record.results["arms"]["sparse"]["groups"][0] |= {"nonfinite": 3, "best_fitness": None, "validation": None}
        page = Page(render_page([record]))
        assert any("non-finite" in sentence for sentence in page.texts("li"))
        assert "not finite" in page.table("Groups that validation chose from")[2]

    def test_an_own_fitness_that_is_not_finite_is_told_so_and_never_the_loss_in_its_place(self):
        record = finetune()
        for number, row in enumerate(record.results["rows"]):
            row |= {"fitness": 2.5 if number == 3 else None, "fitness_gain": None}
        header, parent, *_ = Page(render_page([record])).table("Accuracy and fitness")
        assert (header[-1], parent[-1]) == ("fitness", "not finite")

    def test_a_star_marks_the_chosen_group(self):
        rows = Page(render_page([finetune()])).table("Groups that validation chose from")
        assert [row[0].endswith("★") for row in rows if row[0].startswith("random")] == [False, True] * len(METHODS)


class TestEnsemble:
    def test_its_tables_are_the_files_scores(self):
        part = ensemble()
        page = Page(render_page([finetune(parts=[part])]))
        gains = [row for row in page.table("Accuracy on 1,500 test images")[1:] if len(row) > 1]
        quality = [row for row in page.table("Likelihood and calibration")[1:] if len(row) > 1]
        for score, gain, line in zip(part.results["scores"], gains, quality, strict=True):
            passes = f" ({score['passes']})" if score["passes"] > 1 else ""
            assert gain[0] == line[0] == score["candidate"] + passes
            assert gain[1] == "92.0 [90.0, 94.0]"
            assert gain[2:] == (["+20.0 [+18.0, +22.0]", "3e-09", ""] if score["over"] else ["", "", ""])
            assert line[1:] == ["0.255 [0.235, 0.275]", "6.1 [4.1, 8.1]", "0.121 [0.101, 0.141]"]

    def test_may_be_a_single_child(self):
        part = ensemble(members=1)
        part.results["diversity"] = []
        page = Page(render_page([finetune(parts=[part])]))
        assert any("a single child" in sentence for sentence in page.texts("li"))
        assert "Diversity of the members" not in page.texts("caption")


class TestWindow:
    def test_shows_edges_and_all_cells(self):
        page = Page(render_page([window()]))
        edges = page.table("on digits, 300 fitness images")
        assert [row[0] for row in edges] == ["", "dense", "99 %", "90 %", "random:0.01", "99 %", "90 %"]
        assert edges[3][1].startswith("0.02 [")
        cells = page.table("All cells")
        assert [row[0] for row in cells if len(row) > 1] == ["sigma", "0.01", "0.1", "0.04", "0.4"]
        assert cells[2][1:] == ["0.01", "6", "70.0 [68.0, 72.0]", "80.0", "+6.0 [+4.0, +8.0]"]
        assert cells[-1][1] == "0.04"

    def test_says_that_test_data_had_no_part(self):
        assert not any("test" in fact for fact in Page(render_page([window()])).texts("dd"))


class TestProtocol:
    def test_has_a_line_and_a_section_for_each_network(self):
        page = Page(render_page([protocol(("resnet18", "vgg16"))]))
        rows = page.table("Gains over the parent")
        assert [row[0] for row in rows] == ["network", "resnet18", "vgg16"]
        assert rows[1][1:] == ["11.0", "70.0", "+1.1 [-0.9, +3.1]", "0.004", "+1.5 [-0.5, +3.5]", "0.004"]
        assert page.table("Sparse ensemble against others") == [
            ["network", "dense, matched norm", "p", "the best of what is free", "p"],
            *([name, "+3.0 [+1.0, +5.0]", "0.004", "-1.0 [-3.0, +1.0]", "0.004"] for name in ("resnet18", "vgg16")),
        ]
        headings = page.texts("h2")
        for model in ("resnet18", "vgg16"):
            assert f"Fine-tuning timm:{model} on digits" in headings

    @pytest.mark.parametrize(("models", "title"), [(["a"], "1 network"), (["a", "b"], "2 networks")])
    def test_counts_its_networks(self, models, title):
        record = protocol(models)
        record = replace(record, results=summary_results(models))
        assert Page(render_page([record])).texts("h1") == [f"Fine-tuning {title} on digits"]

    def test_has_one_line_for_all_seeds_of_a_network_and_a_section_for_each(self):
        page = Page(render_page([protocol(("resnet18", "vgg16"), (0, 3))]))
        for table in ("Gains over the parent", "Sparse ensemble against others"):
            assert [row[0] for row in page.table(table)[1:]] == ["resnet18", "vgg16"]
        assert page.texts("h1") == ["Fine-tuning 2 networks on digits"]
        assert "0, 3" in page.texts("dd")
        assert "Fine-tuning timm:vgg16 on digits (vgg16-seed3)" in page.texts("h2")


class TestSeveral:
    def test_are_listed_and_compared_on_top(self):
        runs = RUNS["several"]
        text = render_page(runs)
        page = Page(text)
        assert page.texts("h1") == ["5 runs of smd-evo"]
        links = [link for link in page.all("a") if "nav" in link["inside"]]
        titles = [heading for heading in page.texts("h2") if re.match(r"\d\. ", heading)]
        assert [link["text"] for link in links if re.match(r"\d\. ", link["text"])] == titles
        assert len(titles) == 5
        compared = page.table("Fine-tuning runs")
        assert [row[0] for row in compared[1:]] == ["1. demo-cnn digits, seed 0", "3. demo-cnn digits, seed 1"]
        assert compared[1][1:] == [
            "73.2",
            "+18.6 [+16.6, +20.6]",
            "+18.6 [+16.6, +20.6]",
            "-0.2 [-2.2, +1.8]",
            "+5.8 [+3.8, +7.8]",
        ]
        windows = [row[0] for row in page.table("Mutation windows") if len(row) == 1]
        assert windows == ["2. demo-cnn on digits, seed 0", "5. demo-cnn on digits, seed 0"]
        assert text.index("Fine-tuning runs") < text.index('id="run-1"')

    def test_one_alone_is_not_compared(self):
        page = Page(render_page([finetune()]))
        assert not page.all("nav")
        assert "Fine-tuning runs" not in page.texts("caption")
        assert page.texts("h1") == ["Fine-tuning demo-cnn on digits"]


def places(value, path=()):
    """Paths to everything in nested dictionaries and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def put(value, path, new):
    *way, last = path
    for key in way:
        value = value[key]
    if new is None:
        del value[last]
    else:
        value[last] = new


DAMAGED = [*RUNS["with ensembles"], *RUNS["window"], *RUNS["protocol"], *RUNS["comparison"]]
PLACES = [
    (run, inside, path)
    for run, record in enumerate(DAMAGED)
    for inside in ("results", "config")
    for path in places(getattr(record, inside))
]


@given(st.sampled_from(PLACES), st.sampled_from([None, "text", 3, [], {}, [None], 1e308, True]))
def test_damaged_files_give_a_page_or_one_line(place, new):
    run, inside, path = place
    record = copy.deepcopy(DAMAGED[run])
    put(getattr(record, inside), path, new)
    try:
        Page(render_page([record]))
        return
    except InvalidValue as error:
        message = str(error)
    assert re.fullmatch(r"run: expected results as smd-evo \S+ writes them, got \S+ \(.*\); run it again", message)


@pytest.mark.parametrize("name", ["rows", "arms", "data", "environment", "evaluations", "sparse_ensemble_against"])
def test_numbers_that_are_missing_are_named(name):
    record = finetune()
    del record.results[name]
    with pytest.raises(InvalidValue, match=f"got run .*{name}"):
        render_page([record])


def test_no_runs():
    with pytest.raises(InvalidValue, match="at least one"):
        render_page([])


def test_fixtures_are_json():
    for record in every(run for runs in RUNS.values() for run in runs):
        assert json.loads(json.dumps(record.results)) == record.results
