"""The parameter space: what it selects, what it refuses, and that it leaves no trace."""

import copy
import gc
import signal
import time
from itertools import pairwise
from multiprocessing.reduction import ForkingPickler

import pytest
import timm
import torch
from helpers import SmallNet, same_bits, state_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

from smd_evo import (
    Dense,
    Lineage,
    Mutation,
    ParameterSpace,
    PartitionSubspace,
    RandomSubspace,
    SparseDelta,
    TensorSubspace,
    sample_mutations,
)
from smd_evo.core import applying, fast
from smd_evo.core.delta import SparseValues
from smd_evo.core.memory import Written
from smd_evo.core.mutation import replay
from smd_evo.core.selection import within_kinds
from smd_evo.errors import InvalidType, InvalidValue, WrongParent

KEYS = st.integers(0, 2**64 - 1)


@pytest.fixture(scope="module", autouse=True, params=["tensor by tensor", "in one call"])
def patches(request):
    """Both ways to write a patch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "_PAYS", 0)
        patch.setattr(fast._state, "off", request.param == "tensor by tensor")
        yield request.param
        assert fast._state.off == (request.param == "tensor by tensor")


def mutation(key=1, density=0.3, sigma=1.0, **options):
    return Mutation(key, sigma, RandomSubspace(density), key, **options)


def flat(space):
    return torch.cat([dict(space.module.named_parameters())[name].detach().flatten() for name in space.names])


def until_interrupted(space, seconds, action):
    """Act, then wait for the KeyboardInterrupt of a real signal, as Ctrl-C sends it, some time after the start.

    Without garbage collections: Hypothesis has a callback on them, where Python swallows an interrupt.
    """
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    gc.disable()
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        action()
        for _ in range(1000):  # a signal just before a long sleep would be noticed only after it
            time.sleep(0.01)
        pytest.fail("the interrupt was lost")
    finally:
        space.restore()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        gc.enable()


class Odd(nn.Module):
    """All that a network may hold: tied, frozen, 0-d, empty, permuted, half-precision, double."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embedding.weight
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.turned = nn.Parameter(torch.randn(5, 6).t())
        self.scalar = nn.Parameter(torch.tensor(0.5))
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.h16 = nn.Parameter(torch.randn(9).half())
        self.b16 = nn.Parameter(torch.randn(9).bfloat16())
        self.f64 = nn.Parameter(torch.randn(9).double())
        self.frozen = nn.Parameter(torch.randn(9), requires_grad=False)
        self.norm = nn.BatchNorm1d(3)


@pytest.fixture
def odd():
    torch.manual_seed(0)
    return Odd()


class TestNoTrace:
    @given(st.lists(st.tuples(KEYS, st.floats(1e-6, 1e6)), min_size=1, max_size=4))
    def test_bits_are_as_before(self, steps):
        torch.manual_seed(0)
        module = Odd()
        before = state_bits(module)
        space = ParameterSpace(module)
        lineage = Lineage(tuple(mutation(key, sigma=sigma) for key, sigma in steps))
        with space.applied(lineage):
            assert not same_bits(before, state_bits(module))
        assert same_bits(before, state_bits(module))

    def test_also_of_nan_infinity_and_negative_zero(self, odd):
        with torch.no_grad():
            odd.turned[0, 0], odd.turned[1, 1], odd.turned[2, 2] = float("nan"), float("inf"), -0.0
        before = state_bits(odd)
        with ParameterSpace(odd).applied(mutation(density=1.0)):
            pass
        assert same_bits(before, state_bits(odd))

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError, SystemExit, GeneratorExit])
    def test_after_any_exception(self, odd, error):
        before, space = state_bits(odd), ParameterSpace(odd)
        with pytest.raises(error), space.applied(mutation()):
            raise error
        assert same_bits(before, state_bits(odd))

    def test_after_a_failure_half_way_through_the_patch(self, odd):
        before, space = state_bits(odd), ParameterSpace(odd)
        wrong = SparseDelta(torch.tensor([0, space.size]), torch.ones(2))
        child = Lineage((mutation(),))
        with pytest.raises(ValueError, match=f"below D = {space.size}"), space.applied(child), space.applied(wrong):
            pass
        assert same_bits(before, state_bits(odd))

    def test_under_a_hail_of_interrupts(self):
        """Ctrl-C at random moments, in the patch and in its undoing, as a real signal."""
        module = nn.Sequential(*[nn.Linear(20, 20) for _ in range(20)])
        space, child = ParameterSpace(module), mutation(density=0.5)
        before = state_bits(module)

        def apply_twice():
            with space.applied(child), space.applied(child):
                pass

        for attempt in range(300):
            with pytest.raises(KeyboardInterrupt):
                until_interrupted(space, 1e-5 + attempt * 1e-5, apply_twice)
            assert same_bits(before, state_bits(module))

    def test_blocks_nest(self, network):
        space = ParameterSpace(network)
        outer, inner = mutation(1), mutation(2)
        with space.applied(Lineage((outer, inner))):
            expected = state_bits(network)
        with space.applied(outer):
            middle = state_bits(network)
            with space.applied(inner):
                assert same_bits(expected, state_bits(network))
            assert same_bits(middle, state_bits(network))

    def test_gradients_and_a_live_graph_survive(self, network, samples):
        images, _ = samples
        network.eval()
        reference = copy.deepcopy(network)
        loss = network(images).square().sum()
        with ParameterSpace(network).applied(mutation()):
            pass
        loss.backward()
        reference(images).square().sum().backward()
        for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad)


