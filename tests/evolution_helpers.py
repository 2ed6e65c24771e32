"""A tiny parent, its data, and settings: a generation takes a few milliseconds."""

import torch
from helpers import blobs, trained

TINY = {
    "model": "evolution_helpers:network",
    "data": "evolution_helpers:data",
    "device": "cpu",
    "fitness_samples": 60,
    "validation_samples": 60,
    "children": 6,
    "images": "20,40@3",
    "sigma": 0.1,
    "density": 0.2,
    "validate_every": 2,
    "late_parents": 2,
    "checkpoint_every": 2,
    "generations": 7,
    "seed": 3,
}
SEARCHERS = {
    "gradient": {"searcher": "gradient"},
    "selection": {"searcher": "selection"},
    "selection, sigma adapted": {"searcher": "selection", "adapt_sigma": True},
    "sigma found, partition": {"searcher": "gradient", "sigma": None, "subspace": "partition"},
    "newton": {"searcher": "newton", "sigma": None, "calibrated": True},
    "stages": {"searcher": "gradient", "subspace": "within:head:dense/unit:layer:random@4"},
    "stages of selection": {"searcher": "selection", "sigma": None, "subspace": "within:head:dense/random@3"},
    "by accuracy": {"searcher": "gradient", "fitness": "accuracy"},
}


def network(classes):
    """It knows blobs that are not shifted."""
    return trained()


def data():
    """Blobs that are: 180 to train on, 60 to test."""
    return tuple(list(zip(*blobs(count, 2.5, key), strict=True)) for count, key in ((180, 1), (60, 5)))


def other_network(classes):
    """One that was trained a little more."""
    network = trained()
    with torch.no_grad():
        network.head.bias[0] += 1e-3
    return network


def other_data():
    """With one label changed."""
    train, test = data()
    image, target = train[0]
    return [(image, (target + 1) % 3), *train[1:]], test


def options(settings):
    """Settings as the command line takes them."""
    given = {name.replace("_", "-"): value for name, value in settings.items() if value not in (None, False)}
    return [part for name, value in given.items() for part in (f"--{name}", *([] if value is True else [str(value)]))]
