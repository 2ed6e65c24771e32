"""Soups: the mean of the members' weights, as a slow mean of whole networks gives it."""

import pytest
import torch
from helpers import SmallNet, same_bits, state_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from smd_evo import Lineage, ParameterSpace, RandomSubspace, SparseDelta, sample_mutations
from smd_evo.core.delta import SparseValues
from smd_evo.ensemble.soup import soup

KEYS = st.integers(0, 2**64 - 1)
SHARES = st.lists(st.floats(0.01, 1), min_size=1, max_size=5).map(lambda all: [share / sum(all) for share in all])


def make(dtype=torch.float32):
    torch.manual_seed(0)
    return ParameterSpace(SmallNet().to(dtype))


def recipes(count, key=0, density=0.3):
    return sample_mutations(key, count, subspace=RandomSubspace(density), sigma=0.5)


def slow(space, members, weights):
    """The mean of whole state dicts in float64; everything that no member touches is the parent's."""
    states = [space.make_child(member).state_dict() for member in members]
    mean = {}
    for name, own in space.module.state_dict().items():
        same = all(torch.equal(own, state[name]) for state in states)
        total = sum(weight * state[name].double() for weight, state in zip(weights, states, strict=True))
        mean[name] = own if same else total
    return mean


def is_close(network, expected, atol):
    state = network.state_dict()
    return all(torch.allclose(state[name].double(), expected[name].double(), atol=atol, rtol=0) for name in expected)


@given(KEYS, SHARES, st.floats(0.01, 1))
@pytest.mark.parametrize(
    ("dtype", "atol"),
    [(torch.float32, 1e-6), (torch.float64, 1e-14), (torch.bfloat16, 0.02), (torch.float16, 0.002)],
    ids=str,
)
def test_as_a_slow_mean(dtype, atol, key, weights, density):
    space = make(dtype)
    before = state_bits(space.module)
    members = recipes(len(weights), key, density)
    assert is_close(space.make_child(soup(space, members, weights)), slow(space, members, weights), atol)
    assert same_bits(before, state_bits(space.module))


def test_all_alike_by_default():
    space, members = make(), recipes(4)
    given, default = soup(space, members, [0.25] * 4), soup(space, members)
    assert torch.equal(given.values, default.values)
    assert is_close(space.make_child(default), slow(space, members, [0.25] * 4), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("weights", [None, [1.0], [1 + 5e-6]], ids=str)
def test_of_one_member_is_that_member(dtype, weights):
    """To the bit, also where a weight is not quite one and where a value is a negative zero."""
    space = make(dtype)
    zeros = SparseValues(torch.arange(4), torch.tensor([-0.0, 0.0, -0.0, 1e-30]))
    for member in (recipes(1)[0], zeros, Lineage()):
        one = space.make_child(soup(space, [member], weights))
        assert same_bits(state_bits(one), state_bits(space.make_child(member)))


@given(KEYS, SHARES, st.randoms(use_true_random=False))
def test_the_order_makes_no_difference_beyond_rounding(key, weights, random):
    space = make()
    pairs = list(zip(recipes(len(weights), key), weights, strict=True))
    first = soup(space, *map(list, zip(*pairs, strict=True)))
    random.shuffle(pairs)
    second = soup(space, *map(list, zip(*pairs, strict=True)))
    assert torch.equal(first.indices, second.indices)
    assert torch.allclose(first.values, second.values, atol=1e-6)


def test_members_that_agree_are_kept():
    """Repeated ones are what they are, and not a rounding away from it."""
    space = make()
    member = recipes(1)[0]
    for count in (2, 3, 7):
        repeated = space.make_child(soup(space, [member] * count))
        assert same_bits(state_bits(repeated), state_bits(space.make_child(member)))


def test_each_coordinate_is_a_mean_over_all_members():
    """Where one member only has changed a weight, the others count with the parent's."""
    space = ParameterSpace(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        space.module.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    one = SparseValues(torch.tensor([0, 1]), torch.tensor([9.0, 10.0]))
    two = SparseDelta(torch.tensor([1, 3]), torch.tensor([-4.0, 4.0]))
    mean = soup(space, [one, two], [0.25, 0.75])
    assert mean.indices.tolist() == [0, 1, 3]
    assert mean.values.tolist() == [3.0, 1.0, 7.0]


def test_members_of_every_kind():
    space = make()
    first, second, third = recipes(3)
    delta = SparseDelta(torch.tensor([3, 200]), torch.tensor([1.0, -1.0]))
    members = [first, Lineage((second, third)), Lineage(), delta, space.values_of(third), (delta, third)]
    assert is_close(space.make_child(soup(space, members)), slow(space, members, [1 / 6] * 6), 1e-6)
    assert len(soup(space, [Lineage(), Lineage()])) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_rounded_once(dtype):
    """Not with every member that is added: 64 members that each add a fraction of a rounding step."""
    space = ParameterSpace(nn.Linear(8, 8, bias=False).to(dtype))
    with torch.no_grad():
        space.module.weight.fill_(1)
    step = torch.finfo(dtype).eps
    members = [SparseValues(torch.arange(64), torch.full((64,), 1 + step * (number % 4))) for number in range(64)]
    mean = soup(space, members)
    assert torch.equal(mean.values.double(), torch.full((64,), 1 + 1.5 * step, dtype=torch.float64))
    for key in range(20):
        members = recipes(3, key, 1.0)
        exact = slow(space, members, [1 / 3] * 3)["weight"]
        made = space.make_child(soup(space, members)).weight
        assert bool(((made.double() - exact).abs() <= (exact.abs() * step / 2).clamp(min=1e-7)).all())


def test_a_soup_is_a_member_of_further_soups(devices):
    for device in devices:
        torch.manual_seed(0)
        space = ParameterSpace(SmallNet().to(device))
        members = recipes(4)
        halves = [soup(space, members[:2]), soup(space, members[2:])]
        assert halves[0].values.device.type == device.type
        assert torch.allclose(soup(space, halves).values, soup(space, members).values, atol=1e-6)


def test_of_a_selection_and_of_mixed_types():
    network = nn.Sequential(nn.Linear(4, 4).half(), nn.Linear(4, 4), nn.Linear(4, 4).double())
    for select in ("0", "1", "2", "all"):
        space = ParameterSpace(network, select)
        mean = soup(space, recipes(3))
        assert mean.values.dtype == (torch.float64 if select in ("2", "all") else torch.float32)
        assert is_close(space.make_child(mean), slow(space, recipes(3), [1 / 3] * 3), 0.002)


@pytest.mark.parametrize(
    ("members", "weights", "message"),
    [
        ([], None, "members: expected at least one, got none"),
        (recipes(2), [1.0], "weights: expected 2 numbers that add up to one, got 1"),
        (recipes(2), [0.5, 0.4], "weights: expected 2 numbers that add up to one"),
        (recipes(2), [1.0, 0.0], "leave members of weight 0 out"),
        ([SparseDelta(torch.tensor([239]), torch.ones(1))], None, "below D = 239"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(members, weights, message):
    with pytest.raises(ValueError, match=message):
        soup(make(), members, weights)
