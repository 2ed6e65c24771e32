"""The command line on protocols of one's own: parents from a file, several seeds, parts made elsewhere."""

import csv
import json
import os
import shlex
import shutil

import pytest
import yaml
from cli_helpers import here, refused
from page_helpers import Page
from picture_helpers import SMALL, write_place, written
from safetensors.torch import save_file

STUDY = {
    "parents": [
        {"name": "one", "model": "nets:first"},
        {"name": "two", "model": "nets:second", "checkpoint": "weights/two.safetensors"},
    ],
    "settings": {"children": 4, "density": 0.1, "sigma": 0.1, "controls": False, "data": "imagefolder:pictures"},
}
WEIGHTS = os.path.join("studies", "weights", "two.safetensors")
FILE = "studies/study.yaml"
FINETUNE = ["finetune", "--protocol", FILE, "--out", "study"]
OF_ALL = {"summary.json", "table.csv", "plot.png"}
"""What says what all runs say together, in the folder of their folders."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pictures and networks, and beside them that of a study with the weights of one of its parents."""
    folder = tmp_path_factory.mktemp("place")
    write_place(folder)
    (folder / "studies" / "weights").mkdir(parents=True)
    (folder / "studies" / "study.yaml").write_text(yaml.safe_dump(STUDY))
    source = {}
    exec((folder / "nets.py").read_text(), source)
    save_file(source["first"](3).state_dict(), folder / "studies" / "weights" / "two.safetensors")
    return folder


@pytest.fixture(scope="module")
def study(place):
    """Two networks with two seeds."""
    result = here(*FINETUNE, "--seeds", "0,5", cwd=place)
    assert result.returncode == 0, result.stderr
    return place / "study", result


@pytest.fixture
def copied(study, place):
    """The same folder under another name, for tests that add to it."""
    shutil.copytree(study[0], place / "copied")
    yield place / "copied"
    shutil.rmtree(place / "copied")


