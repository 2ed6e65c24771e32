"""SubspaceNewton: each step against one written out from the evaluator's own predictions."""

import math
import warnings

import pytest
import torch
from evotorch_helpers import evals, passes
from helpers import blobs, same_bits, trained
from torch import nn

from smd_evo import (
    BatchFitness,
    Dense,
    Evaluator,
    FinetuneProblem,
    Lineage,
    LowRank,
    ModuleFitness,
    NeuronSubspace,
    PartitionSubspace,
    RandomSubspace,
    SubspaceNewton,
    UnitSubspace,
    sample_mutations,
)
from smd_evo.core.newton import CrossEntropy, calibrations, solve_weights, unit_directions
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.data import minibatch
from smd_evo.evaluation.fitness import TotalFitness
from smd_evo.evaluation.response import RESPONSE_COST, calibrate_response
from smd_evo.evaluation.stream import Stream
from smd_evo.integrations.evotorch import evaluated
from smd_evo.integrations.evotorch import newton as module
from smd_evo.integrations.evotorch.history import decoded, encoded
from smd_evo.integrations.evotorch.keys import draw_key

pytestmark = pytest.mark.numeric

SAMPLES = blobs(shift=2.5)
RULES = {
    "dense": Dense(),
    "random": RandomSubspace(0.2),
    "static": RandomSubspace(0.2, static=True),
    "partition": PartitionSubspace(3),
    "neurons": NeuronSubspace(0.3),
    "low rank": LowRank(1),
}


def problem_of(fitness="cross_entropy", network=None, data=SAMPLES, **options):
    return FinetuneProblem(trained() if network is None else network, data, fitness, seed=1, **options)


def vector(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).double()


def stepped(problem, **settings):
    searcher = SubspaceNewton(problem, **({"popsize": 8, "subspace": Dense(), "sigma": 0.02} | settings))
    searcher.step()
    return searcher


def loss(network, data=SAMPLES):
    with torch.no_grad():
        return float(nn.functional.cross_entropy(network.eval()(data[0]), data[1]))


@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_step_is_the_one_written_out(rule, scale):
    problem, ridge = problem_of(), 0.2
    key, before = draw_key(problem_of()), vector(problem.make_net())
    children = sample_mutations(key, 8, subspace=rule, sigma=0.02, scale=scale)
    layout = problem.space.layout
    outputs = Evaluator(problem.make_net(), SAMPLES).predict([Lineage(), *children]).double()
    changes = outputs[1:] - outputs[0]
    lengths = changes.square().mean((1, 2)).sqrt()
    directions = changes / lengths.view(-1, 1, 1)
    weights = solve_weights(outputs[0], directions, CrossEntropy(SAMPLES[1]), ridge).weights / lengths
    expected = before.clone()
    for child, weight in zip(children, weights, strict=True):
        delta = child.delta(layout)
        expected[delta.indices] += weight * delta.values.double()
    searcher = stepped(problem, subspace=rule, ridge=ridge, scale=scale)
    after = vector(problem.make_net())
    assert float((after - before).norm()) > 1e-2
    assert torch.allclose(after, expected, atol=1e-3 * float((expected - before).norm()))
    assert evals(searcher.population) == Evaluator(trained(), SAMPLES).evaluate(children).fitness.tolist()


@pytest.mark.parametrize("subspace", [UnitSubspace("layer", RandomSubspace(0.5)), UnitSubspace(1, Dense())])
def test_the_step_mixes_the_very_children_that_were_evaluated(subspace):
    """Whose units the searcher has chosen, by what their like have gained."""
    problem = problem_of()
    searcher = SubspaceNewton(problem, popsize=12, subspace=subspace, sigma=0.05, ridge=0.05)
    losses, chances = [loss(problem.make_net())], searcher.unit_chances
    for number in range(3):
        searcher.step()
        assert problem.changes == number + 1
        (change,) = problem.changes_since(number)
        children = [lineage.steps[0] for lineage in problem.lineages(searcher.population)]
        assert change.mutations() == children
        assert encoded(decoded(encoded(change))) == encoded(change)
        assert decoded(encoded(change)).mutations() == children
        losses.append(loss(problem.make_net()))
    assert losses[-1] < losses[0]
    assert searcher.unit_chances != chances


