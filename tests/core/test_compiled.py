"""The compiled noise against the tensor operations, which are the reference: every bit, and who is asked when."""

import json
import logging
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smd_evo import (
    Dense,
    Layout,
    NeuronSubspace,
    PartitionSubspace,
    RandomSubspace,
    TensorSubspace,
    gaussian,
    permutation,
    sample_mutations,
)
from smd_evo.core import fast
from smd_evo.core.gradient import es_gradient
from smd_evo.core.keys import derive, key_to_int64
from smd_evo.core.layout import Slot
from smd_evo.core.lowrank import LowRank
from smd_evo.core.mutation import replay
from smd_evo.errors import InvalidValue

numba = pytest.importorskip("numba")
pytestmark = pytest.mark.usefixtures("kernels")

KEYS = st.integers(0, 2**64 - 1)
EXTREMES = st.sampled_from([0, 1, 2, 2**32 - 1, 2**32, 2**33, 2**63 - 2, 2**63 - 1])
PLACES = st.one_of(st.integers(-(2**63), 2**63 - 1), EXTREMES, EXTREMES.map(lambda place: -place - 1))
DTYPES = [torch.float32, torch.float64]
LAYOUT = Layout(
    (Slot("a.weight", (40, 33)), Slot("a.bias", (40,)), Slot("b.weight", (3, 7)), Slot("c.weight", (901,)))
)


def eager(function, *arguments, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast._state, "off", True)
        patch.setattr(fast, "_FEW", -1)
        return function(*arguments, **options)


def same(one, other):
    """Also the signs of zeros."""
    words = torch.int32 if one.dtype == torch.float32 else torch.int64
    return (one.dtype, one.shape, one.device) == (other.dtype, other.shape, other.device) and torch.equal(
        one.view(words), other.view(words)
    )


def agree(function, *arguments):
    return same(function(*arguments), eager(function, *arguments))


@pytest.mark.numeric
@pytest.mark.parametrize("dtype", DTYPES)
def test_millions_of_values_have_the_same_bits(dtype):
    generator = torch.Generator().manual_seed(1)
    anywhere = torch.randint(-(2**63), 2**63 - 1, (1_000_000,), generator=generator)
    keys = torch.randint(-(2**63), 2**63 - 1, (300_000,), generator=generator)
    assert agree(gaussian, 2**64 - 5, anywhere, dtype)
    assert agree(gaussian, 3, torch.arange(-500_001, 500_000), dtype)
    assert agree(gaussian, keys, anywhere[:300_000], dtype)
    assert agree(gaussian, keys[:, None], torch.tensor([1, 2**40]), dtype)
    assert agree(gaussian, keys[:300, None], torch.arange(999), dtype)


@given(KEYS, st.lists(PLACES, max_size=30), st.sampled_from(DTYPES))
def test_field_at_any_coordinates(key, places, dtype):
    places = torch.tensor(places, dtype=torch.int64)
    assert agree(gaussian, key, places, dtype)
    keys = places ^ key_to_int64(key)
    assert agree(gaussian, keys, places, dtype)
    assert agree(gaussian, keys[:, None], places, dtype)


@given(KEYS, PLACES, st.integers(1, 2100), st.integers(-1, 2100), st.sampled_from(DTYPES))
def test_field_on_runs_of_coordinates(key, start, length, other, dtype):
    """Odd and even starts and lengths, over the ends of blocks and of int64, and with one that isn't of the run."""
    places = torch.arange(length) + start  # wraps
    assert agree(gaussian, key, places, dtype)
    places[min(other, length - 1)] += 1
    assert agree(gaussian, key, places, dtype)
    assert agree(gaussian, key, places.flip(0), dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_other_types_are_rounded_from_float64(dtype):
    places = torch.arange(-5000, 5000)
    for key in (4, torch.tensor([4])):
        result = gaussian(key, places, dtype)
        assert result.dtype == dtype
        assert torch.equal(result, eager(gaussian, key, places, dtype))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (2, 0, 3), (3, 1, 2), (1, 1)])