def test_autocast_forgets_the_copies_it_made_of_other_children(network, samples):
    """Autocast keeps weights in low precision as long as it lasts; a child must not meet its sibling's."""
    space = ParameterSpace(network.eval())

    def outputs(child):
        with space.applied(child) as module:
            return module(samples[0])

    children = [Lineage(), mutation(1), mutation(2), Lineage()]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        together = [outputs(child) for child in children]
    for child, expected in zip(children, together, strict=True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(outputs(child), expected)
    assert not torch.equal(together[1], together[2])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = outputs(Lineage())
        space.fold(mutation(1))
        assert not torch.equal(outputs(Lineage()), before)


class TestValues:
    @given(KEYS, st.floats(1e-3, 10))
    def test_a_child_is_parent_plus_delta(self, key, sigma):
        torch.manual_seed(0)
        module = SmallNet()
        space, child = ParameterSpace(module), mutation(key, sigma=sigma)
        expected = flat(space) + child.delta(space.layout).to_dense(space.size)
        with space.applied(child):
            assert torch.equal(flat(space), expected)

    def test_each_type_is_rounded_once(self, odd):
        space = ParameterSpace(odd, ["h16", "b16", "f64", "scalar"])
        child = mutation(density=1.0)
        dense = child.delta(space.layout).to_dense(space.size)
        before = {name: parameter.detach().clone() for name, parameter in odd.named_parameters()}
        with space.applied(child):
            for slot, start in zip(space.layout.slots, space.layout.offsets, strict=False):
                added = dense[start : start + slot.size].view(slot.shape)
                old = before[slot.name]
                wide = old.double() if old.dtype == torch.float64 else old.float()
                assert torch.equal(odd.get_parameter(slot.name), (wide + added).to(old.dtype))

    @pytest.mark.parametrize("shape", [(6, 4, 3, 5), (1, 4, 3, 3), (6, 1, 1, 1)])
    def test_memory_format_makes_no_difference(self, shape):
        plain = nn.Conv2d(shape[1], shape[0], shape[2:])
        last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
        child = mutation(density=0.5)
        with ParameterSpace(plain).applied(child), ParameterSpace(last).applied(child):
            assert torch.equal(plain.weight, last.weight)
        assert last.weight.is_contiguous(memory_format=torch.channels_last)

    def test_transposed_parameters(self, odd):
        space, child = ParameterSpace(odd, "turned"), mutation(density=0.4)
        expected = odd.turned.detach() + child.delta(space.layout).to_dense(30).view(6, 5)
        with space.applied(child):
            assert torch.equal(odd.turned, expected)

    def test_an_independent_child(self, odd):
        space, before = ParameterSpace(odd), state_bits(odd)
        with space.applied(mutation()):
            expected = state_bits(odd)
        child = space.make_child(mutation())
        assert same_bits(expected, state_bits(child))
        assert child.out.weight is child.embedding.weight
        with torch.no_grad():
            for tensor in (*child.parameters(), *child.buffers()):
                tensor.zero_()
        assert same_bits(before, state_bits(odd))

    def test_after_a_move_and_new_weights(self, network, devices):
        space = ParameterSpace(network)
        for device in devices:
            network.to(device)
            assert space.device.type == device.type
            with torch.no_grad():
                network.conv.weight.add_(1.0)
            before = network.conv.weight.detach().clone()
            with space.applied(mutation(density=1.0)):
                assert not torch.equal(network.conv.weight, before)
            assert torch.equal(network.conv.weight, before)

    def test_relative_scale_is_each_tensors_deviation(self, network):
        space = ParameterSpace(network)
        for slot in space.layout.slots:
            tensor = network.get_parameter(slot.name).detach().double()
            deviation = float(tensor.std(correction=0))
            assert slot.scale == pytest.approx(deviation if deviation else 1.0, rel=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    def test_relative_scale_of_equal_values_is_one(self, dtype):
        for value in (0.1, 1e-6, 0.0):
            layout = ParameterSpace(nn.PReLU(768, init=value, dtype=dtype)).layout
            assert layout.slots[0].scale == 1


class TestNewValues:
    """SparseValues: what coordinates become, whatever they were."""

    @given(KEYS)
    def test_exactly_these_and_then_the_old_bits(self, key):
        torch.manual_seed(0)
        module = Odd()
        before, space = state_bits(module), ParameterSpace(module)
        delta = mutation(key).delta(space.layout)
        expected = flat(space).double().index_copy_(0, delta.indices, delta.values.double())
        types = {name: parameter.dtype for name, parameter in module.named_parameters()}
        with space.applied(SparseValues(delta.indices, delta.values)):
            for slot, start in zip(space.layout.slots, space.layout.offsets, strict=False):
                wanted = expected[start : start + slot.size].view(slot.shape).to(types[slot.name])
                assert torch.equal(module.get_parameter(slot.name), wanted)
        assert same_bits(before, state_bits(module))

    def test_old_ones_that_are_no_numbers_leave_nothing_behind(self, network):
        """Adding to NaN, infinity or 1e30 would not give the new values; here nothing is added."""
        with torch.no_grad():
            network.head.bias.copy_(torch.tensor([float("nan"), float("inf"), 1e30]))
        before, space = state_bits(network), ParameterSpace(network, "head.bias")
        new = torch.tensor([0.1, -0.0, 1e-30])
        with space.applied(SparseValues(torch.arange(3), new)):
            assert torch.equal(network.head.bias.view(torch.int32), new.view(torch.int32))
        assert same_bits(before, state_bits(network))

    def test_the_parents_own_values_are_the_parent(self, odd):
        with torch.no_grad():
            odd.f64.copy_(odd.f64.float())
        before, space = state_bits(odd), ParameterSpace(odd)
        everywhere = torch.arange(space.size)
        with space.applied(SparseValues(everywhere, space.values_at(everywhere))):
            assert same_bits(before, state_bits(odd))

    def test_as_any_other_child(self, network, devices):
        values = SparseValues(torch.tensor([0, 9]), torch.tensor([5.0, 7.0]))
        for device in devices:
            space = ParameterSpace(copy.deepcopy(network).to(device))
            child = flat(ParameterSpace(space.make_child(values)))
            assert child[[0, 9]].tolist() == [5, 7]
            assert int((child != flat(space)).sum()) == 2
            with space.applied(mutation(density=1.0)), space.applied(values):
                assert flat(space)[[0, 9]].tolist() == [5, 7]
            space.fold(values)
            assert torch.equal(flat(space), child)

    @given(st.lists(KEYS, max_size=3))
    def test_any_child_as_new_values_is_the_same_to_the_bit(self, keys):
        torch.manual_seed(0)
        space = ParameterSpace(Odd())
        assert space.dtype == torch.float64
        child = Lineage(tuple(mutation(key) for key in keys))
        values = space.values_of(child)
        assert len(values) == len({int(i) for step in child.steps for i in step.delta(space.layout).indices})
        assert same_bits(state_bits(space.make_child(child)), state_bits(space.make_child(values)))

    def test_those_of_another_network(self, network):
        space, before = ParameterSpace(network), state_bits(network)
        with (
            pytest.raises(WrongParent, match="coordinates below"),
            space.applied(SparseValues(torch.tensor([0, space.size]), torch.zeros(2))),
        ):
            pass
        assert same_bits(before, state_bits(network))


def test_another_process_gets_a_network_of_its_own(odd):
    """torch would send the parameters as shared memory, and all workers would patch one network at once."""
    space = ParameterSpace(odd)
    twin = ForkingPickler.loads(ForkingPickler.dumps(space))
    assert same_bits(state_bits(odd), state_bits(twin.module))
    for owner in (odd, twin.module):
        assert not any(tensor.is_shared() for tensor in owner.state_dict().values())
    before = state_bits(odd)
    with twin.applied(mutation()):
        assert same_bits(before, state_bits(odd))
        assert not same_bits(before, state_bits(twin.module))


@pytest.mark.parametrize("density", [0.05, 1.0])
def test_several_recipes_at_once_are_the_same_children_in_the_same_order(network, density):
    """Small and large ones, lineages of all lengths, and children that are no recipes in between."""
    space = ParameterSpace(network)
    steps = [mutation(key, density) for key in range(40)]
    lineages = [Lineage(tuple(steps[:length])) for length in (0, 1, 3, 0, 2)]
    children = [*steps[:20], SparseDelta(torch.tensor([3]), torch.tensor([1.0])), *lineages, *steps[20:]]
    for child, deltas in zip(children, space.replayed(iter(children)), strict=True):
        with space.applied(deltas):
            together = flat(space).clone()
        with space.applied(child):
            assert torch.equal(flat(space), together)
    assert list(space.replayed([])) == []


def test_large_children_are_replayed_one_by_one_whoever_comes_before_them(network, monkeypatch):
    """Behind a parent, or small ones, a whole generation of dense deltas was in memory at once."""
    space, gone = ParameterSpace(network), []
    monkeypatch.setattr(applying, "_AT_ONCE", 2 * space.size)
    replayed = space._replayed

    def noticed(lineages):
        gone.extend([sum(map(len, lineages))] if any(lineages) else [])
        return replayed(lineages)

    monkeypatch.setattr(space, "_replayed", noticed)
    parents, large = [Lineage()] * 3, [mutation(key, 1.0) for key in range(20)]
    small = [mutation(key, 1 / space.size) for key in range(40)]
    list(space.replayed([*parents, *large, Lineage(), *large]))
    assert gone == [1] * 40
    gone.clear()
    list(space.replayed([*parents, *small, *large]))
    assert gone == [1, 4, 16, 19, *[1] * 20]
    gone.clear()
    list(space.replayed(sample_mutations(1, 64, subspace=TensorSubspace(), sigma=0.1)))  # of many sizes
    assert sum(gone) == 64
    assert all(after <= 4 * before for before, after in pairwise(gone))


@pytest.mark.parametrize("scale", ["absolute", "relative"])
def test_siblings_noise_is_drawn_once_and_kept_by_nobody(network, monkeypatch, scale):
    """Antithetic partners', and that of the steps that lineages begin with alike."""
    space, drawn = ParameterSpace(network), []
    monkeypatch.setattr(applying, "replay", lambda steps, *place: drawn.extend(steps) or replay(steps, *place))
    monkeypatch.setattr(applying, "_AT_ONCE", space.size)
    steps = sample_mutations(1, 6, subspace=RandomSubspace(0.9), sigma=0.1, antithetic=True, scale=scale)
    parent = Lineage((steps[4],))
    for deltas, child in zip(space.replayed(lineages := [*map(parent.then, steps[:4])]), lineages, strict=True):
        for found, step in zip(deltas, child.steps, strict=True):
            alone = step.delta(space.layout)
            assert torch.equal(found.indices, alone.indices)
            assert torch.equal(found.values.view(torch.int32), alone.values.view(torch.int32))  # zeros' signs, too
    assert drawn == [steps[4], steps[0], steps[2]]
    del deltas, found
    gc.collect()
    assert not space._drawn._known


class TestFolding:
    @given(KEYS, st.integers(0, 4), st.sampled_from(["absolute", "relative"]), st.floats(1e-3, 1))
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, None], ids=str)
    def test_a_folded_prefix_and_the_rest_are_the_whole(self, dtype, key, prefix, scale, density):
        """None: a network of all types."""
        torch.manual_seed(0)
        module = Odd() if dtype is None else SmallNet().to(dtype)
        space = ParameterSpace(module)
        steps = tuple(sample_mutations(key, 4, subspace=RandomSubspace(density), sigma=0.3, scale=scale))
        with space.applied(Lineage(steps)):
            whole = state_bits(module)
        space.fold(Lineage(steps[:prefix]))
        with space.applied(Lineage(steps[prefix:])):
            assert same_bits(whole, state_bits(module))
        for step in steps[prefix:]:
            space.fold(step)
        assert same_bits(whole, state_bits(module))
        assert space.depth == 0

    def test_scales_stay_the_first_parents(self, network):
        space = ParameterSpace(network)
        space.fold(mutation(density=1.0, sigma=100.0))  # before the layout was ever looked at
        torch.manual_seed(0)
        assert space.layout == ParameterSpace(SmallNet()).layout
        assert space.layout != ParameterSpace(network).layout

    def test_the_fingerprint_is_the_new_parents(self, network):
        space = ParameterSpace(network)
        old, other = space.fingerprint(), ParameterSpace(space.make_child(mutation())).fingerprint()
        space.fold(mutation())
        assert space.fingerprint() == other != old

    def test_not_inside_of_a_block(self, network):
        space, before = ParameterSpace(network), state_bits(network)
        with space.applied(mutation(1)):
            inside = state_bits(network)
            with pytest.raises(WrongParent, match=r"fold: expected the parent itself, .* leave that first"):
                space.fold(mutation(2))
            assert same_bits(inside, state_bits(network))
        assert same_bits(before, state_bits(network))

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
    @pytest.mark.parametrize("place", range(1, 5))
    def test_an_exception_inside_leaves_the_old_parent(self, network, monkeypatch, error, place, patches):
        """The patch fails at its first, second, ... tensor; or just before or after its only call."""
        space, before, calls = ParameterSpace(network), state_bits(network), []
        write, write_all = torch.Tensor.index_copy_, Written.write

        def failing(*arguments):
            calls.append(1)
            if len(calls) == place:
                raise error
            return write(*arguments)

        def failing_once(patch):
            calls.extend([1] * place)
            if place % 2:
                write_all(patch)
            raise error

        monkeypatch.setattr(torch.Tensor, "index_copy_", failing)
        if patches == "in one call":
            monkeypatch.setattr(Written, "write", failing_once)
        with pytest.raises(error):
            space.fold(mutation(density=1.0))
        assert len(calls) >= place
        assert same_bits(before, state_bits(network))
        assert space.depth == 0

    def test_a_child_of_another_network_leaves_the_old_parent(self, network):
        space, before = ParameterSpace(network), state_bits(network)
        with pytest.raises(WrongParent, match=f"below D = {space.size}"):
            space.fold(SparseDelta(torch.tensor([0, space.size]), torch.ones(2)))
        assert same_bits(before, state_bits(network))

    def test_under_a_hail_of_interrupts_it_is_all_or_nothing(self):
        module = nn.Sequential(*[nn.Linear(20, 20) for _ in range(20)])
        space, child = ParameterSpace(module), mutation(density=0.5)
        parent, before, folded = (
            copy.deepcopy(module.state_dict()),
            state_bits(module),
            state_bits(space.make_child(child)),
        )
        start = time.perf_counter()
        space.fold(child)
        usual = time.perf_counter() - start
        module.load_state_dict(parent)
        seen = {"before": 0, "folded": 0}
        for delay in [1e-5, *(usual * attempt / 100 for attempt in range(1, 150)), 1.0]:
            with pytest.raises(KeyboardInterrupt):
                until_interrupted(space, delay, lambda: space.fold(child))
            state = state_bits(module)
            assert same_bits(state, before) or same_bits(state, folded)
            seen["before" if same_bits(state, before) else "folded"] += 1
            module.load_state_dict(parent)
        assert min(seen.values()) > 0

    @given(st.lists(st.integers(0, 199), unique=True, max_size=20).map(sorted))
    def test_values_at(self, places):
        torch.manual_seed(0)
        space, indices = ParameterSpace(Odd()), torch.tensor(places, dtype=torch.int64)
        values = space.values_at(indices)
        assert values.dtype == torch.float32
        assert torch.equal(values, flat(space).float()[indices])
        with space.applied(mutation(density=1.0)):
            assert torch.equal(space.values_at(indices), flat(space).float()[indices])


