"""``smd-evo ensemble`` and ``smd-evo export`` of one tiny run: what they write is what it says, anywhere."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import yaml
from cli_helpers import TINY, here, refused, smd_evo
from resume_helpers import ended
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from smd_evo import Evaluator, SparseEnsemble
from smd_evo.experiments.ensembles import run as module
from smd_evo.experiments.shortlists import load_shortlists
from smd_evo.zoo import load

SEED = 3


@pytest.fixture(scope="module")
def data():
    return load(seed=SEED)[1]


@pytest.fixture(scope="module")
def space(data):
    return Evaluator(load(seed=SEED)[0], data.test).space


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = here("finetune", *TINY, "--seed", str(SEED), "--out", str(folder))
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def scored(run):
    """Of this method the sparse ensemble has several members here."""
    result = smd_evo("ensemble", str(run), "--method", "diverse")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return run / "ensemble-diverse-probabilities", result.stdout


@pytest.fixture
def copy(run, tmp_path):
    """The run alone, to be damaged."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("ensemble-*"))
    return folder


def everything(folder):
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


class TestEnsemble:
    def test_prints_its_tables_and_where(self, scored):
        folder, output = scored
        assert output.endswith(f"Written to {folder}\nnext: smd-evo report {folder.parent}\n")
        tables = output[: output.index("Sparse ensemble against")].splitlines()
        assert max(map(len, tables)) <= 80
        for text in ("demo-cnn on digits, 500 test images", "p, best", "ece", "Brier", "differ", "KL"):
            assert text in output
        for name in ("parent", "sparse", "dense, matched sigma", "dense, matched norm", "dense, own sigma"):
            assert sum(line.startswith(name) for line in tables) >= 2
        assert output.count("best child  ") == output.count("soup  ") == 2 * 4
        assert re.search(r"views \(\d+\)", output)
        against = "Sparse ensemble against the parent's votes for as many views: accuracy"
        assert against in " ".join(output.split())

    def test_writes_three_files_and_nothing_beside(self, run, scored):
        folder, _ = scored
        assert sorted(os.listdir(folder)) == ["ensemble.safetensors", "plot.png", "results.json", "table.csv"]
        assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
        assert not [name for name in os.listdir(run) if name.startswith(".")]

    def test_the_results_are_the_tables(self, scored):
        folder, output = scored
        results = json.loads((folder / "results.json").read_text())
        lines = output.splitlines()
        printed = [line for line in lines if re.match(r"  (parent|views|best child|ensemble|soup)\b", line)]
        assert len(printed) == 2 * len(results["scores"]) == 2 * 14
        for row, gains, quality in zip(results["scores"], printed[:14], printed[14:], strict=True):
            assert gains.strip().startswith(row["candidate"])
            assert (f"({row['passes']})" in gains) == (row["passes"] > 1)
            metrics = row["metrics"]
            for line, name, scale, digits in (
                (gains, "accuracy", 100, 1),
                (quality, "nll", 1, 3),
                (quality, "calibration_error", 100, 1),
                (quality, "brier", 1, 3),
            ):
                assert f" {scale * metrics[name]['value']:.{digits}f} [" in line
            if row["over"]:
                assert f"{100 * row['over']['parent']['value']:+.1f} [" in gains
                assert gains.count(f"{row['p_values']['parent']:.3f}") or "e-" in gains
        chosen = results["selections"]["sparse"]
        assert (chosen["method"], chosen["combine"]) == ("diverse", "probabilities")
        assert sum(chosen["weights"]) == pytest.approx(1)
        assert {len(curve["members"]) for curve in results["validation_curves"]} == {6}
        assert set(results["environment"]) == {
            *("smd_evo", "python", "torch", "numpy", "evotorch"),
            *("platform", "processor", "threads", "seconds"),
        }

    def test_the_file_is_the_ensemble_that_was_scored(self, scored, space, data):
        folder, _ = scored
        ensemble = SparseEnsemble.load(folder / "ensemble.safetensors", space.module)
        results = json.loads((folder / "results.json").read_text())
        row = next(row for row in results["scores"] if row["candidate"] == "ensemble")
        accuracy = float((ensemble(data.test[0]).argmax(1) == data.test[1]).double().mean())
        assert accuracy == pytest.approx(row["metrics"]["accuracy"]["value"], abs=0.0021)
        assert len(ensemble) == row["passes"]
        assert len(ensemble) == len(results["selections"]["sparse"]["members"]) > 1
        assert ensemble.notes["method"] == "diverse"

    def test_a_second_call_refuses_and_leaves_the_first_ones_files(self, run, scored):
        before = everything(run)
        result = here("ensemble", str(run), "--method", "diverse")
        refused(result, "out: expected a new or empty folder", "ensemble-diverse-probabilities", "choose another")
        assert everything(run) == before

    def test_the_same_ensemble_elsewhere_is_the_same(self, run, scored, tmp_path):
        folder, output = scored
        again = here("ensemble", str(run), "--method", "diverse", "--out", str(tmp_path / "deep" / "folder"))
        assert again.returncode == 0, again.stderr
        assert again.stdout[: again.stdout.index("Written to")] == output[: output.index("Written to")]
        file = "ensemble.safetensors"
        assert (tmp_path / "deep" / "folder" / file).read_bytes() == (folder / file).read_bytes()

    def test_other_ways_have_other_names(self, copy):
        result = here("ensemble", str(copy), "--method", "top_k", "--size", "1", "--combine", "majority")
        assert result.returncode == 0, result.stderr
        folder = copy / "ensemble-top_k-majority-1"
        results = json.loads((folder / "results.json").read_text())
        assert results["selections"]["sparse"]["members"] == [0]
        assert results["diversity"] == []
        assert "differ" not in result.stdout.split()
        assert "The sparse ensemble is a single child: on validation no other one helped it." in " ".join(
            result.stdout.split()
        )

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted_it_leaves_nothing(self, server, copy, number):
        before = everything(copy)
        partial = copy / ".ensemble-greedy-probabilities.partial"
        result = ended(server.run("ensemble", copy, comes=[number, str(partial), 1]), 130)
        assert result.stderr == "smd-evo: interrupted; nothing was written\n"
        assert everything(copy) == before

    def test_what_could_be_written_is_kept_and_named(self, copy, monkeypatch, tmp_path):
        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(SparseEnsemble, "save", full)
        result = here("ensemble", str(copy), "--out", str(tmp_path / "a" / "b"))
        assert result.returncode == 1
        kept = tmp_path / "a" / "b-kept"
        assert result.stderr == (
            f"smd-evo: {tmp_path / 'a' / 'b'}: No space left on device; what could be written is in {kept}, "
            "all but ensemble.safetensors\n"
        )
        assert sorted(os.listdir(kept)) == ["numbers-of-an-incomplete-run.json", "plot.png", "table.csv"]
        assert "Sparse ensemble against" in result.stdout


