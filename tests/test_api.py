"""The experiments as functions of a network and its data: what they return, write, refuse, and leave alone."""

import contextlib
import dataclasses
import importlib
import inspect
import json
import math
import os
import signal
import sys
import threading
import types
import typing
from collections.abc import Sequence
from pathlib import Path

import mypy.api
import pandas
import pytest
import torch
from cli_helpers import here, refused
from faults import Faults
from helpers import blobs, same_bits, state_bits, trained
from matplotlib.figure import Figure
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import smd_evo
from smd_evo import BatchFitness, Evaluator, Lineage, ModuleFitness, RewardFitness, SparseEnsemble, Splits, split
from smd_evo.api.options import CompareOptions, EvolutionOptions, FinetuneOptions, WindowOptions
from smd_evo.errors import InvalidType, InvalidValue, OutputExists, SmdEvoError, Stopped, UnsupportedParameter
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.folders.content import digest
from smd_evo.experiments.generations.metrics import read_metrics
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.experiments.window.settings import WindowConfig
from smd_evo.zoo.own import data_of

ROOT = Path(__file__).parents[1]

FUNCTIONS = {
    smd_evo.finetune: {"children": 8, "density": 0.2, "sigma": 0.1},
    smd_evo.evolve: {"generations": 3, "children": 6, "sigma": 0.1, "images": 20},
    smd_evo.window: {"children": 6, "density": 1.0, "sigma": 0.1},
    smd_evo.compare: {
        "methods": ("smd",),
        "controls": False,
        "budget": 320,
        "children": 8,
        "images": 20,
        "trials": 1,
        "seeds": 2,
        "checkpoints": 1,
    },
}
CONFIGS = dict(zip(FUNCTIONS, (FinetuneConfig, EvolutionConfig, WindowConfig, CompareConfig), strict=True))
every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda each: each.__name__)
with_networks = pytest.mark.parametrize(
    "function", [smd_evo.finetune, smd_evo.evolve], ids=lambda each: each.__name__
)
ABSOLUTE = BatchFitness("absolute error", "min", lambda outputs, targets: (outputs - targets).abs())


def answer(module, prompts):
    return module(torch.tensor([prompts]).T.float()).flatten().tolist()


def near(answers, prompts):
    return [-abs(number - 2 * prompt) for number, prompt in zip(answers, prompts, strict=True)]


NEAR = RewardFitness("near", answer, near, range(40))


def data(**options):
    return split(blobs(150, shift=2.5), **options)


def run(function, *arguments, **options):
    given = arguments or (trained(), data())
    return function(*given, **(FUNCTIONS[function] | options))


def small(network):
    """Larger where the weights are smaller."""
    return -network.head.weight.abs().sum().item()


def quiet(_):
    """A callback that says nothing."""


@pytest.fixture(scope="module")
def results():
    return {function: run(function, callback=quiet) for function in FUNCTIONS}


