"""The command line, right and wrong, and a whole tiny run."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
import yaml
from cli_helpers import TINY, here, refused, smd_evo
from resume_helpers import ended
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from zoo_helpers import saved

from smd_evo.zoo import load


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "deep" / "run"
    result = smd_evo("finetune", *TINY, "--seed", "3", "--out", str(folder))
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def table(output):
    return output[: output.index("Written to")]


class TestRun:
    def test_prints_the_table_and_where(self, run):
        folder, output = run
        for text in ("parent", "sparse", "dense, matched sigma", "dense, matched norm", "dense, own sigma"):
            assert text in output
        assert output.count("median child") == output.count("best child") - 1 == 4
        assert output.endswith(f"\nWritten to {folder}\nnext: smd-evo report {folder}\n")
        assert "Sparse best child against the parent: accuracy" in output
        assert max(len(line) for line in table(output).splitlines() if "[" in line and "Sparse" not in line) <= 80

    def test_writes_the_run_directory_and_nothing_beside_it(self, run):
        folder, _ = run
        assert sorted(os.listdir(folder)) == [
            "children.safetensors",
            "config.yaml",
            "plot.png",
            "results.json",
            "shortlists.safetensors",
            "table.csv",
        ]
        assert os.listdir(folder.parent) == ["run"]
        results = json.loads((folder / "results.json").read_text())
        assert len(results["rows"]) == 21  # the parent, three of each of four arms, what is free
        assert results["evaluations"]["children of each arm"] == 6
        splits = [set(split) for split in results["splits"].values()]
        assert sum(map(len, splits)) == len(set().union(*splits)) == 1797
        assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")

    def test_same_seed_same_table_from_the_stored_settings(self, run, tmp_path):
        """In another process."""
        folder, output = run
        again = here("finetune", "--config", str(folder / "config.yaml"), "--out", str(tmp_path / "again"))
        assert again.returncode == 0, again.stderr
        assert table(again.stdout) == table(output)
        for file in ("children.safetensors", "config.yaml", "shortlists.safetensors"):
            assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()

    def test_another_seed_another_table_in_an_empty_folder(self, run, tmp_path):
        other = here("finetune", *TINY, "--seed", "4", "--out", str(tmp_path))
        assert other.returncode == 0, other.stderr
        assert table(other.stdout) != table(run[1])
        assert sorted(os.listdir(tmp_path)) == sorted(os.listdir(run[0]))

    def test_verify_reproduces_the_stored_fitness(self, run):
        result = here("verify", str(run[0]))
        assert result.returncode == 0, result.stderr
        assert re.fullmatch(
            r"6 children loaded; .* by at most 0\.0e\+00, which is rounding: 1e-04 x .*\n", result.stdout
        )

    def test_rows_agree_with_their_parts(self, run):
        rows = json.loads((run[0] / "results.json").read_text())["rows"]
        for row in rows[1:]:
            assert row["accuracy"] - rows[0]["accuracy"] == pytest.approx(row["accuracy_gain"]["value"])
            assert row["loss"] - rows[0]["loss"] == pytest.approx(row["loss_gain"]["value"])
            assert row["accuracy_gain"]["low"] <= row["accuracy_gain"]["value"] <= row["accuracy_gain"]["high"]
        sparse, sigma, norm = (rows[number] for number in (1, 4, 7))
        assert (sparse["density"], sparse["sigma"]) == (pytest.approx(0.1, rel=0.01), 0.05)
        assert (sigma["density"], sigma["sigma"]) == (1, 0.05)
        assert norm["sigma"] == pytest.approx(0.05 * sparse["density"] ** 0.5)

    @pytest.mark.parametrize("subspace", ["neuron", "partition"])
    def test_other_subspaces(self, subspace, tmp_path):
        arguments = [*TINY, "--subspace", subspace, "--fitness", "accuracy", "--select", "conv2,head"]
        result = here("finetune", *arguments, "--out", str(tmp_path / "run"))
        assert result.returncode == 0, result.stderr

    def test_one_child_of_the_tensor_subspace(self, tmp_path):
        result = here("finetune", "--children", "1", "--subspace", "tensor", "--out", str(tmp_path / "run"))
        assert result.returncode == 0, result.stderr
        assert here("verify", str(tmp_path / "run")).returncode == 0


def rewritten(path, change):
    """A children file whose fitness is changed in place, by somebody who leaves out the checksum."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["smd_evo"])
    tensors = load_file(path)
    change(tensors["fitness"])
    save_file(tensors, path, {"smd_evo": json.dumps({name: about[name] for name in about if name != "checksum"})})


