"""Methods that begin where what is free ends."""

import pytest
import torch
from helpers import blobs, same_bits, state_bits, trained
from torch import nn

from smd_evo import ParameterSpace
from smd_evo.controls.batchnorm import blended, statistics_of
from smd_evo.core.mutation import Lineage
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.experiments.compare.methods.base import Task
from smd_evo.experiments.compare.methods.registry import find_method

pytestmark = pytest.mark.numeric

SAMPLES = blobs(90, shift=2.5)
SETTINGS = {
    "adapted-es": {"sigma": 1.0, "rate": 0.2},
    "adapted-norm-bias-es": {"sigma": 1.0, "rate": 0.2},
    "adapted-newton": {"depth": 1.0, "ridge": 0.1, "children": 6, "images": 50},
}
every_method = pytest.mark.parametrize("name", SETTINGS)


def task(network=None, budget=4000):
    return Task(ParameterSpace(network or trained()), SAMPLES, "cross_entropy", 8, 30, budget, seed=1)


@every_method
def test_its_first_step_is_a_look_at_all_images(name):
    own = task()
    method = find_method(name)(own, share=0.75, **SETTINGS[name])
    start = method.predict(SAMPLES)
    assert torch.equal(start, own.parent.predict([Lineage()])[0])
    assert method.cost == 90
    method.step()
    assert (method.work.images, method.work.forwards) == (90, 90)
    parent = own.space.module
    adapted = blended(parent, statistics_of(parent, own.parent.batches), 0.75)
    assert torch.equal(method.predict(SAMPLES), Evaluator(adapted, SAMPLES).predict([Lineage()])[0])


@every_method
def test_then_it_is_the_other_method_from_there(name):
    own = task()
    before = state_bits(own.space.module)
    method = find_method(name)(own, share=1.0, **SETTINGS[name])
    method.step()
    adapted, before_step = method.predict(SAMPLES), method.work.images
    cost = method.cost
    assert cost == (300 if name == "adapted-newton" else 240)
    method.step()
    assert cost <= method.work.images - before_step <= cost + 90  # some look at the parent, too
    assert not torch.equal(method.predict(SAMPLES), adapted)
    assert own.calibration > 0
    assert same_bits(state_bits(own.space.module), before)


def test_early_newton_moves_the_first_vectors_alone():
    own = task()
    method = find_method("early-newton")(own, depth=0.34, ridge=0.1, children=6, images=50)
    method.step()
    moved = dict(method.problem.make_net().named_parameters())
    changed = [name for name, tensor in own.space.module.named_parameters() if not torch.equal(moved[name], tensor)]
    assert changed == ["bn.weight"]  # of three vectors, the first


def test_a_generation_is_no_larger_than_the_budget():
    method = find_method("head-newton")(task(budget=900), ridge=0.1, children=30, images=3000)
    assert method.cost == 900


@every_method
def test_without_normalisations_it_is_refused(name):
    bare = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(InvalidValue, match="methods: expected batch normalisations with statistics of"):
        find_method(name)(task(bare), share=1.0, **SETTINGS[name])
