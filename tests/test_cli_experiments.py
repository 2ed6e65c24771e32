"""The command line on images and networks of one's own: one run, several, windows, pages."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import yaml
from cli_helpers import here, refused, smd_evo
from picture_helpers import SMALL, write_place, written
from PIL import Image
from resume_helpers import ended
from safetensors.torch import load_file

WINDOW = ["--model", "nets:first", "--children", "6", "--density", "1,0.1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pictures of three classes, one of them damaged, and a module of networks."""
    folder = tmp_path_factory.mktemp("place")
    write_place(folder)
    return folder


@pytest.fixture(scope="module")
def several(place):
    """Two networks, one after the other."""
    result = here("finetune", *SMALL, "--models", "nets:first,nets:second", "--out", "both", cwd=place)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return place / "both", result.stdout


class TestFinetune:
    def test_each_network_has_a_run_of_its_own(self, several):
        folder, output = several
        assert sorted(path.name for path in folder.iterdir()) == [
            "nets-first",
            "nets-second",
            "plot.png",
            "summary.json",
            "table.csv",
        ]
        for name in ("first", "second"):
            config = yaml.safe_load((folder / f"nets-{name}" / "config.yaml").read_text())
            assert (config["model"], config["data"]) == (f"nets:{name}", "imagefolder:pictures")
            assert f"nets:{name} on imagefolder:pictures, 59 test images, read once" in output

    def test_the_splits_never_meet(self, several):
        """By the names of the files behind the indices."""
        folder, _ = several
        results = json.loads((folder / "nets-first" / "results.json").read_text())
        splits = results["splits"]
        assert {name: len(numbers) for name, numbers in splits.items()} == results["data"]["samples"]
        assert results["data"]["samples"] == {"fitness": 30, "validation": 30, "test": 59}
        assert not set(splits["fitness"]) & set(splits["validation"])
        assert set(splits["fitness"]) | set(splits["validation"]) < set(range(90))
        for name in ("fitness", "validation"):
            assert np.bincount(np.array(splits[name]) // 30).tolist() == [10, 10, 10]

    def test_unreadable_images_are_told_of(self, several):
        folder, output = several
        (name,) = json.loads((folder / "nets-first" / "results.json").read_text())["data"]["unreadable"]
        assert name.endswith(os.path.join("test", "red", "07.png"))
        assert "1 unreadable images were left out" in " ".join(output.split())

    @pytest.mark.filterwarnings("ignore:parent. expected an accuracy well above chance")
    def test_later_commands_load_the_same_outputs_and_pixels(self, place):
        """A class without pictures has no output any more, and pictures are made smaller."""
        shutil.copytree(place / "pictures", place / "four")
        (place / "four" / "train" / "cyan").mkdir()
        (place / "four" / "test" / "cyan").mkdir()
        kept = ["--outputs", "present", "--preprocessing", "size=6,crop=1"]
        arguments = ["--model", "nets:first", *SMALL[:-1], "imagefolder:four", *kept, "--out", "fewer"]
        result = here("finetune", *arguments, cwd=place)
        assert (result.returncode, result.stderr) == (0, "")
        config = yaml.safe_load((place / "fewer" / "config.yaml").read_text())
        assert (config["outputs"], config["preprocessing"]) == ("present", "size=6,crop=1")
        described = json.loads((place / "fewer" / "results.json").read_text())["data"]["description"]
        assert described.startswith("images of 4 classes in four (train and test); 3 of 4 outputs kept")
        result = here("verify", "fewer", "--trust", cwd=place)
        assert (result.returncode, result.stderr) == (0, "")
        result = here("export", "fewer", "--trust", "--out", "fewer.safetensors", cwd=place)
        assert (result.returncode, result.stderr) == (0, "")
        assert load_file(place / "fewer.safetensors")["head.weight"].shape == (3, 16)

    def test_the_summary_says_what_the_runs_say(self, several):
        folder, output = several
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["kind"] == "protocol"
        assert [row["model"] for row in summary["networks"]] == ["nets:first", "nets:second"]
        for row, name in zip(summary["networks"], ("first", "second"), strict=True):
            results = json.loads((folder / f"nets-{name}" / "results.json").read_text())
            best = next(own for own in results["rows"] if own["candidate"] == "best child")
            assert row["gains"]["sparse"]["best child"]["value"] == best["accuracy_gain"]
            assert row["gains"]["sparse"]["best child"]["p_value"] == best["p_value"]
            assert row["accuracy"] == results["rows"][0]["accuracy"]
            assert row["parameters"] == results["parameters"] == 16 * 27 + 16 + 3 * 16 + 3
        assert "2 networks, each on its test split, read once" in output
        assert set(summary["overall"]["ensemble"]) == {
            "the parent",
            "dense, matched sigma",
            "dense, matched norm",
            "dense, own sigma",
            "the best of what is free",
        }

    def test_what_is_finished_is_not_done_again(self, several, place):
        before = written(several[0])
        arguments = ["finetune", *SMALL, "--models", "nets:first,nets:second", "--out", "both"]
        again = here(*arguments, cwd=place)
        assert again.returncode == 0, again.stderr
        changed = [name for name, when in written(several[0]).items() if before[name] != when]
        assert {str(name) for name in changed} == {"summary.json", "table.csv", "plot.png"}
        table = "2 networks"
        assert again.stdout[again.stdout.index(table) :] == several[1][several[1].index(table) :]

    def test_other_settings_are_refused(self, several, place):
        before = written(several[0])
        arguments = ["finetune", *SMALL, "--seed", "7", "--models", "nets:first", "--out", "both"]
        refused(here(*arguments, cwd=place), "out: expected runs of the same settings", "seed 0 instead of 7")
        assert written(several[0]) == before

    def test_interrupted_it_keeps_what_is_finished(self, server, place):
        arguments = ["finetune", *SMALL, "--children", "200", "--models", "nets:first,nets:second", "--out", "cut"]
        comes = [signal.SIGINT, str(place / "cut" / ".nets-second.partial"), 1]
        result = ended(server.run(*arguments, cwd=str(place), comes=comes), 130)
        assert result.stderr.splitlines()[-1] == (
            "smd-evo: interrupted; 1 of 2 models are finished; the same command goes on"
        )
        assert [path.name for path in (place / "cut").iterdir()] == ["nets-first"]

    def test_what_was_made_can_be_used(self, several, place):
        run = str(several[0] / "nets-first")
        verified = here("verify", run, "--trust", cwd=place)
        assert "6 children loaded" in verified.stdout
        weights = place / "best.safetensors"
        assert here("export", run, "--trust", "--out", str(weights), cwd=place).returncode == 0
        assert set(load_file(weights)) == {"conv.weight", "conv.bias", "head.weight", "head.bias"}

    def test_bfloat16_rounds(self, several, place):
        result = here("finetune", *SMALL, "--model", "nets:first", "--precision", "bfloat16", "--out", "b", cwd=place)
        assert result.returncode == 0, result.stderr
        losses = [
            json.loads((folder / "results.json").read_text())["parent_fitness"]
            for folder in (place / "b", several[0] / "nets-first")
        ]
        assert losses[0] != losses[1]
        assert losses[0] == pytest.approx(losses[1], rel=0.02)

    def test_images_that_do_not_fit_into_memory_give_the_same(self, several, place):
        """A megabyte holds them; ten bytes do not."""
        result = here("finetune", *SMALL, "--model", "nets:first", "--memory", "1e-8", "--out", "streamed", cwd=place)
        assert result.returncode == 0, result.stderr
        one, two = (
            json.loads((folder / "results.json").read_text())
            for folder in (place / "streamed", several[0] / "nets-first")
        )
        for name in ("rows", "arms", "sparse_ensemble_against", "splits", "parent_fitness"):
            assert one[name] == two[name]


class TestFinetuneWrongUse:
    @pytest.mark.parametrize(
        ("arguments", "texts"),
        [
            (["--protocol", "imagenet"], ["data: expected imagenet:PATH with the protocol, got None"]),
            (["--protocol", "cifar"], ["protocol: expected one of imagenet"]),
            (["--models", "resnet18,"], ["models: expected different names"]),
            (["--models", "resnet18,resnet18"], ["models: expected different names"]),
            (["--models", "resnet19"], ["did you mean 'timm:resnet18'"]),
            (["--models", "resnet18", "--model", "demo-cnn"], ["model: expected none beside models"]),
            (["--models", "resnet18", "--checkpoint", "nowhere"], ["checkpoint", "resnet18", "nowhere"]),
            (["--model", "nets:first", "--data", "imagefolder:nowhere"], ["data: expected a folder", "nowhere"]),
            (["--model", "nets:first", "--data", "imagefolder:"], ["data: expected imagefolder:PATH"]),
            (["--model", "nets:five", *SMALL], ["model: expected 3 outputs", "[5]"]),
            (["--model", "nets:first", *SMALL, "--fitness-samples", "90"], ["data: expected enough of its 90"]),
            (["--model", "nets:first", *SMALL, "--fitness-samples", "none"], ["fitness_samples"]),
            (["--model", "nets:first", *SMALL, "--precision", "float8"], ["precision: expected one of float32"]),
            (["--model", "nets:first", *SMALL, "--checkpoint", "nets.py"], ["checkpoint", "a text", "state_dict()"]),
            (["--model", "demo-cnn", *SMALL], ["model: expected another one than demo-cnn"]),
            (["--fitness-samples", "10"], ["data: expected the splits of digits as they are"]),
        ],
    )
    def test_one_line_and_nothing_written(self, place, arguments, texts):
        before = written(place)
        refused(here("finetune", *arguments, "--out", "wrong", cwd=place), *texts)
        assert not (place / "wrong").exists()
        assert written(place) == before


@pytest.fixture(scope="module")
def window(place):
    result = smd_evo("window", *WINDOW, "--data", "imagefolder:pictures", "--out", "window", cwd=place)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return place / "window", result.stdout


class TestWindow:
    def test_the_run_directory(self, window):
        folder, _ = window
        found = sorted(path.name for path in folder.iterdir())
        assert found == ["config.yaml", "plot.png", "results.json", "table.csv"]
        results = json.loads((folder / "results.json").read_text())
        assert results["kind"] == "window"
        assert [profile["density"] for profile in results["profiles"]] == [1, pytest.approx(0.1, abs=0.01)]
        with Image.open(folder / "plot.png") as plot:
            assert plot.width > 1000

    def test_its_settings_repeat_it(self, window, place):
        _, output = window
        again = here("window", "--config", "window/config.yaml", "--out", "again", cwd=place)
        assert again.returncode == 0, again.stderr
        one, two = (json.loads((place / name / "results.json").read_text()) for name in ("window", "again"))
        assert one["profiles"] == two["profiles"]
        assert output[: output.index("Written to")] == again.stdout[: again.stdout.index("Written to")]

    @pytest.mark.parametrize(
        ("arguments", "texts"),
        [
            (["--children", "5"], ["children"]),
            (["--density", "2"], ["density"]),
            (["--subspace", "random,tensor"], ["subspace"]),
            (["--sigma", "0"], ["sigma"]),
            (["--keep", "0.5"], ["keep"]),
        ],
    )
    def test_wrong_use(self, place, arguments, texts):
        refused(here("window", *arguments, "--out", "wrong", cwd=place), *texts)
        assert not (place / "wrong").exists()

    def test_it_is_no_run_of_finetune(self, window):
        refused(here("ensemble", str(window[0])), "run: expected a folder that finetune wrote", "'window'")