class TestLoading:
    """What was copied of a parent becomes the parent again."""

    def test_the_same_bits_in_any_type_and_memory_format(self, odd):
        space = ParameterSpace(odd)
        before, values = state_bits(odd), space.copied()
        space.fold(mutation())
        assert not same_bits(before, state_bits(odd))
        kept = {name: tensor.clone() for name, tensor in values.items()}
        space.load(values)
        assert same_bits(before, state_bits(odd))
        space.fold(mutation(2))
        assert all(torch.equal(values[name].float(), kept[name].float()) for name in kept)  # copies, then and now

    def test_scales_stay_those_of_the_first_parent(self):
        one, other = (ParameterSpace(nn.Linear(4, 4)) for _ in range(2))
        layout = one.layout
        strong = {name: 9 * tensor for name, tensor in one.copied().items()}
        other.load(one.copied())
        other = ParameterSpace(other.module)
        other.load(strong)  # which nobody has asked for scales so far
        assert other.layout == layout

    def test_of_another_network_nothing_is_taken(self, network):
        space = ParameterSpace(network)
        before, values = state_bits(network), space.copied()
        name, tensor = next(iter(values.items()))
        for wrong in (
            {},
            {**values, "more": tensor},
            {**values, name: tensor[:1]},
            {**values, name: tensor.double()},
        ):
            with pytest.raises(WrongParent, match=r"values: expected the .* selected parameters"):
                space.load(wrong)
        with space.applied(mutation()), pytest.raises(WrongParent):
            space.load(values)
        assert same_bits(before, state_bits(network))

    def test_autocast_forgets_its_copies(self, network, samples):
        space = ParameterSpace(network.eval())
        values = space.copied()
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            before = network(samples[0])
            space.fold(mutation())
            assert not torch.equal(network(samples[0]), before)
            space.load(values)
            assert torch.equal(network(samples[0]), before)


