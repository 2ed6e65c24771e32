"""One unit a child, replayed from its draw alone; and which are drawn, by what their children gained and cost."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smd_evo import (
    Dense,
    Layout,
    LowRank,
    NeuronSubspace,
    PartitionSubspace,
    RandomSubspace,
    Slot,
    TensorSubspace,
    UnitSubspace,
    Within,
    gaussian,
    parse_subspace,
    sample_mutations,
)
from smd_evo.core.credit import FLOOR, RATE, chances_of, learned, picked, weights_of
from smd_evo.core.gradient import es_gradient
from smd_evo.core.keys import key_from_int64
from smd_evo.core.rows import decode_rows, sample_rows
from smd_evo.errors import InvalidType, InvalidValue

SLOTS = (
    Slot("scale", ()),
    Slot("stem.weight", (4, 3)),
    Slot("layer1.0.conv.weight", (4, 4)),
    Slot("layer1.0.bn.bias", (4,)),
    Slot("empty", (0,)),
    Slot("layer1.1.conv.weight", (4, 4)),
    Slot("layer2.0.conv.weight", (2, 4)),
    Slot("layer1.0.bn.weight", (4,)),
    Slot("head.bias", (3,)),
)
LAYOUT = Layout(SLOTS)
KEYS = st.integers(0, 2**64 - 1)
UNITS = st.sampled_from(["tensor", "layer", 1, 2, 3])
RULES = st.sampled_from([Dense(), RandomSubspace(0.5), NeuronSubspace(0.5), TensorSubspace(1)])
CHANCES = st.lists(st.floats(0.01, 1), min_size=1, max_size=6).map(lambda some: [each / sum(some) for each in some])


def slots_of(unit):
    """The tensors of each unit, said another way."""
    found = {}
    for slot in SLOTS:
        *module, _ = parts = slot.name.split(".")
        kept = parts if unit == "tensor" else module if unit == "layer" else module[:unit]
        if slot.size:
            found.setdefault(tuple(kept or parts), set()).add(slot.name)
    return found


def places(names):
    every = zip(SLOTS, LAYOUT.offsets, strict=False)
    return torch.cat([torch.arange(start, start + slot.size) for slot, start in every if slot.name in names])


@pytest.mark.parametrize(
    ("unit", "names"),
    [
        ("layer", ["scale", "stem", "layer1.0.conv", "layer1.0.bn", "layer1.1.conv", "layer2.0.conv", "head"]),
        (2, ["scale", "stem", "layer1.0", "layer1.1", "layer2.0", "head"]),
        (1, ["scale", "stem", "layer1", "layer2", "head"]),
    ],
)
def test_units_are_tensors_layers_or_what_begins_alike(unit, names):
    assert [name for name, _ in UnitSubspace(unit, Dense()).units(LAYOUT)] == names


@given(UNITS, RULES, KEYS)
def test_a_draw_is_a_unit_and_the_rules_own_draw(unit, rule, draw):
    units = slots_of(unit)
    chosen = list(units.values())[(draw % 2**16) % len(units)]
    inside = rule.coordinates(draw // 2**16, Layout(tuple(slot for slot in SLOTS if slot.name in chosen)))
    assert torch.equal(UnitSubspace(unit, rule).coordinates(draw, LAYOUT), places(chosen)[inside])


@given(UNITS, KEYS, st.data())
def test_children_touch_the_units_they_are_given(unit, key, data):
    subspace = UnitSubspace(unit, RandomSubspace(0.5))
    units = subspace.units(LAYOUT)
    given = data.draw(st.lists(st.integers(0, len(units) - 1), min_size=1, max_size=5))
    mutations = sample_mutations(key, len(given), subspace=subspace, sigma=0.5, units=torch.tensor(given))
    assert len({mutation.key for mutation in mutations}) == len(given)
    for number, mutation in zip(given, mutations, strict=True):
        assert set(mutation.delta(LAYOUT).indices.tolist()) <= set(places(units[number][1]).tolist())
    rows = sample_rows(key, len(given), subspace=subspace, sigma=0.5, units=torch.tensor(given))
    assert [lineage.steps[0] for lineage in decode_rows(rows, subspace=subspace)] == mutations


@given(KEYS, UNITS, RULES)
def test_other_units_leave_the_rules_draws_as_they_are(key, unit, rule):
    subspace, indices = UnitSubspace(unit, rule), torch.arange(6)
    draws = subspace.draws(key, 3, indices)
    moved = subspace.within_units(draws, torch.arange(6))
    assert [key_from_int64(draw) % 2**16 for draw in moved.tolist()] == list(range(6))
    assert torch.equal(moved >> 16, draws >> 16)
    assert torch.equal(subspace.within_units(moved, draws & (2**16 - 1)), draws)


def test_by_itself_it_draws_all_units_alike():
    subspace = UnitSubspace("layer", Dense())
    draws = subspace.draws(1, 0, torch.arange(7000)) & (2**16 - 1)
    counts = (draws % 7).bincount(minlength=7)
    assert 850 < int(counts.min()) <= int(counts.max()) < 1150  # five standard deviations


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UnitSubspace("layers", Dense()), "did you mean 'layer'"),
        (lambda: UnitSubspace(0, Dense()), "unit: expected a whole number >= 1, got 0"),
        (lambda: UnitSubspace(1.5, Dense()), "unit: expected a whole number >= 1, got 1.5"),
        (lambda: UnitSubspace(1, "dense"), "subspace: expected e.g. RandomSubspace"),
        (lambda: UnitSubspace(1, RandomSubspace(0.5, static=True)), "rule: expected one that draws for each child"),
        (lambda: UnitSubspace(1, PartitionSubspace(2)), "rule: expected one that draws for each child"),
        (lambda: UnitSubspace(1, LowRank(1)), "rule: expected one that draws for each child"),
        (lambda: UnitSubspace(1, Within("a", Dense())), "rule: expected one that draws for each child"),
        (lambda: UnitSubspace(1, UnitSubspace(1, Dense())), "rule: expected one that draws for each child"),
        (lambda: parse_subspace("unit:1:unit:1:dense"), "subspace: expected"),
        (lambda: parse_subspace("unit:1"), "subspace: expected"),
        (lambda: parse_subspace("unit:-1:dense"), "unit: expected"),
        (lambda: sample_mutations(1, 2, subspace=Dense(), sigma=1, units=torch.zeros(2).long()), "of a UnitSubspace"),
        (lambda: many(torch.zeros(3).long()), r"units: expected those of 2 children of a UnitSubspace, got \[3\]"),
        (lambda: many(torch.tensor([0, 2**16])), r"units: expected numbers in \[0, 65536\)"),
        (lambda: many(torch.zeros(2)), r"units: expected numbers in \[0, 65536\)"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(make, message):
    with pytest.raises((InvalidValue, InvalidType), match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def many(units):
    return sample_mutations(1, 2, subspace=UnitSubspace(1, Dense()), sigma=1, units=units)


class TestChances:
    @given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0.01, 1)), min_size=1, max_size=8))
    def test_they_add_up_keep_the_floor_and_follow_gain_per_cost(self, known):
        gains, costs = zip(*known, strict=True)
        chances = chances_of(gains, costs)
        assert sum(chances) == pytest.approx(1)
        assert min(chances) >= FLOOR / len(chances) * (1 - 1e-12)
        worth = [gain / cost for gain, cost in known]
        assert [chances[number] for number in sorted(range(len(worth)), key=worth.__getitem__)] == sorted(chances)

    def test_at_first_they_are_as_one_to_cost(self):
        chances = chances_of([1, 1], [1, 0.25])
        share = [(chance - FLOOR / 2) / (1 - FLOOR) for chance in chances]
        assert share == pytest.approx([0.2, 0.8])

    @given(
        st.lists(st.tuples(st.integers(0, 3), st.integers(-1000, 1000).map(lambda n: n / 8)), min_size=1, max_size=12)
    )
    def test_gains_are_the_moving_average_that_they_say(self, children):
        units = torch.tensor([unit for unit, _ in children])
        improvements = torch.tensor([improvement for _, improvement in children], dtype=torch.float64)
        gains = [0.5, 1.0, 2.0, 0.0]
        found = learned(gains, units, improvements)
        better = [max(0.0, improvement) for _, improvement in children]
        mean = sum(better) / len(better)
        for unit, gain in enumerate(gains):
            own = [each for (of, _), each in zip(children, better, strict=True) if of == unit]
            if own and mean > 0:
                assert found[unit] == pytest.approx((1 - RATE) * gain + RATE * sum(own) / len(own) / mean)
            else:
                assert found[unit] == gain

    def test_a_unit_that_gains_more_for_its_cost_is_drawn_more_and_a_change_is_followed(self):
        """Of three alike in cost one gains; later it is another."""
        gains, costs, shares = [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], []
        for generation in range(80):
            chances = chances_of(gains, costs)
            units = picked(5, generation, 30, chances)
            good = 0 if generation < 40 else 2
            gains = learned(gains, units, (units == good).double())
            shares.append(chances)
        assert shares[39][0] > 0.8
        assert shares[79][2] > 0.8

    @given(KEYS, st.integers(0, 99), CHANCES)
    def test_picks_are_of_the_key_and_the_last_units_come_first(self, key, generation, chances):
        units = picked(key, generation, 20, chances).tolist()
        assert units == picked(key, generation, 20, chances).tolist()
        first = list(dict.fromkeys(units))
        assert first == sorted(first, reverse=True) == units[: len(first)]

    @given(CHANCES)
    def test_picks_are_as_often_as_their_chances(self, chances):
        counts = picked(3, 1, 20_000, chances).bincount(minlength=len(chances)).double() / 20_000
        assert float((counts - torch.tensor(chances)).abs().max()) < 0.02  # more than five standard deviations


class TestGradient:
    SUBSPACE = UnitSubspace("tensor", Dense())
    CHANCES = (0.5, 0.2, 0.1, 0.05, 0.05, 0.05, 0.02, 0.03)

    def children(self, key, units):
        """Antithetic pairs in these units, and how far each goes up a slope."""
        units = units.repeat_interleave(2)
        mutations = sample_mutations(key, len(units), subspace=self.SUBSPACE, sigma=0.1, antithetic=True, units=units)
        slope, deltas = gaussian(9, torch.arange(LAYOUT.size)), (mutation.delta(LAYOUT) for mutation in mutations)
        return units, mutations, torch.stack([slope[delta.indices] @ delta.values for delta in deltas]).double()

    def test_it_is_a_sum_in_which_each_unit_counts_by_its_chance(self):
        """One dense vector after the other."""
        units, mutations, scores = self.children(3, picked(3, 0, 8, self.CHANCES))
        gradient = es_gradient(mutations, scores * weights_of(units, self.CHANCES), LAYOUT)
        total = torch.zeros(LAYOUT.size, dtype=torch.float64)
        for unit, mutation, score in zip(units.tolist(), mutations, scores.tolist(), strict=True):
            eps = mutation.delta(LAYOUT).to_dense(LAYOUT.size).double() / mutation.sigma
            total += score * eps / mutation.sigma / (16 * 8 * self.CHANCES[unit])
        assert torch.allclose(gradient.double(), total, rtol=1e-4, atol=1e-5)

    @given(KEYS, st.lists(st.floats(0.01, 1), min_size=8, max_size=8))
    def test_its_expectation_is_that_of_units_drawn_alike_whatever_the_chances(self, key, some):
        """Of a pair, over all units that it may draw: without weights it would be another one."""
        chances = [each / sum(some) for each in some]
        weighed, alike = torch.zeros(2, LAYOUT.size, dtype=torch.float64)
        for unit, chance in enumerate(chances):
            units, mutations, scores = self.children(key, torch.tensor([unit]))
            weighed += chance * es_gradient(mutations, scores * weights_of(units, chances), LAYOUT).double()
            alike += es_gradient(mutations, scores, LAYOUT).double() / 8
        assert torch.allclose(weighed, alike, rtol=1e-4, atol=1e-5)
        assert bool(alike.any())
