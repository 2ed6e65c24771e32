"""What the tests of DEAP's side share: a parent and its data, toolboxes, refusals."""

import os

import numpy as np
import pytest
from deap import base, tools
from helpers import blobs, state_bits, trained

from smd_evo import ToolboxEvaluator, cxLineage, mutSparseGaussian
from smd_evo.errors import SmdEvoError

SAMPLES = blobs(shift=2.5)
"""Of these the parent is right about two of three."""


def evaluator_of(fitness="cross_entropy", network=None, data=SAMPLES, **options):
    return ToolboxEvaluator(trained() if network is None else network, data, fitness, **options)


def toolbox_of(evaluator, mate=cxLineage, select=tools.selBest, **mutation):
    toolbox = base.Toolbox()
    toolbox.register("evaluate", evaluator.evaluate)
    toolbox.register("map", evaluator.map)
    toolbox.register("mate", mate)
    toolbox.register("mutate", mutSparseGaussian, **{"mu": 0, "sigma": 0.3, "density": 0.1} | mutation)
    toolbox.register("select", select)
    return toolbox


def lineages(evaluator, count=6):
    """The parent, and children of one mutation, of two, ..."""
    toolbox, population = toolbox_of(evaluator), [evaluator.lineage()]
    while len(population) < count:
        population.append(*toolbox.mutate(toolbox.clone(population[-1])))
    return population


def hall(size=1):
    return tools.HallOfFame(size, similar=same)


def same(one, other):
    """Equality of individuals of any kind."""
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def values(population):
    return [individual.fitness.values for individual in population]


def check_refused(call, kind, message):
    """A one-line error of the package that is also the built-in one."""
    with pytest.raises(kind, match=message) as caught:
        call()
    assert isinstance(caught.value, SmdEvoError)
    assert isinstance(caught.value, ValueError | TypeError)
    assert "\n" not in str(caught.value)


def where_and_what(evaluator, individual):
    """A worker's network, whether it is shared with others, and its fitness of an individual."""
    network = evaluator.evaluator.space.module
    shared = any(tensor.is_shared() for tensor in network.state_dict().values())
    return os.getpid(), shared, state_bits(network), evaluator.evaluate(individual)
