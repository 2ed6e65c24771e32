"""Ctrl-C at every line: modes, random states, inference and grad mode, weights, buffers and turns are as before."""

import os
import random
import sys
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from helpers import CARRIES, state_bits
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import smd_evo
from smd_evo import Evaluator, ModuleFitness, Objectives, ParameterSpace, SparseDelta, SparseEnsemble
from smd_evo.core.exclusive import _blocks
from smd_evo.evaluation import probe, sharing, together
from smd_evo.evaluation.stream import Stream
from smd_evo.evaluation.visit import visit

pytestmark = CARRIES

WATCHED = (
    os.path.dirname(smd_evo.__file__) + os.sep,
    torch.autograd.grad_mode.__file__,
    torch.random.__file__,
    torch._functorch.vmap.__file__,
)


class Restless(nn.Module):
    """Draws numbers of every kind and changes buffers, one of them so that its version does not tell."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("calls", torch.zeros(()))
        self.generator = np.random.default_rng(1)

    def forward(self, x):
        self.calls += 1
        functional.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True)
        numbers = torch.randn(2) + np.random.rand() + random.random() + self.generator.random()
        return self.norm(self.layer(x)) + numbers


class Layered(Restless):
    """The same but for the batch normalisation, whose statistics come from the layer before: that is not shared."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        self.calls += 1
        numbers = torch.randn(2) + np.random.rand() + random.random() + self.generator.random()
        return self.head(self.norm(self.layer(x))) + numbers


class Quiet(nn.Module):
    """Draws and changes nothing."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)
        self.generator = np.random.default_rng(1)

    def forward(self, x):
        return self.head(self.norm(self.layer(x)))


def everything(network):
    kept, numpy = network.generator.bit_generator.state, np.random.get_state()
    return {
        "bits": {name: bits.numpy().tobytes() for name, bits in state_bits(network).items()},
        "modes": [part.training for part in network.modules()],
        "attributes": [list(vars(part)) for part in network.modules()],
        "gradients": [weight.requires_grad for weight in network.parameters()],
        "torch": torch.get_rng_state().numpy().tobytes(),
        "random": random.getstate(),
        "numpy": (numpy[1].tobytes(), numpy[2]),
        "generator": kept,
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dispatch": len(_get_current_dispatch_mode_stack()),
        "parameters": [*map(id, network.parameters())],
        "vmap": (
            torch._C._functorch.get_dynamic_layer_stack_depth(),
            torch._C._functorch._is_vmap_fallback_enabled(),
        ),
        "turns": (len(_blocks.held), len(_blocks.waiting)),
    }


@contextmanager
def watched(at_line, wanted):
    """Calls a function at every line of some code, in this thread."""

    def line(frame, event, _):
        if event == "line":
            at_line(frame)
        return line

    before = sys.gettrace()
    sys.settrace(lambda frame, event, _: line if wanted(frame.f_code) else None)
    try:
        yield
    finally:
        sys.settrace(before)
        while torch._C._len_torch_function_stack():  # as in conftest.py; each that stays slows all tensors
            torch.overrides._pop_mode()


def lines(act):
    """The lines of this package and of torch's contexts that an action runs: each, and the way that led to it."""
    met = []

    def note(frame):
        code, number, way = frame.f_code, frame.f_lineno, []
        while frame and frame.f_code is not act.__code__:
            if frame.f_code.co_filename.startswith(WATCHED):
                way.append((frame.f_code, frame.f_lineno))
            frame = None if frame.f_code is visit.__code__ else frame.f_back  # whatever is visited for
        met.append(((code, number), tuple(way)))

    with watched(note, lambda code: code.co_filename.startswith(WATCHED)):
        act()
    return met


def moments(act, known, files):
    """Where to interrupt an action: at each line where it is met first, and last, by ways that are not known."""
    times, found = Counter(), {}
    for line, way in lines(act):
        times[line] += 1
        if way not in known and line[0].co_filename.endswith(files):
            found.setdefault(line, []).append(times[line])
    return [(*line, time) for line, met in found.items() for time in sorted({met[0], met[-1]})]


def interrupted(act, code, number, time):
    """The KeyboardInterrupt that comes out of an action if one is raised when it gets to a line for the n-th time."""
    left = iter(range(time)[::-1])

    def interrupt(frame):
        if frame.f_lineno == number and not next(left):
            sys.settrace(None)
            raise KeyboardInterrupt

    try:
        with watched(interrupt, lambda other: other is code):
            act()
    except KeyboardInterrupt as caught:
        return caught
    return None


def try_the_weights_first(network, data, children):
    return lambda: Evaluator(network, data).evaluate([])


