"""A race finds the best of many children with a third of the image evaluations."""

import time

import pytest
import torch
from helpers import blobs, trained
from hypothesis import given
from hypothesis import strategies as st

from smd_evo import BatchFitness, Evaluator, Lineage, ModuleFitness, RandomSubspace, sample_mutations
from smd_evo.core.noise import permutation
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.fitness import CROSS_ENTROPY, NAMES
from smd_evo.evaluation.race import finalists, race, race_rounds

pytestmark = pytest.mark.numeric


def race_images(children, samples):
    return sum(count * images for count, images in race_rounds(children, samples))


CHILDREN = sample_mutations(3, 33, subspace=RandomSubspace(0.3), sigma=0.4)


def slow_race(evaluator, children, key):
    """Who is out after each round, each fitness computed anew from all samples seen so far."""
    total, alive, out = evaluator.samples, list(range(len(children))), []
    order = permutation(key, torch.arange(total), total)
    for end in (round(total / 8), round(total / 4), round(total / 2)):
        found = evaluator.on_samples(order[:end]).evaluate([children[n] for n in alive])
        ranked = [alive[n] for n in found.ranking()]
        half = -(-len(alive) // 2)
        out.append(sorted(ranked[half:]))
        alive = sorted(ranked[:half])
    return out, alive


@pytest.mark.parametrize("fitness", NAMES)
@pytest.mark.parametrize("key", [0, 5])
def test_it_ranks_as_successive_halving_does(fitness, key):
    evaluator = Evaluator(trained(), blobs(240, shift=2.5), fitness, batch_size=32)
    out, final = slow_race(evaluator, CHILDREN, key)
    result = evaluator.race(CHILDREN, key)
    whole = evaluator.evaluate([CHILDREN[n] for n in final])
    torch.testing.assert_close(result.fitness[final], whole.fitness, rtol=1e-5, atol=0)
    sign = 1 if result.sense == "min" else -1
    values = (sign * result.fitness).tolist()
    further = final
    for group in reversed(out):
        assert min(values[n] for n in group) > max(values[n] for n in further)
        further = further + group
    assert result.ranking()[0] in final


def test_what_it_computes_is_counted():
    evaluator = Evaluator(trained(), blobs(240))
    evaluator.race(CHILDREN)
    assert (
        evaluator.work.images
        == evaluator.work.forwards
        == race_images(33, 240)
        == 33 * 30 + 17 * 30 + 9 * 60 + 5 * 120
    )
    assert finalists(33) == 5
    evaluator.evaluate(CHILDREN[:2])
    evaluator.on(blobs(10)).evaluate(CHILDREN[:1])
    assert evaluator.work.images == race_images(33, 240) + 480 + 10


def test_the_parent_is_never_out():
    bad = sample_mutations(1, 7, subspace=RandomSubspace(1.0), sigma=0.01)
    evaluator = Evaluator(trained(), blobs(80))
    result = evaluator.race([*bad, Lineage()])
    assert result.parent == pytest.approx(float(evaluator.evaluate([Lineage()]).fitness[0]), rel=1e-12)
    assert float(result.fitness[7]) == result.parent


@given(st.integers(4, 60), st.integers(1, 40))
def test_its_size_is_known_before(samples, children):
    seen = race_images(children, samples)
    assert children <= seen <= children * samples
    assert 1 <= finalists(children) <= children


def test_children_that_have_no_fitness_are_out_first():
    def score(outputs, targets):
        return torch.where(outputs[:, 0] > 1e3, torch.nan, 1.0) * (outputs.argmax(1) != targets)

    wild = sample_mutations(1, 16, subspace=RandomSubspace(1.0), sigma=1e6)
    tame = sample_mutations(2, 16, subspace=RandomSubspace(0.1), sigma=0.1)
    result = Evaluator(trained(), blobs(80), BatchFitness("wrong", "min", score)).race([*wild, *tame])
    assert result.ranking()[0] >= 16
    assert bool(result.fitness.isfinite().all())
    assert result.nonfinite >= 1


def test_one_child_and_none():
    evaluator = Evaluator(trained(), blobs(80))
    assert len(evaluator.race([]).fitness) == 0
    assert evaluator.race(CHILDREN[:1]).fitness.allclose(evaluator.evaluate(CHILDREN[:1]).fitness, rtol=1e-5, atol=0)


def test_refusals():
    norm = ModuleFitness("norm", "min", lambda module: module.head.weight.norm().item())
    with pytest.raises(InvalidValue, match=r"^race: expected a fitness of samples, got 'norm'"):
        Evaluator(trained(), None, norm).race(CHILDREN)
    with pytest.raises(InvalidValue, match=r"^race: expected at least 4 samples, got 3"):
        Evaluator(trained(), blobs(3)).race(CHILDREN)


def test_many_children_are_sorted_in_no_time():
    class Known:
        samples, fitness = 8, CROSS_ENTROPY

        def on_samples(self, numbers):
            return self

        def totals(self, children, progress=None):
            return torch.tensor(children, dtype=torch.float64)

    begin = time.process_time()
    found = race(Known(), [float(7 * number % 30_000) for number in range(30_000)]).ranking()
    assert found[:3] == [0, 17_143, 4_286]  # 7 * 17,143 = 4 * 30,000 + 1
    assert time.process_time() - begin < 5
