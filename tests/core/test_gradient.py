"""Centred ranks and the ES gradient, against slow references and on functions whose gradient is known."""

import pytest
import torch
from evotorch.tools.ranking import centered
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smd_evo import (
    Dense,
    Layout,
    LowRank,
    Mutation,
    NeuronSubspace,
    PartitionSubspace,
    RandomSubspace,
    Slot,
    TensorSubspace,
    UnitSubspace,
    Within,
    gaussian,
    sample_mutations,
)
from smd_evo.core import fast
from smd_evo.core import subspace as module
from smd_evo.core.gradient import centered_ranks, es_gradient, mixture
from smd_evo.errors import InvalidValue

LAYOUT = Layout((Slot("a.weight", (5, 8), 0.25), Slot("a.bias", (5,), 3.0), Slot("b", (10,), 0.1)))
SUBSPACES = [
    RandomSubspace(0.2),
    RandomSubspace(0.2, static=True),
    PartitionSubspace(3),
    NeuronSubspace(0.3),
    TensorSubspace(1),
    Dense(),
    LowRank(2),
    Within("a", RandomSubspace(0.2)),
    Within("*.bias,b", Dense()),
    Within("a.weight,b", LowRank(2)),
    UnitSubspace("tensor", RandomSubspace(0.5)),
]
SENSES = st.sampled_from(["min", "max"])
FITNESS = st.lists(st.floats(-1e18, 1e18), min_size=1, max_size=30)


class TestRanks:
    @given(st.lists(st.integers(-4, 4), min_size=2, max_size=30), SENSES)
    def test_as_scipy_has_them_ties_included(self, fitness, sense):
        values = torch.tensor(fitness, dtype=torch.float64)
        upwards = values if sense == "max" else -values
        expected = (stats.rankdata(upwards, "average") - 1) / (len(fitness) - 1) - 0.5
        assert centered_ranks(values, sense).tolist() == pytest.approx(expected.tolist(), abs=1e-12)

    @given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=30, unique=True), SENSES)
    def test_as_evotorch_has_them_without_ties(self, fitness, sense):
        values = torch.tensor(fitness, dtype=torch.float64)
        expected = centered(values, higher_is_better=sense == "max")
        assert torch.allclose(centered_ranks(values, sense), expected)

    @given(FITNESS, SENSES, st.randoms(use_true_random=False))
    def test_order_makes_no_difference_and_the_sum_is_zero(self, fitness, sense, random):
        ranks = centered_ranks(torch.tensor(fitness, dtype=torch.float64), sense)
        assert ranks.dtype == torch.float64
        assert float(ranks.sum()) == pytest.approx(0, abs=1e-9)
        order = list(range(len(fitness)))
        random.shuffle(order)
        assert torch.equal(
            centered_ranks(torch.tensor([fitness[i] for i in order], dtype=torch.float64), sense), ranks[order]
        )

    @given(FITNESS)
    def test_the_senses_are_opposite(self, fitness):
        values = torch.tensor(fitness, dtype=torch.float64)
        assert torch.equal(centered_ranks(values, "min"), -centered_ranks(values, "max"))

    @pytest.mark.parametrize("sense", ["min", "max"])
    @pytest.mark.parametrize("count", [1, 2, 7])
    def test_what_makes_no_difference_counts_nothing(self, count, sense):
        assert centered_ranks(torch.full((count,), 3.5), sense).tolist() == [0.0] * count

    def test_unknown_sense(self):
        with pytest.raises(InvalidValue, match="sense: expected one of min, max, got 'lower'"):
            centered_ranks(torch.zeros(3), "lower")


def slow_gradient(mutations, weights, layout):
    """The definition, one dense vector after the other: eps is the delta of a mutation of strength 1."""
    total = torch.zeros(layout.size, dtype=torch.float64)
    for mutation, weight in zip(mutations, weights, strict=True):
        unit = Mutation(mutation.key, 1.0, mutation.subspace, mutation.draw)
        eps = mutation.sign * unit.delta(layout).to_dense(layout.size).double()
        total += float(weight) * eps / mutation.sigma
    return total / len(mutations)


def weighted(count, key=0):
    return gaussian(key, torch.arange(count))


