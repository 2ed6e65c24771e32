"""Splits never meet, have the sizes that were asked for, and the classes' shares."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from smd_evo.errors import InvalidValue
from smd_evo.zoo.splits import split

SEEDS = st.integers(0, 2**64 - 1)
TARGETS = st.lists(st.integers(0, 4), min_size=3, max_size=120).map(np.array)


@given(TARGETS, st.data(), SEEDS, st.booleans())
def test_they_are_disjoint_and_have_their_sizes(targets, draw, seed, rest):
    fitness = draw.draw(st.integers(1, len(targets) - 2))
    validation = draw.draw(st.integers(1, len(targets) - fitness - 1))
    parts = split(targets, {"fitness": fitness, "validation": validation}, "test" if rest else None, seed=seed)
    assert (len(parts["fitness"]), len(parts["validation"])) == (fitness, validation)
    for one, other in itertools.combinations(parts.values(), 2):
        assert not set(one) & set(other)
    drawn = np.concatenate(list(parts.values()))
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(len(targets)))
    if rest:
        assert sorted(drawn) == list(range(len(targets)))


@given(TARGETS, SEEDS)
def test_all_may_be_taken(targets, seed):
    parts = split(targets, {"one": 1, "other": len(targets) - 1}, seed=seed)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(targets)))
    assert sorted(split(targets, {"all": len(targets)}, seed=seed)["all"]) == list(range(len(targets)))


@given(
    st.lists(st.integers(12, 60), min_size=2, max_size=5),
    st.integers(10, 20),
    st.integers(10, 20),
    st.randoms(),
    SEEDS,
)
def test_each_class_has_its_share_of_each_split(counts, fitness, validation, random, seed):
    targets = np.repeat(np.arange(len(counts)), counts)
    random.shuffle(targets)
    assume(sum(counts) >= fitness + validation + len(counts))
    parts = split(targets, {"fitness": fitness, "validation": validation}, "test", seed=seed)
    for numbers in parts.values():
        for number, count in enumerate(counts):
            share = count / len(targets) * len(numbers)
            assert abs((targets[numbers] == number).sum() - share) < 2


def test_classes_of_one_sample_are_drawn_whatever_their_class():
    parts = split(np.arange(1000), {"fitness": 400, "validation": 400}, "test")
    assert [len(numbers) for numbers in parts.values()] == [400, 400, 200]
    assert sorted(parts["fitness"]) != list(range(400))


def test_the_seed_tells_which():
    targets = np.arange(300) % 3
    draws = [split(targets, {"fitness": 100, "validation": 50}, "test", seed=seed) for seed in (0, 0, 1, 2**63)]
    for name in draws[0]:
        assert np.array_equal(draws[0][name], draws[1][name])
        assert len({tuple(sorted(draw[name])) for draw in draws}) == 3


@pytest.mark.parametrize(
    ("total", "sizes", "rest", "expected"),
    [
        (90, {"fitness": None, "validation": None}, "test", [30, 30, 30]),
        (90, {"fitness": None, "validation": None}, None, [30, 30]),
        (90, {"fitness": 60, "validation": None}, "test", [60, 10, 20]),
        (90, {"fitness": None, "validation": None, "test": 60}, None, [10, 10, 60]),
        (16_000, {"fitness": None, "validation": 200}, "test", [5000, 200, 10_800]),
    ],
)
def test_sizes_that_are_not_given(total, sizes, rest, expected):
    assert [len(numbers) for numbers in split(np.arange(total) % 2, sizes, rest).values()] == expected


@pytest.mark.parametrize(
    ("sizes", "rest", "got"),
    [
        ({"fitness": 6, "validation": 5}, None, "got 6 for fitness, 5 for validation$"),
        ({"fitness": 6, "validation": 4}, "test", "got 6 for fitness, 4 for validation and at least 1 for test$"),
        ({"fitness": 11, "validation": None}, None, "got 11 for fitness, 0 for validation$"),
        ({"fitness": -1}, None, "got -1 for fitness$"),
    ],
)
def test_more_than_there_are(sizes, rest, got):
    with pytest.raises(InvalidValue, match=rf"^data: expected enough of its 10 samples for all splits, {got}"):
        split(np.zeros(10, dtype=int), sizes, rest)
