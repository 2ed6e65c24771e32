"""Soft voting and the choice of an ensemble's size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smd_evo.ensemble.voting import choose_size, log_vote
from smd_evo.evaluation.fitness import ACCURACY, CROSS_ENTROPY


@given(st.integers(1, 6), st.integers(1, 5), st.integers(2, 4), st.integers(0, 1000))
def test_vote_is_the_mean_of_probabilities(members, samples, classes, seed):
    logits = torch.randn(members, samples, classes, generator=torch.Generator().manual_seed(seed)) * 5
    expected = logits.double().softmax(-1).mean(0)
    assert torch.allclose(log_vote(logits).double().exp(), expected, atol=1e-6)
    assert torch.allclose(log_vote(logits.flip(0)), log_vote(logits), atol=1e-6)


def test_certain_members_do_not_underflow():
    logits = torch.tensor([[[0.0, 5000.0]], [[0.0, 3000.0]]])
    assert bool(log_vote(logits).isfinite().all())


def test_size_is_chosen_by_the_sense():
    right, wrong = torch.tensor([[4.0, 0.0]] * 3), torch.tensor([[0.0, 9.0]] * 3)
    targets = torch.zeros(3, dtype=torch.int64)
    for fitness in (CROSS_ENTROPY, ACCURACY):
        assert choose_size(torch.stack([right, wrong]), targets, [1, 2], fitness)[0] == 1
        assert choose_size(torch.stack([wrong, right, right, right]), targets, [1, 4], fitness)[0] == 4


def test_the_smallest_of_equals_and_never_a_nan():
    same = torch.zeros(3, 2, 2)
    targets = torch.zeros(2, dtype=torch.int64)
    assert choose_size(same, targets, [3, 2, 1], CROSS_ENTROPY)[0] == 1
    same[2] = float("nan")
    for fitness in (CROSS_ENTROPY, ACCURACY):
        assert choose_size(same, targets, [3, 2], fitness)[0] == 2


def test_no_possible_size():
    with pytest.raises(ValueError, match=r"at most 2 members, got \[3\]"):
        choose_size(torch.zeros(2, 1, 2), torch.zeros(1, dtype=torch.int64), [3], CROSS_ENTROPY)
