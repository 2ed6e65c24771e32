"""``smd-evo report`` of real runs: the page shows what they wrote, and its commands write the same again."""

import html
import json
import re
import shlex

import pytest
from cli_helpers import TINY, here, refused
from report_helpers import finetune_results, write_run

WINDOW = ["--children", "6", "--density", "1,0.1", "--sigma", "0.01,0.1"]


def done(*arguments, cwd=None):
    result = here(*arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run, which holds an ensemble, and a window."""
    folder = tmp_path_factory.mktemp("runs")
    done("finetune", *TINY, "--seed", "3", "--out", str(folder / "run"))
    done("ensemble", str(folder / "run"), "--method", "diverse", "--size", "2")
    done("window", *WINDOW, "--out", str(folder / "window"))
    return folder


def numbers(folder):
    """What a folder's results hold, but for the time."""
    results = json.loads((folder / "results.json").read_text())
    del results["environment"]
    return results


def test_writes_a_page_into_the_first_run(runs):
    result = done("report", "run", "window", cwd=runs)
    assert (result.stdout.split(), result.stderr) == (["Written", "to", "run/report.html"], "")
    page = (runs / "run" / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert page.count("data:image/png;base64,") == 3
    for row in numbers(runs / "run")["rows"]:
        assert f">{100 * row['accuracy']:.1f}<" in page


def test_its_commands_write_the_same_again(runs):
    done("report", "run", "--out", "page.html", cwd=runs)
    page = (runs / "page.html").read_text()
    (commands,) = re.findall(r"<pre><code>(.*?)</code>", page, re.DOTALL)
    for command in re.sub("<.*?>", "", commands).splitlines():
        program, *arguments = shlex.split(html.unescape(command))
        assert program == "smd-evo"
        done(*arguments, cwd=runs)
    for part in (".", "ensemble-diverse-probabilities-2"):
        assert numbers(runs / "run" / part) == numbers(runs / "run-again" / part)


def test_over_an_older_page(tmp_path):
    run = write_run(tmp_path / "run", finetune_results())
    (run / "report.html").write_text("old")
    done("report", str(run))
    assert "Fine-tuning demo-cnn on digits" in (run / "report.html").read_text()


def test_what_is_no_run_is_refused_and_nothing_is_written(tmp_path):
    run = write_run(tmp_path / "run", finetune_results() | {"rows": 3})
    refused(here("report", str(run)), "run: expected results", "run it again")
    refused(here("report", str(tmp_path / "absent")), "run: expected a folder", "absent")
    refused(here("report"), "RUN")
    assert not (run / "report.html").exists()
