"""Every command on a disk that fails: what was computed is whole somewhere, as is told, and nothing else changes."""

import io
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from cli_helpers import here
from evolution_helpers import TINY, options
from faults import ERRORS, Faults
from report_helpers import finetune_results, write_run
from safetensors.torch import load_file

from smd_evo import atomic
from smd_evo.bar import Bar
from smd_evo.experiments.compare import runner as compare_runner
from smd_evo.experiments.ensembles import run as ensembles
from smd_evo.experiments.finetune import files as finetune_run
from smd_evo.experiments.finetune import run as finetune
from smd_evo.experiments.generations import files as evolution
from smd_evo.experiments.window import run as window

PARENT = {name: TINY[name] for name in ("model", "data", "fitness_samples", "validation_samples", "device")}
SMALL = PARENT | {"children": 6, "sigma": 0.1, "density": 0.2}
COMPARE = PARENT | {"methods": "openai-es,smd", "children": 8, "images": 20, "budget": 320, "checkpoints": 1}
COMPARE |= {"trials": 1, "seeds": 2}
FILES = {
    "finetune": {
        "config.yaml",
        "children.safetensors",
        "shortlists.safetensors",
        "results.json",
        "table.csv",
        "plot.png",
    },
    "window": {"config.yaml", "results.json", "table.csv", "plot.png"},
    "ensemble": {"ensemble.safetensors", "results.json", "table.csv", "plot.png"},
}
COMMANDS = {
    "finetune": ["finetune", *options(SMALL)],
    "window": ["window", *options(PARENT | {"children": 6, "density": "1", "sigma": "0.1"})],
    "ensemble": ["ensemble", "done", "--trust"],
}


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A finished run, and what each command computes on its way, once."""
    folder, found = tmp_path_factory.mktemp("computed"), {}

    def kept(module, name, key):
        compute = getattr(module, name)

        def once(*arguments, **options):
            found[key] = compute(*arguments, **options)
            return found[key]

        return once

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((finetune, "finetune"), (window, "window"), (ensembles, "score_ensembles")):
            patch.setattr(module, name, kept(module, name, name))
        for command, arguments in COMMANDS.items():
            out = "done" if command == "finetune" else command
            result = here(*arguments, "--out", out, cwd=folder)
            assert result.returncode == 0, result.stderr
            assert set(os.listdir(folder / out)) == FILES[command]
    result = here("compare", *options(COMPARE), "--out", "compare", cwd=folder)
    assert result.returncode == 0, result.stderr
    result = here("finetune", *options(TINY | {"generations": 2}), "--out", "many", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, found


@pytest.fixture
def base(computed, tmp_path, monkeypatch):
    """A folder with the finished run; temporary files go elsewhere, and nothing is computed again but counted."""
    folder, found = computed
    shutil.copytree(folder / "done", tmp_path / "base" / "done")
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    monkeypatch.setattr(atomic, "_told", set())
    monkeypatch.chdir(tmp_path / "base")
    counted = []
    for module, name in ((finetune, "finetune"), (window, "window"), (ensembles, "score_ensembles")):
        monkeypatch.setattr(module, name, lambda *_, name=name, **__: counted.append(name) or found[name])
    return tmp_path / "base", counted


def tree(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def whole(folder, command, told):
    """All files are there; the plot may be missing if that was told."""
    missing = FILES[command] - set(os.listdir(folder))
    json.loads((folder / "results.json").read_text())
    assert not missing or (missing == {"plot.png"} and "plot: expected" in told)
    return True


@pytest.mark.parametrize("once", [True, False], ids=["once", "from then on"])
@pytest.mark.parametrize("command", COMMANDS)
def test_what_was_computed_is_whole_at_the_place_that_is_told(base, command, once):
    """At every fourth call that changes something, another error each time: tests/runs/test_place.py has all."""
    folder, counted = base
    before, errors = tree(folder), list(ERRORS.values())
    for at in range(1, 200, 4):
        counted.clear()
        faults = Faults(folder, at, errors[(at // 4) % len(errors)], once=once)
        with faults() as told:
            result = here(*COMMANDS[command], "--out", "run")
        warned = " ".join(str(each.message) for each in told)
        assert len(result.stderr.splitlines()) <= 1
        assert {name: content for name, content in tree(folder).items() if name in before} == before
        if not counted:
            assert result.returncode in (1, 2)
            assert not list(folder.glob("run*"))
        elif result.returncode == 0:
            assert whole(folder / "run", command, warned)
            assert f"Written to {Path('run')}" in result.stdout
        else:
            assert result.returncode == 1
            assert whole(Path(re.search(r" whole in (\S+)$", result.stderr)[1]), command, warned)
            assert re.search(r"parent", result.stdout)  # the tables are shown all the same
        if faults.count < at:
            break
        for left in (*folder.glob("run*"), *folder.glob(".run*"), *(folder.parent / "temp").iterdir()):
            shutil.rmtree(left)
    assert at > 20


def test_a_plot_that_cannot_be_drawn_costs_nothing_else(base, monkeypatch):
    def draw(*_):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(finetune_run, "plot_finetune", draw)
    with pytest.warns(
        RuntimeWarning, match=r"plot: expected to draw .*plot\.png, got no fonts; the numbers are there"
    ):
        result = here(*COMMANDS["finetune"], "--out", "run")
    assert result.returncode == 0
    assert set(os.listdir("run")) == FILES["finetune"] - {"plot.png"}


def test_two_runs_without_a_name_do_not_meet(base, monkeypatch):
    monkeypatch.setattr("smd_evo.experiments.folders.take.time.strftime", lambda form: f"{form.split('-')[0]}-now")
    for name in ("finetune-now", "finetune-now-2", "finetune-now-3"):
        result = here(*COMMANDS["finetune"])
        assert f"Written to {Path('runs') / name}" in result.stdout
    assert sorted(os.listdir("runs")) == ["finetune-now", "finetune-now-2", "finetune-now-3"]


def test_an_interrupt_while_tables_are_shown_says_where_the_results_are(base, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("smd_evo.commands.shared.show", interrupted)
    result = here(*COMMANDS["finetune"], "--out", "run")
    assert (result.returncode, result.stderr) == (130, "smd-evo: interrupted; the results are in run\n")
    assert set(os.listdir("run")) == FILES["finetune"]


def test_a_terminal_that_is_closed_does_not_hide_why_a_run_ends(monkeypatch):
    class Terminal(io.StringIO):
        closed_by_now = False

        def isatty(self):
            return True

        def write(self, text):
            if self.closed_by_now:
                raise OSError(5, "Input/output error")
            return super().write(text)

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = Bar()
    bar.__enter__()
    bar.start("one", 2)
    terminal.closed_by_now = True
    for _ in range(2):
        bar.start("another", 2)
        bar.advance()
        bar.reached(2, "done")
    bar.__exit__()
    assert "one" in terminal.getvalue()


class TestCompare:
    @pytest.fixture
    def made(self, computed, base, monkeypatch):
        """Runs are those of a comparison that is finished."""
        stored = computed[0] / "compare"

        class Stored(compare_runner.Comparison):
            def run(self, job):
                return compare_runner.stored_run(stored, job)

        monkeypatch.setattr(compare_runner, "Comparison", Stored)
        return base[0], {name: content for name, content in tree(stored).items() if "runs" in name}

    @pytest.mark.parametrize("once", [True, False], ids=["once", "from then on"])
    def test_runs_that_are_made_are_kept_or_told_where(self, made, once):
        folder, expected = made
        before, errors, arguments = (
            tree(folder),
            list(ERRORS.values()),
            ["compare", *options(COMPARE), "--out", "run"],
        )
        for at in range(1, 200, 19):
            faults = Faults(folder, at, errors[(at // 19) % len(errors)], once=once)
            with faults():
                result = here(*arguments)
            assert result.returncode in (0, 1, 2)
            assert len(result.stderr.splitlines()) == (result.returncode != 0)
            if copied := re.search(
                r"; this run is in (\S+), to be copied there; those before are kept", result.stderr
            ):
                (file,) = Path(copied[1]).iterdir()
                assert any(content == file.read_bytes() for content in expected.values())
            if result.returncode:
                again = here(*arguments)
                assert again.returncode == 0, again.stderr
            found = tree(folder / "run")
            assert {name: found[name] for name in expected if name != "runs/data.json"} == {
                name: content for name, content in expected.items() if name != "runs/data.json"
            }
            shutil.rmtree(folder / "run")
            assert tree(folder) == before
            if faults.count < at:
                break
        assert at > 50

    def test_a_second_process_is_told_at_once(self, made):
        from smd_evo.experiments.folders.take import working_in

        with working_in(Path("run")):
            result = here("compare", *options(COMPARE), "--out", "run")
        assert result.returncode == 2
        assert "out: expected a folder that no other process works on, got run" in result.stderr


class TestGenerations:
    """Their disks fail in tests/test_cli_resume.py; here, what their finished folders are good for."""

    @pytest.fixture
    def many(self, computed):
        return computed[0] / "many"

    def test_export_takes_the_best_network_its_soup_and_the_ensemble(self, many, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        best = load_file(many / "network.safetensors")
        said = {}
        for child in ("best", "soup", "ensemble"):
            result = here("export", str(many), "--trust", "--child", child, "--out", child)
            assert result.returncode == 0, result.stderr
            said[child] = result.stdout
        assert said["best"] == "Written to best: the best network on validation\n"
        assert {name: tensor.tolist() for name, tensor in load_file("best").items()} == {
            name: tensor.tolist() for name, tensor in best.items()
        }
        assert load_file("soup").keys() == best.keys()
        shares = json.loads((many / "results.json").read_text())["weights"]
        assert {name.split(".")[0] for name in load_file("ensemble")} == set(map(str, range(len(shares))))
        assert said["ensemble"].count("/") + said["ensemble"].endswith(" 1\n") == len(shares)

    def test_export_says_what_there_is_not(self, many, tmp_path):
        for options_, text in (
            (
                ["--child", "3"],
                "child: expected best, soup or ensemble, got '3'; a run over generations keeps no other",
            ),
            (
                ["--child", "ensemble", "--size", "2"],
                "size: expected none for a run over generations, which chose its",
            ),
        ):
            result = here("export", str(many), "--trust", *options_, "--out", str(tmp_path / "x"))
            assert result.returncode == 2
            assert text in result.stderr
        assert os.listdir(tmp_path) == []

    def test_ensemble_says_where_theirs_is(self, many):
        result = here("ensemble", str(many))
        assert result.returncode == 2
        assert f"it is {many / 'ensemble.safetensors'}" in result.stderr or "ensemble.safetensors" in result.stderr
        assert f"smd-evo export {many} --child ensemble --out FILE" in result.stderr

    def test_an_unfinished_one_is_resumed_first(self, many, tmp_path):
        shutil.copytree(many, tmp_path / "run")
        (tmp_path / "run" / "results.json").unlink()
        for arguments in (["ensemble"], ["export", "--out", str(tmp_path / "x")], ["report"]):
            result = here(arguments[0], str(tmp_path / "run"), *arguments[1:])
            assert result.returncode == 2
            assert f"run: expected a finished one, got {tmp_path / 'run'}; smd-evo resume" in result.stderr

    def test_a_folder_that_is_deleted_meanwhile_is_not_called_kept(self, base, monkeypatch):
        step = evolution.Evolution.step

        def deleting(self):
            shutil.rmtree("run", ignore_errors=True)
            return step(self)

        monkeypatch.setattr(evolution.Evolution, "step", deleting)
        result = here("finetune", *options(TINY), "--out", "run")
        assert result.returncode == 1
        assert result.stderr.startswith("smd-evo: run: No such file or directory; its checkpoints are gone")

        def interrupted(self):
            shutil.rmtree("run")
            raise KeyboardInterrupt

        monkeypatch.setattr(evolution.Evolution, "step", interrupted)
        result = here("finetune", *options(TINY), "--out", "run")
        assert (result.returncode, result.stderr) == (
            130,
            "smd-evo: interrupted; run is gone, with its checkpoints\n",
        )

    def test_a_place_that_is_taken_meanwhile_costs_no_checkpoint(self, base, monkeypatch):
        begin = evolution.Evolution.begin

        def beginning(self):
            Path("run").write_text("theirs")
            begin(self)

        monkeypatch.setattr(evolution.Evolution, "begin", beginning)
        result = here("finetune", *options(TINY | {"generations": 1}), "--out", "run")
        assert result.returncode == 1
        assert result.stderr.endswith("all of it is whole in run-kept\n")
        assert Path("run").read_text() == "theirs"
        result = here("resume", "run-kept", "--trust")
        assert result.returncode == 0, result.stderr


class TestFiles:
    """Of export and report: what they write comes from a run, which stays."""

    @pytest.mark.parametrize("once", [True, False], ids=["once", "from then on"])
    @pytest.mark.parametrize("command", ["export", "report"])
    def test_are_whole_or_not_there_or_where_it_is_told(self, tmp_path, computed, monkeypatch, command, once):
        monkeypatch.setattr(atomic, "_told", set())
        (tmp_path / "temp").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
        folder = tmp_path / "base"
        write_run(folder / "run", finetune_results())
        if command == "export":
            arguments = ["export", str(computed[0] / "many"), "--out", str(folder / "file")]
        else:
            (folder / "file").write_text("old")
            arguments = ["report", str(folder / "run"), "--out", str(folder / "file")]
        old = tree(folder)
        result = here(*arguments)
        assert result.returncode == 0, result.stderr
        expected = tree(folder)
        for at, error in enumerate([*ERRORS.values()] * 2, start=1):
            shutil.rmtree(folder)
            for name, content in old.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            with Faults(folder, at, error, once=once)():
                result = here(*arguments)
            found = {name: content for name, content in tree(folder).items() if ".partial" not in name}
            assert found in (old, expected)
            assert result.returncode in (0, 1, 2)
            assert len(result.stderr.splitlines()) == (result.returncode != 0)
            if result.returncode == 0:
                assert found == expected
            if told := re.search(r"; it is in (\S+)$", result.stderr):
                assert (Path(told[1]) / "file").read_bytes() == expected["file"]

    @pytest.mark.parametrize("command", ["finetune", "window", "compare", "report", "export", "ensemble"])
    def test_names_of_more_than_255_bytes_are_a_mistake(self, base, command):
        own = {**COMMANDS, "compare": ["compare", *options(COMPARE)], "report": ["report", "done"]}
        own["export"] = ["export", "done", "--trust"]
        before = tree(base[0])
        result = here(*own[command], "--out", "x" * 256)
        assert result.returncode == 2
        assert result.stderr.startswith("smd-evo: out: expected a place that can be written to, got x")
        assert tree(base[0]) == before
        assert base[1] == []
