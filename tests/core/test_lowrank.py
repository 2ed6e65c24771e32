"""Noise of low rank: what EGGROLL says of it, and the same numbers from a loop over elements."""

import math

import pytest
import torch
from evotorch import Problem
from helpers import blobs, same_bits, state_bits, trained
from hypothesis import given
from hypothesis import strategies as st

from smd_evo import (
    Dense,
    FinetuneProblem,
    Layout,
    LowRank,
    Mutation,
    Slot,
    SparseGaussianMutation,
    SubspaceES,
    decompose,
    derive,
    gaussian,
    parse_subspace,
    sample_mutations,
)
from smd_evo.core import lowrank as module
from smd_evo.core.gradient import es_gradient
from smd_evo.core.mutation import replay
from smd_evo.errors import InvalidType, InvalidValue

KEYS = st.integers(0, 2**64 - 1)
RANKS = st.integers(1, 7)
SHAPES = st.lists(st.lists(st.integers(1, 5), max_size=4).map(tuple), min_size=1, max_size=4)
LAYOUT = Layout(
    (
        Slot("conv.weight", (4, 2, 3, 1), 0.25),
        Slot("conv.bias", (4,), 3.0),
        Slot("empty", (0, 3)),
        Slot("temperature", ()),
        Slot("head.weight", (3, 4), 0.1),
        Slot("twin.weight", (3, 4), 0.1),
    )
)


def layout_of(shapes):
    return Layout(tuple(Slot(f"tensor{number}", shape) for number, shape in enumerate(shapes)))


def whole(subspace, key, layout, dtype=torch.float64):
    return subspace.noise(key, torch.arange(layout.size), layout, dtype)


def matrices(noise, layout):
    """The noise of each tensor of two or more dimensions, as the matrix that it counts as."""
    for slot, start in zip(layout.slots, layout.offsets, strict=False):
        if len(slot.shape) >= 2 and slot.size:
            yield noise[start : start + slot.size].view(slot.shape[0], -1)


def slow_noise(rank, key, layout):
    """The definition, one element after the other, in Python's floats."""
    places = torch.arange(layout.size * rank)
    plain, left, right = (
        gaussian(own, places, torch.float64).tolist() for own in (key, derive(key, "left"), derive(key, "right"))
    )
    values = []
    for slot, start in zip(layout.slots, layout.offsets, strict=False):
        if len(slot.shape) < 2:
            values += plain[start : start + slot.size]
            continue
        for row in range(slot.shape[0]):
            for column in range(math.prod(slot.shape[1:])):
                total = 0.0
                for number in range(rank):
                    total += left[(start + row) * rank + number] * right[(start + column) * rank + number]
                values.append(total * (1 / math.sqrt(rank)))
    return torch.tensor(values, dtype=torch.float64)


@given(KEYS, RANKS, SHAPES)
def test_every_matrix_has_the_rank(key, rank, shapes):
    layout = layout_of(shapes)
    for matrix in matrices(whole(LowRank(rank), key, layout), layout):
        assert int(torch.linalg.matrix_rank(matrix, rtol=1e-10)) == min(rank, *matrix.shape)


@given(KEYS, RANKS, SHAPES)
def test_vectors_and_numbers_have_the_plain_field(key, rank, shapes):
    layout = layout_of(shapes)
    noise, plain = whole(LowRank(rank), key, layout), whole(Dense(), key, layout)
    for slot, start in zip(layout.slots, layout.offsets, strict=False):
        same = noise[start : start + slot.size] == plain[start : start + slot.size]
        assert bool(same.all()) if len(slot.shape) < 2 else not bool(same.any())