def close(gradient, expected):
    return gradient.dtype == torch.float32 and torch.allclose(gradient.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("subspace", SUBSPACES, ids=lambda subspace: subspace.spec)
def test_gradient_is_its_definition(subspace, scale, antithetic, devices):
    mutations = sample_mutations(3, 12, subspace=subspace, sigma=0.3, antithetic=antithetic, scale=scale)
    expected = slow_gradient(mutations, weighted(12), LAYOUT)
    for device in devices:
        assert close(es_gradient(mutations, weighted(12), LAYOUT, device=device).cpu(), expected)


def test_recipes_of_all_kinds_at_once():
    """Other rules, strengths and signs, and one child twice."""
    mutations = [
        mutation
        for number, subspace in enumerate(SUBSPACES)
        for mutation in sample_mutations(number, 4, subspace=subspace, sigma=0.1 + number, antithetic=True)
    ]
    mutations += [mutations[0], Mutation(mutations[1].key, 0.7, mutations[1].subspace, mutations[1].draw)]
    weights = weighted(len(mutations))
    assert close(es_gradient(mutations, weights, LAYOUT), slow_gradient(mutations, weights, LAYOUT))


@pytest.mark.parametrize(
    "subspace",
    [
        RandomSubspace(0.2, static=True),
        Dense(),
        LowRank(2),
        Within("a.bias,b", Dense()),
        Within("b,a.w*", LowRank(2)),
    ],
    ids=lambda rule: rule.spec,
)
def test_coordinates_of_a_static_subspace_are_the_gradients_own(subspace, devices):
    mutations = sample_mutations(5, 8, subspace=subspace, sigma=0.3, antithetic=True)
    for device in devices:
        coordinates = subspace.coordinates(mutations[0].draw, LAYOUT, device)
        whole = es_gradient(mutations, weighted(8), LAYOUT, device=device)
        own = es_gradient(mutations, weighted(8), LAYOUT, coordinates=coordinates, device=device)
        assert torch.equal(own, whole[coordinates])
        assert int((whole != 0).sum()) == len(coordinates)


@given(st.integers(0, 2**64 - 1), st.sampled_from(SUBSPACES))
def test_equal_partners_cancel(key, subspace):
    mutations = sample_mutations(key, 6, subspace=subspace, sigma=0.3, antithetic=True)
    assert not bool(es_gradient(mutations, torch.ones(6), LAYOUT).any())


def test_partners_draw_their_noise_once(monkeypatch):
    calls = []

    def counted(key, coordinates, dtype):
        calls.append(key)
        return gaussian(key, coordinates, dtype)

    monkeypatch.setattr(fast._state, "off", True)
    monkeypatch.setattr(module, "gaussian", counted)
    mutations = sample_mutations(3, 12, subspace=RandomSubspace(0.2), sigma=0.3, antithetic=True)
    es_gradient(mutations, weighted(12), LAYOUT)
    assert len(calls) == len(set(calls)) == 6
    es_gradient(mutations[:1], weighted(1), LAYOUT)
    assert len(calls) == 7


@pytest.mark.parametrize(
    ("subspace", "scale", "density"),
    [
        (RandomSubspace(0.25), "absolute", 0.25),
        (PartitionSubspace(4), "absolute", 0.25),
        (Dense(), "relative", 1.0),
    ],
)
def test_gradient_of_a_linear_function_is_recovered(subspace, scale, density):
    """E[g] is the slope, times the share of children that touch a coordinate, in units of the scales."""
    layout, pairs = Layout((Slot("a", (10,), 0.5), Slot("b", (10,), 2.0))), 300
    slope = gaussian(8, torch.arange(20))
    mutations = sample_mutations(4, 2 * pairs, subspace=subspace, sigma=0.1, antithetic=True, scale=scale)
    fitness = [float(slope @ mutation.delta(layout).to_dense(20)) for mutation in mutations]
    found = es_gradient(mutations, torch.tensor(fitness), layout)
    scaled = slope if scale == "absolute" else slope * torch.tensor([0.5, 2.0]).repeat_interleave(10)
    # Each pair adds eps_j * sum_i scaled_i eps_i over its subspace: its mean is density * scaled_j, its
    # variance at most this.
    variance = density * (density * scaled.square().sum() + 3 * scaled.square().max())
    assert float((found - density * scaled).abs().max()) < 4 * float((variance / pairs).sqrt())
    assert float(torch.nn.functional.cosine_similarity(found, scaled, dim=0)) > 0.9


@pytest.mark.parametrize(
    ("count", "weights", "coordinates", "message"),
    [
        (0, torch.zeros(0), None, "weights: expected one for each mutation, got 0 for 0"),
        (3, torch.zeros(2), None, "weights: expected one for each mutation, got 2 for 3"),
        (2, torch.zeros(2), torch.tensor([0, 1]), "coordinates: expected those of every mutation"),
    ],
)
def test_bad_input(count, weights, coordinates, message):
    mutations = sample_mutations(1, 4, subspace=RandomSubspace(0.2), sigma=0.1)[:count]
    with pytest.raises(InvalidValue, match=message):
        es_gradient(mutations, weights, LAYOUT, coordinates=coordinates)


def test_coordinates_of_a_dynamic_subspace_are_refused():
    mutations = sample_mutations(1, 4, subspace=RandomSubspace(0.2), sigma=0.1)
    first = mutations[0].subspace.coordinates(mutations[0].draw, LAYOUT)
    with pytest.raises(InvalidValue, match=f"got others by draw {mutations[1].draw}"):
        es_gradient(mutations, torch.zeros(4), LAYOUT, coordinates=first)


@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("rule", SUBSPACES, ids=str)
def test_a_mixture_is_the_sum_of_its_deltas(rule, scale):
    mutations = sample_mutations(3, 5, subspace=rule, sigma=0.2, scale=scale)
    weights = torch.tensor([1.0, -2.0, 0.5, 0.0, 30.0], dtype=torch.float64)
    deltas = [child.delta(LAYOUT).to_dense(LAYOUT.size).double() for child in mutations]
    expected = sum(weight * delta for weight, delta in zip(weights, deltas, strict=True))
    found = mixture(mutations, weights, LAYOUT)
    assert torch.allclose(found.to_dense(LAYOUT.size).double(), expected, atol=1e-4)
    common = rule.static and rule.siblings == 1
    assert len(found) == (len(mutations[0].delta(LAYOUT)) if common else LAYOUT.size)


@pytest.mark.parametrize("count", [0, 2])
def test_a_mixture_wants_a_weight_for_each(count):
    mutations = sample_mutations(3, 3, subspace=Dense(), sigma=0.2)[:count]
    with pytest.raises(InvalidValue, match=f"weights: expected one for each mutation, got {count and 1} for {count}"):
        mixture(mutations, torch.ones(min(1, count)), Layout.flat(4))
