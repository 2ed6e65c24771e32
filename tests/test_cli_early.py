"""What is wrong with a command is told before torch is imported; how much a command will do, before it does it."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
from cli_helpers import here, refused

from smd_evo.early import check_settings
from smd_evo.errors import InvalidValue
from smd_evo.experiments.finetune.settings import FinetuneConfig

AMONG_IMAGES = ["--model", "timm:resnet18", "--data", "imagefolder:taken"]
REFUSED = [
    ["verify", "nothere"],
    ["ensemble", "nothere"],
    ["ensemble", "nothere", "--method", "gredy"],
    ["ensemble", "nothere", "--size", "many"],
    ["export", "nothere", "--out", "weights"],
    ["export", "nothere", "--out", "weights", "--format", "onnx"],
    ["report", "nothere"],
    ["resume", "nothere"],
    ["resume", "nothere", "--sigma", "2"],
    ["finetune", "--device", "gpu"],
    ["finetune", "--out", "taken"],
    ["finetune", "--generations", "3", "--out", "taken"],
    ["finetune", "--model", "resnet18"],
    ["finetune", "--model", "hf:./nothere"],
    ["finetune", "--data", "digit"],
    ["finetune", "--data", "imagefolder:nothere"],
    ["finetune", "--checkpoint", "nothere"],
    ["finetune", "--outputs", "present"],
    ["finetune", "--outputs", "some"],
    ["finetune", "--preprocessing", "size=64"],
    ["finetune", "--data", "imagefolder:taken", "--model", "timm:resnet18", "--preprocessing", "size=64,sise=65"],
    ["finetune", "--models", "demo-cnn", "--protocol", "imagnet"],
    ["finetune", "--models", "demo-cnn", "--seeds", "0,0"],
    ["finetune", "--models", "demo-cnn", "--childern", "6"],
    ["finetune", "--models", "demo-cnn", "--children", "none"],
    ["finetune", "--protocol", "nowhere.yaml"],
    ["finetune", "--seeds", "0,1"],
    ["window", "--out", "taken"],
    ["window", "--subspace", "tensor"],
    ["compare", "--methods", "sdm"],
    ["compare", "--budget", "1"],
    ["compare", "--children", "9"],
    ["compare", "--trials", "5"],
    ["compare", "--jobs", "none"],
    ["compare", "--out", "taken"],
    *([command, *AMONG_IMAGES, "--out", "taken/results"] for command in ("finetune", "window", "compare")),
    ["finetune", *AMONG_IMAGES[2:], "--models", "squeezenet1_1", "--out", "taken/results"],
]
CODE = """
import io, json, sys
from contextlib import redirect_stderr
from smd_evo import cli
for arguments in json.loads(sys.argv[1]):
    sys.argv, errors = ["smd-evo", *arguments], io.StringIO()
    with redirect_stderr(errors):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    heavy = [name for name in ("torch", "numpy", "scipy", "evotorch", "matplotlib") if name in sys.modules]
    print(json.dumps([code, errors.getvalue(), heavy]))
"""


def test_refusals_come_before_anything_heavy_is_imported(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    arguments = [sys.executable, "-c", CODE, json.dumps(REFUSED)]
    output = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for command, line in zip(REFUSED, output.splitlines(), strict=True):
        code, errors, heavy = json.loads(line)
        assert (code, heavy) == (2, []), command
        assert len(errors.splitlines()) == 1, command
        assert errors.startswith("smd-evo: "), command
    assert sorted(os.listdir(tmp_path)) == ["taken"]


@pytest.mark.parametrize(
    ("data", "out", "among"),
    [
        ("flat", "flat/results", True),
        ("flat", "flat", True),
        ("flat", "flatter", False),
        ("parts", "parts/val/results", True),
        ("parts", "parts/results", False),
        ("others", "others/validation/results", True),
        ("runs", None, True),  # where results come by themselves
        ("flat", None, False),
    ],
)
@pytest.mark.parametrize("name", ["data", "also"])
def test_results_never_become_a_class_of_images(data, out, among, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = ["parts/train", "parts/val", "others/train", "others/validation"]
    for folder in ("flat", *parts, "runs"):
        (tmp_path / folder / "cat").mkdir(parents=True)
    settings = {"model": "timm:resnet18", "data": "imagefolder:elsewhere", name: f"imagefolder:{data}"}
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(InvalidValue, match=f"^out: .* of {name}$") if among else nullcontext():
        check_settings(FinetuneConfig.parsed(settings), out)


@pytest.mark.parametrize(
    "command",
    [
        ["finetune", "--children", "4"],
        ["finetune", "--generations", "100", "--children", "4"],
        ["finetune", "--models", "demo-cnn", "--children", "4"],
        ["compare", "--methods", "smd"],
    ],
    ids=" ".join,
)
def test_a_dry_run_tells_what_there_is_to_do_and_writes_nothing(command, tmp_path):
    result = here(*command, "--device", "cpu", "--dry-run", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    (line,) = result.stdout.splitlines()
    assert "image evaluations to come: " in line
    assert " x 300" in line
    assert ", about " in line
    assert os.listdir(tmp_path) == []


def test_a_dry_run_looks_as_closely(tmp_path):
    refused(here("finetune", "--select", "hed", "--dry-run", cwd=tmp_path), "select", "did you mean 'head'")


def test_one_device_needs_no_torch_and_all_others_are_looked_for():
    refused(here("finetune", "--device", "cuda:99"), "device", "try cpu")