def test_an_interrupted_step_has_taught_nothing_of_units(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    searcher = SubspaceNewton(problem_of(), popsize=12, subspace=UnitSubspace(1, Dense()), sigma=0.05)
    chances = searcher.unit_chances
    with monkeypatch.context() as patch:
        patch.setattr(module, "solve_weights", interrupted)
        with pytest.raises(KeyboardInterrupt):
            searcher.step()
    assert searcher.unit_chances == chances
    searcher.step()
    assert searcher.unit_chances != chances


def test_the_last_layer_needs_few_steps():
    """Where all is linear a step of as many directions as coordinates is nearly the minimum itself."""
    network = nn.Linear(16, 3)
    problem = problem_of(network=network, data=(SAMPLES[0].flatten(1), SAMPLES[1]))
    start = loss(network, (SAMPLES[0].flatten(1), SAMPLES[1]))
    stepped(problem, popsize=80, ridge=1e-3)
    assert loss(problem.make_net(), (SAMPLES[0].flatten(1), SAMPLES[1])) < 0.2 * start


@pytest.mark.parametrize("fitness", ["accuracy", "balanced_accuracy", "macro_f1"])
def test_what_counts_hits_moves_by_cross_entropy(fitness):
    hits, entropy = problem_of(fitness), problem_of()
    searcher = stepped(hits)
    stepped(entropy)
    assert same_bits(hits.make_net().state_dict(), entropy.make_net().state_dict())
    assert searcher.status["parent_eval"] == Evaluator(trained(), SAMPLES, fitness).evaluate([Lineage()]).parent


@pytest.mark.parametrize("sense", ["min", "max"])
def test_a_users_own_score_is_differentiated(sense):
    sign = 1 if sense == "min" else -1
    hot = nn.functional.one_hot(SAMPLES[1], 3).float()
    own = BatchFitness("error", sense, lambda out, true: sign * (out - true).square())
    problem = problem_of(own, data=(SAMPLES[0], hot))
    searcher = stepped(problem)
    before = searcher.status["parent_eval"]
    searcher.step()
    assert sign * searcher.status["parent_eval"] < 0.9 * sign * before


def test_samples_of_no_class_do_not_count():
    """The mean is over twice as many then, as in the fitness, which half of the ridge makes up for."""
    inputs, targets = SAMPLES
    twice = torch.cat([inputs, inputs]), torch.cat([targets, torch.full_like(targets, -100)])
    with_them, without = problem_of(data=twice), problem_of()
    stepped(with_them, ridge=0.1)
    stepped(without, ridge=0.2)
    start, found, expected = (vector(p.make_net()) for p in (problem_of(), with_them, without))
    assert torch.allclose(found, expected, atol=1e-3 * float((expected - start).norm()))


HARD = BatchFitness("hits", "max", lambda out, true: (out.argmax(1) == true).double())
SUMS = TotalFitness("sums", "max", lambda out, _: out.sum(0), lambda sums: sums.sum(-1))
REFUSED = {
    "a module's": (ModuleFitness("reward", "max", lambda _: 1.0), "reward"),
    "hits": (HARD, "hits"),
    "of all samples together": (SUMS, "sums"),
}


@pytest.mark.parametrize(("fitness", "name"), REFUSED.values(), ids=REFUSED)
def test_a_fitness_without_slopes_is_refused(fitness, name):
    with pytest.raises(InvalidValue) as caught:
        stepped(problem_of(fitness, data=None if name == "reward" else SAMPLES))
    assert str(caught.value) == (
        f"fitness: expected a smooth loss of the outputs, or one with a surrogate, got {name!r}; use SubspaceES, "
        "which needs ranks alone, or BatchFitness(..., surrogate=...)"
    )


def test_a_surrogate_of_a_users_own_is_taken():
    squared = BatchFitness("squares", "min", lambda out, true: (out - nn.functional.one_hot(true, 3)).square())
    own = BatchFitness("hits", "max", HARD.score, surrogate=squared)
    problem, direct = problem_of(own), problem_of(squared)
    stepped(problem)
    stepped(direct)
    assert same_bits(problem.make_net().state_dict(), direct.make_net().state_dict())


def test_actors_are_refused():
    problem = problem_of(num_actors=2)
    with pytest.raises(InvalidValue, match=r"^problem: expected no actors, which keep their outputs, got 2; leave"):
        stepped(problem)


def test_too_many_outputs_are_refused(monkeypatch):
    monkeypatch.setattr(evaluated, "_MOST_OUTPUTS", 100)
    with pytest.raises(InvalidValue, match=r"^outputs: expected at most .* GiB of .* networks .*; give a smaller"):
        stepped(problem_of())


def test_each_network_is_passed_once():
    problem = problem_of()
    calls = passes(problem)
    searcher = stepped(problem)
    assert len(calls) == 9
    assert searcher.status["evaluations"] == 9
    assert searcher.status["images"] == 9 * len(SAMPLES[0])
    searcher.step()
    assert len(calls) == 18


def test_a_generation_has_one_minibatch():
    problem = problem_of(minibatch_size=20)
    searcher = stepped(problem)
    for number in range(2):
        numbers = minibatch(problem.key, number, 20, len(SAMPLES[0]))
        parent = problem.make_net(searcher.population[0]) if number else None
        if parent is None:
            expected = Evaluator(trained(), SAMPLES).on_samples(numbers).evaluate([Lineage()]).parent
            assert searcher.status["parent_eval"] == expected
        else:
            part = Evaluator(parent, SAMPLES).on_samples(numbers)
            assert evals(searcher.population)[0] == part.evaluate([Lineage()]).parent
        searcher.step()


def test_old_children_are_made_again():
    problem = problem_of(minibatch_size=20)
    searcher = stepped(problem)
    child = searcher.population[3]
    first = problem.make_net(child).state_dict()
    searcher.run(2)
    assert same_bits(problem.make_net(child).state_dict(), first)
    assert problem.changes == 3


class Breaking(nn.Module):
    """Children whose first weight rises have no finite outputs."""

    def __init__(self, always=False):
        super().__init__()
        self.layer = nn.Linear(16, 3)
        self.register_buffer("first", self.layer.weight[0, 0].detach().clone())
        self.always = always

    def forward(self, x):
        weight = self.layer.weight[0, 0]
        broken = weight != self.first if self.always else weight > self.first
        return self.layer(x.flatten(1)) * torch.where(broken, math.nan, 1.0)


def test_children_that_break_are_left_out():
    problem = problem_of(network=Breaking())
    searcher = stepped(problem, ridge=1.0)
    assert 0 < searcher.status["nonfinite"] < 8
    assert problem.changes == 1
    assert bool(vector(problem.make_net()).isfinite().all())


def test_nothing_moves_where_all_children_break():
    problem = problem_of(network=Breaking(always=True))
    searcher = SubspaceNewton(problem, popsize=4, subspace=Dense(), sigma=0.1)
    with pytest.warns(RuntimeWarning, match=r"^the parent did not move in generation 1: no child has finite outputs"):
        searcher.step()
    assert problem.changes == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        searcher.step()  # said once


def test_nothing_moves_at_the_minimum():
    flat = BatchFitness("nothing", "min", lambda out, _: 0 * out)
    problem = problem_of(flat)
    searcher = SubspaceNewton(problem, popsize=4, subspace=Dense(), sigma=0.1)
    with pytest.warns(RuntimeWarning, match="no mixture of the children is better"):
        searcher.step()
    assert problem.changes == 0


@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_strength_changes_outputs_by_a_share(scale, size):
    network = trained()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(size)
    evaluator, rule = Evaluator(network, SAMPLES), Dense()
    found = calibrate_response(evaluator, rule, 0.05, key=3, scale=scale)
    children = sample_mutations(7, 40, subspace=rule, sigma=found.sigma, scale=scale)
    outputs = evaluator.predict([Lineage(), *children]).double()
    changes = (outputs[1:] - outputs[0]).square().mean((1, 2)).sqrt() / outputs[0].square().mean().sqrt()
    assert 0.01 < float(changes.median()) < 0.25
    assert found.evaluations <= RESPONSE_COST
    assert found.sigma == float(f"{found.sigma:.1e}")


def test_samples_may_be_read_again_each_time():
    """To the same bits as from memory."""
    memory, stream = problem_of(minibatch_size=20), problem_of(data=Stream(*SAMPLES), minibatch_size=20)
    stepped(memory)
    stepped(stream)
    assert same_bits(memory.make_net().state_dict(), stream.make_net().state_dict())


def test_an_automatic_strength_is_counted():
    problem = problem_of()
    searcher = stepped(problem, sigma="auto")
    found = calibrate_response(Evaluator(trained(), SAMPLES), Dense(), key=draw_key(problem_of()))
    assert searcher.sigma == found.sigma
    assert searcher.status["evaluations"] == found.evaluations + 9


def test_outputs_of_zero_have_no_share():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    with pytest.raises(InvalidValue, match=r"^outputs: expected finite ones of the parent, not all 0, got others"):
        stepped(problem_of(network=network), sigma="auto")


@pytest.mark.parametrize("data", [SAMPLES, Stream(*SAMPLES)], ids=["in memory", "stream"])
@pytest.mark.parametrize("count", [1, 3])
def test_observed_outputs_are_what_is_predicted_and_evaluated(count, data):
    evaluator = Evaluator(trained(), data, batch_size=7)
    children = sample_mutations(1, count, subspace=RandomSubspace(0.3), sigma=0.1)
    found, outputs = evaluator.observe(children)
    assert torch.equal(outputs, evaluator.predict(children))
    assert torch.equal(found.fitness, evaluator.evaluate(children).fitness)


def test_more_children_learn_more():
    """Of a generation of 2, 8 and 32: the minimum over more directions is lower, as the first ones are the same."""
    losses = []
    for popsize in (2, 8, 32):
        problem = problem_of()
        stepped(problem, popsize=popsize, sigma=1e-3, ridge=0.05)
        losses.append(loss(problem.make_net()))
    assert losses[2] < losses[1] < losses[0] < loss(trained())


MISLABELLED = SAMPLES[0], (SAMPLES[1] + (torch.arange(60) % 5 == 0)) % 3
"""A fifth of the classes are wrong, or a calibration alone would be perfect."""


def miscalibrated(factor):
    """A parent that is much too sure, and not wrong otherwise: the factor is one of its last layer."""
    network = trained()
    head = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        head.weight.mul_(factor)
        head.bias.mul_(factor)
    return network


def test_beside_a_calibration_children_do_what_only_they_can():
    """However sure the parent is of itself, the step goes the same way; without one it goes another."""

    def moved(factor, calibrated):
        problem = problem_of(network=miscalibrated(factor), data=MISLABELLED, select="conv,bn")
        before = vector(problem.make_net())
        stepped(problem, calibrated=calibrated, ridge=1e-3)
        return vector(problem.make_net()) - before

    both, neither = (
        float(nn.functional.cosine_similarity(moved(1.0, calibrated), moved(20.0, calibrated), dim=0))
        for calibrated in (True, False)
    )
    assert both > 0.99
    assert neither < 0.9


def test_a_step_beside_a_calibration_is_the_one_written_out():
    """Solved for together; the calibration itself is left out."""
    problem, key = problem_of(data=MISLABELLED), draw_key(problem_of())
    before, children = vector(problem.make_net()), sample_mutations(key, 8, subspace=Dense(), sigma=0.02)
    outputs = Evaluator(problem.make_net(), MISLABELLED).predict([Lineage(), *children])
    directions, lengths = unit_directions(outputs[0], outputs[1:])
    free, loss = calibrations(outputs[0]), CrossEntropy(MISLABELLED[1])
    calibrated = outputs[0].double() + torch.tensordot(
        solve_weights(outputs[0], free, loss, 0.3, steps=50).weights, free.double(), 1
    )
    weights = solve_weights(calibrated, torch.cat([directions, free]), loss, 0.3).weights[:8] / lengths
    deltas = torch.stack([child.delta(problem.space.layout).values for child in children]).double()
    stepped(problem, calibrated=True)
    moved = vector(problem.make_net()) - before
    assert torch.allclose(moved, weights @ deltas, atol=1e-3 * float(moved.norm()))


def test_a_calibration_is_of_classes():
    own = BatchFitness("own", "min", lambda outputs, targets: (outputs[:, 0] - targets).square())
    with pytest.raises(InvalidValue, match="calibrated: expected a classifier's fitness, got 'own'; leave it out"):
        SubspaceNewton(problem_of(own), popsize=4, density=1.0, calibrated=True)
