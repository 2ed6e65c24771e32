"""The commands on a page repeat the run: read as a shell and the command line read them, they give its settings."""

import shlex

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from report_helpers import CONFIG, ensemble_results, summary_results

from smd_evo.cli import app
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.record import RunRecord
from smd_evo.experiments.window.settings import WindowConfig
from smd_evo.report.commands import repeat

COMMANDS = typer.main.get_command(app).commands
WORDS = st.text("ab c-'\"$\\;*/:é", min_size=1).filter(lambda word: not word.startswith("-"))
SHARES = st.floats(1e-6, 1, exclude_min=True)
SETTINGS = {
    "model": WORDS,
    "checkpoint": WORDS,
    "data": WORDS,
    "download": st.booleans(),
    "skip_unreadable": st.booleans(),
    "fitness_samples": st.integers(1, 9999),
    "memory": st.floats(0.1, 100),
    "select": WORDS,
    "seed": st.integers(0, 2**64 - 1),
    "precision": st.sampled_from(["float32", "bfloat16"]),
    "batch_size": st.one_of(st.just("auto"), st.integers(1, 99)),
    "children": st.integers(6, 999),
    "density": st.lists(SHARES, min_size=1, unique=True),
}
FINETUNE = SETTINGS | {
    "subspace": st.sampled_from(["random", "neuron"]),
    "sigma": st.none() | SHARES,
    "keep": st.floats(0.5, 0.99),
    "controls": st.booleans(),
}
WINDOW = SETTINGS | {
    "subspace": st.just(["random", "neuron"]),
    "sigma": st.none() | st.lists(SHARES, min_size=1, unique=True),
}
COMPARE = {name: SETTINGS[name] for name in SETTINGS if name not in ("children", "density")} | {
    "methods": st.sampled_from([["smd"], ["sgd", "openai-es"], ["my.module:Method", "pgpe"]]),
    "budget": st.integers(10**6, 10**9),
    "tuning_budget": st.none() | st.integers(10**6, 10**9),
    "seeds": st.integers(2, 99),
    "children": st.integers(4, 99).map(lambda pairs: 2 * pairs),
    "metric": st.sampled_from(["cross_entropy", "accuracy"]),
}


def parsed(line):
    """Name and options of a command, as the real command line reads them."""
    program, name, *words = shlex.split(line)
    assert program == "smd-evo"
    context = COMMANDS[name].make_context(name, words)
    given = {option: value for option, value in context.params.items() if value is not None}
    return name, {option: value for option, value in given.items() if value is not False or option == "controls"}


def record(config, kind="finetune", name="run", parts=(), results=()):
    return RunRecord(name, kind, config, dict(results), None, tuple(parts))


@given(st.fixed_dictionaries({}, optional=FINETUNE))
def test_a_fine_tuning_run(settings):
    config = FinetuneConfig.read(settings | {"device": "cpu"})
    (line,) = repeat(record(config.as_dict()))
    name, options = parsed(line)
    assert (name, options.pop("out")) == ("finetune", "run-again")
    assert FinetuneConfig.read(options) == config


@given(st.fixed_dictionaries({}, optional=WINDOW))
def test_a_window(settings):
    config = WindowConfig.read(settings | {"device": "cpu"})
    (line,) = repeat(record(config.as_dict(), "window"))
    name, options = parsed(line)
    assert (name, options.pop("out")) == ("window", "run-again")
    assert WindowConfig.read(options) == config


@given(st.fixed_dictionaries({}, optional=COMPARE))
def test_a_comparison(settings):
    config = CompareConfig.read(settings | {"device": "cpu"})
    (line,) = repeat(record(config.as_dict(), "compare"))
    name, options = parsed(line)
    assert (name, options.pop("out"), options.pop("jobs")) == ("compare", "run-again", "1")
    assert CompareConfig.read(options) == config


def test_defaults_go_without_saying_but_the_device_was_found():
    assert repeat(record(FinetuneConfig.read({"device": "cpu"}).as_dict())) == [
        "smd-evo finetune --device cpu --out run-again"
    ]