class TestEnsembleWrongUse:
    @pytest.mark.parametrize(
        ("arguments", "texts"),
        [
            (["--size", "0"], ["size: expected a whole number >= 1, got 0"]),
            (["--size", "-3"], ["size: expected a whole number >= 1, got -3"]),
            (["--size", "x"], ["size: expected a whole number >= 1, got 'x'; leave it out"]),
            (["--size", "1.5"], ["size: expected a whole number >= 1, got '1.5'"]),
            (["--size", ""], ["size: expected a whole number >= 1, got ''"]),
            (["--size", "30"], ["size: expected 1 to 6, the children on each shortlist, got 30"]),
            (["--method", "all", "--size", "2"], ["size: expected none"]),
            (["--method", "gredy"], ["method", "did you mean 'greedy'"]),
            (["--method", "../../greedy"], ["method: expected one of top_k, greedy, diverse, all"]),
            (["--method", ""], ["method: expected one of top_k"]),
            (["--combine", "mean"], ["combine: expected one of probabilities, logits, majority, got 'mean'"]),
            (["--combine", "logit"], ["did you mean 'logits'"]),
            (["--child", "3"], ["--child"]),
            (["surplus"], ["surplus"]),
            (["--out", "config.yaml"], ["out: expected a new or empty folder, got config.yaml"]),
            (["--out", "config.yaml/x"], ["out: expected a place that can be written to"]),
        ],
        ids=lambda value: " ".join(value)[:30] if isinstance(value, list) and value[0][0] == "-" else None,
    )
    def test_one_line_and_nothing_written(self, arguments, texts, copy):
        before = everything(copy)
        refused(here("ensemble", ".", *arguments, cwd=copy), *texts)
        assert everything(copy) == before

    def test_no_run(self, tmp_path):
        refused(here("ensemble"), "RUN")
        refused(here("ensemble", str(tmp_path)), "run: expected a folder that finetune wrote", "results.json")
        refused(here("ensemble", str(tmp_path / "nowhere")), "run: expected a folder that finetune wrote")
        assert os.listdir(tmp_path) == []


