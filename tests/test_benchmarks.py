"""The benchmarks that compare: what is the same for all methods, what a seed changes, what is kept."""

import copy
import importlib
import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from helpers import ROOT
from torch import nn
from torch.nn.functional import cross_entropy

import smd_evo

SETTINGS = {
    "openai-es": {"sigma": 1.0, "rate": 0.2},
    "eggroll": {"sigma": 1.0, "rate": 0.2, "rank": 1},
    "mezo": {"sigma": 0.5, "rate": 0.05},
    "sparse-es": {"density": 0.5, "sigma": 1.0, "rate": 0.2},
    "newton": {"select": "all", "ridge": 0.1, "children": 8},
}


@pytest.fixture
def gradient_free(monkeypatch):
    """A module of the folder by its name, which is a script's there."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "gradient_free")
    monkeypatch.setenv("EVOTORCH_VERBOSE_LEVEL", "0")
    return importlib.import_module


@pytest.fixture
def task(gradient_free):
    """A small classifier, all of whose samples are in each minibatch."""
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    data = smd_evo.split((inputs, inputs[:, :3].argmax(1)), fitness=20, validation=10, seed=0)

    def loss(module, samples):
        with torch.no_grad():
            return float(cross_entropy(module(samples[0]), samples[1]))

    torch.manual_seed(0)
    return gradient_free("frame").Task(
        nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval(),
        lambda module, numbers: loss(module, tuple(part[numbers] for part in data.fitness)),
        samples=20,
        minibatch=20,
        validate=lambda module: -loss(module, data.validation),
        data=data,
        children=4,
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_seeds_differ_in_their_children(gradient_free, task, name):
    makers = {**gradient_free("rivals").MAKERS, **gradient_free("ours").MAKERS}
    found = []
    for seed in (0, 1, 2):
        search = makers[name](task, seed, **SETTINGS[name])
        search.step()
        found.append(nn.utils.parameters_to_vector(search.module.parameters()).detach())
    for own, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(found[own], found[other], atol=1e-4)


def test_a_strength_is_that_of_what_is_mutated(gradient_free, task):
    calibrated = gradient_free("frame").calibrated
    last = replace(task, select="2", unit={})
    alone = calibrated(last)
    assert calibrated(task) < 0.9 * alone  # more coordinates bear less
    assert calibrated(replace(task, select="2")) == alone  # beside others, whose strengths are known
    assert calibrated(task, select="2") == alone
    longer = copy.deepcopy(task.network)
    with torch.no_grad():
        longer[2].weight.mul_(4)
    assert calibrated(task, network=longer, select="2") > alone


@pytest.mark.parametrize("name", ["sparse-es", "newton"])
def test_a_search_that_begins_elsewhere_counts_its_look_at_all_samples_once(gradient_free, task, name):
    ours, other = gradient_free("ours"), nn.Linear(4, 3).eval()
    own = ours.MAKERS[name](task, 0, **SETTINGS[name])
    search = ours.beginning(lambda task: other, ours.MAKERS[name])(task, 0, **SETTINGS[name])
    assert torch.equal(search.module.weight, other.weight)
    assert [search.step() - own.step() for _ in range(2)] == [task.samples, 0]


class Steps:
    """A method whose steps take some forward passes, and come to what its setting and seed say."""

    def __init__(self, task, seed, cost, value):
        self.cost, self.value, self.module = cost, value + seed, nn.Identity()
        self.module.score = 0

    def step(self):
        self.module.score = self.value
        return self.cost


def test_trials_are_of_two_steps_within_a_tenth_of_the_budget_each_or_there_are_none(gradient_free, task):
    tuned, seen = gradient_free("frame").tuned, []
    task = replace(task, validate=lambda module: seen.append(module.score) or module.score)
    for cost, best in ((50, 1), (51, 0), (101, 0)):
        grid = [{"cost": cost, "value": value} for value in (1, 3, 2)]
        setting, trials = tuned(task, Steps, 1000, 0, grid)
        assert setting == grid[best]
        assert [setting for setting, _ in trials] == (grid if best else [])
    tuned(task, Steps, 1000, 7, grid)
    assert seen[-1] == 1 + 1007  # other children for each seed
    assert tuned(task, Steps, 1000, 0, grid[:1]) == (grid[0], [])


def test_a_folder_of_results_has_one_budget(gradient_free, task, tmp_path, monkeypatch, capsys):
    frame = gradient_free("frame")
    monkeypatch.setattr(frame, "RESULTS", tmp_path)

    def told(*arguments):
        monkeypatch.setattr(sys, "argv", ["task", str(tmp_path), *arguments])
        methods = {name: (Steps, [{"cost": 10, "value": value}]) for name, value in (("one", 1), ("other", 2))}
        scored = replace(task, validate=lambda module: getattr(module, "score", 0))
        beside = {"gradient": lambda task, seed: (task.network, task.forwards)}
        test = lambda module: {"score": scored.validate(module)}  # noqa: E731
        frame.main("own", lambda seed: scored, test, 1000, methods, special=beside)

    told("--methods", "one", "--seeds", "0")
    made = tmp_path / "own" / "one-seed0.json"
    first = made.read_text()
    told("--seeds", "0,1")
    assert made.read_text() == first
    assert json.loads((tmp_path / "own" / "other-seed1.json").read_text())["test"] == {"score": 3}
    assert json.loads((tmp_path / "own" / "gradient-seed1.json").read_text())["forwards"] == 1000
    assert capsys.readouterr().out.count("| `other` | 2 | 1,000 |") == 1
    for wrong, reason in ((("--forwards", "500"), "expected 1000"), (("--methods", "nobody"), "got nobody")):
        with pytest.raises(SystemExit):
            told(*wrong)
        assert reason in capsys.readouterr().err
    assert len([*made.parent.iterdir()]) == 6


def test_what_is_made_once_is_there_whole_or_not_at_all(gradient_free, tmp_path):
    once, file = gradient_free("frame").once, tmp_path / "images"

    def stopped(place):
        place.write_text("half")
        assert not file.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(file, stopped)
    assert not file.exists()
    for text in ("whole", "another"):
        assert once(file, lambda place, text=text: place.write_text(text)).read_text() == "whole"


def test_no_sum_that_is_asked_is_an_example(gradient_free, monkeypatch):
    pytest.importorskip("transformers")
    language = gradient_free("language")
    asked, tried = language.asked(), []
    assert len(asked) == len({*asked}) == 888
    monkeypatch.setattr(language, "among", lambda task, forms: tried.extend(forms))
    language.prompts(None, 0)
    assert max(len(form.examples) for form in tried) == 12
    assert not {*asked} & {pair for form in tried for pair in form.examples}


def test_a_surrogate_has_slopes_and_the_same_outputs(gradient_free):
    codes, inputs = gradient_free("codes"), torch.ones(1, 4)
    network = codes.quantised(nn.Sequential(nn.Linear(4, 3)), 3, floats=True)
    outputs = network(inputs)
    network[0].surrogate = True
    found = network(inputs)
    assert torch.allclose(found, outputs)
    for result, some in ((outputs, False), (found, True)):
        slopes = torch.autograd.grad(result.sum(), network[0].levels, materialize_grads=True)[0]
        assert bool(slopes.any()) == some


def test_tables_have_methods_first_and_no_interval_of_what_is_not_random(gradient_free, tmp_path):
    parent, setting = {"test": {"loss": 2.0}}, {"setting": {}}
    found = {"openai-es": (1.5, 1.0), "batchnorm": (1.25, 1.25), "newton": (1.0,)}
    for method, losses in found.items():
        for seed, loss in enumerate(losses):
            record = {"method": method, "seed": seed, "forwards": 10, "seconds": 1, "test": {"loss": loss}}
            record |= {"parent": parent, **(setting if method != "batchnorm" else {})}
            (tmp_path / f"{method}-seed{seed}.json").write_text(json.dumps(record))
    rows = [line.strip("| ").split(" | ") for line in gradient_free("tables").table(tmp_path).splitlines()]
    assert [row[0] for row in rows[2:]] == ["parent", "`openai-es`", "`newton`", "`batchnorm`"]
    assert rows[4][4:] == ["1", "-1", "-0.5"]
    assert rows[5][4:] == ["1.25", "-0.75", "+0 [-3.18, +3.18]"]


def test_a_part_of_the_study_that_is_half_kept_is_kept_again(gradient_free, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "imagenet")
    study, made = gradient_free("study"), []
    monkeypatch.setattr(study, "RESULTS", tmp_path / "results")
    part = tmp_path / "work" / "runs" / "window" / "net"
    part.mkdir(parents=True)
    (part / "results.json").write_text("{}")
    (part / "config.yaml").write_text("")
    monkeypatch.setattr(study, "run", lambda *arguments: made.append(arguments))
    with monkeypatch.context() as broken:
        broken.setattr(shutil, "copy", lambda *names: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            study.command(tmp_path / "work", "window", "net", "window")
    for _ in range(2):
        study.command(tmp_path / "work", "window", "net", "window")
        assert len(made) == 2
        assert {file.name for file in (tmp_path / "results" / "window" / "net").iterdir()} == {
            "results.json",
            "config.yaml",
        }