def test_shapes(shape):
    places = torch.arange(100)[: int(np.prod(shape))].view(shape)
    for key in (5, torch.tensor(5), torch.tensor([5]), torch.tensor([[5], [6], [7]])):
        for function, last in ((gaussian, torch.float64), (permutation, 100)):
            try:
                expected = eager(function, key, places, last)
            except RuntimeError:  # shapes that don't broadcast
                with pytest.raises(RuntimeError):
                    function(key, places, last)
            else:
                assert same(function(key, places, last), expected)


def test_input_however_it_lies_is_read_only():
    base = torch.randint(0, 10**6, (60, 50, 2), generator=torch.Generator().manual_seed(2))
    buffer = bytearray(b"x" + base[0].numpy().tobytes())
    unaligned = torch.frombuffer(buffer, dtype=torch.int64, offset=1)
    assert unaligned.data_ptr() % 8
    for places in (base[..., 0], base.transpose(0, 1), base[::3, 1:], base[0, 0, :1].expand(7, 9), unaligned):
        before = places.clone()
        assert agree(gaussian, 1, places)
        assert agree(permutation, 1, places, 10**6)
        keys = places * 3
        assert agree(gaussian, keys, places)
        assert agree(permutation, keys[..., :1], places, 10**6)
        assert torch.equal(places, before)


def test_inference_mode_and_other_default_devices():
    places = torch.arange(100)
    with torch.inference_mode():
        assert gaussian(1, places).is_inference()
        assert permutation(1, places, 100).is_inference()
    assert not gaussian(1, places).is_inference()
    with torch.device("meta"):
        assert agree(gaussian, 1, places)
        assert agree(permutation, 1, places, 100)


@pytest.mark.parametrize(
    "size", [1, 2, 3, 4, 5, 1000, 2**10 - 1, 2**10, 2**10 + 1, 10**6, 2**20 + 1, 2**31, 2**39 + 1, 2**40 - 1, 2**40]
)
def test_permutations_of_any_size(size):
    some = torch.randint(0, size, (5000,), generator=torch.Generator().manual_seed(3))
    positions = torch.cat([torch.arange(min(size, 3000)), torch.arange(max(0, size - 3000), size), some])
    for key in (0, 2**64 - 1, derive(1, size)):
        assert agree(permutation, key, positions, size)
    assert agree(permutation, torch.tensor([[-1], [0], [2**63 - 1]]), positions, size)
    assert agree(permutation, torch.arange(len(some)), some, size)


@given(KEYS, st.integers(1, 2**40), st.data())
def test_permutation_at_any_positions(key, size, data):
    positions = torch.tensor(data.draw(st.lists(st.integers(0, size - 1), max_size=40)), dtype=torch.int64)
    assert agree(permutation, key, positions, size)
    keys = torch.tensor([[key_to_int64(key)], [7]])
    assert agree(permutation, keys, positions, size)
    for wrong in (-1, size, -(2**63), 2**63 - 1):
        for any_key in (key, keys):
            with pytest.raises(InvalidValue, match="positions"):
                permutation(any_key, torch.cat([positions, torch.tensor([wrong])]), size)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize(
    "subspace",
    [
        Dense(),
        RandomSubspace(0.3),
        RandomSubspace(0.3, static=True),
        RandomSubspace(1.0, static=True),
        PartitionSubspace(5),
        PartitionSubspace(5, static=True),
        NeuronSubspace(0.4),
        TensorSubspace(2, static=True),
        LowRank(1),
    ],
    ids=lambda subspace: subspace.spec,
)
def test_gradient(subspace, antithetic):
    """With weights over all of float32's range, and of both signs of zero."""
    for layout in (LAYOUT, Layout.flat(5), Layout.flat(2**13 + 1)):
        if isinstance(subspace, TensorSubspace) and len(layout.slots) < 2:
            continue
        children = sample_mutations(4, 16, subspace=subspace, sigma=0.37, antithetic=antithetic)
        weights = torch.tensor([1e-40, -3.3, 1 / 3, 0.0, 1e37, -0.0, 0.1, 5e-324] * 2, dtype=torch.float64)
        assert same(es_gradient(children, weights, layout), eager(es_gradient, children, weights, layout))
        if subspace.static and not isinstance(subspace, PartitionSubspace):
            own = {"coordinates": subspace.coordinates(children[0].draw, layout)}
            results = (
                es_gradient(children, weights, layout, **own),
                eager(es_gradient, children, weights, layout, **own),
            )
            assert same(*results)


