"""Run directories are read back, and what is no run directory is refused in one line."""

import json
import os

import pytest
from compare_helpers import compare_result, compare_results
from report_helpers import (
    CONFIG,
    WINDOW,
    ensemble_results,
    finetune_results,
    png,
    window_results,
    write_protocol,
    write_run,
)

from smd_evo.errors import InvalidValue
from smd_evo.report.records import read_record


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", finetune_results(), plot=png(shade=7))


def test_a_run_is_its_settings_its_numbers_and_its_plot(run):
    record = read_record(run)
    assert (record.name, record.kind, record.parts) == ("run", "finetune", ())
    assert record.config == CONFIG
    assert record.results == finetune_results()
    assert record.plot == png(shade=7)


@pytest.mark.parametrize("kind", ["window", "compare"])
def test_other_experiments_have_no_parts(tmp_path, kind):
    compared = compare_result()
    config, results = {
        "window": (WINDOW, window_results()),
        "compare": (compared.config.as_dict(), compare_results(compared)),
    }[kind]
    run = write_run(tmp_path / "run", results, config)
    write_run(run / "ensemble-a", ensemble_results(), config=None)
    record = read_record(run)
    assert (record.kind, record.config, record.results, record.parts) == (kind, config, results, ())


def test_it_holds_the_ensembles_in_its_directory_and_nothing_else(run):
    for name in ("ensemble-b", "ensemble-a"):
        write_run(run / name, ensemble_results(), config=None)
    write_run(run / ".ensemble-c.123.partial", ensemble_results(), config=None)
    write_run(run / "another", finetune_results())
    (run / "notes").mkdir()
    assert [(part.name, part.kind) for part in read_record(run).parts] == [
        ("ensemble-a", "ensemble"),
        ("ensemble-b", "ensemble"),
    ]


def test_a_protocol_holds_its_runs_in_their_order(tmp_path):
    record = read_record(write_protocol(tmp_path / "all", ("vgg16", "resnet18")))
    assert (record.name, record.kind) == ("all", "protocol")
    assert [part.name for part in record.parts] == ["vgg16", "resnet18"]
    assert record.parts[0].config["model"] == "timm:vgg16"


def test_its_name_does_not_depend_on_where_one_stands(run, monkeypatch):
    monkeypatch.chdir(run)
    assert read_record(".").name == read_record(os.path.join("..", "run", "")).name == "run"


def test_it_may_lack_its_plot(run):
    (run / "plot.png").unlink()
    assert read_record(run).plot is None


def refused(folder, *texts):
    with pytest.raises(InvalidValue) as error:
        read_record(folder)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(("run: expected", "config: expected"))
    for text in texts:
        assert text in message


def test_no_run(tmp_path, run):
    refused(tmp_path / "absent", "absent", "holds no results.json")
    refused(tmp_path, str(tmp_path), "holds no results.json")
    refused(run / "results.json", "holds no results.json")


def test_an_ensemble_alone(run):
    refused(
        write_run(run / "ensemble-a", ensemble_results(), config=None), "finetune or window or compare", "'ensemble'"
    )


@pytest.mark.parametrize("content", ["{", "[1]", "{}", '{"kind": "other"}', '"text"', "\xff"])
def test_damaged_numbers(run, content):
    (run / "results.json").write_text(content, encoding="latin-1")
    refused(run)


def test_a_damaged_ensemble_is_not_left_out_in_silence(run):
    write_run(run / "ensemble-a", {}, config=None)
    refused(run, "ensemble-a")


def test_settings_that_are_absent_or_damaged(run):
    (run / "config.yaml").write_text("a: [")
    refused(run, "config.yaml")
    (run / "config.yaml").unlink()
    refused(run, "config.yaml")


@pytest.mark.parametrize("content", [b"", b"<svg>", png()[:20], b"GIF89a" + png()])
def test_a_plot_that_is_no_png(run, content):
    (run / "plot.png").write_bytes(content)
    refused(run, "plot.png")


@pytest.mark.parametrize("runs", [["../run"], ["a/b"], [".."], [""], ["resnet18", 3], "resnet18", None])
def test_a_protocol_cannot_name_folders_elsewhere(tmp_path, run, runs):
    folder = write_protocol(tmp_path / "all")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"runs": runs}))
    refused(folder, "summary.json")