class TestSelection:
    def names(self, module, select, **options):
        return set(ParameterSpace(module, select, **options).names)

    def test_tied_once_frozen_never_buffers_never(self, odd):
        names = self.names(odd, "all")
        assert "embedding.weight" in names
        assert "out.weight" not in names
        assert "frozen" not in names
        assert not any("running" in name for name in names)
        assert "frozen" in self.names(odd, "all", include_frozen=True)

    def test_kinds(self, network):
        assert self.names(network, "norm") == {"bn.weight", "bn.bias"}
        assert self.names(network, "weight") == {"conv.weight", "head.weight"}
        assert self.names(network, "bias") == {"head.bias"}
        assert self.names(network, "head") == {"head.weight", "head.bias"}
        assert self.names(network, "all") == {name for name, _ in network.named_parameters()}

    def test_layers_patterns_several_and_functions(self, network):
        assert self.names(network, "conv") == {"conv.weight"}
        assert self.names(network, "*.bias") == {"bn.bias", "head.bias"}
        assert (
            self.names(network, "conv, bias") == self.names(network, ["conv", "bias"]) == {"conv.weight", "head.bias"}
        )
        assert self.names(network, lambda name, parameter: parameter.dim() == 4) == {"conv.weight"}

    def test_terms_from_anything_that_gives_them(self, network):
        assert self.names(network, (term for term in ("conv", "bias"))) == self.names(network, "conv,bias")
        assert ParameterSpace(network, dict.fromkeys(["conv"])).names == ("conv.weight",)

    @pytest.mark.parametrize(
        ("select", "error", "message"),
        [
            ([], InvalidValue, "select: expected one kind, name or pattern or more, got none"),
            ([None], InvalidType, "select: expected kinds, names or patterns, got None among 1"),
            (["conv", 3], InvalidType, "got 3 among 2"),
            (nn.Linear(2, 1), InvalidType, "give the name that it has in the network"),
            (nn.Sequential(nn.Linear(2, 1)), InvalidType, "give the name that it has in the network"),
            (nn.Linear, InvalidType, "select: expected kinds, names or patterns, got <class"),
            (None, InvalidType, "select: expected kinds, names or patterns, got None"),
        ],
    )
    def test_what_is_no_selection_is_refused_in_a_line(self, network, select, error, message):
        for refused in (ParameterSpace, lambda *_: within_kinds(network, ["conv.weight"], select, Dense())):
            with pytest.raises(error, match=message) as caught:
                refused(network, select)
            assert "\n" not in str(caught.value)

    def test_the_head_of_a_network_that_is_one_layer(self):
        assert self.names(nn.Linear(3, 2), "head") == {"weight", "bias"}
        with pytest.raises(ValueError, match="got head"):
            ParameterSpace(nn.LayerNorm(3), "head")

    def test_order_is_the_networks(self, network):
        assert ParameterSpace(network, ["head", "conv"]).names == ("conv.weight", "head.weight", "head.bias")

    @pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050"])
    def test_timm_heads_and_norms(self, name):
        module = timm.create_model(name, num_classes=3)
        head = {id(parameter) for parameter in module.get_classifier().parameters()}
        found = dict(module.named_parameters())
        assert {id(found[n]) for n in self.names(module, "head")} == head
        norms = self.names(module, "norm")
        assert norms
        assert all(found[n].dim() == 1 for n in norms)
        parts = [self.names(module, kind) for kind in ("norm", "weight", "bias")]
        assert len(set().union(*parts)) == sum(map(len, parts))

    @pytest.mark.parametrize(
        ("select", "message"),
        [
            ("heads", "did you mean 'head'"),
            ("layer9", "got 'layer9'"),
            ("cnv", "did you mean 'conv'"),
            ("*.gamma", "pattern"),
        ],
    )
    def test_terms_that_name_nothing(self, network, select, message):
        with pytest.raises(ValueError, match=message):
            ParameterSpace(network, select)

    def test_nothing_selected(self, network):
        with pytest.raises(ValueError, match="at least one parameter element"):
            ParameterSpace(network, lambda name, parameter: False)
        with pytest.raises(TypeError, match="kinds, names or patterns"):
            ParameterSpace(network, 3)
        with pytest.raises(ValueError, match="include_frozen=True"):
            ParameterSpace(network.requires_grad_(False))
        with pytest.raises(ValueError, match="trainable parameters, got 0"):
            ParameterSpace(nn.ReLU())


