"""Runs over generations survive: however they are ended, they go on to the same bits as if they never were."""

import csv
import errno
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from cli_helpers import refused
from evolution_helpers import SEARCHERS, TINY, network, options
from resume_helpers import checkpoints, ended, environment, everything, lines, same, told, tree
from safetensors.torch import save_file

BRIEF = TINY | {"generations": 2, "children": 4, "checkpoint_every": 2, "keep_checkpoints": 1, "validate_every": 1}
STOP = {"stop_in": [5, [signal.SIGTERM]]}


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """What is told of a run that nothing interrupts."""
    found = {}

    def make(**settings):
        settings = TINY | settings
        key = json.dumps(settings)
        if key not in found:
            out = tmp_path_factory.mktemp("whole") / "run"
            ended(server.finetune(out, settings))
            found[key] = told(out)
        return found[key]

    return make


@pytest.fixture(scope="module")
def stopped(server, tmp_path_factory):
    """A run that was stopped after five of seven generations: its checkpoints are those of 2, 4 and 5."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    ended(server.finetune(out, **STOP), 130)
    assert checkpoints(out) == [2, 4, 5]
    return out


@pytest.fixture
def run(stopped, tmp_path):
    """The same, to do with as one likes."""
    return shutil.copytree(stopped, tmp_path / "run")


class TestKilled:
    def test_at_every_moment_of_writing(self, server, whole, tmp_path):
        """Before a write reaches the disk and half-way through it, before renaming and deletion.

        What a process leaves that is killed there is a copy of what is there: every other one of those that differ.
        """
        work, copies = tmp_path / "work", tmp_path / "copies"
        work.mkdir()
        result = server.finetune(work / "run", BRIEF, watch="writing", copies=[str(work), str(copies)])
        assert ended(result).moments == len(list(copies.iterdir())) > 50
        left = {}
        for moment in range(1, result.moments + 1):
            left.setdefault(json.dumps(everything(copies / str(moment))), copies / str(moment) / "run")
        assert len(left) > 40
        for out in list(left.values())[::2]:
            if not (out / "results.json").exists():
                ended(server.go_on(out, BRIEF))
            same(out, whole(**BRIEF))
            assert checkpoints(out)[-1] == 2

    def test_and_again_while_it_goes_on(self, server, run, whole, tmp_path):
        """At each ninth of these moments."""
        for moment in itertools.count(1, 9):
            out = shutil.copytree(run, tmp_path / str(moment))
            if server.run("resume", out, watch="writing", moment=moment).returncode == 0:
                break
            if not (out / "results.json").exists():
                ended(server.run("resume", out))
            same(out, whole())
        assert moment > 20

    @pytest.mark.parametrize("name", ["gradient", "selection, sigma adapted", "sigma found, partition", "head"])
    def test_at_random_moments_again_and_again(self, server, whole, name, tmp_path):
        """Moments are calls of Python functions, some hundred thousand."""
        searcher = SEARCHERS.get(name, {"select": name})
        settings, out = TINY | searcher, tmp_path / "run"
        calls = server.finetune(tmp_path / "other", settings, watch="calls").moments
        draw = random.Random(name)
        for attempt in itertools.count(1):
            at = draw.randrange(calls * (attempt + 1) // 8)
            result = server.go_on(out, settings, watch="calls", moment=at)
            if result.returncode == 0 or (out / "results.json").exists():
                break
            assert result.returncode == -signal.SIGKILL, result.stderr
        assert attempt > 3
        same(out, whole(**searcher))

    def test_at_random_times_again_and_again(self, server, whole, tmp_path):
        out, draw = tmp_path / "run", random.Random(0)
        for attempt in itertools.count(1):
            result = server.go_on(out, seconds=draw.random() * 0.1 * 1.5**attempt)
            if result.returncode == 0 or (out / "results.json").exists():
                break
            assert result.returncode == -signal.SIGKILL, result.stderr
        same(out, whole())


class TestADiskThatTakesNoMore:
    def test_at_many_moments_of_writing(self, server, whole, tmp_path):
        """An error at each fifth of them ends the run with one line, and it goes on when the disk does."""
        expected, errors = whole(**BRIEF), itertools.cycle([errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EMFILE])
        for moment in itertools.count(2, 5):
            out, error = tmp_path / str(moment), next(errors)
            result = server.finetune(out, BRIEF, watch="writing", moment=moment, fails=error)
            if result.moments < moment:
                break
            if result.returncode == 0:  # nothing depended on it
                same(out, expected)
                continue
            began, finished = out.exists(), (out / "results.json").exists()
            assert result.returncode == (1 if began else result.returncode), result.stderr
            assert result.stderr.startswith("smd-evo: ")
            assert len(result.stderr.splitlines()) == 1
            assert os.strerror(error) in result.stderr
            if began and not finished:
                assert not list(out.rglob("*.partial"))
            if not finished:
                ended(server.go_on(out, BRIEF))
            same(out, expected)
        assert moment > 50
        assert [each.name for each in tmp_path.iterdir() if not each.name.isdigit()] == []

    def test_files_that_may_not_grow(self, server, whole, tmp_path):
        """By the system's own limit, between the first checkpoint's size and the largest one's."""
        ended(server.finetune(tmp_path / "0", TINY | {"keep_checkpoints": 9}))
        sizes = [file.stat().st_size for file in sorted((tmp_path / "0" / "checkpoints").iterdir())]
        first, largest = max(sizes[:2]), max(sizes)
        assert first < largest
        for room in (first + 9, (first + largest) // 2, largest - 1):
            out = tmp_path / f"with room for {room}"
            result = ended(server.finetune(out, room=room), 1)
            stored = max(checkpoints(out))
            assert result.stderr == (
                f"smd-evo: {out}: File too large; the run is kept as of generation {stored}; once it can be written "
                "to, smd-evo resume goes on\n"
            )
            before = tree(out)
            again = ended(server.run("resume", out, room=99), 1)
            assert len(again.stderr.splitlines()) == 1
            assert tree(out) == before
            ended(server.run("resume", out))
            same(out, whole())

    def test_no_room_at_all(self, server, tmp_path):
        result = ended(server.finetune(tmp_path / "a" / "run", room=99), 1)
        assert "File too large" in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert os.listdir(tmp_path) == []


@pytest.fixture
def public():
    """A folder that everybody may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


class TestAFolderThatMayOnlyBeRead:
    def test_is_left_as_it_is(self, server, whole, stopped, public):
        run = shutil.copytree(stopped, public / "run")
        for each in (run / "checkpoints", run):
            each.chmod(0o555)
        before = tree(run)
        result = server.run("resume", run, nobody=True)
        refused(result, "run: expected a folder that can be written to", "Permission denied")
        assert tree(run) == before
        for each in (run / "checkpoints", run):
            each.chmod(0o755)
        ended(server.run("resume", run))
        same(run, whole())

    def test_takes_no_new_run(self, server, public):
        (public / "here").mkdir(mode=0o555)
        result = server.finetune(public / "here" / "run", nobody=True)
        refused(result, "out: expected a place that can be written to", "Permission denied")
        assert os.listdir(public / "here") == []


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    @pytest.mark.parametrize("generation", [1, 3, 7])
    def test_one_ends_the_run_after_the_generation(self, server, whole, tmp_path, number, generation):
        out = tmp_path / "run"
        result = ended(server.finetune(out, stop_in=[generation, [number]]), 130)
        assert result.stdout == ""
        assert result.stderr == (
            f"smd-evo: interrupted; {generation} of 7 generations are done; smd-evo resume {out} --trust goes on\n"
        )
        assert max(checkpoints(out)) == generation
        assert lines(out) == whole()[0][:generation]
        ended(server.run("resume", out))
        same(out, whole())

    def test_it_may_come_again_and_again(self, server, whole, tmp_path):
        out = tmp_path / "run"
        for generation in range(1, 8):
            ended(server.go_on(out, stop_in=[generation, [signal.SIGINT]]), 130)
        ended(server.run("resume", out))
        same(out, whole())

    @pytest.mark.parametrize("generation", [2, 5])
    def test_a_second_one_ends_it_at_once(self, server, whole, tmp_path, generation):
        out = tmp_path / "run"
        ended(server.finetune(out, stop_in=[generation, [signal.SIGINT, signal.SIGINT]]), 130)
        assert lines(out) == whole()[0][: generation - 1]
        ended(server.run("resume", out))
        same(out, whole())

    def test_and_that_is_told(self, server, tmp_path):
        out = tmp_path / "run"
        result = server.finetune(out, stop_in=[2, [signal.SIGINT, signal.SIGINT]])
        assert (
            result.stderr
            == f"smd-evo: interrupted; the last checkpoint is kept; smd-evo resume {out} --trust goes on\n"
        )

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_one_before_the_first_generation_leaves_nothing(self, server, tmp_path, number):
        ended(server.finetune(tmp_path / "run", stop_in=[0, [number]]), 130)
        assert os.listdir(tmp_path) == []

    def test_those_that_are_ignored_stay_so(self, server, whole, tmp_path):
        """As under nohup, or in the background of a script."""
        out = tmp_path / "run"
        ended(server.finetune(out, stop_in=[3, [signal.SIGHUP]], ignores=[signal.SIGHUP]))
        same(out, whole())

    def test_and_that_is_told_too(self, server, tmp_path):
        result = server.finetune(tmp_path / "run", stop_in=[0, [signal.SIGINT]])
        assert result.stderr == "smd-evo: interrupted; nothing was written\n"


def lines_so_far(run):
    return (run / "metrics.jsonl").read_bytes().split(b"\n")[:-1]


def test_processes_of_their_own_killed_terminated_and_interrupted(server, lean, tmp_path):
    """One run, and meanwhile no other process may have it. The first one is forked from no other."""
    out, settings = tmp_path / "run", TINY | {"generations": 10**12}
    arguments = [sys.executable, "-m", "smd_evo.cli", "finetune", *options(settings), "--out", out]
    with subprocess.Popen(arguments, env=environment(lean), stderr=subprocess.PIPE, text=True) as process:
        while not (out / "metrics.jsonl").exists() or len(lines_so_far(out)) < 3:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        refused(server.run("resume", out), "run: expected one that no other process works on", str(out))
        refused(server.finetune(out), "out: expected a new or empty folder")
        process.kill()
    for number in (signal.SIGTERM, signal.SIGINT):
        done = len(lines_so_far(out))
        result = ended(server.run("resume", out, comes=[number, f"{out}/metrics.jsonl", done + 3]), 130)
        assert len(lines_so_far(out)) >= done + 3
        done = len(lines_so_far(out))
        assert result.stderr == (
            f"smd-evo: interrupted; {done} of 1000000000000 generations are done; "
            f"smd-evo resume {out} --trust goes on\n"
        )
        assert max(checkpoints(out)) == done
    ended(server.run("resume", out, "--generations", done + 3))
    ended(server.finetune(tmp_path / "whole", TINY | {"generations": done + 3}))
    same(out, told(tmp_path / "whole"))


class TestDamage:
    @pytest.mark.parametrize("kind", ["json", "safetensors"])
    def test_a_flipped_byte_in_the_newest_checkpoint(self, server, whole, stopped, kind, tmp_path):
        """All of them are seen: tests/runs/test_checkpoints.py."""
        size = (stopped / "checkpoints" / f"000005.{kind}").stat().st_size
        for number, place in enumerate(random.Random(kind).sample(range(size), 3)):
            run = shutil.copytree(stopped, tmp_path / str(number))
            file = run / "checkpoints" / f"000005.{kind}"
            content = bytearray(file.read_bytes())
            content[place] ^= 1 << number
            file.write_bytes(content)
            result = ended(server.run("resume", run))
            (note,) = result.stderr.splitlines()
            assert note.startswith("smd-evo: note: checkpoint 5 is damaged (")
            assert note.endswith("); going on from 4")
            same(run, whole())

    def test_two_damaged_ones(self, server, whole, run):
        for number in (4, 5):
            (run / "checkpoints" / f"{number:06d}.json").write_text("{}")
        result = ended(server.run("resume", run))
        assert [note[-17:] for note in result.stderr.splitlines()] == ["; going on from 2"] * 2
        same(run, whole())

    def test_all_of_them(self, server, run):
        for number in (2, 4, 5):
            (run / "checkpoints" / f"{number:06d}.safetensors").unlink()
        before = tree(run)
        refused(server.run("resume", run), "run: expected a checkpoint in", "that is whole, got none", "new run")
        assert tree(run) == before

    @pytest.mark.parametrize("name", ["metrics.jsonl", "history.jsonl"])
    def test_generations_that_are_missing(self, server, run, name):
        (run / name).write_text("".join((run / name).read_text().splitlines(keepends=True)[:3]))
        before = tree(run)
        refused(server.run("resume", run), f"expected generations 1 to 5 in {run / name}, got 3 in order")
        assert tree(run) == before

    @pytest.mark.parametrize("name", ["metrics.jsonl", "history.jsonl"])
    def test_a_line_that_was_cut_off_behind_the_checkpoint(self, server, whole, run, name):
        with (run / name).open("a") as file:
            file.write('{"generation": 6, "fit')
        ended(server.run("resume", run))
        same(run, whole())


def change(run, **values):
    file = run / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


class TestAnotherVersion:
    def test_of_the_format_is_refused(self, server, run):
        change(run, format=99, smd_evo="9.9")
        refused(server.run("resume", run), "run: expected one of format 1, got", "of smd_evo '9.9'; install that")

    @pytest.mark.parametrize("name", ["smd_evo", "torch"])
    def test_of_the_package_or_torch_is_noted(self, server, whole, run, name):
        change(run, **{name: "0.0.1"})
        result = ended(server.run("resume", run))
        assert result.stderr.startswith(f"smd-evo: note: begun with {name} 0.0.1, going on with ")
        assert len(result.stderr.splitlines()) == 1
        same(run, whole())

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", "5", "{}", '{"format": 1}', '{"format": 1, "smd_evo": "0.1"}']
    )
    def test_what_is_no_identity_is_refused(self, server, run, content):
        (run / "run.json").write_text(content)
        refused(server.run("resume", run), "run: expected", str(run))


class TestRefuses:
    def test_what_is_no_run(self, server, tmp_path):
        for folder in (tmp_path / "nowhere", tmp_path):
            result = server.run("resume", folder)
            refused(result, "run: expected a folder that finetune --generations wrote", "which holds no run.json")
        assert os.listdir(tmp_path) == []
        refused(server.run("resume"), "Missing argument 'RUN'")

    def test_a_run_that_is_finished(self, server, run):
        ended(server.run("resume", run))
        before = tree(run)
        expected = "run: expected one that is not finished, got", f"--checkpoint {run / 'network.safetensors'}"
        refused(server.run("resume", run), *expected)
        refused(server.run("resume", run, "--generations", 20), *expected)
        assert tree(run) == before

    @pytest.mark.parametrize(
        "given",
        [
            "--children 8",
            "--seed 4",
            "--images 30",
            "--density 0.3",
            "--sigma 0.2",
            "--searcher selection",
            "--fitness accuracy",
            "--validate-every 3",
            "--late-parents 1",
            "--learning-rate 0.1",
            "--select head",
            "--subspace partition",
            "--precision bfloat16",
            "--batch-size 7",
            "--fitness-samples 50",
        ],
    )
    def test_other_settings_and_lists_those_that_may_change(self, server, stopped, given):
        before = tree(stopped)
        name = given.split()[0].strip("-").replace("-", "_")
        refused(
            server.run("resume", stopped, *given.split()),
            f"resume: expected the run's own settings, got others: {name} ",
            " instead of ",
            "; only generations, patience, checkpoint_every, keep_checkpoints, log, ",
            " may change",
        )
        assert tree(stopped) == before

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ("--generations 4", "generations: expected at least the 5 that are done, got 4"),
            ("--generations 0", "generations: expected a whole number >= 1, got 0"),
            ("--patience 0", "patience: expected a whole number >= 1"),
            ("--device gpu", "device: expected auto, cpu, cuda"),
            ("--log excel", "log: expected one of csv, tensorboard, mlflow, wandb, got 'excel'"),
            ("--model evolution_helpers:other_network", "parent: expected the run's own"),
            ("--data evolution_helpers:other_data", "data: expected the samples that the run began with, got others"),
            ("--config x.yaml", "--config"),
            ("--out x", "--out"),
        ],
    )
    def test_what_cannot_be(self, server, stopped, given, text):
        before = tree(stopped)
        refused(server.run("resume", stopped, *given.split()), text)
        assert tree(stopped) == before

    def test_settings_that_somebody_has_edited(self, server, run):
        config = run / "config.yaml"
        config.write_text(config.read_text().replace("children: 6", "children: 8"))
        before = tree(run)
        refused(
            server.run("resume", run),
            "run: expected the settings that it began with, got config.yaml with others: children 6 instead of 8",
        )
        assert tree(run) == before

    def test_other_weights_of_the_parent(self, server, stopped, tmp_path):
        weights = {name: tensor * 1.01 for name, tensor in network(3).state_dict().items() if tensor.dim()}
        save_file(network(3).state_dict() | weights, tmp_path / "other.safetensors")
        before = tree(stopped)
        result = server.run("resume", stopped, "--checkpoint", tmp_path / "other.safetensors")
        refused(result, "parent: expected the run's own, ", "; give its --model and --checkpoint")
        assert tree(stopped) == before


class TestMayChange:
    def test_more_generations(self, server, whole, run):
        ended(server.run("resume", run, "--generations", 11))
        same(run, whole(generations=11))

    def test_no_more_generations(self, server, whole, run):
        ended(server.run("resume", run, "--generations", 5))
        results = json.loads((run / "results.json").read_text())
        assert (results["generations"], results["stopped"]) == (5, "generations")
        assert lines(run) == whole()[0][:5]

    def test_how_much_is_kept(self, server, whole, run):
        ended(server.run("resume", run, "--keep-checkpoints", 1, "--checkpoint-every", 3))
        same(run, whole())
        assert checkpoints(run) == [7]

    def test_where_the_same_parent_comes_from(self, server, whole, run, tmp_path):
        save_file(network(3).state_dict(), tmp_path / "same.safetensors")
        arguments = ["--checkpoint", tmp_path / "same.safetensors"]
        ended(server.run("resume", run, "--model", "evolution_helpers:network", *arguments))
        same(run, whole())

    def test_patience(self, server, run):
        ended(server.run("resume", run, "--patience", 1, "--generations", 500))
        results = json.loads((run / "results.json").read_text())
        assert results["stopped"] == "patience"
        bests = [line["validation"]["best"] for line in lines(run)[5:] if line["validation"]]
        assert not bests[-1]
        assert all(bests[:-1])

    def test_and_what_changed_is_stored(self, server, whole, run):
        ended(server.run("resume", run, "--generations", 11, stop_in=[8, [signal.SIGTERM]]), 130)
        ended(server.run("resume", run))
        same(run, whole(generations=11))


def scalars(run):
    """What TensorBoard shows: (generation, value) of each name."""
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run / "tensorboard")).Reload()
    names = set(events.Tags()["scalars"]) - {"seconds"}
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in sorted(names)}


class TestLogs:
    """After a generation is done again: the fifth, which no checkpoint holds."""

    @pytest.fixture
    def logged(self, server, tmp_path):
        """A run that nothing interrupts, and one that was."""

        def make(name):
            settings = TINY | {"log": name}
            ended(server.finetune(tmp_path / "whole", settings))
            ended(server.finetune(tmp_path / "run", settings, stop_in=[6, [signal.SIGINT, signal.SIGINT]]), 130)
            assert checkpoints(tmp_path / "run")[-1] == 4
            time.sleep((1 - time.time() % 1) * (name == "wandb"))  # it names parts by the second
            result = ended(server.run("resume", tmp_path / "run"))
            assert result.stderr == "" or name == "wandb"  # which talks
            same(tmp_path / "run", told(tmp_path / "whole"))
            return tmp_path / "whole", tmp_path / "run"

        return make

    def test_csv(self, logged):
        found = []
        for run in logged("csv"):
            with (run / "metrics.csv").open(newline="") as file:
                found.append([{**row, "seconds": None} for row in csv.DictReader(file)])
        assert found[0] == found[1]
        assert [row["generation"] for row in found[0]] == list("1234567")
        for row, line in zip(found[0], lines(run), strict=True):
            assert float(row["fitness"]) == line["fitness"]
            assert row["validation_loss"] == (str(line["validation"]["loss"]) if line["validation"] else "")

    def test_tensorboard(self, logged):
        pytest.importorskip("tensorboard")
        whole, run = logged("tensorboard")
        assert scalars(run) == scalars(whole)
        expected = [(line["generation"], pytest.approx(line["fitness"])) for line in lines(run)]
        assert scalars(run)["fitness"] == expected
        assert [step for step, _ in scalars(run)["validation_accuracy"]] == [2, 4, 6, 7]

    def test_mlflow(self, logged, monkeypatch):
        mlflow = pytest.importorskip("mlflow")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        for run in logged("mlflow"):
            client = mlflow.MlflowClient((run / "mlruns").as_uri())
            experiment = client.get_experiment_by_name("smd-evo")
            (session,) = client.search_runs([experiment.experiment_id])
            assert session.info.status == "FINISHED"
            assert session.data.params["children"] == "6"
            history = client.get_metric_history(session.info.run_id, "fitness")
            assert {(each.step, each.value) for each in history} == {
                (line["generation"], line["fitness"]) for line in lines(run)
            }

    def test_wandb(self, logged):
        """What is stored offline is one run's, in two parts."""
        pytest.importorskip("wandb")
        for run, parts in zip(logged("wandb"), (1, 2), strict=True):
            name = (run / "wandb.txt").read_text()
            assert len(list(run.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb"))) == parts

    def test_one_more_from_here_on(self, server, run):
        ended(server.run("resume", run, "--log", "csv"))
        with (run / "metrics.csv").open(newline="") as file:
            assert [row["generation"] for row in csv.DictReader(file)] == list("1234567")

    def test_one_that_cannot_start(self, server, run, tmp_path):
        (run / "metrics.csv").mkdir()
        refused(
            server.run("resume", run, "--log", "csv"), "log: expected csv to start, got ", "; mend that, or leave"
        )
        assert checkpoints(run) == [2, 4, 5]


class TestNewRuns:
    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ("--patience 3", "patience: expected it with generations, got it without; give --generations 100, say"),
            ("--images 40", "images: expected it with generations, got it without"),
            ("--log csv", "log: expected it with generations, got it without"),
            ("--generations 5 --keep 2", "keep: expected a finite number in (0, 1], got 2.0"),
            ("--generations 0", "generations: expected a whole number >= 1, got 0"),
            ("--generations 5 --children 7", "children: expected an even number for antithetic pairs, got 7; give 8"),
            ("--generations 5 --density 0.1,0.3", "density: expected a number in (0, 1], got '0.1,0.3'"),
            ("--generations 5 --images 61", "images: expected at most the 60 samples of the fitness split, got 61"),
            ("--generations 5 --adapt-sigma", "adapt_sigma: expected it with searcher selection"),
            ("--generations 5 --log csv,x", "log: expected one of csv, tensorboard, mlflow, wandb, got 'x'"),
            ("--generations 5 --actors 1 --ray-address auto", "ray_address: expected it with actors, got 1 of them"),
            ("--generations 5 --model evolution_helpers:nothing", "model: expected a function 'nothing'"),
        ],
    )
    def test_with_settings_that_cannot_be_write_nothing(self, server, tmp_path, given, text):
        base = {name: TINY[name] for name in ("model", "data", "fitness_samples", "validation_samples")}
        out = tmp_path / "a" / "run"
        refused(server.run("finetune", *options(base), *given.split(), "--out", out), text)
        assert os.listdir(tmp_path) == []

    def test_do_not_touch_what_is_there(self, server, stopped):
        before = tree(stopped)
        refused(server.finetune(stopped), "out: expected a new or empty folder")
        assert tree(stopped) == before

    def test_have_all_their_files(self, server, tmp_path):
        out = tmp_path / "run"
        result = ended(server.finetune(out, TINY | {"keep_checkpoints": 2}, plot=True))
        assert result.stderr == ""
        assert f"Written to {out}" in result.stdout
        expected = ["checkpoints", "config.yaml", "ensemble.safetensors", "history.jsonl", "lock", "metrics.jsonl"]
        assert sorted(os.listdir(out)) == [
            *expected,
            "network.safetensors",
            "plot.png",
            "results.json",
            "run.json",
            "table.csv",
        ]
        assert checkpoints(out) == [6, 7]
        assert os.listdir(tmp_path) == ["run"]
