"""Weights stored as integers: which are selected, what their children are, and that nothing is left behind."""

import copy
import math
import warnings

import pytest
import torch
from helpers import same_bits, state_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smd_evo import (
    Dense,
    Evaluator,
    Lineage,
    ModuleFitness,
    Mutation,
    ParameterSpace,
    RandomSubspace,
    SparseDelta,
    SparseEnsemble,
    calibrate_sigma,
    sample_mutations,
    within_kinds,
)
from smd_evo.core.checksum import checksum
from smd_evo.core.delta import SparseValues
from smd_evo.core.feedback import take_step
from smd_evo.ensemble.files import load_children, save_children
from smd_evo.ensemble.soup import soup
from smd_evo.errors import InvalidValue, UnsupportedParameter
from smd_evo.evaluation.buffers import Buffers

KEYS = st.integers(0, 2**64 - 1)
TYPES = st.sampled_from([torch.int8, torch.uint8])


class Quantized(nn.Module):
    """A linear layer of integers, a scale for each row, and a zero point."""

    def __init__(self, inputs, outputs, dtype=torch.int8):
        super().__init__()
        self.zero = 0 if dtype == torch.int8 else 128
        levels = torch.randint(-60, 61, (outputs, inputs), generator=torch.Generator().manual_seed(inputs))
        self.register_buffer("levels", (levels + self.zero).to(dtype))
        self.register_buffer("scale", torch.full((outputs, 1), 0.01))
        self.register_buffer("mask", torch.ones(outputs, dtype=torch.uint8))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return nn.functional.linear(x, (self.levels.float() - self.zero) * self.scale, self.bias) * self.mask


def network(dtype=torch.int8):
    return nn.Sequential(Quantized(6, 8, dtype), nn.ReLU(), Quantized(8, 3, dtype)).eval()


def data(count=40):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(0)), torch.arange(count) % 3


def mutation(key=1, sigma=2.0, density=0.5, **options):
    return Mutation(key, sigma, RandomSubspace(density), key, **options)


def quietly(space):
    """Without the words on strengths that are tried on purpose."""
    return space.rounding.quiet()


def levels(module):
    return [value for part in (module[0], module[2]) for value in part.levels.flatten().tolist()]


