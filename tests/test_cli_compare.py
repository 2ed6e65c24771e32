"""The command line: a comparison of methods, also one that is stopped and goes on."""

import csv
import json
import multiprocessing
import shutil
import signal
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch
import yaml
from cli_helpers import here, refused, smd_evo
from resume_helpers import ended

from smd_evo.experiments.compare.methods.registry import CONTROLS
from smd_evo.experiments.compare.runner import Runner
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.progress import Silent

SMALL = ["--children", "8", "--images", "20", "--budget", "480", "--checkpoints", "3", "--seeds", "2"]
TINY = [*SMALL, "--trials", "2", "--no-controls"]
METHODS = ["openai-es", "smd", "sgd"]


def compare(out, *arguments, methods=METHODS, run=here, **options):
    return run("compare", *TINY, "--methods", ",".join(methods), "--out", str(out), *arguments, **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished comparison."""
    folder = tmp_path_factory.mktemp("comparison") / "run"
    result = compare(folder)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def runs(folder):
    """All stored runs but for what differs from one time to the next."""
    found = {}
    for file in sorted((folder / "runs").glob("*/*.json")):
        content = json.loads(file.read_text())
        found[str(file.relative_to(folder))] = {k: v for k, v in content.items() if k not in ("seconds", "memory")}
    return found


class TestAFinishedOne:
    def test_tells_scores_differences_targets_and_costs(self, done):
        _, output = done
        for text in ("480 image evaluations, 2 seeds", "difference to openai-es", "ends with", "what a run took"):
            assert text in output
        assert "smd against openai-es: accuracy" in " ".join(output.split())
        assert max(map(len, output.splitlines())) <= 80

    def test_holds_a_file_for_each_run(self, done):
        folder, _ = done
        expected = {
            f"runs/{name}/{what}.json" for name in METHODS for what in ("trial-1", "trial-2", "seed-1", "seed-2")
        }
        assert set(runs(folder)) == expected | {"runs/parent/parent.json"}

    def test_no_trial_has_seen_the_test_split_and_every_reported_run_has(self, done):
        for name, run in runs(done[0]).items():
            assert (run["test"] is None) == ("trial" in name)
            assert run["job"]["reported"] == ("trial" not in name)

    def test_tunes_on_another_seed_than_it_reports(self, done):
        seeds = {part: set() for part in ("trial", "seed")}
        for name, run in runs(done[0]).items():
            if run["job"]["method"] != "parent":
                seeds["trial" if "trial" in name else "seed"].add(run["job"]["seed"])
        assert not seeds["trial"] & seeds["seed"]

    def test_spends_the_same_budget_on_all(self, done):
        for run in runs(done[0]).values():
            if run["job"]["method"] != "parent":
                assert 320 < run["evaluations"] <= 480
                marks = [point["evaluations"] for point in run["points"]]
                assert marks == ([0, 160, 320, 480] if run["job"]["reported"] else [0, 480])

    def test_reports_the_settings_that_were_best_on_validation(self, done):
        found = runs(done[0])
        for name in METHODS:
            trials = [found[f"runs/{name}/trial-{number}.json"] for number in (1, 2)]
            best = min(trials, key=lambda run: run["points"][-1]["score"]["loss"])
            assert found[f"runs/{name}/seed-1.json"]["settings"] == best["settings"]

    def test_holds_every_point_as_csv(self, done):
        with (done[0] / "points.csv").open() as file:
            rows = list(csv.DictReader(file))
        stored = runs(done[0]).values()
        assert len(rows) == sum(len(run["points"]) + 2 * (run["test"] is not None) for run in stored)
        of_test = [row for row in rows if row["split"] == "test"]
        assert len(of_test) == 1 + 2 * len(METHODS)
        assert len([row for row in rows if row["split"] == "test, calibrated"]) == len(of_test)
        assert {row["evaluations"] for row in of_test if row["method"] == "smd"} == {"480"}

    def test_has_a_plot(self, done):
        assert (done[0] / "plot.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.skipif(
        torch.get_num_threads() > 1, reason="workers share the threads, and fewer add in another order"
    )
    def test_is_the_same_in_worker_processes(self, done, tmp_path):
        result = compare(tmp_path / "run", "--jobs", "2", methods=["smd"], run=smd_evo)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        found = runs(tmp_path / "run")
        assert found == {name: run for name, run in runs(done[0]).items() if "/sgd/" not in name}

    def test_shows_itself_again_without_a_run(self, done, monkeypatch):
        monkeypatch.setattr("smd_evo.experiments.compare.runner.Comparison", None)
        result = compare(done[0])
        assert result.stdout == done[1]

    def test_is_taken_from_a_version_that_did_not_know_all_settings(self, done, tmp_path):
        old = shutil.copytree(done[0], tmp_path / "run")
        settings = yaml.safe_load((old / "config.yaml").read_text())
        del settings["skip_unreadable"]
        (old / "config.yaml").write_text(yaml.safe_dump(settings))
        assert compare(old).returncode == 0

    def test_takes_more_methods_and_seeds(self, done, tmp_path):
        first = tmp_path / "run"
        assert compare(first, methods=["smd"]).returncode == 0
        stamp = {file: file.stat().st_mtime_ns for file in first.glob("runs/*/*.json")}
        result = compare(first, "--seeds", "3", methods=["smd", "sgd"])
        assert result.returncode == 0, result.stderr
        assert all(file.stat().st_mtime_ns == before for file, before in stamp.items())
        more, before = runs(first), runs(done[0])
        assert {"runs/sgd/seed-3.json", "runs/smd/seed-3.json", "runs/openai-es/seed-3.json"} <= set(more)
        assert all(more[name] == before[name] for name in set(more) & set(before))
        assert yaml.safe_load((first / "config.yaml").read_text())["methods"] == ["smd", "sgd"]


def test_killed_it_goes_on(server, done, tmp_path):
    command = ["compare", *TINY, "--methods", ",".join(METHODS), "--out", str(tmp_path / "run")]
    comes = [signal.SIGKILL, f"{tmp_path}/run/runs/*/*.json", 4]
    killed = server.run(*command, "--jobs", "2", comes=comes, forks=True)
    assert killed.returncode == -signal.SIGKILL
    before = runs(tmp_path / "run")
    result = here(*command)
    assert result.returncode == 0, result.stderr
    after = runs(tmp_path / "run")
    assert 4 <= len(before) < len(after)
    assert after == runs(done[0])
    deadline = time.monotonic() + 10
    while subprocess.run(["pgrep", "-g", str(killed.process)], check=False, capture_output=True).stdout:
        assert time.monotonic() < deadline, "workers outlived the process that wanted their work"
        time.sleep(0.02)


def test_a_failing_one_ends_its_own_processes_alone(tmp_path):
    runner, spawn = Runner(CompareConfig(), tmp_path, 1, Silent()), multiprocessing.get_context("spawn")
    others = spawn.Process(target=time.sleep, args=(60,))
    others.start()
    try:
        runner._pool = ProcessPoolExecutor(1, spawn)
        work = runner._pool.submit(time.sleep, 60)
        with pytest.raises(KeyError), runner:
            raise KeyError
        assert isinstance(work.exception(timeout=30), BrokenProcessPool)
        assert others.is_alive()
    finally:
        others.kill()
        others.join()


@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGINT, "2"), (signal.SIGTERM, "1")])
def test_interrupted_it_says_how_to_go_on(server, tmp_path, number, jobs):
    """A terminal interrupts the workers, too."""
    command = ["compare", *TINY, "--methods", ",".join(METHODS), "--out", str(tmp_path / "run"), "--jobs", jobs]
    comes = [number, f"{tmp_path}/run/runs/*/*.json", 2, number == signal.SIGINT]
    result = ended(server.run(*command, comes=comes, forks=True), 130)
    (line,) = result.stderr.splitlines()
    assert line.endswith("runs are finished; the same command goes on")


def test_what_is_free_stands_beside(tmp_path):
    done = here("compare", *SMALL, "--trials", "1", "--methods", "head-es", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    found = runs(tmp_path / "run")
    assert {name.split("/")[1] for name in found} == {"parent", "openai-es", "head-es", *CONTROLS}
    assert {name.split("/")[1] for name in found if "trial" in name} <= set(CONTROLS)  # of one there is no choice
    for name in CONTROLS:  # they have one step
        assert found[f"runs/{name}/seed-1.json"]["evaluations"] == (0 if name == "views" else 300)
    assert found["runs/head-es/seed-1.json"]["forwards"] < found["runs/openai-es/seed-1.json"]["forwards"] / 2
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["control"] in CONTROLS
    assert f"Test accuracy, calibrated, and difference to {METHODS[0]}" in done.stdout
    assert f"Differences to {results['control']}, the best control on validation" in done.stdout
    assert f"openai-es against {results['control']}, the best control" in " ".join(done.stdout.split())
    assert here("report", str(tmp_path / "run")).returncode == 0


def test_forward_passes_may_be_the_budget(tmp_path):
    """Children of the last layer come again and again, those of all layers only as often as before."""
    limits = ["--forwards", "480", "--budget", "4800", "--trials", "1", "--no-controls"]
    done = here("compare", *SMALL, *limits, "--methods", "head-es,sgd", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    found = runs(tmp_path / "run")
    dense, head, sgd = (found[f"runs/{name}/seed-1.json"] for name in ("openai-es", "head-es", "sgd"))
    assert dense["forwards"] == dense["evaluations"] == 480
    assert sgd["forwards"] == sgd["evaluations"] <= 480
    assert head["forwards"] <= 480 < 3 * 480 <= head["evaluations"]
    assert [point["forwards"] for point in dense["points"]] == [0, 160, 320, 480]
    assert "4,800 image evaluations, 480 forward passes at most" in " ".join(done.stdout.split())
    assert "Forward passes until the validation score" in " ".join(done.stdout.split())


def test_a_first_step_may_be_of_any_size_that_the_forward_passes_allow(tmp_path):
    """Of 300 images for 16 children of the last layer: some 300 forward passes, not 4,800."""
    limits = ["--forwards", "480", "--budget", "4800", "--trials", "1", "--no-controls"]
    (tmp_path / "large.py").write_text(
        "from smd_evo.experiments.compare.methods.newton import HeadNewton\n"
        "class Large(HeadNewton):\n"
        "    grid = ({'ridge': 0.1, 'children': 16, 'images': 300},)\n"
    )
    done = compare(tmp_path / "run", *limits, methods=["large:Large"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = runs(tmp_path / "run")["runs/large-Large/seed-1.json"]
    assert run["evaluations"] == 4800
    assert 300 <= run["forwards"] <= 480


class TestRefuses:
    def test_an_unknown_method(self, tmp_path):
        refused(compare(tmp_path / "run", methods=["opnai-es"]), "methods: expected", "did you mean 'openai-es'")
        assert not (tmp_path / "run").exists()

    def test_a_budget_below_one_generation(self, tmp_path):
        refused(
            compare(tmp_path / "run", "--budget", "159"),
            "budget: expected at least one generation, 8 children x 20 images = 160, got 159",
        )
        refused(
            compare(tmp_path / "run", "--tuning-budget", "159"), "tuning_budget: expected at least one generation"
        )
        refused(compare(tmp_path / "run", "--forwards", "159"), "forwards: expected at least one generation")

    def test_targets_that_no_metric_can_score(self, tmp_path):
        """Both metrics are of classes."""
        (tmp_path / "regression.py").write_text(
            "import torch\n"
            "def data(): return [(torch.rand(3, 8, 8), number / 60) for number in range(60)], None\n"
            "def net(outputs): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(outputs))\n"
        )
        parent = ["--model", "regression:net", "--data", "regression:data"]
        refused(compare(tmp_path / "run", *parent, cwd=tmp_path), "data: expected a class number for each sample")
        assert not (tmp_path / "run").exists()

    def test_trials_whose_share_of_the_forward_passes_is_no_generation(self, tmp_path):
        limits = ["--budget", "4800", "--forwards", "480", "--tuning-budget", "1000", "--trials", "2"]
        result = compare(tmp_path / "run", *limits)
        refused(result, "tuning_budget: expected at least 1600, whose share of 480", "is a generation of 160")
        assert not (tmp_path / "run").exists()

    def test_more_trials_than_a_method_has_settings(self, tmp_path):
        result = compare(tmp_path / "run", "--trials", "5")
        refused(result, "trials: expected at most the 4 settings that openai-es has to try, got 5")

    @pytest.mark.parametrize(
        ("option", "value", "text"),
        [
            ("--children", "9", "children: expected an even number"),
            ("--seeds", "1", "seeds: expected"),
            ("--metric", "f1", "metric: expected"),
            ("--jobs", "0", "jobs: expected"),
            ("--methods", "smd,smd", "methods: expected one or more different names"),
            ("--model", "no-such", "model: expected"),
        ],
    )
    def test_an_unusable_option(self, tmp_path, option, value, text):
        refused(compare(tmp_path / "run", option, value), text)
        assert not (tmp_path / "run").exists()

    def test_to_go_on_with_other_settings(self, done):
        refused(compare(done[0], "--images", "10"), "but for methods and seeds", "images 20 instead of 10")

    def test_a_folder_that_holds_something_else(self, tmp_path):
        (tmp_path / "mine.txt").write_text("mine")
        refused(compare(tmp_path), "out: expected a new or empty folder, or a comparison to go on with")
        assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]

    def test_a_damaged_run(self, done, tmp_path):
        shutil.copytree(done[0], tmp_path / "run")
        (tmp_path / "run" / "runs" / "smd" / "seed-1.json").write_text("{")
        refused(compare(tmp_path / "run"), "seed-1.json is damaged")
