"""A rule within some tensors: what the rule says of them alone, and nothing anywhere else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from smd_evo import (
    Dense,
    Layout,
    LowRank,
    Mutation,
    NeuronSubspace,
    ParameterSpace,
    PartitionSubspace,
    RandomSubspace,
    Slot,
    TensorSubspace,
    Within,
    gaussian,
    parse_subspace,
    within_kinds,
)
from smd_evo.core import within
from smd_evo.core.selection import select_names
from smd_evo.errors import InvalidType, InvalidValue, SmdEvoError

SLOTS = (
    Slot("conv.weight", (4, 2, 3), 0.5),
    Slot("conv.bias", (4,)),
    Slot("empty", (0, 3)),
    Slot("norm.weight", (4,), 2.0),
    Slot("head.0.weight", (3, 8), 0.1),
    Slot("head.0.bias", (3,)),
    Slot("headless", (5,)),
)
LAYOUT = Layout(SLOTS)
NAMES = [slot.name for slot in SLOTS if slot.size]
RULES = st.sampled_from(
    [
        RandomSubspace(0.3),
        RandomSubspace(0.3, static=True),
        PartitionSubspace(3),
        TensorSubspace(1),
        NeuronSubspace(0.4),
        Dense(),
        LowRank(2),
    ]
)
KEYS = st.integers(0, 2**64 - 1)
SOME = st.sets(st.sampled_from(NAMES), min_size=1)


def alone(chosen):
    """These tensors as a layout of their own, and the place of each of its coordinates in the whole one."""
    places = [
        torch.arange(start, start + slot.size)
        for slot, start in zip(SLOTS, LAYOUT.offsets, strict=False)
        if slot.name in chosen
    ]
    return Layout(tuple(slot for slot in SLOTS if slot.name in chosen)), torch.cat(places)


@given(SOME, RULES, KEYS)
def test_coordinates_are_the_rules_own_of_these_tensors_alone(chosen, rule, draw):
    layout, places = alone(chosen)
    found = Within(tuple(chosen), rule).coordinates(draw, LAYOUT)
    assert torch.equal(found, places[rule.coordinates(draw, layout)])


@given(SOME, RULES, KEYS, KEYS)
def test_noise_is_the_field_of_the_key_or_the_rules_own(chosen, rule, key, draw):
    layout, places = alone(chosen)
    within = Within(tuple(chosen), rule)
    noise = within.noise(key, within.coordinates(draw, LAYOUT), LAYOUT, torch.float64)
    inner = rule.coordinates(draw, layout)
    plain = not isinstance(rule, LowRank)
    expected = gaussian(key, places[inner], torch.float64) if plain else rule.noise(key, inner, layout, torch.float64)
    assert torch.equal(noise, expected)


@given(SOME, RULES, KEYS, st.integers(0, 50), st.integers(0, 50))
def test_what_is_no_matter_of_places_is_as_the_rule_has_it(chosen, rule, key, generation, index):
    within = Within(tuple(chosen), rule)
    assert within.draw(key, generation, index) == rule.draw(key, generation, index)
    assert (within.static, within.siblings, within.plain) == (rule.static, rule.siblings, rule.plain)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("conv", {"conv.weight", "conv.bias"}),
        ("head", {"head.0.weight", "head.0.bias"}),  # and not headless
        ("head.0.bias, norm", {"head.0.bias", "norm.weight"}),
        (["*.weight"], {"conv.weight", "norm.weight", "head.0.weight"}),
        (("conv.bia?", "head[l]ess"), {"conv.bias", "headless"}),
    ],
)
def test_names_are_those_of_tensors_modules_or_patterns(names, expected):
    assert torch.equal(Within(names, Dense()).coordinates(0, LAYOUT), alone(expected)[1])


@given(st.lists(st.text(min_size=1), min_size=1, max_size=3), RULES, KEYS)
def test_any_names_survive_specs_and_lines_of_text(names, rule, key):
    within = Within(tuple(names), rule)
    assert parse_subspace(within.spec) == within
    line = Mutation(key, 0.5, within, 0).encode()
    assert line.isprintable()
    assert Mutation.decode(line) == Mutation(key, 0.5, within, 0)


def test_the_spec_is_one_that_people_can_write():
    assert parse_subspace("within:linear,layer3.2.bn1:random:0.1") == Within(
        ("linear", "layer3.2.bn1"), RandomSubspace(0.1)
    )
    assert parse_subspace("within:*.bias:partition:3:static").rule == PartitionSubspace(3, static=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Within("", Dense()), "names: expected one or more of tensors or modules"),
        (lambda: Within((), Dense()), "names: expected one or more of tensors or modules"),
        (lambda: Within(("fc", 3), Dense()), "names: expected one or more of tensors or modules"),
        (lambda: Within(3, Dense()), "names: expected those of tensors or modules, got 3"),
        (lambda: Within("fc", "dense"), "subspace: expected e.g. RandomSubspace"),
        (lambda: Within("fc", Within("fc", Dense())), "rule: expected one that is not within others"),
        (lambda: Within("convv", Dense()).coordinates(0, LAYOUT), "got 'convv'; did you mean 'conv'"),
        (lambda: Within("conv,empty", Dense()).coordinates(0, LAYOUT), "names: expected those of tensors that may"),
        (lambda: Within("norm", PartitionSubspace(5)).coordinates(0, LAYOUT), "parts: expected at most D = 4 parts"),
        (lambda: parse_subspace("within:fc"), "expected random:DENSITY"),
        (lambda: parse_subspace("within::dense"), "names: expected"),
        (lambda: parse_subspace("within:a:within:a:" * 3000 + "dense"), "subspace: expected"),
        (lambda: parse_subspace("within:a:unit:1:" * 3000 + "dense"), "subspace: expected"),
        (lambda: parse_subspace("within:fc:randm:0.1"), "did you mean 'random'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(make, message):
    with pytest.raises((InvalidValue, InvalidType), match=message) as caught:
        make()
    assert isinstance(caught.value, SmdEvoError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


NETWORK = nn.Sequential(
    nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)),
    nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
    nn.Linear(4, 2),
)
SPACE = ParameterSpace(NETWORK)


@pytest.mark.parametrize(
    ("select", "names"),
    [
        ("head", ("2",)),
        ("norm", ("0.1", "1.1")),
        ("norm,bias", ("0.0.bias", "0.1", "1.0.bias", "1.1", "2.bias")),
        ("1.0,1.1", ("1",)),
        ("all", ("0", "1", "2")),
        (lambda name, parameter: parameter.dim() == 2, ("0.0.weight", "1.0.weight", "2.weight")),
    ],
)
def test_kinds_become_as_few_names_as_say_it(select, names):
    within = within_kinds(NETWORK, SPACE.names, select, Dense())
    assert within.names == names
    chosen = set(select_names(NETWORK, SPACE.names, select))
    bounds = SPACE.layout.bounds(within.coordinates(0, SPACE.layout))
    touched = {name for number, name in enumerate(SPACE.names) if bounds[number] < bounds[number + 1]}
    assert touched == chosen


def test_kinds_that_the_network_does_not_have_are_refused():
    with pytest.raises(InvalidValue, match="got 'nrm'; did you mean 'norm'"):
        within_kinds(NETWORK, SPACE.names, "nrm", Dense())
    with pytest.raises(InvalidValue, match="select: expected some of the parameters"):
        within_kinds(NETWORK, SPACE.names, lambda *_: False, Dense())


def test_odd_names_are_taken_as_they_are():
    """A name that is a pattern itself, and one that it would match."""
    network = nn.Module()
    network.register_parameter("a[b]", nn.Parameter(torch.zeros(2)))
    network.register_parameter("ab", nn.Parameter(torch.zeros(3)))
    space = ParameterSpace(network)
    within = within_kinds(network, space.names, lambda name, _: name == "a[b]", Dense())
    assert within.coordinates(0, space.layout).tolist() == [0, 1]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
def test_what_has_no_element_is_left_out():
    space = ParameterSpace(nn.Sequential(nn.Linear(3, 2), nn.Linear(0, 0), nn.Linear(2, 2)))
    within = within_kinds(space.module, space.names, "weight", Dense())
    assert within.names == ("0.weight", "2.weight")
    assert within.coordinates(0, space.layout).tolist() == [*range(6), *range(8, 12)]


class TestKindsThatANetworkLacks:
    PLAIN = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

    def names(self, select):
        return select_names(self.PLAIN, [name for name, _ in self.PLAIN.named_parameters()], select)

    def test_beside_others_they_add_nothing(self):
        assert self.names("norm,bias") == ["0.bias", "1.bias"]

    def test_alone_they_are_refused_with_those_that_there_are(self):
        text = r"^select: expected kinds that the network has \(all, weight, bias, head\), got norm$"
        with pytest.raises(InvalidValue, match=text):
            self.names("norm")

    def test_what_is_no_kind_has_to_be_there(self):
        with pytest.raises(InvalidValue, match="got 'nrm'; did you mean 'norm'"):
            self.names("nrm,bias")


def test_names_are_looked_for_once_in_each_layout(monkeypatch):
    """Of a network of a thousand tensors that took a quarter of a second, for each child."""
    asked = []
    monkeypatch.setattr(within, "_selected", lambda names, layout: asked.append(layout) or {names[0]})
    one, other = Layout(SLOTS), Layout((*SLOTS[::-1],))
    for layout in (one, other, one, other):
        rule = Within(("conv.bias",), Dense())  # as recipes bring it: another object each time
        start = next(at for slot, at in zip(layout.slots, layout.offsets, strict=False) if slot.name == "conv.bias")
        assert rule.coordinates(0, layout).tolist() == [*range(start, start + 4)]
        assert (
            rule.coordinates_of(torch.zeros(2, dtype=torch.int64), layout)[1].tolist()
            == [*range(start, start + 4)] * 2
        )
        assert rule.mean_count(layout) == 4
    assert [layout is one for layout in asked] == [True, False]