class TestSelection:
    @pytest.mark.parametrize("select", ["all", "bias", "0", "0,2", "*", "0.*", "all,0.????", ["0", "2.*"]])
    def test_kinds_modules_and_wide_patterns_name_none(self, select):
        """Most integers of a network are counters and masks."""
        assert not ParameterSpace(network(), select).integers

    def test_functions_name_none(self):
        assert ParameterSpace(network(), lambda name, _: True).names == ("0.bias", "2.bias")

    @pytest.mark.parametrize(
        ("select", "names"),
        [
            ("0.levels", ("0.levels",)),
            ("*.levels", ("0.levels", "2.levels")),
            ("2.lev*", ("2.levels",)),
            ("*.levels,bias", ("0.bias", "2.bias", "0.levels", "2.levels")),
            (["2.mask", "0"], ("0.bias", "2.mask")),
        ],
    )
    def test_names_and_patterns_that_spell_them_out_do(self, select, names):
        space = ParameterSpace(network(), select)
        assert space.names == names
        assert space.integers == tuple(name for name in names if "bias" not in name)

    def test_parameters_of_integers_as_well(self):
        module = nn.Linear(2, 2)
        module.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
        assert ParameterSpace(module, "weigh?").names == ("weight",)
        with pytest.raises(TypeError, match=r"weight: .*it is torch\.int8; name it in select"):
            ParameterSpace(module, include_frozen=True)

    def test_parameters_of_integers_come_last_too_beside_frozen_ones(self):
        """They come first among the frozen ones, and each name had the other one's values."""
        module = nn.Linear(3, 2).requires_grad_(False)
        module.weight = nn.Parameter(torch.ones(2, 3, dtype=torch.int8), requires_grad=False)
        space = ParameterSpace(module, ["weigh?", "bias"], include_frozen=True)
        assert (space.names, space.integers) == (("bias", "weight"), ("weight",))
        assert [(slot.name, slot.shape) for slot in space.layout.slots] == [("bias", (2,)), ("weight", (2, 3))]
        assert all(
            value is module.get_parameter(name) for name, value in zip(space.names, space.tensors, strict=True)
        )

    def test_where_nothing_else_can_be_selected_that_is_told(self):
        module = network().requires_grad_(False)
        with pytest.raises(ValueError, match=r"2 frozen ones; name its integers, as in select='0\.levels'"):
            ParameterSpace(module)
        assert ParameterSpace(module, "*.levels").size == 72

    def test_a_typo_is_mended(self):
        with pytest.raises(ValueError, match=r"did you mean '0\.levels'"):
            ParameterSpace(network(), "0.level")

    @pytest.mark.parametrize("kind", [torch.int16, torch.int64, torch.bool, torch.float32])
    def test_other_buffers_are_refused_with_their_type(self, kind):
        layer = nn.Linear(2, 2)
        layer.register_buffer("table", torch.zeros(3, dtype=kind))
        with pytest.raises(InvalidValue, match=f"got 'table'; it is a buffer of {kind}, of which int8 and uint8"):
            ParameterSpace(layer, "table")

    def test_what_state_dicts_leave_out_is_refused(self):
        module = network()
        module[0].register_buffer("lost", torch.zeros(3, dtype=torch.int8), persistent=False)
        with pytest.raises(UnsupportedParameter, match=r"0\.lost: .*no state dict holds"):
            ParameterSpace(module, "0.lost")

    def test_wider_integers_are_not_known(self):
        module = nn.BatchNorm1d(3)
        with pytest.raises(ValueError, match="num_batches_tracked"):
            ParameterSpace(module, "num_batches_tracked")

    def test_rules_within_a_problem_know_them(self):
        """What may be mutated was chosen before."""
        space = ParameterSpace(network(), "bias,*.levels")
        specs = [
            within_kinds(space.module, space.names, select, Dense()).spec for select in ("bias", "2", "2.levels")
        ]
        assert specs == ["within:0.bias,2.bias:dense", "within:2:dense", "within:2.levels:dense"]

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
    def test_packed_networks_are_still_refused(self):
        module = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 3)), dtype=torch.qint8)
        for select in ("all", "0._packed_params", "*.weight"):
            with pytest.raises(ValueError, match="a quantized network keeps none"):
                ParameterSpace(module, select)

    def test_shown_with_their_sizes(self):
        space = ParameterSpace(network(), "*.levels")
        assert repr(space) == "ParameterSpace(Sequential: 72 of 83 parameters, in 2 tensor(s))"
        assert "0.levels" in space._repr_html_()


def slow_child(module, space, steps):
    """What a lineage makes, one number after the other, in Python's integers and float32 sums."""
    found = levels(module)
    low, high = torch.iinfo(module[0].levels.dtype).min, torch.iinfo(module[0].levels.dtype).max
    for step in steps:
        delta = step.delta(space.layout)
        for place, value in zip(delta.indices.tolist(), delta.values.tolist(), strict=True):
            exact = float(torch.tensor(float(found[place])) + torch.tensor(value))
            found[place] = min(high, max(low, round(exact)))  # Python rounds halves to even
    return found


