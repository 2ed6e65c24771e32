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
from smd_evo.core.rows import append_steps, common_steps, compacted, cross_rows, row_lengths, sample_rows, step_sums
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
        ({"count": 3, "antithetic": True}, InvalidValue, "count: expected an even number"),
        ({"key": -1}, InvalidValue, "key"),
        ({"key": 0.5}, InvalidType, "key"),
    ],
)
def test_bad_samples(change, kind, message):
    arguments = {"key": 1, "count": 2, "sigma": 1.0, "subspace": Dense()} | change
    with pytest.raises(kind, match=message):
        sample_rows(**arguments)


STEP = [0, 0, 0], [1, 7, 1 << 62], [2, 7, 1 << 62], [1, 7, -(1 << 62)], [1, 8, 0], [3, 7, -(1 << 63)]
"""Unused ones, of all zeros or without a strength, among some that differ in a word."""
HOLES = st.lists(st.lists(st.sampled_from(STEP), min_size=4, max_size=4), min_size=1, max_size=4)


def lineage_of(steps):
    """By hand: the steps that have a strength."""
    return [step for step in steps if step[2] not in (0, -(1 << 63))]


def rows_of(lineages, size=4):
    return torch.tensor(
        [[word for step in (*steps, *[[0, 0, 0]] * (size - len(steps))) for word in step] for steps in lineages]
    )


@given(HOLES)
def test_compacted_rows_are_the_same_lineages_without_holes(lineages):
    rows = rows_of(lineages)
    before = rows.clone()
    found = compacted(rows)
    assert torch.equal(rows, before)
    options = {"subspace": Dense()}
    assert decode_rows(found, **options) == decode_rows(rows, **options)
    for row, steps in zip(found.view(-1, 4, 3).tolist(), lineages, strict=True):
        own = lineage_of(steps)
        assert row[: len(own)] == own
        assert row_lengths(torch.tensor(row).view(1, -1)).item() == len(own)


@given(HOLES)
def test_common_steps_are_those_of_the_lineages(lineages):
    own = [lineage_of(steps) for steps in lineages]
    expected = 0
    while all(len(steps) > expected for steps in own) and all(steps[expected] == own[0][expected] for steps in own):
        expected += 1
    assert common_steps(compacted(rows_of(lineages))) == expected


STEPS = [[key, 7, 1 << 62] for key in range(1, 40)]


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), KEYS)
def test_crossed_rows_share_out_what_their_parents_found_since_their_ancestor(common, one, two, key):
    """Nothing is lost or doubled, the order stays, and so do the lengths."""
    first, second = STEPS[: common + one], STEPS[:common] + STEPS[20 : 20 + two]
    parents = rows_of([first], 10), rows_of([second], 10)
    children = [decode_rows(child, subspace=Dense())[0].steps for child in cross_rows(*parents, key)]
    keys = [[step.key for step in child] for child in children]
    assert [*map(len, keys)] == [len(first), len(second)]
    assert all(own[:common] == [*range(1, common + 1)] for own in keys)
    assert sorted(keys[0] + keys[1]) == sorted(step[0] for step in first + second)
    assert all(own == sorted(own) for own in keys)


@given(st.lists(st.sampled_from(STEPS[:6]), max_size=8), st.lists(st.sampled_from(STEPS[:6]), max_size=8), KEYS)
def test_a_step_that_both_have_is_in_both_children_as_often_as_in_both(first, second, key):
    """Wherever it stands; each other one is in one of them."""
    parents = rows_of([first], 8), rows_of([second], 8)
    children = [decode_rows(child, subspace=Dense())[0].steps for child in cross_rows(*parents, key)]
    keys = [[step.key for step in child] for child in children]
    assert [*map(len, keys)] == [len(first), len(second)]
    for step in STEPS[:6]:
        counts = first.count(step), second.count(step)
        found = [own.count(step[0]) for own in keys]
        assert sum(found) == sum(counts)
        assert min(found) >= min(counts)
        assert max(found) <= max(counts)


def test_every_step_of_one_alone_goes_to_either_child_alike():
    """Each of six of the second child's own ones is in the first with a chance of a half."""
    parents = rows_of([STEPS[:6]] * 4000, 6), rows_of([STEPS[20:26]] * 4000, 6)
    child, _ = cross_rows(*parents, 5)
    for step in STEPS[:6] + STEPS[20:26]:
        share = (child.view(-1, 6, 3)[..., 0] == step[0]).any(1).double().mean()
        assert abs(float(share) - 0.5) < 0.05  # six standard deviations
    half = cross_rows(parents[0][:2000], parents[1][:2000], 5)[0]
    assert not torch.equal(child[:2000], child[2000:])
    assert torch.equal(half, child[:2000])  # a pair does not see how many there are
    assert not torch.equal(half, cross_rows(parents[0][:2000], parents[1][:2000], 6)[0])


@given(HOLES, st.integers(0, 11), st.integers(0, 62))
def test_sums_of_steps_tell_words_and_places(lineages, word, bit):
    rows = rows_of(lineages[:1])
    other = rows.clone()
    other[0, word] ^= 1 << bit
    assert step_sums(rows).item() != step_sums(other).item()
    assert step_sums(torch.cat([rows, torch.zeros(1, 6, dtype=torch.int64)], 1)).equal(step_sums(rows))
    moved = rows.roll(3, 1)
    assert torch.equal(moved, rows) == (step_sums(moved).item() == step_sums(rows).item())
