"""What the command line tells of itself: help, lists, completion, and what comes next."""

import os
import re
import subprocess
import sys

import pytest
from cli_helpers import here

from smd_evo.experiments.compare.methods.registry import METHODS
from smd_evo.experiments.settings import FITNESSES
from smd_evo.zoo.names import CIFAR_RESNETS, MODELS, SOURCES

COMMANDS = ["finetune", "resume", "window", "compare", "methods", "models", "report", "verify", "ensemble", "export"]


def said(*arguments):
    result = here(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_list_of_commands_holds_whole_sentences(option):
    text = " ".join(said(option).split())
    assert "..." not in text.replace("[ARGS]...", "")
    for name in COMMANDS:
        sentence = re.search(r"  ([^.]*)\.", re.sub(r"\s*\n\s*", " ", said(name, option).split("\n\n", 1)[1]) + "  .")
        assert f" {name} " in text
        assert sentence is None or sentence[1][:30] in text


@pytest.mark.parametrize("name", ["finetune", "window", "compare"])
def test_options_stand_in_groups(name):
    headings = [line[:-1] for line in said(name, "-h").splitlines() if re.fullmatch(r"[A-Z][\w ]*:", line)]
    assert headings == ["Parent and data", "Search", "Machine", "Options"]


def test_a_run_that_goes_on_has_no_defaults():
    """What is not given stays as the run has it."""
    options = said("resume", "-h").partition("Parent and data:")[2]
    assert "--generations" in options
    assert not re.search(r"\[(?!required)[^\]]*\]\.", options.replace("\n", " "))


def test_methods_are_listed():
    lines = said("methods").splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS)
    assert all(len(line.split()) > 4 for line in lines)


def test_what_can_be_named_is_listed():
    text = said("models")
    named = {line.split()[0].rstrip(",") for line in text.splitlines() if line.startswith("  ")}
    assert {*MODELS} - {*CIFAR_RESNETS} <= named
    assert {*SOURCES} - {"cifar100"} <= named
    assert all(name in text for name in FITNESSES)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["finetune", "--fitness", ""], list(FITNESSES)),
        (["finetune", "--fitness", "acc"], ["accuracy"]),
        (["finetune", "--searcher", "g"], ["gradient"]),
        (["window", "--subspace", "random,n"], ["random,neuron"]),
        (["verif"], ["verify"]),
    ],
)
def test_a_shell_completes_without_torch(words, expected):
    code = "import sys; from smd_evo.cli import main\n"
    code += "try: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    environment = os.environ | {
        "_SMD_EVO_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["smd-evo", *words]),
        "COMP_CWORD": str(len(words)),
    }
    command = [sys.executable, "-c", f"import sys; sys.argv = ['smd-evo']\n{code}"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.split() == expected
    assert result.stderr.splitlines()[-1] == "False"


def test_a_run_says_what_comes_next(tmp_path):
    small = ["--children", "4", "--density", "0.1", "--sigma", "0.05", "--out", str(tmp_path / "a run")]
    assert said("finetune", *small).splitlines()[-1] == f"next: smd-evo report '{tmp_path / 'a run'}'"