def test_the_name_of_a_folder_is_a_word():
    name = "a; rm -rf 'x'"
    assert shlex.split(repeat(record({}, name=name))[0])[-1] == f"{name}-again"


@pytest.mark.parametrize("method", ["greedy", "diverse", "top_k", "all"])
@pytest.mark.parametrize("combine", ["probabilities", "majority"])
def test_ensembles_follow_their_run(method, combine):
    own = [RunRecord(name, "ensemble", {}, ensemble_results(method, combine)) for name in ("a", "b")]
    first, *others = repeat(record(CONFIG, parts=own))
    again = parsed(first)[1]["out"]
    assert others == [others[0]] * 2
    assert parsed(others[0]) == ("ensemble", {"run": again, "method": method, "combine": combine})


def ensemble(choices, size):
    """An ensemble of so many choices whose validation was best after ``size`` of them."""
    results = ensemble_results(members=size)
    for chosen in results["selections"].values():
        chosen["curve"] = [0.3 - 0.01 * (place == size - 1) for place in range(choices)]
        chosen["fitness"] = chosen["curve"][size - 1]
    return RunRecord("e", "ensemble", {}, results)


def test_a_size_that_was_asked_for_is_asked_for_again():
    lines = repeat(record(CONFIG, parts=[ensemble(5, 5), ensemble(20, 5)]))
    assert parsed(lines[1])[1]["size"] == "5"
    assert "size" not in parsed(lines[2])[1]


def test_a_tie_on_the_way_is_no_size_that_was_asked_for():
    part = ensemble(20, 3)
    for chosen in part.results["selections"].values():
        chosen["curve"] = [0.29] * 20
    assert "size" not in parsed(repeat(record(CONFIG, parts=[part]))[1])[1]


def protocol(configs, **summary):
    return record({}, "protocol", "all", [record(CONFIG | config) for config in configs], summary_results(**summary))


def test_a_protocol_is_one_command():
    shared = {"data": "imagenet:my images", "seed": 4}
    (line,) = repeat(
        protocol([shared | {"model": f"timm:{name}", "checkpoint": f"my weights/{name}.pth"} for name in ("a", "b")])
    )
    assert parsed(line) == (
        "finetune",
        {"models": "a,b", "checkpoint": "my weights", "device": "cpu", "out": "all-again"}
        | {name: str(value) for name, value in shared.items()},
    )


def test_a_protocol_of_other_libraries_names_them():
    (line,) = repeat(protocol([{"model": "torchvision:resnet18"}, {"model": "cifar-resnet20"}]))
    assert parsed(line)[1]["models"] == "torchvision:resnet18,cifar-resnet20"


def test_seeds_stand_once_and_so_does_each_network():
    configs = [{"model": f"timm:{name}", "seed": seed} for seed in (0, 5) for name in ("a", "b")]
    (line,) = repeat(protocol(configs, seeds=(0, 5)))
    assert parsed(line) == ("finetune", {"models": "a,b", "seeds": "0,5", "device": "cpu", "out": "all-again"})


@pytest.mark.parametrize("seeds", [None, (0, 5)])
def test_a_protocol_of_a_file_is_named_with_what_was_given_beside_it(seeds):
    """Not what the file says, and defaults too, as they may be given against the file."""
    config = {"model": "nets:first", "checkpoint": "study/first.pth", "data": "imagefolder:a", "children": 128}
    given = {"data": "imagefolder:a", "density": [0.1, 0.01], "children": 128, "controls": False, "race": False}
    (line,) = repeat(protocol([config], protocol="study.yaml", seeds=seeds, **given))
    assert parsed(line) == (
        "finetune",
        {"protocol": "study.yaml", "device": "cpu", "out": "all-again", "data": "imagefolder:a"}
        | {"density": "0.1,0.01", "children": "128", "controls": False}
        | ({} if seeds is None else {"seeds": "0,5"}),
    )