def test_gradient_of_children_of_several_kinds_in_turn():
    kinds = [
        Dense(),
        RandomSubspace(0.2, static=True),
        LowRank(1),
        RandomSubspace(0.1),
        RandomSubspace(0.2, static=True),
    ]
    children = [sample_mutations(9, 5, subspace=kind, sigma=0.1)[number] for number, kind in enumerate(kinds)]
    weights = torch.linspace(-1, 2, 5)
    assert same(es_gradient(children, weights, LAYOUT), eager(es_gradient, children, weights, LAYOUT))


def test_gradient_writes_only_where_it_may():
    total = torch.zeros(10)
    for wrong in ([-1, 3], [3, 10], [3, 3], [5, 4], [2**62, 2**63 - 1]):
        assert not fast.add_fields([1], [1.0], total, torch.tensor(wrong), within=True)
        assert not total.any()
    assert fast.add_fields([1], [1.0], total, torch.zeros(0, dtype=torch.int64), within=True)
    assert not total.any()


@pytest.mark.parametrize("scale", ["absolute", "relative"])
def test_deltas(scale):
    for subspace in (Dense(), RandomSubspace(0.01), PartitionSubspace(7), NeuronSubspace(0.1)):
        children = sample_mutations(2, 6, subspace=subspace, sigma=0.1, scale=scale)
        expected = eager(replay, children, LAYOUT)
        for results in (replay(children, LAYOUT), [child.delta(LAYOUT) for child in children]):
            for one, other in zip(results, expected, strict=True):
                assert torch.equal(one.indices, other.indices)
                assert same(one.values, other.values)


@pytest.fixture
def fresh(monkeypatch):
    """As in a new process."""
    state = fast._State()
    monkeypatch.setattr(fast, "_state", state)
    return state


def test_only_who_asks_for_much_waits_for_a_kernel(fresh, monkeypatch):
    monkeypatch.setattr(fast, "_PAYS", 100_000)
    places = torch.arange(1000)
    for _ in range(10):
        gaussian(1, places)
    assert not fresh.kernels
    for _ in range(10):
        gaussian(1, places)
    assert list(fresh.kernels) == ["gaussian32"]
    permutation(1, places, 1000)
    assert list(fresh.kernels) == ["gaussian32", "permutation"]


def test_threads_that_ask_at_once_get_the_same(fresh, monkeypatch):
    monkeypatch.setattr(fast, "_PAYS", 300_000)
    places = torch.arange(20_000)
    expected = eager(gaussian, 1, places), eager(permutation, 1, places, 20_000)
    start, wrong = threading.Barrier(8), []

    def work():
        start.wait()
        for _ in range(20):
            results = gaussian(1, places), permutation(1, places, 20_000)
            wrong.extend(pair for pair in zip(results, expected, strict=True) if not same(*pair))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert {"gaussian32", "permutation"} == set(fresh.kernels)


def test_while_one_thread_loads_the_others_do_not_wait(fresh):
    """Nor a process that was forked then."""
    places = torch.arange(1000)
    with fresh.loading:
        result = gaussian(1, places)
    assert not fresh.kernels
    assert same(gaussian(1, places), result)
    assert fresh.kernels


def test_what_fails_to_compile_is_told_once_and_changes_nothing(fresh, monkeypatch, caplog):
    from smd_evo.core import compiled

    def fails(name):
        raise OSError("no space left")

    monkeypatch.setattr(compiled, "build", fails)
    with caplog.at_level(logging.INFO, "smd_evo"):
        results = [gaussian(1, torch.arange(10)) for _ in range(2)]
    assert len(caplog.messages) == 1
    assert "no space left" in caplog.text
    monkeypatch.undo()
    assert all(same(result, gaussian(1, torch.arange(10))) for result in results)


def test_an_interrupt_while_a_kernel_loads_is_one(fresh, monkeypatch):
    from smd_evo.core import compiled

    def interrupted(name):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compiled, "build", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gaussian(1, torch.arange(10))
    assert not fresh.off
    gaussian(1, torch.arange(10))
    assert fresh.kernels


