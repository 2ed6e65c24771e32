"""One contract for every subspace, then what is particular to each."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smd_evo import (
    Dense,
    Layout,
    LowRank,
    NeuronSubspace,
    PartitionSubspace,
    RandomSubspace,
    Slot,
    Subspace,
    TensorSubspace,
    UnitSubspace,
    Within,
    derive,
    parse_subspace,
)
from smd_evo.core.keys import key_from_int64
from smd_evo.core.subspace import check_subspace
from smd_evo.errors import InvalidType, InvalidValue

LAYOUT = Layout(
    (
        Slot("conv.weight", (4, 2, 3, 3)),
        Slot("conv.bias", (4,)),
        Slot("norm.weight", (4,)),
        Slot("norm.bias", (4,)),
        Slot("empty", (0, 3)),
        Slot("temperature", ()),
        Slot("head.weight", (3, 8)),
        Slot("head.bias", (3,)),
    )
)
ALL = [
    RandomSubspace(0.1),
    RandomSubspace(0.1, static=True),
    RandomSubspace(1.0),
    PartitionSubspace(7),
    PartitionSubspace(7, static=True),
    TensorSubspace(2),
    TensorSubspace(1, "layer", static=True),
    NeuronSubspace(0.2),
    NeuronSubspace(0.2, static=True),
    Dense(),
    LowRank(1),
    LowRank(3),
    Within("conv,head.*", RandomSubspace(0.2)),
    Within("conv,head", RandomSubspace(0.2, static=True)),
    Within("conv.weight,norm", PartitionSubspace(7)),
    Within("norm,head", TensorSubspace(1, static=True)),
    Within("*.weight", NeuronSubspace(0.3)),
    Within("norm", Dense()),
    Within("conv.weight,head", LowRank(2)),
    UnitSubspace("layer", RandomSubspace(0.5)),
    UnitSubspace("tensor", NeuronSubspace(0.5)),
    UnitSubspace(1, Dense()),
    Within("conv,head", UnitSubspace("tensor", RandomSubspace(0.3))),
]
FEW = [TensorSubspace(2), UnitSubspace(1, Dense())]
"""Rules that have few coordinates to choose from."""
every_subspace = pytest.mark.parametrize("subspace", ALL, ids=lambda subspace: subspace.spec)
KEYS = st.integers(0, 2**64 - 1)


@every_subspace
class TestContract:
    @given(KEYS)
    def test_coordinates_are_sorted_distinct_and_inside(self, subspace, key):
        coordinates = subspace.coordinates(subspace.draw(key), LAYOUT)
        assert coordinates.dtype == torch.int64
        assert len(coordinates) >= 1
        assert bool((coordinates.diff() > 0).all())
        assert 0 <= int(coordinates[0]) <= int(coordinates[-1]) < LAYOUT.size

    @given(KEYS, st.integers(0, 100), st.integers(0, 10**6))
    def test_a_draw_is_a_64_bit_number_that_fixes_the_coordinates(self, subspace, key, generation, index):
        draw = subspace.draw(key, generation, index)
        assert 0 <= draw < 2**64
        assert torch.equal(subspace.coordinates(draw, LAYOUT), subspace.coordinates(draw, LAYOUT))
        assert draw == subspace.draw(key, generation, index)

    def test_dynamic_differs_between_children_and_static_does_not(self, subspace):
        seen = {
            tuple(subspace.coordinates(subspace.draw(3, generation, child * subspace.siblings), LAYOUT).tolist())
            for generation in range(5)
            for child in range(8)
        }
        everything = subspace in (Dense(), RandomSubspace(1.0))
        assert len(seen) == 1 if subspace.static or everything else len(seen) > 10 or subspace in FEW

    @given(KEYS, st.integers(0, 2**63), st.lists(st.integers(0, 2**62), max_size=8))
    def test_draws_are_the_draw_of_each_child(self, subspace, key, generation, indices):
        draws = subspace.draws(key, generation, torch.tensor(indices, dtype=torch.int64))
        assert draws.dtype == torch.int64
        assert [key_from_int64(draw) for draw in draws.tolist()] == [
            subspace.draw(key, generation, index) for index in indices
        ]
        square = torch.arange(6).view(2, 3)
        assert torch.equal(
            subspace.draws(key, generation, square).flatten(), subspace.draws(key, generation, square.flatten())
        )

    @given(KEYS, st.integers(0, 6), st.integers(0, 100))
    def test_coordinates_of_many_draws_are_those_of_each(self, subspace, key, count, start):
        draws = subspace.draws(key, 0, torch.arange(start, start + count))
        numbers, coordinates = subspace.coordinates_of(draws, LAYOUT)
        assert numbers.dtype == coordinates.dtype == torch.int64
        assert len(numbers) == len(coordinates)
        for number, draw in enumerate(draws.tolist()):
            own = coordinates[numbers == number].sort().values
            assert torch.equal(own, subspace.coordinates(key_from_int64(draw), LAYOUT))
        assert set(numbers.tolist()) == set(range(count))

    def test_the_mean_count_is_that_of_all_draws(self, subspace):
        draws = [subspace.draw(key, 0, index) for key in range(60) for index in range(7)]
        counts = torch.tensor([len(subspace.coordinates(draw, LAYOUT)) for draw in draws]).double()
        off = abs(float(counts.mean()) - subspace.mean_count(LAYOUT))
        assert off <= 4 * float(counts.std()) / len(draws) ** 0.5
        sampled = Subspace.mean_count(subspace, LAYOUT)
        assert sampled == subspace.mean_count(LAYOUT) or counts.std() > 0

    def test_spec_reads_back(self, subspace):
        assert parse_subspace(subspace.spec) == subspace

    def test_devices_agree(self, subspace, devices):
        draw = subspace.draw(1)
        for device in devices:
            assert torch.equal(subspace.coordinates(draw, LAYOUT, device).cpu(), subspace.coordinates(draw, LAYOUT))
            draws = subspace.draws(1, 0, torch.arange(5, device=device))
            assert torch.equal(draws.cpu(), subspace.draws(1, 0, torch.arange(5)))
            there, here = (
                {*zip(*(part.tolist() for part in subspace.coordinates_of(own, LAYOUT)), strict=True)}
                for own in (draws, draws.cpu())
            )
            assert there == here


@pytest.mark.parametrize(
    "subspace", [rule for rule in ALL if not (rule.static or isinstance(rule, Within))], ids=lambda rule: rule.spec
)
def test_every_coordinate_is_reached(subspace):
    """Over many children; where all coordinates are alike, equally often (chi-square)."""
    counts = torch.zeros(LAYOUT.size)
    for child in range(800):
        counts[subspace.coordinates(subspace.draw(5, 0, child), LAYOUT)] += 1
    assert int(counts.min()) > 0
    share = float(counts.mean()) / 800
    if isinstance(subspace, PartitionSubspace):
        assert int(counts.max() - counts.min()) <= 1  # each decomposition covers everything once
    if isinstance(subspace, RandomSubspace) and share < 1:
        # Drawn without replacement, the counts vary less than multinomial ones, by the share left out.
        statistic = stats.chisquare(counts.numpy()).statistic / (1 - share)
        assert 1e-3 < stats.chi2.sf(statistic, LAYOUT.size - 1) < 1 - 1e-3


@given(st.integers(1, 5000), st.floats(1e-6, 1), KEYS)
def test_random_subspace_has_exactly_k(size, density, draw):
    coordinates = RandomSubspace(density).coordinates(draw, Layout.flat(size))
    assert len(coordinates) == max(1, round(density * size))


def test_random_subspace_of_a_trillion_parameters_costs_k():
    coordinates = RandomSubspace(1e-9).coordinates(3, Layout.flat(2**40))
    assert len(coordinates) == round(1e-9 * 2**40)


@given(st.integers(1, 3000), st.data(), KEYS, st.booleans())
def test_parts_are_disjoint_even_and_everything(size, data, key, static):
    parts = data.draw(st.integers(1, min(size, 40)))
    subspace = PartitionSubspace(parts, static)
    pieces = [
        subspace.coordinates(subspace.draw(key, 2, parts * 3 + part), Layout.flat(size)) for part in range(parts)
    ]
    assert torch.cat(pieces).sort().values.tolist() == list(range(size))
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_decompositions_differ():
    subspace = PartitionSubspace(2)
    first, second = (subspace.coordinates(subspace.draw(1, 0, child), Layout.flat(1000)) for child in (0, 2))
    assert not torch.equal(first, second)


def test_more_parts_than_coordinates():
    with pytest.raises(ValueError, match="at most D = 5 parts, got 6"):
        PartitionSubspace(6).coordinates(0, Layout.flat(5))


@given(KEYS, st.sampled_from(["tensor", "layer"]), st.integers(1, 4))
def test_tensor_subspace_takes_whole_units(draw, unit, count):
    touched = set(TensorSubspace(count, unit).coordinates(draw, LAYOUT).tolist())
    units = {}
    for slot, start in zip(LAYOUT.slots, LAYOUT.offsets, strict=False):
        units.setdefault(slot.layer if unit == "layer" else slot.name, set()).update(range(start, start + slot.size))
    whole = [name for name, members in units.items() if members and members <= touched]
    assert len(whole) == count
    assert set().union(*(units[name] for name in whole)) == touched


def test_more_tensors_than_there_are():
    with pytest.raises(ValueError, match="at most the 7 tensors that are selected, got 8"):
        TensorSubspace(8).coordinates(0, LAYOUT)


@given(KEYS, st.floats(0.01, 1))
def test_neurons_are_whole_rows_with_their_bias(draw, density):
    touched = set(NeuronSubspace(density).coordinates(draw, LAYOUT).tolist())
    conv, bias, scale, shift, temperature, head, head_bias = (LAYOUT.offsets[i] for i in (0, 1, 2, 3, 5, 6, 7))
    neurons = [{*range(conv + 18 * row, conv + 18 * (row + 1)), bias + row} for row in range(4)]
    neurons += [{scale + row, shift + row} for row in range(4)]
    neurons += [{temperature}]
    neurons += [{*range(head + 8 * row, head + 8 * (row + 1)), head_bias + row} for row in range(3)]
    whole = [neuron for neuron in neurons if neuron <= touched]
    assert set().union(*whole) == touched
    assert len(whole) == max(1, round(density * len(neurons)))


@pytest.mark.parametrize("density", [0, -0.1, 1.01, float("nan"), float("inf"), "much", None])
@pytest.mark.parametrize("kind", [RandomSubspace, NeuronSubspace])
def test_bad_density(kind, density):
    with pytest.raises((ValueError, TypeError), match=r"density: expected a (finite )?number in \(0, 1\], got"):
        kind(density)


@pytest.mark.parametrize("make", [lambda: PartitionSubspace(0), lambda: PartitionSubspace(1.5)])
def test_bad_parts(make):
    with pytest.raises((ValueError, TypeError), match="parts: expected a whole number >= 1, got"):
        make()


def test_bad_unit():
    with pytest.raises(ValueError, match="did you mean 'layer'"):
        TensorSubspace(1, "layers")


@pytest.mark.parametrize(
    "spec", ["", "random", "random:x", "randm:0.1", "dense:1", "partition:0.5", "tensor:1", "random:2"]
)
def test_bad_specs(spec):
    with pytest.raises(ValueError, match="expected"):
        parse_subspace(spec)


def test_layouts_refuse_what_has_no_coordinates():
    with pytest.raises(ValueError, match="name twice"):
        Layout((Slot("a", (1,)), Slot("a", (2,))))
    with pytest.raises(ValueError, match="at least one element"):
        Layout((Slot("a", (0,)),))


def test_draws_of_one_run_do_not_repeat():
    draws = {
        RandomSubspace(0.1).draw(derive(0), generation, child) for generation in range(50) for child in range(200)
    }
    assert len(draws) == 50 * 200


def test_a_rule_of_ones_own_may_give_a_part_of_what_it_keeps():
    order = torch.tensor([9, 3, 7, 1, 5, 0, 2, 4, 6, 8])

    @dataclass(frozen=True)
    class First(Subspace):
        name = "first"
        count: int
        static: bool = True

        def _chosen(self, draw, layout, device):
            return order[: self.count]

    for count in (2, 5, 10, 2):
        assert First(count).coordinates(0, Layout.flat(10)).tolist() == sorted([9, 3, 7, 1, 5, 0, 2, 4, 6, 8][:count])


@dataclass(frozen=True)
class Own(Subspace):
    """Of somebody's own: what it makes is a field."""

    name = "own"
    makes: Callable
    static: bool = False

    def _chosen(self, draw, layout, device):
        return self.makes()