class TestChildren:
    @given(st.lists(st.tuples(KEYS, st.floats(1e-3, 1e4)), min_size=1, max_size=3), TYPES, st.booleans())
    @settings(max_examples=40, deadline=None)
    def test_are_the_rounded_and_clamped_sums_and_leave_no_trace(self, steps, dtype, relative):
        module = network(dtype)
        before, space = state_bits(module), ParameterSpace(module, "*.levels")
        scale = "relative" if relative else "absolute"
        lineage = Lineage(tuple(mutation(key, sigma, scale=scale) for key, sigma in steps))
        expected = slow_child(module, space, lineage.steps)
        with quietly(space):
            with space.applied(lineage):
                assert levels(module) == expected
            assert same_bits(before, state_bits(module))
            values = space.values_of(lineage)
        with space.applied(values):
            assert levels(module) == expected
        assert same_bits(before, state_bits(module))

    def test_halves_go_to_the_even_integer(self):
        module = network()
        module[0].levels.fill_(0)
        space = ParameterSpace(module, "0.levels")
        sums = torch.tensor([0.5, 1.5, -0.5, -1.5, 2.5, 127.4, 300.0, -128.5, -1e30, math.inf])
        for child in (SparseDelta(torch.arange(10), sums), SparseValues(torch.arange(10), sums)):
            with quietly(space), space.applied(child):
                assert levels(module)[:10] == [0, 2, 0, -2, 2, 127, 127, -128, -128, 127]

    def test_of_other_memory_orders_are_the_same(self):
        one, other = network(), network()
        other[0].levels = other[0].levels.t().contiguous().t()
        for module in (one, other):
            ParameterSpace(module, "*.levels").fold(mutation())
        assert levels(one) == levels(other)

    def test_nan_is_no_integer(self):
        module = network()
        before, space = state_bits(module), ParameterSpace(module, "bias,*.levels")
        nan = SparseDelta(torch.tensor([0, 20]), torch.tensor([1.0, math.nan]))
        with pytest.raises(ValueError, match=r"numbers for torch\.int8 weights, got NaN"), space.applied(nan):
            pass
        assert same_bits(before, state_bits(module))

    def test_beside_floats(self):
        module = network()
        before, space = state_bits(module), ParameterSpace(module, "bias,*.levels")
        with space.applied(mutation(scale="relative", sigma=0.1, density=1.0)):
            assert (module[0].bias != 0).any()
            assert levels(module) != levels(network())
        assert same_bits(before, state_bits(module))

    def test_a_network_that_has_moved_is_found_again(self):
        """Modules give buffers other memory, and a copy has its own."""
        module = network()
        space = ParameterSpace(module, "*.levels")
        other = copy.deepcopy(space)
        module.to(torch.float64).to("meta").to_empty(device="cpu")
        module.load_state_dict(network().state_dict())
        with space.applied(mutation()):
            assert levels(module) != levels(network())
            assert levels(other.module) == levels(network())
        assert levels(module) == levels(network())

    def test_a_space_that_was_pickled_before_there_were_integers(self):
        space = ParameterSpace(network(), "bias")
        state = space.__getstate__()
        state["_parameters"] = state.pop("_floats")
        del state["_places"], state["rounding"]
        old = object.__new__(ParameterSpace)
        old.__setstate__(state)
        assert same_bits(state_bits(old.make_child(mutation())), state_bits(space.make_child(mutation())))

    def test_relative_strengths_are_shares_of_the_spread_in_steps(self):
        space = ParameterSpace(network(), "0.levels")
        spread = network()[0].levels.double().std(correction=0)
        assert space.layout.slots[0].scale == pytest.approx(float(spread))

    def test_fold_load_and_fingerprints(self):
        module = network()
        space = ParameterSpace(module, "*.levels")
        first, values, sum_of_bits = space.fingerprint(), space.copied(), checksum(module)
        space.fold(mutation())
        child = levels(module)
        assert space.fingerprint() != first
        assert checksum(module) != sum_of_bits
        assert child == slow_child(network(), space, [mutation()])
        space.load(values)
        assert (space.fingerprint(), checksum(module), levels(module)) == (first, sum_of_bits, levels(network()))
        assert levels(space.make_child(mutation())) == child


class TestToldOfStrengths:
    def test_too_weak_for_any_to_change_once(self):
        space = ParameterSpace(network(), "*.levels")
        with pytest.warns(RuntimeWarning, match="^none of 36 integer weights .* below half a step .*give a larger"):
            space.make_child(mutation(sigma=0.05))
        space.make_child(mutation(sigma=0.05))  # a warning would be an error

    def test_so_strong_that_many_leave_the_range_once(self):
        space = ParameterSpace(network(), "*.levels")
        told = r"^\d+ of 36 integer weights of a child \(\d+%\) would leave the range .*give a smaller one"
        with pytest.warns(RuntimeWarning, match=told):
            space.make_child(mutation(sigma=200.0))
        space.make_child(mutation(sigma=200.0))

    def test_not_of_what_moves_and_stays_inside(self):
        ParameterSpace(network(), "*.levels").make_child(mutation(sigma=1.0))

    def test_not_of_floats(self):
        ParameterSpace(network(), "bias").make_child(mutation(sigma=1e-30))

    def test_not_while_strengths_are_tried(self):
        evaluator = Evaluator(network(), data(), "cross_entropy", select="*.levels")
        found = calibrate_sigma(evaluator, Dense(), 0.5, children=4, bisections=2)
        assert found.sigma > 0.1  # a step is where changes begin

    def test_strengths_that_change_nothing_are_not_tried_where_all_are_integers(self):
        seen = []
        fitness = ModuleFitness("levels", "max", lambda module: seen.append(levels(module)) or 1.0 - 1e-3 * len(seen))
        evaluator = Evaluator(network(), data(), fitness, select="*.levels")
        calibrate_sigma(evaluator, Dense(), 0.99, children=4, bisections=0)
        assert all(each != levels(network()) for each in seen[1:5])