def going_on(*arguments, cwd):
    result = here(*FINETUNE[:-1], "copied", *arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def results_of(run):
    return json.loads((run / "results.json").read_text())


def runs(folder):
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


class TestSeeds:
    def test_each_network_has_a_run_with_each_seed(self, study):
        folder, _ = study
        assert runs(folder) == ["one-seed0", "one-seed5", "two-seed0", "two-seed5"]
        for run in runs(folder):
            name, seed = run.split("-seed")
            config = yaml.safe_load((folder / run / "config.yaml").read_text())
            assert config["seed"] == int(seed)
            assert config["model"] == {"one": "nets:first", "two": "nets:second"}[name]
            assert (
                config["checkpoint"]
                == {"one": None, "two": os.path.join("studies", "weights", "two.safetensors")}[name]
            )
            assert (config["children"], config["controls"], config["data"]) == (4, False, "imagefolder:pictures")

    def test_all_networks_with_one_seed_come_before_the_next_seed(self, study):
        _, result = study
        order = ["one-seed0", "two-seed0", "one-seed5", "two-seed5"]
        places = [result.stdout.index(f"Written to {os.path.join('study', name)}") for name in order]
        assert places == sorted(places)

    def test_the_weights_are_those_that_the_file_names(self, study):
        """The second network has the first one's here."""
        accuracies = [row["accuracy"] for row in summary_of(study[0])["networks"]]
        assert accuracies[0] == accuracies[1]

    def test_the_summary_has_a_row_for_each_network_over_its_seeds(self, study):
        folder, result = study
        summary = summary_of(folder)
        assert summary["runs"] == ["one-seed0", "two-seed0", "one-seed5", "two-seed5"]
        assert [(each["name"], each["seeds"]) for each in summary["networks"]] == [("one", [0, 5]), ("two", [0, 5])]
        assert "2 networks, 4 runs, each on its test split" in result.stdout

    def test_the_table_has_every_row_of_every_run(self, study):
        with (study[0] / "table.csv").open() as file:
            rows = [*csv.DictReader(file)]
        kept = [row for run in summary_of(study[0])["runs"] for row in results_of(study[0] / run)["rows"]]
        assert [float(row["accuracy"]) for row in rows] == [row["accuracy"] for row in kept]
        assert {(row["network"], row["seed"]) for row in rows} == {(n, s) for n in ("one", "two") for s in "05"}

    def test_a_page_tells_them_apart_and_how_to_repeat_them(self, study, place):
        assert here("report", "study", "--out", "study.html", cwd=place).returncode == 0
        page = Page((place / "study.html").read_text())
        names = [row[0] for row in page.table("Gains over the parent")[1:]]
        assert names == ["one", "two"]
        commands = [text for text in page.texts("pre") if "--protocol" in text]
        words = shlex.split(commands[0])[1:]
        assert words[:5] == ["finetune", "--protocol", FILE, "--seeds", "0,5"]
        assert words[-2:] == ["--out", "study-again"]

    def test_what_is_finished_is_not_done_again(self, study, place):
        before = written(study[0])
        assert here(*FINETUNE, "--seeds", "0,5", cwd=place).returncode == 0
        assert {name.name for name, when in written(study[0]).items() if before[name] != when} == OF_ALL

    def test_with_models_alone_too(self, place):
        arguments = ["finetune", *SMALL, "--no-controls", "--models", "nets:first", "--out", "models"]
        for seeds in ("1", "0"):
            result = here(*arguments, "--seeds", seeds, cwd=place)
            assert result.returncode == 0, result.stderr
        assert summary_of(place / "models")["runs"] == ["nets-first-seed0", "nets-first-seed1"]


class TestParts:
    def test_a_part_goes_into_the_table_of_all(self, copied, place):
        before = written(copied)
        going_on("--models", "two", "--seeds", "3", cwd=place)
        assert summary_of(copied)["runs"] == ["one-seed0", "two-seed0", "two-seed3", "one-seed5", "two-seed5"]
        assert {name.name for name, when in before.items() if written(copied)[name] != when} == OF_ALL
        assert summary_of(copied)["command"]["seeds"] == [0, 3, 5]

    def test_parts_that_were_made_elsewhere_are_taken(self, copied, place):
        """On a machine of other devices, with weights that are not here."""
        shutil.rmtree(copied / "one-seed0")
        (copied / "summary.json").unlink()
        for run in ("two-seed0", "two-seed5"):
            config = yaml.safe_load((copied / run / "config.yaml").read_text())
            config |= {"device": "cuda:7", "checkpoint": "elsewhere/two.pth"}
            (copied / run / "config.yaml").write_text(yaml.safe_dump(config))
        going_on("--models", "one", "--seeds", "0,5", cwd=place)
        assert summary_of(copied)["runs"] == ["one-seed0", "two-seed0", "one-seed5", "two-seed5"]

    def test_others_of_other_settings_are_refused(self, copied, place):
        before = written(copied)
        arguments = [*FINETUNE[:-1], "copied", "--models", "one", "--seeds", "1", "--children", "5"]
        refused(here(*arguments, cwd=place), "out: expected runs of the same settings", "children 4 instead of 5")
        assert written(copied) == before

    def test_a_dry_run_tells_of_each_part_that_is_missing(self, copied, place):
        result = going_on("--seeds", "5,6", "--dry-run", cwd=place)
        assert [line.partition(":")[0] for line in result.stdout.splitlines()] == ["one-seed6", "two-seed6"]

    def test_without_seeds_a_folder_has_the_name_alone(self, place):
        result = here(*FINETUNE[:-1], "plain", "--models", "one", cwd=place)
        assert result.returncode == 0, result.stderr
        assert runs(place / "plain") == summary_of(place / "plain")["runs"] == ["one"]
        assert "1 network, each on its test split" in result.stdout


GOOD = {"name": "good", "model": "nets:first"}
WRONG = [
    ({"name": "bad", "model": "nets:absent"}, ["bad: model: expected a function 'absent' in nets"]),
    ({"name": "bad", "model": "resnet18"}, ["bad: model: expected one of", "did you mean"]),
    ({"name": "bad"}, ["bad: model: expected one of", "names of timm", "'timm:bad'"]),
    ({"name": "resnet18"}, ["resnet18: model: expected a network for the 3 classes of the data"]),
    ({"name": "bad", "model": "cifar-resnet20"}, ["bad: checkpoint: expected a file with the weights"]),
    ({"name": "bad", "model": "nets:broken"}, ["bad: model: expected a network for 3 classes", "no such luck"]),
    ({"name": "bad", "model": "demo-cnn"}, ["bad: model: expected another one than demo-cnn"]),
    (GOOD | {"name": "bad", "checkpoint": "gone.pth"}, ["bad: checkpoint", "gone.pth, which is not there"]),
    (GOOD | {"name": "bad", "checkpoint": "nets.py"}, ["bad: checkpoint", "a text"]),
    (GOOD | {"checkpoint": "nets.py"}, ["parent good: expected a name that no other parent has"]),
    (GOOD | {"name": "bad", "seed": 3}, ["protocol wrong.yaml, parent bad: expected one of name, model"]),
]


class TestWrongUse:
    @pytest.mark.parametrize(("parent", "texts"), WRONG, ids=[texts[0] for _, texts in WRONG])
    @pytest.mark.parametrize("dry_run", [False, True])
    def test_a_wrong_parent_is_told_before_the_first_is_computed(self, place, parent, texts, dry_run):
        (place / "wrong.yaml").write_text(yaml.safe_dump([GOOD, parent]))
        before = written(place)
        arguments = ["finetune", *SMALL, "--protocol", "wrong.yaml", "--out", "wrong", *["--dry-run"] * dry_run]
        refused(here(*arguments, cwd=place), *texts)
        assert written(place) == before
        assert not (place / "wrong").exists()

    def test_what_shows_only_when_it_is_its_turn_is_told_with_the_run(self, place):
        (place / "wrong.yaml").write_text(yaml.safe_dump([{"name": "bad", "model": "nets:five"}]))
        arguments = ["finetune", *SMALL, "--protocol", "wrong.yaml", "--seeds", "2", "--out", "wrong"]
        refused(here(*arguments, cwd=place), "smd-evo: bad-seed2: model: expected 3 outputs", "[5]")
        assert not (place / "wrong").exists()

    @pytest.mark.parametrize(
        ("arguments", "texts"),
        [
            (["--seeds", "0,1"], ["seeds: expected models or a protocol beside them, got '0,1' alone; try --seed"]),
            (
                ["--protocol", FILE, "--seeds", "0", "--seed", "1"],
                ["seed: expected none beside seeds"],
            ),
            (["--protocol", FILE, "--seeds", "0,x"], ["seeds: expected an int"]),
            (["--protocol", FILE, "--models", "three"], ["models: expected one of one, two, got"]),
            (["--protocol", FILE, "--children", "no"], ["smd-evo: children: expected"]),
            (["--protocol", "nowhere.yaml"], ["protocol: expected a readable YAML file, got nowhere.yaml"]),
        ],
    )
    def test_one_line_and_nothing_written(self, place, arguments, texts):
        refused(here("finetune", *arguments, "--out", "wrong", cwd=place), *texts)
        assert not (place / "wrong").exists()