PROCESSES = """
import io, json, os, sys, traceback
from contextlib import redirect_stdout
import torch
import smd_evo.core.gradient
from smd_evo.core import fast
for name in ("Dense", "Layout", "gaussian", "permutation", "sample_mutations"):
    getattr(smd_evo, name)
assert not {"numba", "smd_evo.core.compiled"} & set(sys.modules) and not fast._state.kernels
for line in sys.stdin:
    code, environment = json.loads(line)
    if not (process := os.fork()):
        os.environ.update(environment)
        with redirect_stdout(io.StringIO()) as told:
            try:
                exec(code, {})
            except BaseException:
                traceback.print_exc(file=told)
        print(json.dumps(told.getvalue()), flush=True)
        os._exit(0)
    os.waitpid(process, 0)
"""


@pytest.fixture(scope="module")
def printed():
    """What code prints in a process that has imported this package, and no kernels yet."""
    command, pipe = [sys.executable, "-c", PROCESSES], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:

        def printed(code, **environment):
            print(json.dumps([code, environment]), file=server.stdin, flush=True)
            return json.loads(server.stdout.readline())

        yield printed
        server.stdin.close()


def test_forked_processes_have_their_parents_kernels_and_load_others(printed):
    code = """
import os, sys, threading, torch
from smd_evo import gaussian, permutation
from smd_evo.core import fast
fast._PAYS = 0
places = torch.arange(1000)
expected = gaussian(1, places), permutation(1, places, 1000)
del fast._state.kernels["permutation"]
def child(names):
    process = os.fork()
    if not process:
        right = gaussian(1, places).equal(expected[0]) and permutation(1, places, 1000).equal(expected[1])
        os._exit(0 if right and set(fast._state.kernels) == names else 1)
    print(os.waitpid(process, 0)[1])
child({"gaussian32", "permutation"})
with fast._state.loading:  # as if another thread were at it
    child({"gaussian32"})
"""
    assert printed(code).split() == ["0", "0"]


PRINT = """
import torch
from smd_evo import Dense, Layout, RandomSubspace, gaussian, permutation, sample_mutations
from smd_evo.core import fast
from smd_evo.core.gradient import es_gradient
fast._PAYS = 0
for subspace in (Dense(), RandomSubspace(0.1), RandomSubspace(0.1, static=True)):
    children = sample_mutations(1, 4, subspace=subspace, sigma=0.1)
    print(es_gradient(children, torch.arange(4.0), Layout.flat(3000)).view(torch.int32).sum().item())
print(gaussian(1, torch.arange(5000)).view(torch.int32).sum().item())
print(gaussian(torch.arange(500)[:, None], torch.arange(50)).view(torch.int32).sum().item())
print(permutation(1, torch.arange(5000), 9000).tolist())
print(permutation(torch.arange(9)[:, None], torch.arange(50), 90).tolist())
"""

COMPILED = "assert len(fast._state.kernels) == 6 and not fast._state.off"
EAGER = "assert not fast._state.kernels and fast._state.off"


@pytest.fixture(scope="module")
def expected(printed):
    told = printed(PRINT + COMPILED)
    assert "Error" not in told
    return told


def test_without_numba_all_is_the_same(expected, printed):
    assert printed("import sys; sys.modules['numba'] = None" + PRINT + EAGER) == expected
    assert printed(PRINT + EAGER, NUMBA_DISABLE_JIT="1") == expected


@pytest.mark.numeric
def test_another_processor_gives_the_same(expected, printed):
    """One without AVX, FMA and whatever else this one has."""
    assert printed(PRINT + COMPILED, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="") == expected


def test_no_folder_for_a_cache_is_needed(fresh, monkeypatch):
    """Of an installation that may only be read, by a user without a home."""
    from smd_evo.core import compiled

    def njit(*arguments, cache, **options):
        if cache:
            raise RuntimeError("cannot cache function '_gaussian': no locator available for file 'compiled.py'")
        return numba.njit(*arguments, **options)

    monkeypatch.setattr(compiled, "njit", njit)
    assert agree(gaussian, 1, torch.arange(100))
    assert fresh.kernels


def test_a_small_request_does_not_import_numba(printed):
    code = """
import sys, torch, smd_evo
from smd_evo import Layout, Mutation, RandomSubspace
Mutation(1, 0.1, RandomSubspace(0.01), 2).delta(Layout.flat(10**6))
print([name for name in ("numba", "llvmlite", "smd_evo.core.compiled") if name in sys.modules])
"""
    assert printed(code).strip() == "[]"