SHORTLISTS = "shortlists.safetensors"


@pytest.mark.parametrize("command", [["ensemble"], ["export", "--out", "weights"]], ids=lambda command: command[0])
class TestDamagedRuns:
    def refuses(self, command, copy, *texts):
        before = everything(copy)
        refused(here(command[0], ".", *command[1:], cwd=copy), *texts)
        assert everything(copy) == before

    def test_truncated_shortlists(self, command, copy):
        content = (copy / SHORTLISTS).read_bytes()
        for length in (0, 7, 500, len(content) // 2, len(content) - 1):
            (copy / SHORTLISTS).write_bytes(content[:length])
            self.refuses(command, copy, SHORTLISTS, "expected a whole safetensors file")

    def test_a_run_from_before_there_were_shortlists(self, command, copy):
        (copy / SHORTLISTS).unlink()
        self.refuses(command, copy, SHORTLISTS, "No such file")

    def test_another_file_in_their_place(self, command, copy):
        shutil.copy(copy / "children.safetensors", copy / SHORTLISTS)
        self.refuses(command, copy, SHORTLISTS, "got 'smd_evo children 2'")
        save_file({"w": torch.zeros(2)}, copy / SHORTLISTS)
        self.refuses(command, copy, SHORTLISTS, "it is another kind of file")

    def test_shortlists_without_the_sparse_one(self, command, copy):
        with safe_open(copy / SHORTLISTS, "pt") as file:
            about = file.metadata()
        ((name, text),) = about.items()
        text = re.sub(', "checksum": "[0-9a-f]+"', "", text)  # as somebody would write it who leaves that out
        about = {name: text.replace('"sparse"', '"spärlich"')}
        save_file(load_file(copy / SHORTLISTS), copy / SHORTLISTS, about)
        self.refuses(command, copy, SHORTLISTS, "no shortlist of 'sparse'")

    def test_settings_of_another_parent(self, command, copy):
        settings = yaml.safe_load((copy / "config.yaml").read_text())
        (copy / "config.yaml").write_text(yaml.safe_dump(settings | {"select": "head"}))
        self.refuses(command, copy, "run: expected children of the parent", "run finetune again")
        (copy / "config.yaml").write_text(yaml.safe_dump(settings | {"seeed": 5}))
        self.refuses(command, copy, "setting", "did you mean 'seed'")

    def test_a_run_from_a_machine_with_another_device(self, command, copy):
        settings = yaml.safe_load((copy / "config.yaml").read_text())
        (copy / "config.yaml").write_text(yaml.safe_dump(settings | {"device": "cuda:99"}))
        result = here(command[0], ".", *command[1:], cwd=copy)
        assert result.returncode == 0, result.stderr


# A network of the same names as DemoCNN's, and a Python that knows no smd_evo.
ELSEWHERE = """
import json, sys
from torch import load, nn, no_grad
from torch.nn import functional as F
import safetensors.torch

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "smd_evo":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        for number, (i, o) in enumerate([(1, 16), (16, 32), (32, 32)], start=1):
            self.add_module(f"conv{number}", nn.Conv2d(i, o, 3, padding=1, bias=False))
            self.add_module(f"bn{number}", nn.BatchNorm2d(o))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.head(F.relu(self.bn3(self.conv3(x))).mean((2, 3)))

images, outputs = safetensors.torch.load_file("images")["images"], {}
for name in sys.argv[1:]:
    whole = load(name, weights_only=True) if name.endswith("pt") else safetensors.torch.load_file(name)
    if "ensemble" in name:
        network = nn.ModuleList([Network() for _ in {key.split(".")[0] for key in whole}])
    else:
        network = Network()
    network.load_state_dict(whole, strict=True)
    network.eval()
    with no_grad():
        for place, own in enumerate(network if "ensemble" in name else [network]):
            outputs[f"{name}:{place}"] = own(images)
safetensors.torch.save_file(outputs, "outputs")
try:
    import smd_evo
except ModuleNotFoundError:
    print("done without")
"""

CHILDREN = {"best": [], "1": [], "6": [], "soup": ["--size", "3", "--method", "diverse"], "ensemble": ["--size", "4"]}
KINDS = {"safetensors": "safetensors", "torch": "pt"}


@pytest.fixture(scope="module")
def chosen(run, data):
    """What validation chooses for each of these children: recipes and weights."""
    sparse = load_shortlists(run / SHORTLISTS)[0]
    judge = Evaluator(load(seed=SEED)[0], data.validation)

    def members(method, size):
        found = module.choose(sparse, judge, method, size, "probabilities")
        return [sparse.recipes[number] for number in found.members], found.weights

    return {
        "best": ([sparse.recipes[sparse.best]], [1]),
        "1": (sparse.recipes[:1], [1]),
        "6": (sparse.recipes[5:], [1]),
        "soup": members("diverse", 3),
        "ensemble": members("greedy", 4),
    }


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory, data):
    """Files of all children in all formats, what was said of them, and their outputs where there is no smd_evo."""
    folder = tmp_path_factory.mktemp("export")
    said = {}
    for child, options in CHILDREN.items():
        for kind, suffix in KINDS.items():
            name = f"{child}.{suffix}"
            written = here(
                "export", str(run), "--child", child, "--format", kind, "--out", name, *options, cwd=folder
            )
            assert written.returncode == 0, written.stderr
            said[name] = written.stdout
    assert sorted(os.listdir(folder)) == sorted(said)
    save_file({"images": data.test[0]}, folder / "images")
    loaded = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *said], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (loaded.stdout, loaded.stderr) == ("done without\n", "")
    return folder, said, load_file(folder / "outputs")