class Sorted(Own):
    ordered = True


@pytest.mark.parametrize(
    ("kind", "makes", "message"),
    [
        (Own, lambda: [1, 2], r"got \[1, 2\]"),
        (Own, lambda: torch.tensor([1.0]), r"got \[1\] of float32"),
        (Own, lambda: torch.tensor([[1]]), r"got \[1, 1\] of int64"),
        (Own, lambda: torch.tensor([], dtype=torch.int64), "got none"),
        (Own, lambda: torch.tensor([3, 10]), "got 3 to 10"),
        (Own, lambda: torch.tensor([3, -1]), "got -1 to 3"),
        (Own, lambda: torch.tensor([3, 1, 3]), "got some twice"),
        (Sorted, lambda: torch.tensor([1, 4, 3, 5]), "got some that are not in order"),
    ],
    ids=["list", "float", "matrix", "none", "beyond", "below", "twice", "disorder"],
)
def test_what_a_rule_of_ones_own_makes_are_coordinates(kind, makes, message):
    expected = rf"^subspace: expected distinct int64 coordinates \[k\] in \[0, 10\) from {kind.__name__}\._chosen, "
    with pytest.raises((InvalidType, InvalidValue), match=expected + message):
        kind(makes).coordinates(0, Layout.flat(10))