class TestWrongUse:
    @pytest.mark.parametrize(
        ("arguments", "texts"),
        [
            (["--density", "0"], ["density", "(0, 1]", "0", "try 0.1"]),
            (["--density", "1.5"], ["density", "(0, 1]", "1.5"]),
            (["--density", "0.1,x"], ["density", "'x'"]),
            (["--density", ""], ["density"]),
            (["--sigma", "0"], ["sigma", "> 0", "0"]),
            (["--sigma", "nan"], ["sigma", "> 0", "nan", "leave it out"]),
            (["--sigma", "-1"], ["sigma", "> 0", "-1"]),
            (["--children", "0"], ["children", ">= 1", "0", "try 128"]),
            (["--children", "many"], ["children", "'many'"]),
            (["--keep", "1"], ["keep", "0.99"]),
            (["--subspace", "randon"], ["subspace", "did you mean 'random'"]),
            (["--subspace", "tensor", "--density", "0.1"], ["density", "leave it out"]),
            (["--select", "hed"], ["select", "did you mean 'head'"]),
            (["--fitness", "acc"], ["fitness", "accuracy"]),
            (["--seed", "-1"], ["seed", "[0, 2**64)"]),
            (["--seed", str(2**64)], ["seed", "2**64"]),
            (["--device", "gpu"], ["device", "cuda", "'gpu'"]),
            (["--device", "cud"], ["device", "did you mean 'cuda'?"]),
            (["--device", "cuda:99"], ["device", "try cpu"]),
            (["--batch-size", "0"], ["batch_size", ">= 1"]),
            (["--model", "resnet"], ["model", "demo-cnn"]),
            (["--data", "digit"], ["data", "did you mean 'digits'"]),
            (["--config", "nowhere.yaml"], ["config", "nowhere.yaml"]),
            (["--childre", "5"], ["--childre"]),
            (["surplus"], ["surplus"]),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else None,
    )
    def test_one_line_exit_code_2_and_no_directory(self, arguments, texts, tmp_path):
        refused(here("finetune", *arguments, "--out", "a/run", cwd=tmp_path), *texts)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize(
        ("content", "texts"),
        [
            ("childen: 5", ["setting", "did you mean 'children'"]),
            ("children: [5]", ["children", "[5]"]),
            ("- 5", ["config", "list"]),
            ("a: b: c", ["config", "YAML"]),
            ("density: []", ["density"]),
            ("sigma: 1e-1x", ["sigma", "1e-1x"]),
            ("select: 5", ["select", "5"]),
        ],
    )
    def test_bad_configuration_files(self, content, texts, tmp_path):
        (tmp_path / "c.yaml").write_text(content)
        refused(here("finetune", "--config", "c.yaml", "--out", "run", cwd=tmp_path), *texts)
        assert os.listdir(tmp_path) == ["c.yaml"]

    def test_unknown_command(self):
        refused(here("finetun"), "finetun")

    def test_an_output_that_is_not_empty_stays_as_it_was(self, tmp_path):
        (tmp_path / "keep.txt").write_text("mine")
        refused(here("finetune", *TINY, "--out", str(tmp_path)), "out", str(tmp_path))
        refused(here("finetune", *TINY, "--out", str(tmp_path / "keep.txt")), "out", "keep.txt")
        refused(here("finetune", *TINY, "--out", str(tmp_path / "keep.txt" / "x")), "out", "keep.txt")
        assert os.listdir(tmp_path) == ["keep.txt"]

    def test_verify_of_what_is_no_run(self, tmp_path):
        refused(here("verify", str(tmp_path)), "run", "results.json")

    def test_verify_of_a_truncated_children_file(self, run, tmp_path):
        self.copy(run[0], tmp_path)
        file = tmp_path / "children.safetensors"
        file.write_bytes(file.read_bytes()[:5000])
        refused(here("verify", str(tmp_path)), "children.safetensors", "expected a whole safetensors file")

    def test_verify_of_children_of_another_parent(self, run, tmp_path):
        self.copy(run[0], tmp_path)
        parent, _ = load()
        parent.head.bias.data += 1
        config = yaml.safe_load((tmp_path / "config.yaml").read_text())
        config |= {"checkpoint": str(saved(parent, tmp_path / "another.safetensors"))}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        refused(here("verify", str(tmp_path)), "expected children of the parent")

    def test_verify_of_a_file_that_holds_something_else(self, run, tmp_path):
        self.copy(run[0], tmp_path)
        tensors = load_file(tmp_path / "children.safetensors")
        save_file({"w": torch.zeros(2), **tensors}, tmp_path / "children.safetensors")
        refused(here("verify", str(tmp_path)), "it is another kind of file")

    @pytest.mark.parametrize("change", [1e-3, -1.0])
    def test_verify_fails_where_a_fitness_is_another(self, run, tmp_path, change):
        self.copy(run[0], tmp_path)
        rewritten(tmp_path / "children.safetensors", lambda fitness: fitness[2].add_(change))
        result = here("verify", str(tmp_path))
        assert (result.returncode, result.stdout) == (1, "")
        assert re.fullmatch(
            r"smd-evo: .*children.safetensors: expected the stored cross_entropy of all 6 children again, but for "
            r"rounding \(1e-04 x \(1 \+ the stored loss\), in float32\), got .* for child 3, one of 1 that differ; "
            r".*\n",
            result.stderr,
        )

    def test_verify_takes_the_rounding_of_other_processors(self, run, tmp_path):
        self.copy(run[0], tmp_path)
        rewritten(tmp_path / "children.safetensors", lambda fitness: fitness.mul_(1 + 1e-6))
        result = here("verify", str(tmp_path))
        assert result.returncode == 0, result.stderr

    def copy(self, run, target):
        for name in ("config.yaml", "results.json", "children.safetensors"):
            (target / name).write_bytes((run / name).read_bytes())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_runs_leave_nothing(server, tmp_path, number):
    """A moment after their folder is there: while children are evaluated."""
    arguments = ["finetune", "--children", "5000", "--out", tmp_path / "a" / "run"]
    result = ended(server.run(*arguments, comes=[number, f"{tmp_path}/a/.run.partial", 1, False, 0.2]), 130)
    assert re.fullmatch("smd-evo: interrupted.*; nothing was (being )?written\n", result.stderr)
    assert os.listdir(tmp_path) == []


def test_an_interrupt_inside_an_exec_exits_alike(tmp_path):
    """CPython marks it as unhandled there, and under -m would die of a SIGINT of its own."""
    (tmp_path / "interrupted.py").write_text(
        "from smd_evo.cli import app, main\n"
        "@app.command()\n"
        "def interrupted(): exec('raise KeyboardInterrupt')\n"
        "main()\n"
    )
    arguments = [sys.executable, "-m", "interrupted", "interrupted"]
    result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (130, "smd-evo: interrupted; nothing was written\n")


def test_help_and_version_are_quick_and_import_nothing_heavy():
    code = "import sys; from smd_evo import cli; sys.argv = ['smd-evo', 'finetune', '--help']\n"
    code += "try: cli.main()\nexcept SystemExit as end: print('torch' in sys.modules, end.code)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--children N" in output
    assert output.strip().splitlines()[-1] in ("False 0", "False None")
    assert smd_evo("--version", whole=True).stdout.startswith("smd-evo 0.")
    told = smd_evo(whole=True).stdout
    assert told == smd_evo("--help", whole=True).stdout
    assert all(command in told for command in ("finetune", "verify", "ensemble", "export"))
