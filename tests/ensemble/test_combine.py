"""How outputs of several members become one prediction: against plain loops, at the limits, and as a stream."""

import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smd_evo.ensemble.combine import COMBINES, combined
from smd_evo.errors import InvalidType, InvalidValue

shapes = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(2, 4))
seeds = st.integers(0, 1000)


def members_of(shape, seed, scale=5.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def shares_of(count, seed):
    raw = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    return (raw / raw.sum()).tolist()


def softmax(row):
    powers = [math.exp(score - max(row)) for score in row]
    return [power / sum(powers) for power in powers]


def slow(members, weights, combine):
    """One prediction, number by number: probabilities, or outputs for "logits"."""
    together = []
    for rows in zip(*members.double().tolist(), strict=True):
        total = [0.0] * len(rows[0])
        for row, weight in zip(rows, weights, strict=True):
            shares = row if combine == "logits" else softmax(row)
            if combine == "majority":
                voted = row.index(max(row))
                shares = [0.001 * share + 0.999 * (number == voted) for number, share in enumerate(shares)]
            total = [before + weight * share for before, share in zip(total, shares, strict=True)]
        together.append(total)
    return torch.tensor(together, dtype=torch.float64)


@pytest.mark.parametrize("combine", COMBINES)
class TestEveryCombination:
    @given(shape=shapes, seed=seeds)
    def test_is_the_mean(self, combine, shape, seed):
        members = members_of(shape, seed)
        expected = slow(members, [1 / len(members)] * len(members), combine)
        result = combined(members, combine=combine).double()
        assert torch.allclose(result if combine == "logits" else result.exp(), expected, atol=2e-6)

    @given(shape=shapes, seed=seeds)
    def test_or_the_weighted_mean(self, combine, shape, seed):
        members = members_of(shape, seed)
        weights = shares_of(len(members), seed)
        expected = slow(members, weights, combine)
        result = combined(members, weights, combine).double()
        assert torch.allclose(result if combine == "logits" else result.exp(), expected, atol=2e-6)

    @given(shape=shapes, seed=seeds, data=st.data())
    def test_the_order_of_members_makes_no_difference(self, combine, shape, seed, data):
        members = members_of(shape, seed)
        weights = shares_of(len(members), seed)
        order = data.draw(st.permutations(range(len(members))))
        expected = combined(members, weights, combine)
        result = combined(members[order], [weights[number] for number in order], combine)
        assert torch.allclose(result, expected, atol=1e-5)

    def test_a_weight_is_a_number_of_repetitions(self, combine):
        one, two = members_of((2, 5, 3), 0)
        repeated = combined([one, two, one, one], combine=combine)
        assert torch.allclose(combined([one, two], [0.75, 0.25], combine), repeated, atol=1e-6)

    def test_of_one_member_says_what_it_says(self, combine):
        member = members_of((5, 3), 0)
        assert torch.equal(combined([member], combine=combine).argmax(-1), member.argmax(-1))

    def test_is_logits_again(self, combine):
        together = combined(members_of((4, 6, 3), 0), combine=combine)
        if combine != "logits":
            assert torch.allclose(together.log_softmax(-1), together, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("logit", [1e4, 6e4])
    def test_stays_finite_with_extreme_logits(self, combine, dtype, logit):
        members = torch.tensor([[[logit, -logit, 0.0]], [[-logit, logit, 0.0]], [[logit, -logit, 0.0]]], dtype=dtype)
        together = combined(members, combine=combine)
        assert bool(together.isfinite().all())
        assert together.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert together.argmax(-1).tolist() == [0]

    def test_a_stream_gives_the_same(self, combine):
        members = members_of((4, 5, 3), 0)
        for weights in (None, [0.1, 0.2, 0.3, 0.4]):
            expected = combined(members, weights, combine)
            assert torch.equal(combined((member for member in members), weights, combine), expected)
            assert torch.equal(combined(list(members), weights, combine), expected)

    @pytest.mark.parametrize("weights", [None, [1 / 16] * 16])
    def test_a_stream_is_not_held(self, combine, weights):
        alive: list[weakref.ref] = []

        def stream():
            for number in range(16):
                member = members_of((5, 3), number)
                alive.append(weakref.ref(member))
                yield member
                del member
                assert sum(ref() is not None for ref in alive) <= 2

        combined(stream(), weights, combine)

    def test_a_sample_for_which_one_member_says_nan_has_no_prediction(self, combine):
        members = members_of((3, 4, 3), 0)
        members[1, 2, 0] = math.nan
        together = combined(members, combine=combine)
        assert together.isnan().any(-1).tolist() == [False, False, True, False]

    def test_members_are_left_as_they_are(self, combine):
        members = members_of((3, 4, 3), 0)
        before = members.clone()
        combined(members, combine=combine)
        combined(members, [0.2, 0.3, 0.5], combine)
        assert torch.equal(members, before)


class TestMajority:
    @given(members=st.integers(1, 9), seed=seeds, scale=st.sampled_from([0.01, 1.0, 30.0, 1e4]))
    def test_most_votes_win_whatever_the_probabilities(self, members, seed, scale):
        logits = members_of((members, 8, 4), seed, scale)
        votes = torch.nn.functional.one_hot(logits.argmax(-1), 4).sum(0)
        mean = logits.double().softmax(-1).mean(0)
        for own, probabilities, prediction in zip(votes, mean, combined(logits, combine="majority"), strict=True):
            tied = (own == own.max()).nonzero()[:, 0].tolist()
            best = sorted(tied, key=lambda number: -float(probabilities[number]))
            if len(tied) == 1 or float(probabilities[best[0]] - probabilities[best[1]]) > 1e-3:
                assert int(prediction.argmax()) == best[0]

    def test_two_who_hesitate_outvote_one_who_is_certain(self):
        members = torch.tensor([[[0.1, 0.0]], [[0.1, 0.0]], [[0.0, 50.0]]])
        assert combined(members, combine="majority").argmax(-1).tolist() == [0]
        assert combined(members).argmax(-1).tolist() == [1]

    def test_of_two_who_differ_the_more_certain_wins(self):
        members = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.1]]])
        assert combined(members, combine="majority").argmax(-1).tolist() == [2]
        assert combined(members.flip(0), combine="majority").argmax(-1).tolist() == [2]

    def test_the_heavier_vote_wins(self):
        members = torch.tensor([[[0.1, 0.0]], [[0.0, 50.0]]])
        assert combined(members, [0.51, 0.49], "majority").argmax(-1).tolist() == [0]

    def test_a_class_without_votes_has_a_finite_likelihood(self):
        members = torch.tensor([[[300.0, 0.0, -1e4]]]).repeat(5, 1, 1)
        loss = -combined(members, combine="majority")[0]
        assert bool(loss.isfinite().all())
        assert loss.tolist() == pytest.approx([0, 300 - math.log(0.001), 10300 - math.log(0.001)], abs=1e-2)