class TestRefusals:
    def refuse(self, tensor, message):
        module = nn.Module()
        module.w = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
        with pytest.raises(TypeError, match=message):
            ParameterSpace(module, include_frozen=True)

    def test_lazy(self):
        with pytest.raises(TypeError, match=r"weight: .*lazy; run one batch"):
            ParameterSpace(nn.LazyLinear(3))

    def test_meta(self):
        self.refuse(torch.zeros(3, device="meta"), "w: .*meta device; load its weights")

    @pytest.mark.filterwarnings("ignore:.*quantize:UserWarning", "ignore:.*deprecated")
    def test_quantized(self):
        self.refuse(torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8), "w: .*quantized")

    def test_integers_complex_and_eight_bit_floats(self):
        self.refuse(torch.zeros(3, dtype=torch.int8), "w: .*torch.int8")
        self.refuse(torch.zeros(3, dtype=torch.complex64), "w: .*complex64")
        self.refuse(torch.zeros(3).to(torch.float8_e4m3fn), "w: .*float8")

    def test_sparse(self):
        self.refuse(torch.eye(3).to_sparse(), "w: .*sparse")

    def test_gaps_and_expansion(self):
        self.refuse(torch.zeros(4, 4)[:, ::2], "w: .*gaps")
        self.refuse(torch.zeros(1, 4).expand(3, 4), "w: .*gaps")

    def test_made_in_inference_mode(self):
        with torch.inference_mode():
            module = nn.Linear(2, 2)
        with pytest.raises(TypeError, match=r"weight: .*made in inference mode"):
            ParameterSpace(module)

    def test_partial_overlap(self):
        memory = torch.zeros(10)
        module = nn.Module()
        module.a, module.b = nn.Parameter(memory[:6]), nn.Parameter(memory[4:])
        with pytest.raises(TypeError, match=r"b: .*overlaps a; clone"):
            ParameterSpace(module)

    def test_tied_through_memory_counts_once(self):
        module = nn.Module()
        module.a, module.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        module.b.weight.data = module.a.weight.data
        assert ParameterSpace(module).names == ("a.weight",)

    def test_not_a_module(self):
        with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got {}"):
            ParameterSpace({})

    def test_not_a_child(self, network):
        with (
            pytest.raises(TypeError, match="expected a Mutation, Lineage or SparseDelta, got int"),
            ParameterSpace(network).applied(3),
        ):
            pass

    def test_reshaped_meanwhile(self, network):
        space = ParameterSpace(network)
        assert space.layout.size == space.size
        network.head.weight.data = torch.zeros(64, 3)
        with pytest.raises(ValueError, match=r"head\.weight: expected shape"), space.applied(mutation(density=1.0)):
            pass