@pytest.mark.parametrize("rank", [1, 3])
def test_elements_have_mean_0_and_variance_1_and_are_uncorrelated(rank):
    """Over 600 keys. A square's variance is 2 + 6 / rank; a product's, of two of one row, is 1 + 2 / rank."""
    layout, count = layout_of([(3, 4), (2,)]), 600
    samples = torch.stack([whole(LowRank(rank), derive(1, number), layout) for number in range(count)])
    assert float(samples.mean(0).abs().max()) < 4 * (1 / count) ** 0.5
    products = samples.T @ samples / count
    assert float((products.diag() - 1).abs().max()) < 4 * ((2 + 6 / rank) / count) ** 0.5
    assert float((products - products.diag().diag()).abs().max()) < 4 * ((1 + 2 / rank) / count) ** 0.5


@given(KEYS, st.integers(1, 3))
def test_the_same_bits_as_the_loop(key, rank):
    expected = slow_noise(rank, key, LAYOUT)
    assert torch.equal(whole(LowRank(rank), key, LAYOUT), expected)
    assert torch.equal(whole(LowRank(rank), key, LAYOUT, torch.float32), expected.float())  # rounded once


@given(KEYS, RANKS, st.sets(st.integers(0, LAYOUT.size - 1)))
def test_a_part_of_it_is_that_part(key, rank, places):
    some = torch.tensor(sorted(places), dtype=torch.int64)
    noise = LowRank(rank).noise(key, some, LAYOUT, torch.float64)
    assert torch.equal(noise, whole(LowRank(rank), key, LAYOUT)[some])


@given(KEYS, RANKS, SHAPES)
def test_no_number_is_drawn_twice(key, rank, shapes):
    """Whatever the shapes: neither by two tensors nor by the two sides of one."""
    drawn = []

    def noted(key, places, dtype):
        drawn.extend((key, place) for place in places.flatten().tolist())
        return gaussian(key, places, dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "gaussian", noted)
        whole(LowRank(rank), key, layout_of(shapes))
    assert len(drawn) == len(set(drawn))
    matrix = [(shape[0], math.prod(shape[1:])) for shape in shapes if len(shape) > 1]
    vectors = sum(math.prod(shape) for shape in shapes if len(shape) < 2)
    assert len(drawn) == rank * sum(rows + columns for rows, columns in matrix) + vectors


@given(KEYS, KEYS)
def test_equal_shapes_share_neither_rows_nor_columns(key, other):
    """Of one child, nor of two: side by side, and one below the other, they have twice the rank."""
    layout = layout_of([(5, 6), (5, 6)])
    one, two = matrices(whole(LowRank(2), key, layout), layout)
    pairs = [(one, two)]
    if key != other:
        pairs.append((one, next(matrices(whole(LowRank(2), other, layout), layout))))
    for pair in pairs:
        assert int(torch.linalg.matrix_rank(torch.cat(pair, 0), rtol=1e-10)) == 4
        assert int(torch.linalg.matrix_rank(torch.cat(pair, 1), rtol=1e-10)) == 4


@pytest.mark.parametrize("scale", ["absolute", "relative"])
def test_children_are_the_loops_noise_times_their_strength(scale):
    """One by one and many at once, to the same bits."""
    mutations = sample_mutations(4, 6, subspace=LowRank(2), sigma=0.3, antithetic=True, scale=scale)
    factor = torch.cat([torch.full((slot.size,), slot.scale, dtype=torch.float64) for slot in LAYOUT.slots])
    for mutation, together in zip(mutations, replay(mutations, LAYOUT), strict=True):
        expected = slow_noise(2, mutation.key, LAYOUT) * mutation.strength
        expected = (expected * factor if scale == "relative" else expected).float()
        for delta in (mutation.delta(LAYOUT), together):
            assert torch.equal(delta.to_dense(LAYOUT.size), expected)
        assert torch.equal(mutation.antithetic.delta(LAYOUT).values, -expected)


