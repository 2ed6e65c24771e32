"""State and history of a run as somebody may have changed them: taken or refused in one line, never half believed."""

import copy
import random

import pytest
import torch
from evolution_helpers import SEARCHERS, TINY
from junk_helpers import ODD, changed_tensor, little_memory, settled

from smd_evo.core.parameters import ParameterSpace
from smd_evo.errors import SmdEvoError
from smd_evo.experiments.folders.content import wrong_state
from smd_evo.experiments.generations.run import Evolution
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.integrations.evotorch.history import decoded
from smd_evo.integrations.evotorch.replica import Replica


@pytest.fixture(scope="module", params=["gradient", "selection", "newton", "stages"])
def run(request):
    """A run after two generations, and its history."""
    found = Evolution(EvolutionConfig.read(TINY | SEARCHERS[request.param]))
    found.begin()
    for _ in range(2):
        found.step()
    return found, copy.deepcopy(found.state_dict()), found.history(0)


def places(value, path=()):
    """All places in nested values, outermost first."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inside:
        yield (*path, name)
        yield from places(item, (*path, name))


def put(value, path, new):
    for name in path[:-1]:
        value = value[name]
    if new is KeyError:
        del value[path[-1]]
    else:
        value[path[-1]] = new


def changes(chance, value, count):
    """Copies with something else, or nothing, in one place."""
    every = list(places(value))
    for path in [*every[:25], *(chance.choice(every) for _ in range(count))]:
        other = copy.deepcopy(value)
        at = other
        for name in path:
            at = at[name]
        new = changed_tensor(chance, at) if isinstance(at, torch.Tensor) else chance.choice((*ODD, KeyError))
        put(other, path, copy.deepcopy(new) if new is not KeyError else new)
        yield other


def test_states(run):
    evolution, state, _ = run
    before = evolution.space.fingerprint()

    def load(other):
        with wrong_state("a checkpoint"):
            evolution.load_state_dict(other)
        return evolution

    refused = 0
    with little_memory():
        for other in changes(random.Random(1), state, 30):
            refused += isinstance(settled(load, other), SmdEvoError)
    assert refused > 5
    load(copy.deepcopy(state))
    assert evolution.space.fingerprint() == before
    assert evolution.step().generation == 3


def test_an_optimizer_that_asks_for_terabytes(run):
    evolution, state, _ = run
    if state["searcher"].get("optimizer") is None:
        return
    other = copy.deepcopy(state)
    other["searcher"]["optimizer"]["exp_avg"] = torch.zeros(1).expand(10**13)
    with pytest.raises(SmdEvoError, match="optimizer: expected at most D = "):
        evolution.load_state_dict(other)


def test_histories(run):
    evolution, _, history = run

    def replay(changed):
        replica = Replica(ParameterSpace(evolution.problem.make_net(), "all"))
        with wrong_state("a history"):
            for change in changed:
                replica.apply(decoded(change))
        return replica

    refused = 0
    with little_memory():
        for changed in changes(random.Random(2), history, 25):
            refused += isinstance(settled(replay, changed), SmdEvoError)
    assert refused > 5
    assert isinstance(settled(replay, history), Replica)
