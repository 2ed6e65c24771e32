"""Problems and populations that the tests of EvoTorch's side share."""

import pickle
from functools import cache

import pytest
import torch
from helpers import SmallNet
from torch import nn

from smd_evo import FinetuneProblem, RandomSubspace, SparseDelta, gaussian
from smd_evo.errors import InvalidType, SmdEvoError, UnsupportedParameter
from smd_evo.evaluation.probe import tried
from smd_evo.zoo import load

RULE = RandomSubspace(0.2)


def make(kind, network, data=None, fitness="cross_entropy", **options):
    own = {"steps": 2} if kind is FinetuneProblem else {"dimensions": 20}
    return kind(network, data, fitness, **{"seed": 1} | own | options)


def population(problem, count=6, sigma=0.3, key=0, **options):
    """Children of the present parent."""
    if isinstance(problem, FinetuneProblem):
        return problem.mutate(problem.generate_batch(count), key=key, subspace=RULE, sigma=sigma, **options)
    batch = problem.generate_batch(count)
    noise = gaussian(key, torch.arange(count * problem.solution_length, device=problem.device), torch.float64)
    batch.set_values((sigma * noise).float().view(count, -1))
    return batch


def core_children(problem, batch):
    """What the core makes of solutions, said without the problem's own evaluation."""
    if isinstance(problem, FinetuneProblem):
        return problem.lineages(batch)
    layout = problem.space.layout
    coordinates = problem.subspace.coordinates(problem.subspace.draw(problem.key, problem.changes), layout)
    factors = layout.scales(coordinates) if problem.scale == "relative" else torch.ones(len(coordinates))
    return [SparseDelta(coordinates, (row * factors).float()) for row in batch.values.clone().cpu()]


def evals(batch):
    return batch.evals[:, 0].tolist()


def evaluated(problem, batch):
    problem.evaluate(batch)
    return evals(batch)


def passes(problem):
    """A list that grows by an element for each forward pass: for each child, as the data are one batch.

    That the weights matter has been tried before.
    """
    calls: list[int] = []
    tried.add(problem.space)
    problem.space.module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


class Counting(nn.Module):
    """A network that knows how often any copy of it was called."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 3)

    def forward(self, x):
        Counting.calls += 1
        return self.layer(x.flatten(1))


FOUR = torch.zeros(4, 16), torch.zeros(4, dtype=torch.int64)
"""Samples for it."""


def check_refused(call, kind, message):
    """A one-line error of the package that is also the built-in one, before any forward pass."""
    before = Counting.calls
    with pytest.raises(kind, match=message) as caught:
        call()
    assert isinstance(caught.value, SmdEvoError)
    assert isinstance(caught.value, TypeError if kind in (InvalidType, UnsupportedParameter) else ValueError)
    assert "\n" not in str(caught.value)
    assert Counting.calls == before


@cache
def demo():
    """A real parent, and a hundred real samples."""
    network, data = load("demo-cnn", "digits")
    return network, tuple(part[:100] for part in data.fitness)


class Heavy(SmallNet):
    """A parent of 80 kB that knows how often it was pickled or copied, and fails if a weight is above a million."""

    pickles = 0

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 3))

    def __reduce_ex__(self, protocol):
        Heavy.pickles += 1
        return super().__reduce_ex__(protocol)

    def forward(self, x):
        if float(self.conv.weight.abs().max()) > 1e6:
            raise RuntimeError("broken")
        return super().forward(x)
