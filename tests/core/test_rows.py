"""Rows: the same recipes as lists of mutations hold, as int64 tensors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smd_evo import (
    Dense,
    Lineage,
    LowRank,
    Mutation,
    NeuronSubspace,
    PartitionSubspace,
    RandomSubspace,
    TensorSubspace,
    decode_rows,
    encode_rows,
    sample_mutations,
)
from smd_evo.core.rows import append_steps, row_lengths, sample_rows
from smd_evo.errors import InvalidType, InvalidValue

KEYS = st.integers(0, 2**64 - 1)
SIGMAS = st.floats(1e-30, 1e30)
SUBSPACES = st.one_of(
    st.builds(RandomSubspace, st.floats(1e-3, 1), st.booleans()),
    st.builds(PartitionSubspace, st.integers(1, 30), st.booleans()),
    st.builds(NeuronSubspace, st.floats(1e-3, 1), st.booleans()),
    st.builds(TensorSubspace, st.integers(1, 2), st.sampled_from(["tensor", "layer"]), st.booleans()),
    st.just(Dense()),
    st.builds(LowRank, st.integers(1, 9)),
)
SCALES = st.sampled_from(["absolute", "relative"])


def lineages_of(subspace, scale="absolute", longest=3):
    mutations = st.builds(Mutation, KEYS, SIGMAS, st.just(subspace), KEYS, st.sampled_from([-1, 1]), st.just(scale))
    return st.builds(Lineage, st.lists(mutations, max_size=longest).map(tuple))


@given(SUBSPACES, SCALES, st.data())
def test_rows_hold_everything_but_the_rule(subspace, scale, data):
    lineages = data.draw(st.lists(lineages_of(subspace, scale), max_size=4))
    rows = encode_rows(lineages, 3)
    assert rows.dtype == torch.int64
    assert rows.shape == (len(lineages), 9)
    assert decode_rows(rows, subspace=subspace, scale=scale) == lineages


@given(KEYS, st.integers(1, 9), SUBSPACES, SIGMAS, st.integers(0, 2**63), st.booleans())
def test_sampled_rows_are_the_sampled_mutations(key, half, subspace, sigma, generation, antithetic):
    options = {"subspace": subspace, "sigma": sigma, "generation": generation, "antithetic": antithetic}
    recipes = sample_mutations(key, 2 * half, **options)
    rows = sample_rows(key, 2 * half, **options)
    assert torch.equal(rows, encode_rows([Lineage((recipe,)) for recipe in recipes], 1))


@given(st.data())
def test_appending_a_step_is_then(data):
    subspace = data.draw(SUBSPACES)
    lineages = data.draw(st.lists(lineages_of(subspace), max_size=5))
    rows, before = encode_rows(lineages, 4), encode_rows(lineages, 4)
    steps = [data.draw(lineages_of(subspace, longest=1).filter(len)) for _ in lineages]
    assert row_lengths(rows).tolist() == [len(lineage) for lineage in lineages]
    longer = append_steps(rows, encode_rows(steps, 1))
    expected = [lineage.then(step.steps[0]) for lineage, step in zip(lineages, steps, strict=True)]
    assert torch.equal(longer, encode_rows(expected, 4))
    assert torch.equal(rows, before)  # a copy was made


def test_a_run_of_generations_in_rows_alone(devices):
    """What a search does: append a generation's steps, choose some rows, append again, wherever the rows are."""
    subspace = RandomSubspace(0.1)
    for device in devices:
        rows, lineages = torch.zeros(4, 9, dtype=torch.int64, device=device), [Lineage()] * 4
        for generation in range(3):
            options = {"subspace": subspace, "sigma": 0.5, "generation": generation}
            rows = append_steps(rows, sample_rows(7, 4, **options))[[2, 0, 0, 1]]
            lineages = [one.then(step) for one, step in zip(lineages, sample_mutations(7, 4, **options), strict=True)]
            lineages = [lineages[number] for number in (2, 0, 0, 1)]
        assert rows.device.type == device.type
        assert row_lengths(rows).tolist() == [3] * 4
        assert decode_rows(rows, subspace=subspace) == lineages
        with pytest.raises(InvalidValue, match="expected room for another step, got one of 3 steps"):
            append_steps(rows, sample_rows(7, 4, **options))


def test_a_full_lineage_among_others_is_refused():
    step = sample_mutations(1, 1, subspace=Dense(), sigma=1.0)[0]
    rows = encode_rows([Lineage(), Lineage((step, step))], 2)
    with pytest.raises(InvalidValue, match="room for another step"):
        append_steps(rows, sample_rows(1, 2, subspace=Dense(), sigma=1.0))


def test_a_hundred_thousand_children_are_a_few_megabytes():
    children = sample_mutations(1, 1000, subspace=RandomSubspace(0.01), sigma=0.1)
    rows = encode_rows([Lineage((child,)) for child in children], 1)
    assert rows.numel() * rows.element_size() / 1000 * 100_000 < 3e6
    assert max(len(child.encode()) for child in children) < 100


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.zeros(2, 3), "int64"),
        (torch.zeros(2, 4, dtype=torch.int64), r"3 \* steps"),
        (torch.zeros(2, 0, dtype=torch.int64), r"3 \* steps"),
        (torch.zeros(3, dtype=torch.int64), r"3 \* steps"),
    ],
)
def test_bad_rows(rows, message):
    with pytest.raises(InvalidValue, match=message):
        decode_rows(rows, subspace=Dense())
    with pytest.raises(InvalidValue, match=message):
        row_lengths(rows)
    with pytest.raises(InvalidValue, match=message):
        append_steps(rows, torch.ones(2, 3, dtype=torch.int64))


def test_a_strength_that_is_not_a_number():
    with pytest.raises(InvalidValue, match="sigma"):
        decode_rows(torch.full((1, 3), -1, dtype=torch.int64), subspace=Dense())


@pytest.mark.parametrize(
    "steps", [torch.ones(1, 3, dtype=torch.int64), torch.ones(3, dtype=torch.int64), torch.ones(2, 3)]
)
def test_not_one_step_for_each_row(steps):
    with pytest.raises(InvalidValue, match=r"steps: expected int64 \[2, 3\]"):
        append_steps(torch.zeros(2, 6, dtype=torch.int64), steps)


def test_rows_that_do_not_fit():
    one, two = (Mutation(1, 1.0, RandomSubspace(density), 1) for density in (0.1, 0.2))
    with pytest.raises(InvalidValue, match="at most 1 steps, got 2"):
        encode_rows([Lineage((one, one))], 1)
    with pytest.raises(InvalidValue, match="one subspace and scale in all rows, got 2"):
        encode_rows([Lineage((one,)), Lineage((two,))], 1)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"sigma": 0.0}, InvalidValue, "sigma: expected a finite number > 0"),
        ({"sigma": float("nan")}, InvalidValue, "sigma"),
        ({"count": 0}, InvalidValue, "count: expected a whole number >= 1"),
        ({"count": 3, "antithetic": True}, InvalidValue, "even number of children"),
        ({"key": -1}, InvalidValue, "key"),
        ({"key": 0.5}, InvalidType, "key"),
    ],
)
def test_bad_samples(change, kind, message):
    arguments = {"key": 1, "count": 2, "sigma": 1.0, "subspace": Dense()} | change
    with pytest.raises(kind, match=message):
        sample_rows(**arguments)