class TestFingerprint:
    def test_same_for_the_same_parent_anywhere(self, odd, devices):
        first = ParameterSpace(odd).fingerprint()
        assert len(first) == 32
        assert ParameterSpace(copy.deepcopy(odd)).fingerprint() == first
        other = copy.deepcopy(odd)
        other.conv.to(memory_format=torch.contiguous_format)
        assert ParameterSpace(other).fingerprint() == first
        for device in devices:
            assert ParameterSpace(copy.deepcopy(odd).to(device)).fingerprint() == first

    def test_differs_with_a_weight_a_buffer_a_frozen_weight_or_the_selection(self, odd):
        first = ParameterSpace(odd).fingerprint()
        assert ParameterSpace(odd, "conv").fingerprint() != first
        for tensor in (odd.conv.weight, odd.norm.running_mean, odd.frozen):
            other = tensor.detach().clone()
            with torch.no_grad():
                tensor.add_(0.25)
            assert ParameterSpace(odd).fingerprint() != first
            with torch.no_grad():
                tensor.copy_(other)
        assert ParameterSpace(odd).fingerprint() == first


class Allocations(TorchDispatchMode):
    """The largest memory that any operation's result takes, views of older memory left out."""

    def __init__(self, module):
        super().__init__()
        self.known = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        self.largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("subspace", [RandomSubspace(1e-3), PartitionSubspace(1000)], ids=lambda rule: rule.name)