class TestEvaluated:
    @pytest.mark.parametrize("together", [None, 4])
    def test_children_are_evaluated_as_networks_of_their_own(self, together):
        """Guards put back buffers that a forward pass has changed, but not those that are the child."""
        module = network()
        before = state_bits(module)
        evaluator = Evaluator(module, data(), "cross_entropy", select="*.levels", together=together)
        children = sample_mutations(1, 6, subspace=RandomSubspace(0.3), sigma=20.0)
        fitness = evaluator.evaluate([*children, Lineage()]).fitness.tolist()
        assert same_bits(before, state_bits(module))
        inputs, targets = data()
        for child, found in zip(children, fitness, strict=False):
            outputs = evaluator.space.make_child(child)(inputs).detach()
            assert found == pytest.approx(float(nn.functional.cross_entropy(outputs, targets)), rel=1e-5)
        assert len(set(fitness)) == 7
        assert evaluator.costs([{"0.levels"}]) == [1.0]

    def test_buffers_that_are_weights_are_not_copied_and_their_objects_put_back(self):
        module = network()
        space, before = ParameterSpace(module, "*.levels"), state_bits(module)
        copied, clone = [], torch.Tensor.clone
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "clone", lambda own, **options: copied.append(own) or clone(own, **options))
            buffers = Buffers(module, space.tensors)
        assert not any(one is other for one in copied for other in space.tensors)
        with space.applied(mutation()):
            own, child = module[0].levels, levels(module)
            module[0].levels = own + 1
            buffers.restore()
            assert module[0].levels is own
            assert levels(module) == child
        assert same_bits(before, state_bits(module))

    def test_a_buffer_in_the_memory_of_another_one_that_is_a_weight(self):
        module = network()
        module[0].register_buffer("alias", module[0].levels.view(-1))
        before = state_bits(module)
        evaluator = Evaluator(module, data(), "cross_entropy", select="0.levels")
        fitness = evaluator.evaluate([mutation(sigma=20.0), Lineage()]).fitness
        assert fitness[0] != fitness[1]
        assert same_bits(before, state_bits(module))

    def test_what_does_not_reach_the_outputs_is_told(self):
        module = network()
        module[0].register_buffer("unused", torch.zeros(30, dtype=torch.int8))
        with pytest.warns(UserWarning, match=r"do not reach the outputs \(0\.unused\)"):
            Evaluator(module, data(), "cross_entropy", select="*.levels,0.unused").evaluate([mutation(sigma=20.0)])
        with pytest.raises(ValueError, match=r"outputs that change with the selected weights \(0\.unused\)"):
            Evaluator(module, data(), "cross_entropy", select="0.unused").evaluate([mutation(sigma=20.0)])

    def test_equal_integers_at_the_end_of_their_range_reach_them(self):
        module = network(torch.uint8)
        module[0].levels.fill_(255)
        child = SparseValues(torch.tensor([1]), torch.tensor([3.0]))
        Evaluator(module, data(), "cross_entropy", select="0.levels").evaluate([child])


