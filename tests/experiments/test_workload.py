"""What is to be evaluated, told beforehand: never less than what is evaluated then, exact where nothing is open."""

from contextlib import suppress

import pytest
import torch
from evolution_helpers import SEARCHERS, TINY
from helpers import SmallNet, blobs, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from smd_evo import RandomSubspace
from smd_evo.errors import InvalidValue
from smd_evo.evaluation import heads, sharing, visit
from smd_evo.evaluation.calibration import calibrate_sigma, calibration_cost
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import ModuleFitness
from smd_evo.experiments import speed
from smd_evo.experiments.compare import files as module
from smd_evo.experiments.compare.files import compare
from smd_evo.experiments.compare.methods.registry import CONTROLS
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.ensembles.run import score_ensembles
from smd_evo.experiments.finetune.run import finetune
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.generations.results import finish
from smd_evo.experiments.generations.run import Evolution
from smd_evo.experiments.generations.settings import EvolutionConfig, images_at, phases
from smd_evo.experiments.progress import Silent
from smd_evo.experiments.window.run import measure_window
from smd_evo.experiments.window.settings import WindowConfig

PLACE = {name: TINY[name] for name in ("model", "data", "device", "fitness_samples", "validation_samples", "seed")}


class Watch(Silent):
    """Counts the images that networks see from the moment on at which it is told how many there will be."""

    workload, images = None, 0

    def expect(self, workload):
        self.workload, self.images = workload, 0

    def see(self, module, inputs):
        if isinstance(module, SmallNet):
            self.images += len(inputs[0])

    def counts(self):
        return {part.name: part.count for part in self.workload.parts}


@pytest.fixture
def watch(monkeypatch):
    monkeypatch.setattr(speed, "seconds_per_image", lambda evaluator: 0.0)
    monkeypatch.setattr(visit, "probe", lambda *_: None)  # of each network, once, a few samples
    for part in (sharing, heads):  # what is recorded is seen once more
        monkeypatch.setattr(part, "unfit", lambda _: "a test that counts")
    found = Watch()
    hook = torch.nn.modules.module.register_module_forward_pre_hook(found.see)
    yield found
    hook.remove()


def assert_told(watch):
    certain = sum(part.count * part.images for part in watch.workload.parts if not part.bound)
    assert certain <= watch.images <= watch.workload.evaluations


@pytest.mark.parametrize(
    "more", [{"also": PLACE["data"]}, {"sigma": 0.1, "subspace": "tensor", "density": None}], ids=["also", "tensor"]
)
def test_finetune(watch, more):
    wanted = PLACE | {"children": 6, "density": [0.3, 0.1]} | more
    result = finetune(FinetuneConfig.read({name: value for name, value in wanted.items() if value}), watch)
    assert_told(watch)
    for part in ("", "free, "):
        assert watch.counts().get(f"{part}also") == (watch.counts()[f"{part}test"] if "also" in more else None)
    assert watch.counts()["children"] == len(result.arms) * result.evaluations["children of each arm"]
    calibrated = sum(count for name, count in result.evaluations.items() if name.startswith("calibration"))
    assert calibrated <= watch.counts()["calibration"]
    shortlists = [arm.group.shortlist(arm.name, result.space.fingerprint()) for arm in result.arms]
    score_ensembles(result.config, shortlists, progress=watch)
    assert not watch.workload.bound
    assert watch.images == watch.workload.evaluations


@pytest.mark.parametrize("name", SEARCHERS)
def test_generations(watch, name):
    evolution = Evolution(EvolutionConfig.read(TINY | SEARCHERS[name]), watch)
    evolution.begin()
    while not evolution.stopped:
        record = evolution.step()
    finish(evolution)
    assert_told(watch)
    children = [part for part in watch.workload.parts if part.name == "children and parents"]
    assert sum(part.count * part.images for part in children) == record.image_evaluations


def test_what_is_left_of_generations(watch):
    evolution = Evolution(EvolutionConfig.read(TINY | {"sigma": None}), watch)
    evolution.begin()
    for _ in range(4):
        before = evolution.step()
    evolution.announce(4)
    while not evolution.stopped:
        record = evolution.step()
    finish(evolution)
    assert_told(watch)
    assert "calibration" not in watch.counts()
    assert watch.counts()["children and parents"] * 40 == record.image_evaluations - before.image_evaluations


@pytest.mark.parametrize("sigma", [None, (0.1, 1.0)])
def test_window(watch, sigma):
    config = WindowConfig(children=12, density=(1.0, 0.1), sigma=sigma, seed=3)
    ranker = Evaluator(trained(), blobs(90, shift=1.5, key=4), "accuracy")
    measure_window(config, ranker, ranker.on(blobs(70, shift=1.5, key=5)), watch)
    assert_told(watch)


def test_compare(watch, tmp_path, monkeypatch):
    """And of a comparison that goes on what is not there yet."""
    for name in ("summarise", "_write"):  # the slowest parts
        monkeypatch.setattr(module, name, lambda *_: None)
    settings = PLACE | {"methods": "smd-ensemble", "budget": 800, "images": 20, "children": 8, "trials": 1}
    settings |= {"checkpoints": 1}
    for seeds, runs in ((2, 2 * (2 + len(CONTROLS))), (3, 2 + len(CONTROLS)), (3, None)):
        compare(CompareConfig.read(settings | {"seeds": seeds}), tmp_path, 1, watch)
        assert watch.images <= watch.workload.evaluations
        assert watch.counts().get("reported runs") == runs
    assert str(watch.workload) == "image evaluations to come: none, all of it is there"


@settings(max_examples=10)
@given(st.integers(-8, 6), st.floats(0.5, 0.99), st.integers(2, 9), st.integers(0, 6))
def test_a_calibration_costs_no_more_than_it_says(scale, keep, children, bisections):
    """Of networks that break at any strength whatever, or at none."""
    network = torch.nn.Linear(4, 1)
    before = network.weight.detach().clone()

    def score(module):
        return 1 / (1 + float((module.weight - before).abs().max()) / 10**scale)

    judge = Evaluator(network, fitness=ModuleFitness("score", "max", score))
    count = []
    with suppress(InvalidValue):
        calibrate_sigma(
            judge,
            RandomSubspace(0.5),
            keep,
            children=children,
            bisections=bisections,
            progress=lambda: count.append(1),
        )
    assert len(count) < calibration_cost(children, bisections)  # the parent is one more


@given(st.sampled_from(["300", "300,1000@50", "1,2@2,3@40,4@41"]), st.integers(1, 60), st.integers(0, 60))
def test_phases_are_the_generations_one_by_one(schedule, first, more):
    found = [images for count, images in phases(schedule, first, first + more) for _ in range(count)]
    assert found == [images_at(schedule, number) for number in range(first, first + more + 1)]


def test_a_billion_generations_are_told_at_once():
    assert phases("300,1000@50", 1, 10**9) == [(49, 300), (10**9 - 49, 1000)]


def test_the_time_is_measured_and_changes_nothing():
    network = trained()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    assert speed.seconds_per_image(Evaluator(network, blobs(300, shift=1, key=1))) > 0
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