@pytest.mark.parametrize("shape", [(), (5,), (5, 1), (5, 2, 3), (0, 3)])
def test_regressions_of_any_shape_are_averaged(shape):
    members = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(combined(members, combine="logits"), members.mean(0))
    weighted = (members * torch.tensor([0.1, 0.2, 0.3, 0.4]).view(4, *[1] * len(shape))).sum(0)
    assert torch.allclose(combined(members, [0.1, 0.2, 0.3, 0.4], "logits"), weighted)


@pytest.mark.parametrize("given", [tuple, iter, np.array, torch.tensor], ids=["tuple", "iterator", "numpy", "torch"])
def test_weights_from_anything_that_gives_them(given):
    members = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(combined(members, given([0.25, 0.75])), combined(members, [0.25, 0.75]))


class TestErrors:
    @pytest.mark.parametrize("weights", [None, [0.5, 0.5]])
    @pytest.mark.parametrize("members", [[], torch.zeros(0, 4, 3)], ids=["list", "tensor"])
    def test_no_members(self, weights, members):
        with pytest.raises(InvalidValue, match="outputs: expected those of at least one member, got none"):
            combined(members, weights)

    @pytest.mark.parametrize("stream", [list, iter])
    def test_another_number_of_weights(self, stream):
        members = [torch.zeros(4, 3)] * 3
        with pytest.raises(InvalidValue, match="weights: expected one for each of 3 members or more, got 2"):
            combined(stream(members), [0.5, 0.5])
        with pytest.raises(InvalidValue, match="weights: expected one for each of 3 members, got 4"):
            combined(stream(members), [0.25] * 4)

    @pytest.mark.parametrize(
        "weights", [[0.0, 1.0], [-0.5, 1.5], [math.nan, 1.0], [0.5, 0.6], [1.0, 1.0], [math.inf, 1]]
    )
    @pytest.mark.parametrize("combine", COMBINES)
    def test_weights_that_are_no_shares(self, weights, combine):
        with pytest.raises(InvalidValue, match="weights: expected"):
            combined(torch.zeros(2, 4, 3), weights, combine)

    @pytest.mark.parametrize("output", [(torch.zeros(4, 3),), {"out": torch.zeros(4, 3)}, None])
    def test_outputs_that_are_no_tensor(self, output):
        with pytest.raises(
            InvalidType, match=r"expected the network to return one tensor, got \w+; wrap the network"
        ):
            combined([output])

    @pytest.mark.parametrize("combine", COMBINES)
    @pytest.mark.parametrize("other", [(4, 2), (3, 3), (1, 3), (3,)])
    def test_shapes_that_differ(self, combine, other):
        with pytest.raises(InvalidValue, match=r"the same shape of every member, got \(.*\) after \(4, 3\)"):
            combined([torch.zeros(4, 3), torch.zeros(other)], combine=combine)

    @pytest.mark.parametrize("combine", ["probabilities", "majority"])
    @pytest.mark.parametrize("shape", [(), (4, 1), (1,), (4, 3, 8, 8)])
    def test_outputs_that_are_no_scores_of_classes(self, combine, shape):
        """Of a segmentation network the last dimension is no class, and one class has nothing to be told from."""
        with pytest.raises(InvalidValue, match=r'\[n, classes\], for .*; combine="logits" takes any outputs'):
            combined([torch.zeros(shape)], combine=combine)

    def test_an_unknown_combination(self):
        with pytest.raises(InvalidValue, match=r"combine: .*got 'mayority'; did you mean 'majority'"):
            combined([torch.zeros(4, 3)], combine="mayority")