class TestExport:
    @pytest.mark.parametrize("suffix", KINDS.values())
    @pytest.mark.parametrize("child", CHILDREN)
    def test_it_predicts_the_same_where_there_is_no_smd_evo(self, child, suffix, exported, chosen, space, data):
        _, _, outputs = exported
        recipes, weights = chosen[child]
        members = [space.make_child(recipe) for recipe in recipes]
        if child == "soup":
            members = [SparseEnsemble(space, recipes, weights).soup()]
        found = {name for name in outputs if name.startswith(f"{child}.{suffix}:")}
        assert len(found) == len(members)
        for place, network in enumerate(members):
            with torch.no_grad():
                expected = network(data.test[0])
            torch.testing.assert_close(outputs[f"{child}.{suffix}:{place}"], expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("child", CHILDREN)
    def test_both_formats_hold_the_same_bits(self, child, exported):
        folder, said, _ = exported
        one, two = load_file(folder / f"{child}.safetensors"), torch.load(folder / f"{child}.pt", weights_only=True)
        assert type(two) is dict
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
        with safe_open(folder / f"{child}.safetensors", "pt") as file:
            how = file.metadata()["smd_evo"]
        assert said[f"{child}.safetensors"] == f"Written to {child}.safetensors: {how}\n"
        assert said[f"{child}.pt"] == f"Written to {child}.pt: {how}\n"

    def test_what_is_said_of_them(self, exported, chosen):
        said = {name.split(".")[0]: text.split(": ", 1)[1].strip() for name, text in exported[1].items()}
        assert said["best"] == "the best child on validation"
        assert said["1"] == "child 1 of 6 by fitness"
        for child in ("soup", "ensemble"):
            shares = [Fraction(text) for text in re.findall(r"\d+(?:/\d+)?", said[child])]
            assert sum(shares) == 1
            assert list(map(float, shares)) == list(chosen[child][1])
        assert said["ensemble"].startswith("a torch.nn.ModuleList; weights of its networks' probabilities: ")

    def test_the_weights_make_the_networks_the_ensemble(self, exported, chosen, space, data):
        _, said, outputs = exported
        shares = [Fraction(text) for text in said["ensemble.pt"].split(": ")[-1].split(", ")]
        together = sum(
            float(share) * outputs[f"ensemble.pt:{place}"].softmax(1) for place, share in enumerate(shares)
        )
        recipes, weights = chosen["ensemble"]
        expected = SparseEnsemble(space, recipes, weights)(data.test[0]).exp()
        torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-5)

    def test_an_ensemble_is_chosen_by_its_combination(self, run, space, data, tmp_path):
        options = ["--method", "greedy", "--size", "4", "--combine", "logits"]
        written = here("export", str(run), "--child", "ensemble", "--out", str(tmp_path / "file"), *options)
        assert "weights of its networks' logits: " in written.stdout
        sparse = load_shortlists(run / SHORTLISTS)[0]
        judge = Evaluator(space, data.validation)
        found = module.choose(sparse, judge, "greedy", 4, "logits")
        assert len(found.members) == 1 + max(int(name.split(".")[0]) for name in load_file(tmp_path / "file"))

    def test_the_same_again(self, exported, run, tmp_path):
        folder, _, _ = exported
        for name in ("best.safetensors", "ensemble.safetensors"):
            child = name.split(".")[0]
            assert (
                here("export", str(run), "--child", child, "--out", str(tmp_path / name), *CHILDREN[child]).returncode
                == 0
            )
            assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()

    def test_the_best_is_the_default_and_needs_no_children_file(self, exported, copy):
        (copy / "children.safetensors").unlink()
        assert here("export", ".", "--out", "weights", cwd=copy).returncode == 0
        assert (copy / "weights").read_bytes() == (exported[0] / "best.safetensors").read_bytes()

    def test_an_interrupt_leaves_nothing(self, copy, monkeypatch):
        before = everything(copy)

        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "replace", interrupted)
        result = here("export", ".", "--out", "weights", cwd=copy)
        assert result.returncode == 130
        assert result.stderr == "smd-evo: interrupted; nothing was written\n"
        assert everything(copy) == before


