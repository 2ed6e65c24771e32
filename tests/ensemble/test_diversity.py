"""Diversity of members, against loops over all pairs."""

import math
from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smd_evo.ensemble.diversity import disagreement, oracle, pairwise_kl, q_statistic
from smd_evo.ensemble.metrics import accuracy, finite_logits

ensembles = st.builds(
    lambda members, samples, classes, seed: (
        3 * torch.randn(members, samples, classes, generator=torch.Generator().manual_seed(seed)),
        torch.randint(classes, (samples,), generator=torch.Generator().manual_seed(seed + 1)),
    ),
    st.integers(2, 6),
    st.integers(1, 6),
    st.integers(2, 5),
    st.integers(0, 10_000),
)
right_and_wrong = st.integers(1, 8).flatmap(
    lambda samples: st.lists(st.lists(st.booleans(), min_size=samples, max_size=samples), min_size=2, max_size=5)
)


def slow_q(correct):
    values = []
    for a, b in combinations(correct, 2):
        cells = list(zip(a, b, strict=True))
        n11, n00 = cells.count((True, True)), cells.count((False, False))
        n10, n01 = cells.count((True, False)), cells.count((False, True))
        if n11 * n00 + n01 * n10:
            values.append((n11 * n00 - n01 * n10) / (n11 * n00 + n01 * n10))
        else:
            values.append(1.0 if a == b else 0.0)
    return sum(values) / len(values)


@given(ensembles)
def test_disagreement_counts_pairs(ensemble):
    logits, _ = ensemble
    classes = logits.argmax(-1).T.tolist()
    expected = [sum(a != b for a, b in combinations(row, 2)) / math.comb(len(row), 2) for row in classes]
    assert disagreement(logits).tolist() == pytest.approx(expected, abs=1e-12)


@given(ensembles)
def test_divergence_is_the_mean_over_ordered_pairs(ensemble):
    logits, _ = ensemble
    expected = torch.zeros(logits.shape[1], dtype=torch.float64)
    for p, q in permutations(logits.double().softmax(-1), 2):
        expected += (p * (p / q).log()).sum(-1)
    expected /= len(logits) * (len(logits) - 1)
    assert torch.allclose(pairwise_kl(logits), expected, atol=1e-9)


@given(ensembles)
def test_oracle_is_right_where_any_member_is(ensemble):
    logits, targets = ensemble
    expected = [
        any(row[number] == y for row in logits.argmax(-1).tolist()) for number, y in enumerate(targets.tolist())
    ]
    assert oracle(logits, targets).tolist() == [float(value) for value in expected]


@given(right_and_wrong)
def test_q_is_the_mean_over_pairs(correct):
    q = q_statistic(torch.tensor(correct))
    assert q == pytest.approx(slow_q(correct), abs=1e-12)
    assert -1 <= q <= 1


@given(ensembles, st.randoms(use_true_random=False))
def test_the_order_of_the_members_changes_nothing(ensemble, random):
    logits, targets = ensemble
    order = list(range(len(logits)))
    random.shuffle(order)
    for measure in (disagreement, pairwise_kl, lambda members: oracle(members, targets)):
        assert torch.allclose(measure(logits[order]), measure(logits), atol=1e-12)
    correct = torch.stack([accuracy(member, targets) for member in logits]).bool()
    assert q_statistic(correct[order]) == pytest.approx(q_statistic(correct), abs=1e-12)


@given(ensembles, st.integers(2, 5))
def test_identical_members_have_no_diversity(ensemble, copies):
    logits, targets = ensemble
    same = logits[:1].repeat(copies, 1, 1)
    right = accuracy(logits[0], targets)
    assert disagreement(same).tolist() == [0] * len(targets)
    assert pairwise_kl(same).tolist() == pytest.approx([0] * len(targets), abs=1e-12)
    assert bool((pairwise_kl(same) >= 0).all())
    assert torch.equal(oracle(same, targets), right)
    assert q_statistic(right.bool().repeat(copies, 1)) == 1


def test_all_different_and_never_both():
    logits = 10 * torch.eye(3).view(3, 1, 3)
    assert disagreement(logits).tolist() == [1]
    assert q_statistic(torch.tensor([[True, False, True], [False, True, False]])) == -1
    independent = torch.tensor([[True, True, False, False], [True, False, True, False]])
    assert q_statistic(independent) == 0


def test_a_member_that_never_varies_is_independent_of_others():
    always, never, varies = [True, True, True], [False, False, False], [True, True, False]
    for first, second, expected in (
        (always, varies, 0),
        (never, varies, 0),
        (always, never, 0),
        (always, always, 1),
        (never, never, 1),
        (varies, varies, 1),
    ):
        assert q_statistic(torch.tensor([first, second])) == expected
        assert q_statistic(torch.tensor([second, first])) == expected


def test_certain_members_are_far_apart_by_a_finite_number():
    logits = torch.tensor([[[0.0, 500.0]], [[500.0, 0.0]]])
    assert pairwise_kl(logits).tolist() == [500]


def test_nearly_equal_members_are_told_apart():
    """KL of a shift d of one logit of two at p = 1 / 2 is d ** 2 / 8."""
    logits = torch.zeros(2, 1, 2, dtype=torch.float64)
    logits[1, 0, 0] = 1e-4
    assert float(pairwise_kl(logits)[0]) == pytest.approx(1e-8 / 8, rel=1e-3)


def test_members_that_are_not_finite():
    logits, targets = torch.zeros(2, 1, 2), torch.tensor([0])
    logits[0, 0, 1] = float("nan")
    for measure in (disagreement, pairwise_kl):
        with pytest.raises(ValueError, match="expected finite numbers, got others; replace them by finite_logits"):
            measure(logits)
    assert disagreement(finite_logits(logits, targets)).tolist() == [1]
    assert oracle(logits, targets).tolist() == [1]


def test_one_member_has_no_diversity():
    targets = torch.tensor([0, 1])
    for logits in (torch.zeros(1, 2, 2), torch.zeros(2, 2)):
        for measure in (disagreement, pairwise_kl, lambda members: oracle(members, targets)):
            with pytest.raises(
                ValueError, match=r"logits: expected \[members, n, classes\], two members or more, got"
            ):
                measure(logits)
    for correct in (torch.ones(1, 5).bool(), torch.ones(5).bool(), torch.ones(2, 5), torch.ones(2, 0).bool()):
        with pytest.raises(
            ValueError, match=r"correct: expected bool \[members, n\], two members or more, got torch"
        ):
            q_statistic(correct)