def test_nothing_of_the_size_of_the_network_is_allocated(subspace):
    """Replaying, applying and reverting a child takes O(k) memory: here k = D / 1000, of 4 million."""
    module = nn.Sequential(nn.Linear(2000, 1000), nn.Linear(1000, 2000))
    space = ParameterSpace(module)
    assert space.layout.size > 4e6  # the layout reads all weights, once
    with Allocations(module) as allocations, space.applied(Mutation(1, 1.0, subspace, 2)):
        pass
    assert 0 < allocations.largest <= 8 * (space.size / 1000 + 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_scales_are_read_without_a_wider_copy_of_the_largest_tensor(dtype):
    module = nn.Linear(3000, 1500, dtype=dtype)
    space, before = ParameterSpace(module), state_bits(module)
    with Allocations(module) as allocations:
        weight, bias = space.layout.slots
    assert 0 < allocations.largest <= 8 * 2**20 < 8 * module.weight.numel()
    assert weight.scale == float(module.weight.detach().double().std(correction=0).float())
    assert bias.scale == float(module.bias.detach().double().std(correction=0).float())
    assert same_bits(before, state_bits(module))


def test_dense_touches_everything(network):
    space = ParameterSpace(network)
    before = flat(space)
    with space.applied(Mutation(1, 1.0, Dense(), 0)):
        assert bool((flat(space) != before).all())


def replaced_layer(network):
    network.head = copy.deepcopy(network.head)


def assigned_state(network):
    network.load_state_dict({name: tensor.clone() for name, tensor in network.state_dict().items()}, assign=True)


@pytest.mark.parametrize("replace", [replaced_layer, assigned_state])
@pytest.mark.parametrize(
    "act",
    [
        lambda space: space.applied(mutation()).__enter__(),
        lambda space: space.make_child(mutation()),
        lambda space: space.fold(mutation()),
        lambda space: space.load(space.copied()),
    ],
    ids=["applied", "make_child", "fold", "load"],
)
def test_parameters_that_the_network_no_longer_has_are_not_changed_in_their_place(network, replace, act):
    space = ParameterSpace(network)
    with space.applied(mutation()):
        pass
    replace(network)
    with pytest.raises(WrongParent, match="expected the parameter that the network had when its space was made"):
        act(space)
    assert space.depth == 0


def test_parameters_may_move_and_be_renamed(network):
    space = ParameterSpace(network)
    network.double().float()
    network.head.bias.data = network.head.bias.data.clone()
    prune.identity(network.head, "weight")
    with space.applied(mutation(density=1.0)):
        assert not torch.equal(network.head.weight_orig, network.head.weight)