class TestExportWrongUse:
    @pytest.mark.parametrize(
        ("arguments", "texts"),
        [
            *(
                (["--child", child], ["child: expected best, soup, ensemble or 1 to 6", repr(child)])
                for child in ("0", "7", "1000", "x", "-1", "1.0", "01", " 1", "²", "9" * 5000, "", "Best", "soups")
            ),
            (["--format", "onnx"], ["format: expected one of safetensors, torch, got 'onnx'"]),
            (["--format", "safetensor"], ["did you mean 'safetensors'"]),
            (["--child", "soup", "--size", "0"], ["size: expected a whole number >= 1, got 0"]),
            (["--child", "soup", "--size", "30"], ["size: expected 1 to 6"]),
            (["--child", "ensemble", "--size", "x"], ["size: expected a whole number >= 1, got 'x'"]),
            (["--child", "ensemble", "--method", "gredy"], ["did you mean 'greedy'"]),
            (["--method", "gredy"], ["did you mean 'greedy'"]),
            (["--combine", "mean"], ["combine: expected one of probabilities, logits, majority"]),
            (["--size", "0"], ["size: expected a whole number >= 1, got 0"]),
        ],
        ids=lambda value: " ".join(value)[:30] if isinstance(value, list) and value[0].startswith("--") else None,
    )
    def test_one_line_and_nothing_written(self, arguments, texts, copy):
        before = everything(copy)
        refused(here("export", ".", "--out", "weights", *arguments, cwd=copy), *texts)
        assert everything(copy) == before

    def test_where_nothing_can_be_written(self, copy):
        (copy / "mine").write_text("mine")
        (copy / "folder").mkdir()
        before = everything(copy)
        for out in ("mine", "folder", "config.yaml", ".", ""):
            refused(here("export", ".", "--out", out, cwd=copy), "out: expected a new file, got", "choose another")
        for out in ("no/weights", "no/such/weights", "mine/weights"):
            refused(here("export", ".", "--out", out, cwd=copy), "out: expected a file in a folder that is there")
        refused(here("export", ".", cwd=copy), "--out")
        refused(here("export", ".", "--out", "x" * 300, cwd=copy), "File name too long")
        assert everything(copy) == before

    def test_a_truncated_children_file(self, copy):
        file = copy / "children.safetensors"
        file.write_bytes(file.read_bytes()[:5000])
        before = everything(copy)
        refused(here("export", ".", "--child", "2", "--out", "weights", cwd=copy), "children.safetensors", "whole")
        assert everything(copy) == before

    def test_no_run(self, tmp_path):
        for run in (".", "nowhere"):
            result = here("export", run, "--out", "weights", cwd=tmp_path)
            refused(result, "run: expected a folder that finetune wrote", run)
        assert os.listdir(tmp_path) == []