def test_a_rule_of_ones_own_makes_the_same_each_time():
    @dataclass(frozen=True)
    class Anew(Own):
        name = "anew"

    numbers = itertools.count()
    with pytest.raises(InvalidValue, match=r"^subspace: expected the same coordinates of Anew for one draw"):
        Anew(lambda: torch.tensor([next(numbers)])).coordinates(0, Layout.flat(10))


def test_a_rule_of_ones_own_says_what_recipes_tell_it_by():
    class Nameless(Subspace):
        def _chosen(self, draw, layout, device): ...

    class Renamed(RandomSubspace):
        """Says no more than the rule whose name it has."""

    class Other(RandomSubspace):
        def _chosen(self, draw, layout, device): ...

    @dataclass(frozen=True)
    class Neither(Nameless):
        name = "neither"

    class Plain(Nameless):
        name, static = "plain", True

    @dataclass
    class Changing(Plain):
        name = "changing"

    assert check_subspace(Renamed(0.1)) == Renamed(0.1)
    for rule, message in (
        (Nameless(), r"expected a word as Nameless\.name, by which recipes tell it, got None"),
        (Other(0.1), "expected a name of its own for Other, got 'random', as which its recipes would be read"),
        (Neither(), r"expected True or False as Neither\.static, got None"),
        (Plain(), "expected a frozen dataclass, whose fields tell it from others, got Plain"),
        (Changing(), "expected a frozen dataclass, whose fields tell it from others, got Changing"),
    ):
        with pytest.raises((InvalidType, InvalidValue), match=f"^subspace: {message}"):
            check_subspace(rule)