class TestSplits:
    @pytest.mark.parametrize("kind", ["tensors", "dict", "dataset", "loader", "samples"])
    def test_samples_of_any_kind_are_dealt_into_three_parts_that_never_meet(self, kind):
        numbers = torch.arange(90)
        inputs, targets = numbers.float()[:, None], numbers % 3
        pairs = TensorDataset(inputs, targets)
        given = {
            "tensors": (inputs, targets),
            "dict": ({"x": inputs}, targets),
            "dataset": pairs,
            "loader": DataLoader(pairs, 7),
            "samples": [(one, int(other)) for one, other in pairs],
        }[kind]
        found = split(given, fitness=30, validation=21, seed=4)
        assert repr(found) == "Splits(fitness: 30, validation: 21, test: 39 samples)"
        seen = []
        for name in ("fitness", "validation", "test"):
            batches = Evaluator(Seen(), getattr(found, name), ABSOLUTE)._batches
            values = [batch.inputs["x"] if kind == "dict" else batch.inputs for batch in batches]
            own = torch.cat(values).flatten().long()
            assert own.tolist() == found.indices[name].tolist()
            assert (torch.bincount(own % 3) - len(own) // 3).abs().max() <= 1  # stratified
            seen += own.tolist()
        assert sorted(seen) == numbers.tolist()

    def test_what_they_hold_is_noted_whatever_they_come_in(self):
        """Or a run would go on, without a word, with other samples of a data set or a loader."""
        inputs, targets = torch.randn(90, 4, generator=torch.Generator().manual_seed(0)), torch.arange(90) % 3
        forms = [lambda *pair: pair, TensorDataset, lambda *pair: DataLoader(TensorDataset(*pair), 7)]
        same, others = ([digest(data_of(split(form(each, targets)))) for form in forms] for each in (inputs, -inputs))
        assert len(set(same)) == len(set(others)) == 1
        assert same != others

    def test_a_test_set_of_its_own_is_left_as_it_is(self):
        found = split(blobs(60), blobs(30, key=5), fitness=10)
        assert repr(found) == "Splits(fitness: 10, validation: 16, test: 30 samples)"
        assert torch.equal(found.test[0], blobs(30, key=5)[0])

    def test_the_seed_deals(self):
        one, same, other = (data(seed=seed).indices["test"].tolist() for seed in (1, 1, 2))
        assert one == same != other

    @pytest.mark.parametrize(
        ("make", "kind", "message"),
        [
            (lambda: split(3), InvalidType, "^train: expected .*got int"),
            (lambda: split("digits"), InvalidType, "^train: expected .*got 'digits'"),
            (lambda: split((torch.ones(3, 1), torch.ones(2))), InvalidValue, r"^train: .*got lengths \[2, 3\]"),
            (lambda: split(blobs(60), fitness=0), InvalidValue, "^fitness: .*got 0"),
            (lambda: split(blobs(60), fitness=59), InvalidValue, "^data: expected enough of its 60 samples"),
            (lambda: split(blobs(60), seed=-1), InvalidValue, "^seed: "),
            (lambda: Splits(blobs(3), blobs(3), None), InvalidType, "^test: expected .*got NoneType"),
            (lambda: Splits(blobs(3), [], blobs(3)), InvalidValue, "^validation: expected at least one sample"),
        ],
    )
    def test_what_is_refused(self, make, kind, message):
        with pytest.raises(kind, match=message):
            make()


class Seen(nn.Module):
    """Takes whatever inputs there are."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.weight


class TestSettings:
    @every_function
    def test_a_setting_is_the_commands_own_field(self, function):
        """By the same name and with the same default; those that name a parent and data are not there."""
        parameters = inspect.signature(function).parameters
        fields = {each.name: each for each in dataclasses.fields(CONFIGS[function])}
        ours = {"model", "checkpoint", "checkpoint_key", "data_dir", "download", "memory", "skip_unreadable"}
        ours |= {"fitness_samples", "validation_samples", "test_samples", "outputs", "preprocessing", "also"}
        assert set(fields) - set(parameters) == ours & set(fields)
        for name in set(fields) & set(parameters) - {"data"}:
            assert parameters[name].default == fields[name].default
            assert f"        {name}: " in function.__doc__

    @every_function
    def test_they_are_checked_as_the_commands_are(self, function):
        with pytest.raises(InvalidValue, match=r"^setting: .*did you mean 'children'"):
            run(function, childern=3)
        with pytest.raises(InvalidValue, match=r"^children: "):
            run(function, children=0)
        with pytest.raises(InvalidValue, match=r"^checkpoint: expected none with a network"):
            run(function, checkpoint="x.pt")


@pytest.mark.numeric
class TestResults:
    @every_function
    def test_they_show_themselves(self, function, results):
        result = results[function]
        text = repr(result)
        assert "object:" not in text.splitlines()[0]
        assert "SmallNet" in text.splitlines()[0]
        assert 'srcdoc="&lt;!DOCTYPE html&gt;' in result._repr_html_()
        assert isinstance(result.table(), Table)
        assert isinstance(result.plot(), Figure)
        frame = result.to_pandas()
        assert len(frame) == {"finetune": 21, "evolve": 3, "window": 1, "compare": 2}[function.__name__]
        with pytest.raises(InvalidValue, match=r"^number: expected one of 0: "):
            result.table(99)

    @with_networks
    def test_the_best_network_is_independent_and_predicts_its_row(self, function, results):
        result = results[function]
        candidate = "best child" if function is smd_evo.finetune else "best network"
        row = next(row for row in result.numbers["rows"] if row["candidate"] == candidate)
        network, other = result.best, result.best
        found = Evaluator(network, data().test, "accuracy").evaluate([Lineage()]).fitness[0]
        assert float(found) == pytest.approx(row["accuracy"], abs=1e-9)
        network.head.weight.data.zero_()
        assert bool(other.head.weight.any())
        assert bool(result.best.head.weight.any())

    @with_networks
    def test_the_ensemble_votes_as_its_row_says(self, function, results):
        result = results[function]
        row = next(row for row in result.numbers["rows"] if row["candidate"] == "ensemble")
        assert isinstance(result.ensemble, SparseEnsemble)
        assert len(result.ensemble) == row["members"]
        images, targets = data().test
        with torch.inference_mode():
            right = (result.ensemble(images).argmax(1) == targets).double().mean()
        assert float(right) == pytest.approx(row["accuracy"], abs=1e-9)

    def test_what_is_free_is_a_network_too_and_predicts_its_row(self, results):
        result = results[smd_evo.finetune]
        row = next(row for row in result.numbers["rows"] if row["method"] == "nearly free")  # the best on validation
        assert row["candidate"] == next(iter(result.numbers["free"]))
        images, targets = data().test
        with torch.inference_mode():
            right = (result.free(images).argmax(1) == targets).double().mean()
        assert float(right) == pytest.approx(row["accuracy"], abs=1e-9)
        assert result.free is not result.free

    def test_what_is_free_is_asked_of_finetune_itself(self, results):
        for function in set(FUNCTIONS) - {smd_evo.finetune}:
            with pytest.raises(InvalidValue, match=r"^free: expected what finetune has just returned, got one of"):
                _ = results[function].free
            assert not hasattr(results[function], "free")

    @pytest.mark.parametrize("function", [smd_evo.window, smd_evo.compare], ids=lambda each: each.__name__)
    def test_others_hand_over_no_networks(self, function, results):
        with pytest.raises(InvalidValue, match=r"^best: expected a run of finetune or evolve"):
            _ = results[function].best

    @every_function
    def test_the_users_network_stays_as_it_is(self, function):
        network = trained().train()
        before = state_bits(network)
        run(function, network, data(), callback=quiet)
        assert same_bits(before, state_bits(network))
        assert network.training

    @every_function
    def test_nothing_is_written_without_out(self, function, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = run(function, callback=quiet)
        assert list(tmp_path.iterdir()) == []
        assert result.folder is None

    @every_function
    def test_a_callback_is_told_and_ends_it(self, function):
        states = []
        if function is smd_evo.evolve:
            result = run(function, callback=lambda state: states.append(state) or len(states) < 12)
            assert result.numbers["stopped"] == "callback"
            assert 1 <= result.numbers["generations"] < 3
        else:
            with pytest.raises(Stopped, match=r"^callback: it ended the experiment"):
                run(function, callback=lambda state: states.append(state) or len(states) < 4)
        assert any(state.workload and state.workload.evaluations for state in states)

    @pytest.mark.parametrize("phase", ["begin", "generations"])
    def test_evolve_hands_over_what_it_has_when_its_callback_ends_it(self, phase, tmp_path):
        """Also the last parent, of which no validation was due, and of a run that it would not have begun."""

        def ending(state):
            return state.phase != phase or (phase == "generations" and not state.text.startswith("4/"))

        inputs = torch.linspace(-1, 1, 90)[:, None]
        settings = {"generations": 50, "validate_every": 10, "children": 10, "sigma": 0.3, "learning_rate": 0.3}
        settings["log"] = "csv"
        arguments = nn.Linear(1, 1), split((inputs, 3 * inputs))
        result = smd_evo.evolve(*arguments, fitness=ABSOLUTE, out=tmp_path, callback=ending, **settings)
        assert result.numbers["stopped"] == "callback"
        assert result.numbers["generations"] == (1 if phase == "begin" else 4)
        *_, last = result.to_pandas().to_dict("records")
        assert last["validation.fitness"] < result.numbers["validation"]["fitness"]
        logged = pandas.read_csv(tmp_path / "metrics.csv").to_dict("records")
        assert logged[-1]["validation_fitness"] == last["validation.fitness"]
        assert len(logged) == result.numbers["generations"]
        before, best, *_ = result.numbers["rows"]
        assert best["fitness"] < before["fitness"]
        again = smd_evo.evolve(*arguments, fitness=ABSOLUTE, out=tmp_path, callback=quiet, **settings)
        assert again.numbers == smd_evo.load_run(tmp_path).numbers == result.numbers

    def test_from_a_thread(self, results):
        found = []
        thread = threading.Thread(target=lambda: found.append(run(smd_evo.evolve, callback=quiet)))
        thread.start()
        thread.join()
        assert found[0].numbers["rows"] == results[smd_evo.evolve].numbers["rows"]


ELSEWHERE = ["--model", "mine:trained", "--data", "mine:data", "--fitness", "mine:score"]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A user's module with all that a run needs."""
    (tmp_path / "mine.py").write_text(
        "from helpers import blobs, trained\nfrom smd_evo import BatchFitness, split\n"
        "score = BatchFitness('hits', 'max', lambda outputs, targets: (outputs.argmax(1) == targets).float(), "
        "classes=True)\n"
        "def data():\n    return split(blobs(150, shift=2.5))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    yield importlib.import_module("mine")
    sys.modules.pop("mine", None)


class TestFolders:
    @every_function
    def test_what_is_stored_is_read_back_and_reported(self, function, results, tmp_path):
        result = run(function, out=tmp_path / "run", callback=quiet)
        again = smd_evo.load_run(tmp_path / "run", trained())
        for found in (result, again):
            assert repr(found) == repr(results[function]).replace("run", "run")
            assert found.folder == tmp_path / "run"
        if function in (smd_evo.finetune, smd_evo.evolve):
            assert same_bits(state_bits(again.best), state_bits(result.best))
            assert len(again.ensemble) == len(result.ensemble)
        if function is smd_evo.finetune:
            assert result.free is not None
            with pytest.raises(InvalidValue, match=r"^free: expected .*, got a stored run; run finetune$"):
                _ = again.free
        reported = here("report", str(tmp_path / "run"))
        assert reported.returncode == 0, reported.stderr
        results[function].save(tmp_path / "saved")
        assert repr(smd_evo.load_run(tmp_path / "saved")) == repr(result)

    @pytest.mark.parametrize("at", range(1, 40, 3))
    def test_what_a_full_disk_cuts_has_no_numbers_that_look_whole(self, at, results, tmp_path):
        result = results[smd_evo.finetune]
        names = {name for name in result._files() if name != "plot.png"}
        (tmp_path / "runs").mkdir()
        faults = Faults(tmp_path, at, once=False)
        with faults(), contextlib.suppress(OSError, SmdEvoError):
            result.save(tmp_path / "runs" / "run")
        for seal in (tmp_path / "runs").rglob("results.json"):
            assert {file.name: file.read_bytes() for file in seal.parent.iterdir() if file.name in names} == {
                name: result._files()[name] for name in names
            }

    @with_networks
    def test_a_network_may_keep_what_its_training_left(self, function, tmp_path):
        network = trained()
        network.register_buffer("membrane", network.head.weight * 2)
        network.seen, network.several = network.head.weight * 3, [{"one": network.head.bias * 4}]
        result = run(function, network, data(), out=tmp_path / "run", callback=quiet)
        for found in (result, smd_evo.load_run(tmp_path / "run", network)):
            assert torch.equal(found.best.seen, network.seen)
            assert torch.equal(found.best.several[0]["one"], network.several[0]["one"])

    @every_function
    def test_results_never_become_a_class_of_images(self, function, tmp_path):
        (tmp_path / "val" / "cat").mkdir(parents=True)
        with pytest.raises(InvalidValue, match=r"^out: expected a folder outside of imagefolder:"):
            function("timm:resnet18", f"imagefolder:{tmp_path}", out=tmp_path / "val" / "results")

    @pytest.mark.parametrize("function", [smd_evo.finetune, smd_evo.window], ids=lambda each: each.__name__)
    def test_a_folder_that_holds_something_is_refused(self, function, tmp_path):
        (tmp_path / "something").touch()
        with pytest.raises(OutputExists):
            run(function, out=tmp_path, callback=quiet)

    def test_evolve_goes_on_where_it_was_stopped(self, results, tmp_path):
        def interrupting(state):
            if state.phase == "generations" and state.text.startswith("2/"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(smd_evo.evolve, out=tmp_path / "run", callback=interrupting, checkpoint_every=1)
        states = []
        result = run(smd_evo.evolve, out=tmp_path / "run", callback=states.append, checkpoint_every=1)
        assert result.numbers["rows"] == results[smd_evo.evolve].numbers["rows"]
        assert [state.done for state in states if state.text.startswith("3/")] == [6]  # children of one generation
        again = run(smd_evo.evolve, out=tmp_path / "run", callback=quiet, checkpoint_every=1)
        assert repr(again) == repr(result)
        assert same_bits(state_bits(again.best), state_bits(result.best))

    def test_what_a_signal_leaves_is_what_is_told_whenever_it_comes(self, tmp_path):
        """Also in the last moment of a generation whose checkpoint was not due."""

        def interrupting(state):
            if state.phase == "generations" and state.text.startswith("3/"):
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt, match=r"^3 of 9 generations are done; "):
            run(smd_evo.evolve, out=tmp_path / "run", callback=interrupting, generations=9, checkpoint_every=5)
        assert max(file.stem for file in (tmp_path / "run" / "checkpoints").glob("*.json")) == "000003"

    @pytest.mark.parametrize("kind", ["module", "reward", "regression", "metric"])
    def test_evolve_goes_on_where_it_was_stopped_by_a_fitness_without_classes(self, kind, tmp_path):
        inputs = torch.linspace(-1, 1, 60)[:, None]
        samples, images = split((inputs, 3 * inputs)), {"images": 10}
        arguments = {
            "module": (None, ModuleFitness("weight", "max", lambda module: module.weight.abs().sum()), {}),
            "reward": (None, RewardFitness("near", answer, near, range(40)), images),
            "regression": (samples, ABSOLUTE, images),
            "metric": (samples, "r2", images),
        }
        given, fitness, options = arguments[kind]

        def interrupting(state):
            if state.phase == "generations" and state.text.startswith("2/"):
                raise KeyboardInterrupt

        def evolved(out, callback):
            torch.manual_seed(0)
            settings = {"generations": 4, "children": 6, "sigma": 0.1, "checkpoint_every": 1, **options}
            return smd_evo.evolve(nn.Linear(1, 1), given, fitness=fitness, out=out, callback=callback, **settings)

        whole = evolved(tmp_path / "whole", quiet)
        with pytest.raises(KeyboardInterrupt):
            evolved(tmp_path / "run", interrupting)
        again = evolved(tmp_path / "run", quiet)
        assert again.numbers["rows"] == whole.numbers["rows"]
        assert same_bits(state_bits(again.best), state_bits(whole.best))

    def test_evolve_refuses_another_run(self, tmp_path):
        run(smd_evo.evolve, out=tmp_path / "run", callback=quiet)
        with pytest.raises(InvalidValue, match=r"^resume: expected the run's own settings, .*seed"):
            run(smd_evo.evolve, out=tmp_path / "run", callback=quiet, seed=5)

    @pytest.mark.parametrize(("name", "value"), [("generations", 4), ("patience", 1)])
    def test_a_finished_run_that_would_have_gone_on_or_ended_before_is_another_one(self, name, value, tmp_path):
        run(smd_evo.evolve, out=tmp_path / "run", callback=quiet)
        with pytest.raises(
            InvalidValue, match=f"^out: expected a finished run that ends .* {name} .* instead of {value};"
        ):
            run(smd_evo.evolve, out=tmp_path / "run", callback=quiet, **{name: value})

    @pytest.mark.parametrize("what", ["network", "data"])
    @pytest.mark.parametrize("function", [smd_evo.evolve, smd_evo.compare], ids=lambda each: each.__name__)
    def test_a_finished_run_of_another_network_or_other_data_is_none_to_go_on_with(self, function, what, tmp_path):
        other = trained()
        with torch.no_grad():
            other.head.bias[0] += 1e-3
        samples = split(blobs(150, shift=2.5, key=3))
        arguments = (other, data()) if what == "network" else (trained(), samples)
        options = {"out": tmp_path / "run", "callback": quiet}
        run(function, **options)
        with pytest.raises(SmdEvoError, match=r"expected the run's own|the samples that|a comparison of the same"):
            run(function, *arguments, **options)
        run(function, **options)

    def test_a_comparison_that_did_not_note_its_parent_and_its_data_goes_on(self, tmp_path):
        options = {"out": tmp_path / "run", "callback": quiet}
        before = run(smd_evo.compare, **options)
        noted = tmp_path / "run" / "runs" / "data.json"
        old = json.loads(noted.read_text())
        del old["parent"], old["samples"]
        noted.write_text(json.dumps(old))
        again = run(smd_evo.compare, **(options | {"seeds": 3}))
        assert again.numbers["trials"] == before.numbers["trials"]

    def test_a_comparison_that_is_stopped_with_more_seeds_is_still_one_of_those_it_has(self, tmp_path):
        before = run(smd_evo.compare, out=tmp_path / "run", callback=quiet)
        with pytest.raises(Stopped):
            run(smd_evo.compare, out=tmp_path / "run", seeds=3, callback=lambda state: state.phase[:5] != "run 2")
        stopped = smd_evo.load_run(tmp_path / "run")
        assert stopped.config["seeds"] == 2
        assert repr(stopped) == repr(before)
        assert run(smd_evo.compare, out=tmp_path / "run", seeds=3, callback=quiet).config["seeds"] == 3

    def test_commands_that_need_the_parent_say_who_has_it(self, tmp_path):
        run(smd_evo.finetune, out=tmp_path / "run", callback=quiet)
        for command in ("verify", "ensemble"):
            refused = here(command, str(tmp_path / "run"))
            assert refused.returncode == 2
            assert "model: expected a name to load it by, got object:SmallNet" in refused.stderr

    def test_commands_go_on_from_it_once_they_are_told_where_the_parent_is(self, mine, tmp_path):
        folder = tmp_path / "run"
        result = smd_evo.finetune(
            trained(), mine.data(), fitness=mine.score, children=6, density=0.2, sigma=0.1, out=folder, callback=quiet
        )
        assert "fitness: expected a name, got object:hits" in here("verify", str(folder), *ELSEWHERE[:4]).stderr
        checked = here("verify", str(folder), *ELSEWHERE)
        assert "6 children loaded" in checked.stdout, checked.stderr
        scored = here("ensemble", str(folder), *ELSEWHERE, "--method", "top_k", "--size", "2")
        assert "Written to" in scored.stdout, scored.stderr
        exported = here("export", str(folder), *ELSEWHERE, "--out", str(tmp_path / "best.pt"), "--format", "torch")
        assert "Written to" in exported.stdout, exported.stderr
        network = trained()
        network.load_state_dict(torch.load(tmp_path / "best.pt"))
        assert same_bits(state_bits(network), state_bits(result.best))
        for model, why in (("demo-cnn", "it knows the digits alone"), ("helpers:SmallNet", "parent")):
            wrong = here("verify", str(folder), *ELSEWHERE[2:], "--model", model)
            assert wrong.returncode == 2
            assert why in wrong.stderr

    def test_resume_goes_on_from_it_too(self, mine, tmp_path):
        def interrupting(state):
            if state.text.startswith("2/3"):
                raise KeyboardInterrupt

        options = FUNCTIONS[smd_evo.evolve] | {"checkpoint_every": 1, "fitness": mine.score}
        with pytest.raises(KeyboardInterrupt):
            smd_evo.evolve(trained(), mine.data(), out=tmp_path / "run", callback=interrupting, **options)
        refused = here("resume", str(tmp_path / "run"), *ELSEWHERE[:4])
        assert "fitness: expected a name, got object:hits" in refused.stderr
        done = here("resume", str(tmp_path / "run"), *ELSEWHERE)
        assert done.returncode == 0, done.stderr
        whole = smd_evo.evolve(trained(), mine.data(), callback=quiet, **options)
        assert same_bits(state_bits(smd_evo.load_run(tmp_path / "run", trained()).best), state_bits(whole.best))

    @every_function
    def test_by_names_it_is_the_command(self, function, tmp_path):
        settings = FUNCTIONS[function] | {"seed": 2, "device": "cpu"}
        result = function("demo-cnn", "digits", callback=quiet, **settings)
        words = [
            word
            for name, value in settings.items()
            for word in ([f"--no-{name}"] if value is False else [f"--{name}", _word(value)])
        ]
        command = "finetune" if function is smd_evo.evolve else function.__name__
        done = here(command, *words, "--out", str(tmp_path / "run"))
        assert done.returncode == 0, done.stderr
        assert _timeless(smd_evo.load_run(tmp_path / "run").numbers) == _timeless(result.numbers)


def _word(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _timeless(numbers):
    """Without what no two runs share: seconds, memory."""
    if isinstance(numbers, dict):
        kept = [name for name in numbers if name not in ("environment", "seconds", "memory")]
        return {name: _timeless(numbers[name]) for name in kept}
    return [_timeless(value) for value in numbers] if isinstance(numbers, list | tuple) else numbers


@pytest.mark.numeric
class TestFitness:
    def test_a_function_of_the_network_needs_no_data_and_is_maximised(self):
        network = trained()
        result = run(smd_evo.evolve, network, fitness=small, images=None, callback=quiet)
        assert small(result.best) > small(network)
        assert [row["fitness"] for row in result.numbers["rows"]] == [small(network), small(result.best)]
        assert result.ensemble is None
        assert "higher is better" in repr(result)

    def test_or_minimised(self):
        network = trained()
        size = lambda module: -small(module)  # noqa: E731
        result = run(smd_evo.evolve, network, fitness=size, sense="min", images=None, callback=quiet)
        assert size(result.best) < size(network)

    @with_networks
    def test_a_score_of_outputs_on_samples_without_classes(self, function):
        inputs = torch.linspace(-1, 1, 150)[:, None]
        samples = split((inputs, 3 * inputs + 1))
        network = nn.Linear(1, 1)
        result = run(function, network, samples, fitness=ABSOLUTE, callback=quiet)
        before, *others = result.numbers["rows"]
        expected = Evaluator(network, samples.test, ABSOLUTE).evaluate([Lineage()]).fitness[0]
        assert before["fitness"] == pytest.approx(float(expected))
        assert all(row["accuracy"] is None and row["fitness_gain"] for row in others)
        best = next(row for row in others if row["candidate"] in ("best child", "best network"))
        found = Evaluator(result.best, samples.test, ABSOLUTE).evaluate([Lineage()]).fitness[0]
        assert best["fitness"] == pytest.approx(float(found))
        assert "absolute error, lower is better" in " ".join(repr(result).lower().split())

    @with_networks
    def test_a_metric_of_one_output_for_yes_or_no(self, function):
        inputs = torch.randn(150, 4, generator=torch.Generator().manual_seed(0))
        samples, network = split((inputs, (inputs[:, 0] > 0).long())), nn.Linear(4, 1)
        network.weight.data = torch.tensor([[1.0, 0.5, 0, 0]])
        result = run(function, network, samples, fitness="auroc", callback=quiet)
        before = Evaluator(network, samples.test, "auroc").evaluate([Lineage()]).fitness[0]
        assert result.numbers["rows"][0]["fitness"] == pytest.approx(float(before))
        assert result.ensemble(inputs).shape == (150, 1)

    @pytest.mark.parametrize("shape", [(), (3,), (3, 2)], ids=["one number", "three", "three by two"])
    def test_an_ensemble_without_classes_is_the_mean_of_its_outputs(self, shape, tmp_path):
        """Also as it is read back, whatever the outputs' shape."""
        inputs = torch.randn(90, 6, generator=torch.Generator().manual_seed(0))
        last = nn.Unflatten(1, shape) if shape else nn.Flatten(0)
        network = nn.Sequential(nn.Linear(6, math.prod(shape)), last)
        samples = split((inputs, network(inputs).detach() + 0.1))
        result = run(smd_evo.finetune, network, samples, fitness=ABSOLUTE, out=tmp_path / "run", callback=quiet)
        row = next(
            row for row in result.numbers["rows"] if (row["method"], row["candidate"]) == ("sparse", "ensemble")
        )
        for ensemble in (result.ensemble, smd_evo.load_run(tmp_path / "run", network).ensemble):
            outputs = ensemble(samples.test[0])
            assert float((outputs - samples.test[1]).abs().mean()) == pytest.approx(row["fitness"])

    def test_a_score_of_ones_own_may_be_infinite_for_broken_children(self, tmp_path):
        def likelihood(outputs, targets):
            return outputs.softmax(1).gather(1, targets[:, None]).log().squeeze(1)

        fitness = BatchFitness("likelihood", "max", likelihood)
        settings = {"density": 0.5, "sigma": 1e3, "arms": "matched-sigma", "callback": quiet}
        with pytest.warns(
            RuntimeWarning, match=r"^generation 1: expected children of a finite fitness, got none of \d"
        ):
            result = run(smd_evo.finetune, fitness=fitness, out=tmp_path / "run", **settings)
        assert (tmp_path / "run" / "plot.png").is_file()
        for each in (result, smd_evo.load_run(tmp_path / "run", trained())):
            row = next(row for row in each.numbers["rows"] if row["candidate"] == "median child")
            assert (row["fitness"], row["fitness_gain"]) == (None, None)
            assert "not finite" in repr(each)

    @pytest.mark.parametrize("log", ["csv", "tensorboard"])
    def test_validations_without_classes_can_be_logged(self, log, tmp_path):
        if log == "tensorboard":
            pytest.importorskip("tensorboard")
        inputs = torch.linspace(-1, 1, 60)[:, None]
        arguments = nn.Linear(1, 1), split((inputs, 3 * inputs + 1))
        settings = {"images": 10, "log": log, "validate_every": 2, "callback": quiet}
        result = run(smd_evo.evolve, *arguments, fitness=ABSOLUTE, out=tmp_path / "run", **settings)
        told = [line["validation"]["fitness"] for line in read_metrics(tmp_path / "run") if line["validation"]]
        assert len(told) == 2
        if log == "csv":
            lines = pandas.read_csv(tmp_path / "run" / "metrics.csv")
            assert lines["validation_fitness"].dropna().tolist() == pytest.approx(told)
            assert len(lines) == result.numbers["generations"]
            assert "validation_loss" not in lines

    @with_networks
    def test_a_score_of_ones_own_on_the_command_line(self, function, tmp_path):
        (tmp_path / "my_scores.py").write_text(
            "from smd_evo import BatchFitness\n"
            "margin = BatchFitness('margin', 'max', lambda out, target: out.gather(1, target[:, None])[:, 0])\n"
        )
        words = ["--children", "4", "--sigma", "0.05", "--density", "0.1", "--fitness", "my_scores:margin"]
        many = ["--generations", "2"] if function is smd_evo.evolve else []
        done = here("finetune", *many, *words, "--out", "run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        result = smd_evo.load_run(tmp_path / "run")
        assert result.numbers["sense"] == "max"
        before, *others = result.numbers["rows"]
        assert all(
            row["fitness_gain"]["value"] == pytest.approx(row["fitness"] - before["fitness"]) for row in others
        )
        for shown in (done.stdout, repr(result)):  # beside the accuracy, where else there is the loss
            assert "fitness: my_scores:margin, higher is better" in " ".join(shown.lower().split())
            assert "against the parent: my_scores:margin" in " ".join(shown.split())
        assert max(map(len, done.stdout.splitlines())) <= 80

    @pytest.mark.parametrize("many", [[], ["--generations", "2"]], ids=["one generation", "several"])
    def test_a_metric_of_all_samples_on_the_command_line(self, many, tmp_path):
        """The table is of accuracy, as for every classifier; beside it the metric's gain has its interval."""
        words = ["--children", "4", "--sigma", "0.05", "--density", "0.1", "--fitness"]
        done = here("finetune", *(many or ["--no-controls"]), *words, "mrr@10", "--out", "run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        before, *others = smd_evo.load_run(tmp_path / "run").numbers["rows"]
        assert 0.5 < before["fitness"] < 1
        for row in others:
            gain = row["fitness_gain"]
            assert gain["value"] == pytest.approx(row["fitness"] - before["fitness"])
            assert gain["low"] <= gain["high"]
        assert "against the parent: MRR@10" in " ".join(done.stdout.split())
        assert here("report", "run", cwd=tmp_path).returncode == 0

    def test_a_metric_by_an_unknown_name_or_in_a_race_is_one_line(self, tmp_path):
        refused(here("finetune", "--fitness", "aurok", cwd=tmp_path), "did you mean 'auroc'?")
        refused(
            here("finetune", "--fitness", "ndcg@5", "--race", "--no-controls", cwd=tmp_path),
            "race: expected a fitness that adds up over samples, got 'ndcg@5'",
        )

    @pytest.mark.parametrize("many", [[], ["--generations", "2"]], ids=["one generation", "several"])
    def test_samples_without_classes_on_the_command_line(self, many, tmp_path):
        """A factory may return splits, of regression, several labels, or whatever its network and fitness take."""
        (tmp_path / "my_task.py").write_text(
            "import torch\nfrom smd_evo import BatchFitness, split\n"
            "labels = BatchFitness('labels', 'min', lambda out, target: torch.nn.functional"
            ".binary_cross_entropy_with_logits(out, target, reduction='none'))\n"
            "def network():\n    torch.manual_seed(0)\n    return torch.nn.Linear(4, 3)\n"
            "def splits():\n    x = torch.linspace(-1, 1, 240).view(60, 4)\n"
            "    return split((x, (x[:, :3] > 0).float()))\n"
        )
        words = ["--model", "my_task:network", "--data", "my_task:splits", "--fitness", "my_task:labels"]
        small = ["--children", "4", "--sigma", "0.1", "--density", "0.5"]
        done = here("finetune", *many, *words, *small, "--out", "run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "labels, lower is better" in " ".join(done.stdout.lower().split())
        reported = here("report", "run", cwd=tmp_path)
        assert reported.returncode == 0, reported.stderr
        exported = here("export", "run", "--trust", "--child", "ensemble", "--out", "weights", cwd=tmp_path)
        assert "weights of its networks' logits: " in exported.stdout, exported.stderr
        if not many:
            refused(here("ensemble", "run", "--trust", cwd=tmp_path), "run: expected samples with classes")

    @pytest.mark.parametrize(
        ("function", "arguments", "options", "kind", "message"),
        [
            (
                smd_evo.evolve,
                (trained(), data()),
                {"fitness": small},
                InvalidValue,
                "^data: expected none with fitness",
            ),
            (smd_evo.evolve, (trained(),), {}, InvalidValue, "^data: expected smd_evo.Splits, got None"),
            (
                smd_evo.evolve,
                (trained(),),
                {"fitness": lambda _: "much", "images": None},
                InvalidType,
                "expected one real number",
            ),
            (
                smd_evo.evolve,
                (trained(),),
                {"fitness": small},
                InvalidValue,
                "^images: expected none with fitness small",
            ),
            (
                smd_evo.evolve,
                (trained(), data()),
                {"sense": "max"},
                InvalidValue,
                "^sense: expected none with fitness",
            ),
            (smd_evo.evolve, (trained(),), {"fitness": small, "sense": "up"}, InvalidValue, "^sense: .*got 'up'"),
            (
                smd_evo.finetune,
                (trained(), data()),
                {"fitness": 3},
                InvalidType,
                "^fitness: expected a name, .*got 3",
            ),
            (smd_evo.finetune, (trained(), data()), {"fitness": "acuracy"}, InvalidValue, "did you mean 'accuracy'"),
            (
                smd_evo.window,
                (trained(), data()),
                {"fitness": "accuracy"},
                InvalidValue,
                "^setting: expected one of select, .*got 'fitness'$",
            ),
            (
                smd_evo.evolve,
                (nn.Linear(4, 3, device="meta"), data()),
                {},
                UnsupportedParameter,
                "^weight: expected a network whose weights are there, .*meta device; load its weights first",
            ),
            (
                smd_evo.evolve,
                (trained(), Splits(blobs(9), blobs(9), blobs(1))),
                {},
                InvalidValue,
                "^test: expected at least 2 samples, for intervals, got 1; give more",
            ),
            (
                smd_evo.evolve,
                (nn.Linear(1, 1),),
                {"fitness": RewardFitness("near", answer, near, range(3)), "images": None},
                InvalidValue,
                "^test: expected at least 2 samples",
            ),
            (smd_evo.finetune, (data(), trained()), {}, InvalidType, "^network: expected a torch.nn.Module"),
            (smd_evo.finetune, (trained(), blobs(30)), {}, InvalidType, "^data: expected smd_evo.Splits.*split"),
            (smd_evo.finetune, ("demo-cnn", data()), {}, InvalidType, "^data: expected a name such as digits"),
            (smd_evo.finetune, (trained(), data()), {"callback": 3}, InvalidType, "^callback: expected a function"),
            (
                smd_evo.finetune,
                (trained(), None),
                {"fitness": ModuleFitness("small", "max", small)},
                InvalidType,
                "^fitness: expected one of outputs",
            ),
            (
                smd_evo.compare,
                (trained(), split(NEAR.samples)),
                {"fitness": NEAR},
                InvalidType,
                "^fitness: expected one of outputs for samples, got near, a function of the network",
            ),
        ],
    )
    def test_what_is_refused(self, function, arguments, options, kind, message):
        with pytest.raises(kind, match=message):
            run(function, *arguments, **options)


def test_controls_can_be_left_out(results):
    """The sparse children are the same; nothing dense is evaluated."""
    alone, beside = run(smd_evo.finetune, controls=False, callback=quiet), results[smd_evo.finetune]
    assert [row["method"] for row in alone.numbers["rows"]] == ["parent", *["sparse"] * 3]
    assert alone.numbers["rows"] == beside.numbers["rows"][:4]
    assert alone.free is None
    assert "<dt>Controls</dt><dd>none</dd>" in alone._repr_html_().replace("&lt;", "<").replace("&gt;", ">")


OPTIONS = dict(zip(FUNCTIONS, (FinetuneOptions, EvolutionOptions, WindowOptions, CompareOptions), strict=True))


def members(kind):
    """The types of a union; a tuple's elements stand alone or in a sequence."""
    for each in typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,):
        if typing.get_origin(each) is tuple:
            element = typing.get_args(each)[0]
            yield from (element, Sequence[element])
        else:
            yield each


@every_function
def test_types_of_keyword_arguments_are_the_settings_own(function):
    of_settings = typing.get_type_hints(CONFIGS[function])
    own = {name: set(members(kind)) for name, kind in of_settings.items() if name not in {"model", "data", "fitness"}}
    own["select"].add(Sequence[str])
    if function is smd_evo.evolve:
        own["images"].add(int)  # 300, where there is no schedule
    if function in (smd_evo.evolve, smd_evo.finetune):
        own["subspace"].add(smd_evo.Subspace)
    assert {name: set(members(kind)) for name, kind in typing.get_type_hints(OPTIONS[function]).items()} == own


def test_a_type_checker_knows_the_keyword_arguments(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\nimport smd_evo\n"
        "network = torch.nn.Linear(2, 2)\n"
        "smd_evo.evolve(network, fitness=lambda module: 1.0, images=300, density=0.1).best\n"
        "smd_evo.finetune(network, None, childen=3)\n"
        "smd_evo.compare(network, None, budget='much')\n"
    )
    out, _, status = mypy.api.run(["--strict", "--config-file", str(ROOT / "pyproject.toml"), str(script)])
    wrong = [line for line in out.splitlines() if ": error: " in line]
    assert status == 1
    assert len(wrong) == 2, out
    assert ":5: " in wrong[0]
    assert '"childen"' in wrong[0]
    assert ":6: " in wrong[1]
    assert '"budget"' in wrong[1]