def test_devices_agree(devices):
    mutation = Mutation(5, 0.3, LowRank(3), 0, scale="relative")
    expected = mutation.delta(LAYOUT)
    for device in devices:
        delta = mutation.delta(LAYOUT, device).to("cpu")
        assert torch.equal(delta.values, expected.values)


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_gradient_is_its_definition(antithetic):
    mutations = sample_mutations(3, 8, subspace=LowRank(2), sigma=0.3, antithetic=antithetic)
    weights = gaussian(0, torch.arange(8))
    total = torch.zeros(LAYOUT.size, dtype=torch.float64)
    for mutation, weight in zip(mutations, weights.tolist(), strict=True):
        total += weight * mutation.sign * slow_noise(2, mutation.key, LAYOUT) / 0.3 / 8
    for coordinates in (None, torch.arange(LAYOUT.size)):
        found = es_gradient(mutations, weights, LAYOUT, coordinates=coordinates)
        assert torch.allclose(found.double(), total, rtol=1e-5, atol=1e-6)


@given(KEYS, st.integers(1, 1024))
def test_text_holds_the_rank(key, rank):
    mutation = Mutation(key, 0.5, LowRank(rank), 0, -1)
    assert mutation.encode() == f"lowrank:{rank}|absolute|{key:016x}|{0:016x}|-0.5"
    assert Mutation.decode(mutation.encode()) == mutation


@pytest.mark.parametrize(
    ("rank", "kind"),
    [(0, InvalidValue), (-1, InvalidValue), (1.5, InvalidType), ("a", InvalidType), (True, InvalidType)],
)
def test_no_rank(rank, kind):
    with pytest.raises(kind, match=r"rank: expected a whole number >= 1, got"):
        LowRank(rank)


@pytest.mark.parametrize(
    ("rank", "most"),
    [
        (1025, "at most 1024"),
        (10**12, "at most 1024"),
        (10**4000, r"a whole number >= 1 and below 2\*\*63"),
    ],
)
def test_a_rank_that_is_no_low_one_is_refused_before_it_takes_memory(rank, most):
    with pytest.raises(InvalidValue, match=rf"rank: expected {most}, got 10"):
        LowRank(rank)


@pytest.mark.parametrize(
    "spec", ["lowrank", "lowrank:0", "lowrank:1.5", "lowrank:a", "lowrank:1:2", "lowrank:1:static"]
)
def test_bad_specs(spec):
    with pytest.raises(InvalidValue, match=r"^(subspace|rank): expected"):
        parse_subspace(spec)


def test_it_is_no_mutation_to_decompose():
    with pytest.raises(InvalidValue, match="dense subspace, got lowrank:1"):
        decompose(Mutation(1, 1.0, LowRank(1), 0), 2)


def test_a_plain_vector_has_no_matrices():
    problem = Problem("min", torch.linalg.norm, initial_bounds=(-1, 1), solution_length=10, seed=1)
    with pytest.raises(
        InvalidType, match=r"^subspace: expected a RandomSubspace, .* got LowRank\(rank=1\); .*$"
    ) as caught:
        SparseGaussianMutation(problem, stdev=0.1, subspace=LowRank(1))
    assert str(caught.value).endswith("a plain vector has no neurons or tensors")
    assert "\n" not in str(caught.value)


def searched(seed, generations=4):
    """The problem of a small network, and the losses of its parent before each generation."""
    problem = FinetuneProblem(trained(), blobs(shift=2.5), seed=seed)
    searcher = SubspaceES(problem, popsize=10, subspace=LowRank(1), sigma=0.1, center_learning_rate=0.05)
    losses = []
    for _ in range(generations):
        searcher.step()
        losses.append(searcher.status["parent_eval"])
    return problem, losses


def test_a_strategy_finds_down_and_the_same_again():
    (problem, losses), (again, same) = searched(1), searched(1)
    assert losses[-1] < 0.9 * losses[0]
    assert losses == same
    assert same_bits(state_bits(problem.make_net()), state_bits(again.make_net()))


def test_another_seed_is_another_search():
    (one, _), (other, _) = searched(1, 1), searched(2, 1)
    assert not same_bits(state_bits(one.make_net()), state_bits(other.make_net()))
