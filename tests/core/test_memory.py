"""All tensors patched in one call: the bits of the tensor operations, whatever the parameters' types and strides."""

import copy
import threading

import pytest
import torch
from helpers import same_bits, state_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from smd_evo import ParameterSpace, SparseDelta
from smd_evo.core.delta import SparseValues
from smd_evo.core.memory import Memory

pytest.importorskip("numba")
pytestmark = pytest.mark.usefixtures("kernels")
TYPES = [torch.float32, torch.float64, torch.bfloat16]
ODD = [0.0, -0.0, float("inf"), -float("inf"), 1e-40, 3.3e38, 1.0039062, -1.0117188]


def network(types, seed=0):
    """Tensors of several types, shapes and orders in memory, one of them empty, one a slice of a larger one."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 5), (4, 2, 3, 3), (7,), (0, 4), (1,), (6, 2)]
    module = nn.Module()
    for number, shape in enumerate(shapes):
        values = torch.randn(shape, generator=generator).to(types[number % len(types)])
        module.register_parameter(f"p{number}", nn.Parameter(values))
    module.p1.data = module.p1.data.contiguous(memory_format=torch.channels_last)
    module.p5.data = torch.randn(2, 6, generator=generator).to(module.p5.dtype).t()
    module.p2.data = torch.randn(40, generator=generator).to(module.p2.dtype)[9:16]
    with torch.no_grad():
        module.p0.view(-1)[: len(ODD)] = torch.tensor(ODD).to(module.p0.dtype)
    return module


def children(space, seed, count, double):
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(space.size, generator=generator)[:count].sort().values
    values = torch.randn(count, generator=generator)
    return SparseDelta(places, values), SparseValues(places, values.double() if double else values)


@given(
    st.lists(st.sampled_from(TYPES), min_size=1, max_size=3),
    st.integers(0, 1000),
    st.integers(1, 100),
    st.booleans(),
)
def test_it_writes_and_restores_the_bits_of_the_tensor_operations(types, seed, count, double):
    module = network(types, seed)
    space, before = ParameterSpace(module), state_bits(module)
    for child in children(space, seed, count, double):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Memory, "patch", lambda *_: None)
            expected = state_bits(space.make_child(child))
        assert space._memory.patch(child) is not None
        assert same_bits(state_bits(space.make_child(child)), expected)
        assert same_bits(state_bits(module), before)


def test_memory_that_a_parameter_is_given_meanwhile_is_found():
    module = network(TYPES)
    space = ParameterSpace(module)
    child, _ = children(space, 3, 60, double=False)
    with space.applied(child):
        pass
    for _ in range(3):
        for parameter in module.parameters():
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format) + 1
        fresh = ParameterSpace(copy.deepcopy(module))
        assert same_bits(state_bits(space.make_child(child)), state_bits(fresh.make_child(child)))


def test_what_is_changed_inside_the_block_is_put_back_all_the_same():
    module = network([torch.float32])
    space, before = ParameterSpace(module), state_bits(module)
    child, _ = children(space, 3, space.size, double=False)
    with space.applied(child):
        for parameter in module.parameters():
            parameter.data.mul_(3)
    assert same_bits(state_bits(module), before)


def test_other_types_and_moved_shapes_go_tensor_by_tensor():
    half = nn.Linear(3, 2).half()
    space = ParameterSpace(half)
    child, _ = children(space, 1, 5, double=False)
    assert space._memory.patch(child) is None
    assert not same_bits(state_bits(space.make_child(child)), state_bits(half))
    mixed = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).half())
    assert ParameterSpace(mixed)._memory.patch(child) is None


def test_a_copy_has_a_memory_of_its_own():
    module = network([torch.float32])
    space = ParameterSpace(module)
    child, _ = children(space, 3, 60, double=False)
    with space.applied(child):
        other = copy.deepcopy(space)
        once = state_bits(module)
        assert other.depth == 0
        other.restore()
    before = state_bits(module)
    assert same_bits(state_bits(other.module), once)
    with other.applied(child):
        assert same_bits(state_bits(module), before)
        twice = state_bits(other.module)
    with space.applied(child), space.applied(child):
        assert same_bits(twice, state_bits(module))
    assert same_bits(state_bits(other.module), once)


def test_threads_on_networks_of_their_own():
    failures = []

    def work(seed):
        module = network(TYPES, seed)
        space, before = ParameterSpace(module), state_bits(module)
        child, _ = children(space, seed, 60, double=False)
        expected = state_bits(space.make_child(child))
        for _ in range(200):
            with space.applied(child):
                if not same_bits(state_bits(module), expected):
                    failures.append(seed)
            if not same_bits(state_bits(module), before):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