def of_tried_weights(network, data, **options):
    """An evaluator that need not try them, which would take most of the time."""
    evaluator = Evaluator(network, data, **options)
    probe.tried.add(evaluator.space)
    return evaluator


def evaluate(network, data, children):
    return lambda: of_tried_weights(network, data).evaluate(children)


def evaluate_on_a_stream(network, data, children):
    stream = Stream(*data)
    return lambda: of_tried_weights(network, stream, batch_size=2).evaluate(children)


def evaluate_the_network_itself(network, data, children):
    fitness = ModuleFitness("weight", "min", lambda module: float(module.train().layer.weight.sum()))
    return lambda: Evaluator(network, fitness=fitness).evaluate(children)


def evaluate_what_children_share_once(network, data, children):
    of_the_head = [SparseDelta(torch.tensor([11]), torch.tensor([value])) for value in (0.5, 1.0)]

    def act():
        evaluator = of_tried_weights(network, data, reuse=True)
        evaluator.evaluate(of_the_head)
        assert sharing._known[evaluator.space].checked

    return act


def evaluate_heads(network, data, children):
    of_the_head = [SparseDelta(torch.tensor([1]), torch.tensor([value])) for value in (0.5, 1.0)]

    def act():
        evaluator = of_tried_weights(network, data, select="head")
        evaluator.evaluate(of_the_head)
        assert evaluator.features.kept.counted

    return act


def evaluate_together(network, data, children):
    def act():
        evaluator = of_tried_weights(network, data, together=2)
        evaluator.evaluate(children)
        assert [reason for reason, _ in together._known[evaluator.space].tried.values()] == [""]

    return act


def evaluate_objectives(network, data, children):
    objectives = Objectives(["accuracy", "cross_entropy", "change_norm"])
    return lambda: objectives.evaluate(objectives.evaluator(network, data, reuse=False), children)


def predict(network, data, children):
    return lambda: of_tried_weights(network, data).predict(children)


def ensemble(network, data, children):
    made = SparseEnsemble(network, children)
    network.train()
    network.norm.eval()

    def act():
        network.generator = np.random.default_rng(1)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()
        try:
            return made(data[0])
        finally:  # it draws numbers as any network does
            sys.settrace(None)
            torch.set_rng_state(before[0])
            random.setstate(before[1])
            np.random.set_state(before[2])
            network.generator = np.random.default_rng(1)

    return act


def soup(network, data, children):
    space = ParameterSpace(network)
    return lambda: smd_evo.soup(space, children)


def fingerprint(network, data, children):
    return ParameterSpace(network).fingerprint


def values(network, data, children):
    return lambda: ParameterSpace(network).values_of(children[0])


LAYERS = {
    evaluate_what_children_share_once: (Layered, ("reuse.py", "sharing.py", "dispatch.py")),
    evaluate_heads: (Quiet, ("heads.py", "trunk.py", "features.py")),
    evaluate_objectives: (Quiet, ("objectives.py", "applying.py", "patches.py", "elements.py", "exact.py")),
    evaluate_together: (Quiet, ("together.py", "stack.py", "trial.py", "vmap.py")),
}
"""Networks that some are about, and the lines; others are those of others."""

LIKE = {
    evaluate: [try_the_weights_first],
    evaluate_on_a_stream: [try_the_weights_first, evaluate],
    predict: [try_the_weights_first, evaluate],
}
"""What gets to a line as one of these does, by the same calls, is not interrupted there once more."""


def prepared(make):
    """A network, and what is done with it; what is imported and tried once has been."""
    torch.manual_seed(0)
    kind, files = LAYERS.get(make, (Restless, ("",)))
    network, data = kind().train(), (torch.randn(4, 2), torch.arange(4) % 2)
    network.norm.eval()
    act = make(network, data, [SparseDelta(torch.tensor([0, 5]), torch.tensor([1.0, -1.0]))])
    act()
    return network, act, files


@pytest.mark.parametrize(
    "make",
    [
        try_the_weights_first,
        evaluate,
        evaluate_on_a_stream,
        evaluate_what_children_share_once,
        evaluate_heads,
        evaluate_together,
        evaluate_the_network_itself,
        evaluate_objectives,
        predict,
        ensemble,
        soup,
        fingerprint,
        values,
    ],
)
def test_at_every_line(make):
    known = {way for other in LIKE.get(make, ()) for _, way in lines(prepared(other)[1])}
    network, act, files = prepared(make)
    before = everything(network)
    found = moments(act, known, files)
    for code, number, time in found:
        kept = interrupted(act, code, number, time)  # with its traceback: what ends only with that has not ended here
        after = everything(network)
        different = [name for name in before if after[name] != before[name]]
        assert not different, f"{code.co_filename}:{number}, time {time}: {different}"
        del kept
    assert len(found) > 50
