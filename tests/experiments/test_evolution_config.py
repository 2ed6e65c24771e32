"""Settings of runs over generations: what is accepted, and what each mistake is told."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smd_evo.errors import InvalidValue, SmdEvoError
from smd_evo.experiments.generations.settings import (
    MAY_CHANGE,
    EvolutionConfig,
    check_generations,
    images_at,
    most_images,
)

GRADIENT, SELECTION, NEWTON = ({"searcher": name} for name in ("gradient", "selection", "newton"))


@st.composite
def schedules(draw):
    """From which generation on how many images, the first from 1."""
    starts = sorted(draw(st.sets(st.integers(2, 60), max_size=4)))
    return [(start, draw(st.integers(1, 900))) for start in (1, *starts)]


def written(schedule):
    (_, first), *later = schedule
    return ",".join([str(first), *(f"{count}@{start}" for start, count in later)])


@given(schedules(), st.integers(1, 80))
def test_images_are_those_of_the_last_part_that_has_begun(schedule, generation):
    expected = dict(schedule)[max(start for start, _ in schedule if start <= generation)]
    assert images_at(written(schedule), generation) == expected


@given(schedules(), st.integers(1, 80))
def test_the_most_images_are_those_of_some_generation_of_the_run(schedule, generations):
    text = written(schedule)
    assert most_images(text, generations) == max(images_at(text, each + 1) for each in range(generations))


def test_the_most_images_of_more_generations_than_anybody_could_count():
    assert most_images("300,1000@50,20@60", 10**30) == 1000


@given(schedules())
def test_a_schedule_survives_its_config(schedule):
    config = EvolutionConfig.read({"images": written(schedule), "device": "cpu"})
    assert EvolutionConfig.read(config.as_dict()) == config
    assert config.images == written(schedule)


@pytest.mark.parametrize(
    "text", ["", "0", "-5", "300,", ",300", "300@2", "300,100", "300,100@5,200@5", "300,100@5,200@4", "300,100@1"]
)
def test_a_schedule_that_is_none_is_refused(text):
    with pytest.raises(SmdEvoError, match=r"^images: expected") as caught:
        EvolutionConfig.read({"images": text, "device": "cpu"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["many", "3.5", "300@x", "300,100@", "300,100@2@3", [300]])
def test_a_schedule_of_something_else_is_refused(text):
    with pytest.raises(SmdEvoError, match=r"^images: expected"):
        EvolutionConfig.read({"images": text, "device": "cpu"})


BAD = [
    ({"generations": 0}, "generations: expected a whole number >= 1, got 0; try 100"),
    ({"generations": "many"}, "generations: expected a whole number >= 1, got 'many'; try 100"),
    ({"searcher": "gradiant"}, "searcher: expected one of gradient, selection, newton, got 'gradiant'; did you mean"),
    ({"children": 1}, "children: expected a whole number >= 2, got 1; try 32"),
    ({"children": 7}, "children: expected an even number for antithetic pairs, got 7; give 8"),
    ({"subspace": "tensors"}, "subspace: expected one of random, partition, neuron, tensor, random:DENSITY, dense, "),
    ({"density": 0}, "density: expected a finite number in (0, 1], got 0; over generations there is one, try 0.1"),
    ({"density": "0.1,0.3"}, "density: expected a number in (0, 1], got '0.1,0.3'; over generations there is one"),
    ({"density": [0.1, 0.3]}, "density: expected a number in (0, 1], got [0.1, 0.3]; over generations there is"),
    ({"sigma": -1}, "sigma: expected a finite number > 0, got -1; leave it out to have it calibrated"),
    ({"keep": 1}, "keep: expected a number in (0, 1), got 1"),
    ({"adapt_sigma": "yes", **SELECTION}, "adapt_sigma: expected true or false, got 'yes'"),
    ({"adapt_sigma": True}, "adapt_sigma: expected it with searcher selection, got it with gradient; leave it out"),
    ({"learning_rate": 0}, "learning_rate: expected a finite number > 0, got 0; leave it out for the default"),
    (
        {"learning_rate": 1, **SELECTION},
        "learning_rate: expected it with searcher gradient, got it with selection; leave it out",
    ),
    ({"ridge": 1}, "ridge: expected it with searcher newton, got it with gradient; leave it out"),
    ({"ridge": 0, **NEWTON}, "ridge: expected a finite number > 0, got 0; try 0.3"),
    ({"actors": 2, **NEWTON}, "actors: expected none with searcher newton, which needs outputs, got 2; leave it out"),
    ({"keep": 0.8, **NEWTON}, "keep: expected none with searcher newton, which has a calibration of its own"),
    (
        {"subspace": "random/neuron"},
        "subspace: expected a whole number >= 1, got ''; try within:head:dense/random@20",
    ),
    (
        {"subspace": "random/neuron@9", "generations": 8},
        "subspace: expected stages that begin within the 8 generations, got neuron from 9 on; give more generations",
    ),
    ({"subspace": "random/neuron@1"}, "subspace: expected later and later generations from 1 on"),
    (
        {"subspace": "random/neuro@9"},
        "subspace: expected one of random, partition, neuron, tensor, random:DENSITY, dense, lowrank:RANK, ",
    ),
    ({"fitness": "f2"}, "fitness: expected one of cross_entropy, accuracy, balanced_accuracy, macro_f1, "),
    ({"validate_every": 0}, "validate_every: expected a whole number >= 1, got 0; try 5"),
    ({"patience": 0}, "patience: expected a whole number >= 1, got 0; leave it out for the default"),
    ({"late_parents": -1}, "late_parents: expected a whole number >= 0, got -1; try 4"),
    ({"checkpoint_every": 0}, "checkpoint_every: expected a whole number >= 1, got 0; try 10"),
    ({"keep_checkpoints": 0}, "keep_checkpoints: expected a whole number >= 1, got 0; try 3"),
    (
        {"log": "csv,tensorbord"},
        "log: expected one of csv, tensorboard, mlflow, wandb, got 'tensorbord'; did you mean",
    ),
    ({"actors": -2}, "actors: expected a whole number >= 0, got -2; try 2"),
    ({"gpus_per_actor": 0.5}, "gpus_per_actor: expected it with actors, got 0 of them; give 2 or more"),
    ({"gpus_per_actor": -1, "actors": 2}, "gpus_per_actor: expected a finite number > 0, got -1"),
    ({"ray_address": "auto", "actors": 1}, "ray_address: expected it with actors, got 1 of them; give 2 or more"),
    ({"genrations": 5}, "setting: expected one of"),
]


@pytest.mark.parametrize(
    ("settings", "text"), BAD, ids=[" ".join(map(str, settings.values())) for settings, _ in BAD]
)
def test_a_mistake_is_told_on_one_line(settings, text):
    with pytest.raises(SmdEvoError) as caught:
        EvolutionConfig.read({"device": "cpu", **settings})
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"searcher": "selection", "children": 7, "adapt_sigma": True},
        {"searcher": "gradient", "children": 8, "learning_rate": "0.1", "adapt_sigma": False},
        {"late_parents": "0", "patience": "3", "log": "csv,csv,wandb", "sigma": "auto"},
        {"actors": "2", "gpus_per_actor": "0.5", "ray_address": "auto"},
    ],
    ids=repr,
)
def test_settings_come_back_from_what_is_stored(settings):
    config = EvolutionConfig.read({"device": "cpu", **settings})
    assert EvolutionConfig.read(config.as_dict()) == config


def test_a_logger_is_told_once():
    assert EvolutionConfig.read({"log": "csv,wandb,csv", "device": "cpu"}).log == ("csv", "wandb")


def test_those_that_may_change_are_settings():
    assert set(MAY_CHANGE) < {field.name for field in dataclasses.fields(EvolutionConfig)}
    assert not {"seed", "children", "images", "sigma", "searcher", "validate_every"} & set(MAY_CHANGE)


@pytest.mark.parametrize("name", ["patience", "images", "log", "checkpoint_every", "searcher", "actors"])
def test_settings_of_many_generations_are_refused_for_one(name):
    with pytest.raises(InvalidValue, match=f"^{name}: expected it with generations, got it without; give --gen"):
        check_generations({"children": "5", name: "3"})


@pytest.mark.parametrize("name", ["controls", "race"])
def test_settings_of_one_are_refused_for_many(name):
    with pytest.raises(InvalidValue, match=f"^{name}: expected it for a single generation, got it with generations"):
        check_generations({"generations": "5", name: True})


def test_settings_of_a_single_one_are_not():
    check_generations({"children": "5", "density": "0.1,0.3", "sigma": "0.1", "select": "head"})


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_there_is_one_cpu(name):
    assert EvolutionConfig.read({"device": name}).device == "cpu"