class TestStored:
    @pytest.mark.parametrize("select", ["*.levels", "bias,*.levels"])
    @pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
    def test_children_files(self, select, dtype, tmp_path):
        evaluator = Evaluator(network(dtype), data(), "cross_entropy", select=select)
        children = sample_mutations(1, 4, subspace=RandomSubspace(0.3), sigma=4.0)
        save_children(tmp_path / "file", evaluator.space, children, evaluator.evaluate(children), "cross_entropy")
        space = ParameterSpace(network(dtype), select)
        loaded = load_children(tmp_path / "file", space)
        made = [state_bits(space.make_child(member)) for member in loaded.members]
        for recipe, bits in zip(loaded.recipes, made, strict=True):
            assert same_bits(bits, state_bits(space.make_child(recipe)))

    @pytest.mark.parametrize("per_pass", [1, 3])
    @pytest.mark.parametrize("include_parent", [False, True])
    def test_ensembles(self, per_pass, include_parent, tmp_path):
        children = sample_mutations(1, 3, subspace=RandomSubspace(0.3), sigma=9.0)
        ensemble = SparseEnsemble(network(), children, select="*.levels", per_pass=per_pass)
        assert ensemble.values.dtype == torch.int8
        ensemble.save(tmp_path / "file", include_parent=include_parent)
        loaded = SparseEnsemble.load(tmp_path / "file", network(), per_pass=per_pass)
        inputs = data()[0]
        assert torch.equal(loaded(inputs), ensemble(inputs))
        assert levels(loaded.member(1)) == levels(ensemble.space.make_child(children[1]))
        each = [ensemble.member(number)(inputs).softmax(1) for number in range(3)]
        assert torch.allclose(ensemble(inputs).softmax(1), torch.stack(each).mean(0), atol=1e-6)
        assert levels(ensemble.half().float().member(1)) == levels(loaded.member(1))

    def test_a_soup_is_the_rounded_mean(self):
        space = ParameterSpace(network(), "*.levels")
        children = sample_mutations(1, 3, subspace=RandomSubspace(0.5), sigma=9.0)
        each = torch.tensor([levels(space.make_child(child)) for child in children], dtype=torch.float64)
        mean = (each / 3).sum(0).float().round().long().tolist()
        assert levels(space.make_child(soup(space, children))) == mean


class TestSteps:
    def test_a_thousand_tiny_ones_move_as_far_as_their_sum(self):
        module, other = network(), network()
        for each in (module, other):
            each[0].levels.fill_(3), each[2].levels.fill_(-100)
        space, plain = (ParameterSpace(each, "*.levels") for each in (module, other))
        every, rest = torch.arange(space.size), None
        step = torch.linspace(-0.02, 0.02, space.size)
        exact = torch.tensor(levels(module), dtype=torch.float64) + 1000 * step.double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that none moves is what this is about
            for _ in range(1000):
                rest = take_step(space, every, step, rest)
                plain.fold(SparseDelta(every, step))
        found = torch.tensor(levels(module), dtype=torch.float64)
        assert ((found - exact).abs() <= 1).all()
        assert ((found + rest - exact).abs() < 0.01).all()
        assert levels(other) == [3] * 48 + [-100] * 24

    @given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=30), TYPES)
    @settings(max_examples=40, deadline=None)
    def test_the_rest_is_what_was_rounded_away(self, steps, dtype):
        module = network(dtype)
        module[0].levels.fill_(100)
        space, rest = ParameterSpace(module, "0.levels"), None
        value, owed = 100, 0.0
        for step in steps:
            rest = take_step(space, torch.tensor([5]), torch.tensor([step]), rest)
            owed += step
            value, owed = value + int(levels(module)[5] - value), owed - (levels(module)[5] - value)
            assert float(rest) == pytest.approx(owed, abs=1e-4)
            assert abs(float(rest)) <= 0.5

    def test_what_the_end_of_the_range_holds_back_is_not_owed(self):
        module = network()
        module[0].levels.fill_(126)
        space, place, rest = ParameterSpace(module, "0.levels"), torch.tensor([0]), None
        for step in (40.0, 40.0, -2.0):
            rest = take_step(space, place, torch.tensor([step]), rest)
        assert levels(module)[0] in (125, 126)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_of_16_bits_move_too(self, dtype):
        layer = nn.Linear(8, 1, bias=False, dtype=dtype)
        nn.init.ones_(layer.weight)
        space, every, rest = ParameterSpace(layer), torch.arange(8), None
        for _ in range(1000):
            rest = take_step(space, every, torch.full((8,), 1e-4), rest)
        resolution = torch.finfo(dtype).eps
        assert ((layer.weight.double() - 1.1).abs() <= resolution).all()
        assert ((layer.weight.double() + rest - 1.1).abs() < 1e-3).all()

    def test_wider_ones_leave_no_rest(self):
        layer = nn.Linear(8, 1, bias=False)
        space, every = ParameterSpace(layer), torch.arange(8)
        expected = layer.weight.detach().clone() + 0.3
        rest = take_step(space, every, torch.full((8,), 0.3))
        assert torch.equal(layer.weight, expected)
        assert not rest.any()
