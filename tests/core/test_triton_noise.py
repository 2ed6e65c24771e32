"""Triton's kernels for CUDA without a GPU: what they compute by its interpreter, how they round by their PTX."""

import json
import logging
import os
import re
import struct
import subprocess
import sys
from collections import defaultdict

import pytest
import slow_gpu
import torch
from helpers import ROOT

import smd_evo.core
from smd_evo import Dense, Layout, gaussian, permutation, sample_mutations
from smd_evo.core import fast, noise
from smd_evo.core.gradient import es_gradient

CHECKS = [
    "field",
    "field_of_many_keys",
    "permutations",
    "permutations_of_many_keys",
    "positions_out_of_range",
    "sums",
    "sums_of_few",
    "sums_write_only_where_they_may",
    "whole_path",
]
KERNELS = [
    *("gaussian32", "gaussian64", "gaussian_keyed32", "gaussian_keyed64"),
    *("permutation", "permutation_keyed", "add_run", "add_at", "add_within"),
]
NO_GPU = not torch.cuda.is_available() or torch.version.hip is not None


@pytest.fixture(scope="module")
def interpreted():
    """What each check complains of, in a process whose kernels run in Triton's interpreter."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    return json.loads(
        subprocess.check_output([sys.executable, ROOT / "tests/triton_checks.py"], text=True, env=environment)
    )


@pytest.mark.parametrize("check", CHECKS)
def test_interpreted_kernels_make_the_same_bits(check, interpreted):
    assert list(interpreted) == CHECKS
    assert not interpreted[check]


@pytest.fixture(scope="module")
def ptx(tmp_path_factory):
    """Compiles a kernel as its launcher does, for a GPU that need not be there."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from smd_evo.core import compiled_cuda

    try:
        assert triton.knobs.nvidia.ptxas.path
    except RuntimeError as error:  # some builds come without
        pytest.skip(f"Triton compiles to the end or not at all: {error}")
    pointers = {torch.int64: "*i64", torch.float32: "*fp32", torch.float64: "*fp64"}

    def compiled(name, capability=90, rounds=7, **options):
        code, given, fixed = compiled_cuda.SIGNATURES[name]
        fixed = {**fixed, "width": compiled_cuda._BLOCK, **({"rounds": rounds} if "permutation" in name else {})}
        kinds = iter(given)
        signature = {
            argument: "constexpr" if argument in fixed else pointers.get(next(kinds), "i64")
            for argument in code.arg_names
        }
        assert next(kinds, None) is None
        source = ASTSource(fn=code, signature=signature, constexprs=fixed)
        target = GPUTarget("cuda", capability, 32)
        made = triton.compile(source, target=target, options={**compiled_cuda.OPTIONS, **options})
        return made.asm["ptx"], made.metadata

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield compiled


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_each_operation_is_rounded_by_itself(name, capability, ptx):
    code, metadata = ptx(name, capability)
    assert f".target sm_{capability}" in code
    assert not re.findall(r"\bfma\b|\bmad\.\w*\.?f\d+|approx|div\.full|\.ftz|\bex2|\blg2|\bsin\b|\bcos\b", code)
    arithmetic = re.findall(r"\b(?:mul|add|sub|div|sqrt)\.[a-z.]*f(?:32|64)", code)
    assert bool(arithmetic) == ("permutation" not in name)
    assert all(".rn." in operation for operation in arithmetic)  # ptxas may fuse those without
    assert not metadata.enable_fp_fusion  # to ptxas: --fmad=false


@pytest.mark.parametrize("name", ["gaussian64", "add_run"])
def test_without_the_option_they_would_not_be(name, ptx):
    """So that the test above can fail."""
    code, _ = ptx(name, enable_fp_fusion=True)
    assert "fma.rn.f64" in code
    assert ("fma.rn.f32" in code) == (name == "add_run")


@pytest.mark.parametrize("name", [name for name in KERNELS if "permutation" not in name])
def test_constants_keep_all_their_digits(name, ptx):
    """Some versions of Triton make a number in the source a float32."""
    code, _ = ptx(name)
    for value in [*noise._SINE, noise._LOG_TWO, *(2.0 / (2 * j + 1) for j in range(1, 6)), 2.0**-53, 2.0**-32]:
        assert any(f"0d{struct.pack('>d', sign * value).hex().upper()}" in code for sign in (1, -1)), value


def test_kernels_for_few_positions_compile(ptx):
    for name in ("permutation", "permutation_keyed"):
        assert "f64" not in ptx(name, rounds=noise._ROUNDS_FEW)[0]


@pytest.mark.parametrize("name", KERNELS)
def test_integers_may_wrap_also_while_somebody_debugs(name, ptx):
    assert "assert" not in ptx(name, debug=True)[0]


def test_kernels_are_those_of_the_cpu():
    pytest.importorskip("triton")
    pytest.importorskip("numba")
    from smd_evo.core import compiled, compiled_cuda

    assert list(compiled_cuda.SIGNATURES) == list(compiled._SIGNATURES) == KERNELS


class NoGPU:
    """What Triton's launcher asks of a driver."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def without_gpu(monkeypatch, launch):
    """Triton's launcher does all but the launch, which ``launch`` is asked for: it compiles for the arguments."""
    from triton.runtime import driver, jit

    from smd_evo.core import compiled_cuda

    def bound(code, grid):
        return lambda *given, **fixed: launch(code.warmup(*given, grid=grid, **fixed), grid, given)

    monkeypatch.setattr(driver, "_active", NoGPU())
    monkeypatch.setattr(jit.JITFunction, "__getitem__", bound)
    for code, _, _ in compiled_cuda.SIGNATURES.values():  # not those of a GPU that is there
        monkeypatch.setattr(code, "device_caches", defaultdict(code.create_binder))


@pytest.mark.parametrize("name", KERNELS)
def test_whatever_the_arguments_it_is_the_code_read_above_that_is_launched(name, ptx, monkeypatch):
    """Nothing is compiled anew for an alignment, for a 1 or a multiple of 16, or for numbers beyond 32 bits."""
    from smd_evo.core import compiled_cuda

    launched = []
    without_gpu(monkeypatch, lambda made, grid, given: launched.append(made))
    launch, base = compiled_cuda.launcher(name), torch.zeros(3000, dtype=torch.int64)
    kind = torch.float64 if name.endswith("64") else torch.float32
    for key in (0, 1, 16, 2**31, 2**32, -1, 2**63 - 1, -(2**63)):
        for count, start in ((1, 0), (16, 1), (2047, 2), (2048, 3)):
            places, values = base[start : start + count], torch.zeros(4000, dtype=kind)[start : start + count]
            if name.startswith("add"):
                launch(base[start:4], values[start:4].float(), *([] if name == "add_run" else [places[:1]]), values)
            else:
                own = places if "keyed" in name else key
                launch(own, *([7, places, 2**40, 20, places] if "perm" in name else [places, values]))
    assert len(launched) == 32
    assert {made.asm["ptx"] for made in launched} == {ptx(name)[0]}
    assert len(set(map(id, launched))) == 1


def test_the_slow_gpu_sees_what_lies_outside(ptx):
    """So that the tests on it can fail."""
    code, places, out = ptx("gaussian32")[0], torch.arange(600).numpy(), torch.zeros(600).numpy()
    slow_gpu.run(code, 2, [places, 1, places, out, 600])
    assert out[-1]
    for arrays in ([places, 1, places[:-1], out, 600], [places, 1, places, out[:-1], 600]):
        with pytest.raises(IndexError):
            slow_gpu.run(code, 2, arrays)
    with pytest.raises(NotImplementedError, match=r"mul\.f64|fma"):
        slow_gpu.run(ptx("gaussian32", enable_fp_fusion=True)[0], 2, [places, 1, places, out, 600])


@pytest.fixture
def fresh(monkeypatch):
    """As in a new process."""
    state = fast._State(cuda=True)
    monkeypatch.setattr(fast, "_on_cuda", state)
    return state


@pytest.mark.parametrize("check", CHECKS)
def test_machine_code_makes_the_same_bits(check, ptx, fresh, monkeypatch):
    """What is compiled for a GPU, run one instruction after the other, each access to memory checked."""
    import triton_checks

    ran = []

    def launch(made, grid, given):
        arrays = [one.numpy() if isinstance(one, torch.Tensor) else one for one in given]
        try:
            slow_gpu.run(made.asm["ptx"], *grid, arrays)
        except NotImplementedError as error:
            pytest.skip(f"another compiler's code has: {error}")
        ran.append(made)

    without_gpu(monkeypatch, launch)
    triton_checks.everything_on_the_cpu(monkeypatch.setattr)
    assert not list(getattr(triton_checks, check)(torch.device("cpu"), 600))
    assert ran or check == "sums_write_only_where_they_may"


def test_who_works_where(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    assert fast._state_of(torch.device("cuda")) is fast._state_of(torch.device("cuda:1")) is fast._on_cuda
    assert fast._state_of(torch.device("cpu")) is fast._state
    for other in ("mps", "xpu", "meta"):
        assert fast._state_of(torch.device(other)) is None
        assert fast.kernel("gaussian32", 2**40, torch.device(other)) is None
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert fast._state_of(torch.device("cuda")) is None


def test_only_who_asks_for_much_waits_for_triton(fresh, monkeypatch):
    pytest.importorskip("triton")
    cuda, asked = torch.device("cuda"), []
    monkeypatch.setattr(fast, "_build", lambda name, state: asked.append((name, state.cuda)) or print)
    asks = fast._PAYS_CUDA // (10**6 + fast._CALL_CUDA)
    assert all(fast.kernel("gaussian32", 10**6, cuda) is None for _ in range(asks))
    assert not asked
    assert fast.kernel("gaussian32", 10**6, cuda) is print
    assert fast.kernel("gaussian32", 1, cuda) is print
    assert fast.kernel("permutation", 1, cuda) is print
    assert asked == [("gaussian32", True), ("permutation", True)]


def told(caplog):
    return [record.message for record in caplog.records if record.name == "smd_evo.core.fast"]


def test_without_triton_tensor_operations_do_the_work(fresh, monkeypatch, caplog):
    monkeypatch.setattr(fast, "_PAYS_CUDA", 0)
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "smd_evo.core.compiled_cuda", raising=False)
    monkeypatch.delattr(smd_evo.core, "compiled_cuda", raising=False)
    with caplog.at_level(logging.INFO, "smd_evo"):
        assert [fast.kernel(name, 10, torch.device("cuda")) for name in KERNELS] == [None] * len(KERNELS)
    assert fresh.off
    assert not fast._state.off  # Numba's have nothing to do with it
    (message,) = told(caplog)
    assert "on CUDA" in message
    assert "triton" in message


def test_the_interpreter_is_not_for_users(fresh, monkeypatch, caplog):
    pytest.importorskip("triton")
    from smd_evo.core import compiled_cuda

    assert compiled_cuda.launcher("add_run")  # imported before: under the setting it would stay interpreted
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(fast, "_PAYS_CUDA", 0)
    with caplog.at_level(logging.INFO, "smd_evo"):
        assert fast.kernel("gaussian32", 10, torch.device("cuda")) is None
    assert "TRITON_INTERPRET" in told(caplog)[0]


def test_what_fails_to_launch_is_told_once_and_changes_nothing(fresh, monkeypatch, caplog):
    """As on a second GPU that is older, or with a compiler that isn't there."""
    pytest.importorskip("triton")
    from smd_evo.core import compiled_cuda

    def results():
        places, children = torch.arange(100), sample_mutations(1, 3, subspace=Dense(), sigma=0.1)
        yield gaussian(1, places)
        yield gaussian(places, places)
        yield permutation(1, places, 100)
        yield permutation(places[:, None], places, 100)
        yield es_gradient(children, torch.arange(3.0), Layout.flat(50))

    def broken(*arguments):
        raise RuntimeError("no kernel image")

    expected, launched = list(results()), []
    monkeypatch.setattr(fast, "_PAYS_CUDA", 0)
    monkeypatch.setattr(fast, "_state_of", lambda device: fresh)
    monkeypatch.setattr(compiled_cuda, "build", lambda name: launched.append(name) or broken)
    with caplog.at_level(logging.INFO, "smd_evo"):
        for first in range(5):
            fresh.off = False
            made = list(results())[first:] if first else list(results())
            assert all(torch.equal(one, other) for one, other in zip(made, expected[first:], strict=True))
            fresh.kernels.pop(launched[-1])
    assert "no kernel image" in told(caplog)[0]
    assert len(told(caplog)) == 5


def test_who_asks_for_nothing_on_cuda_never_loads_triton():
    code = """
import sys, torch
from smd_evo import gaussian, permutation
from smd_evo.core import fast
fast._PAYS_CUDA = 0
gaussian(1, torch.arange(1000)), permutation(1, torch.arange(1000), 1000)
print([name for name in ("triton", "smd_evo.core.compiled_cuda") if name in sys.modules])
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.skipif(NO_GPU, reason="needs an NVIDIA GPU")
class TestOnTheGPU:
    @pytest.mark.parametrize("check", CHECKS)
    def test_kernels_make_the_same_bits_as_tensor_operations(self, check, fresh, monkeypatch):
        pytest.importorskip("triton")
        import triton_checks

        monkeypatch.setattr(fast, "_PAYS_CUDA", 0)
        assert not list(getattr(triton_checks, check)(torch.device("cuda"), 1_000_000))
        assert not fresh.off

    def test_millions_of_values_are_those_of_the_cpu(self, fresh, monkeypatch):
        pytest.importorskip("triton")
        monkeypatch.setattr(fast, "_PAYS_CUDA", 0)
        places = torch.arange(-(2**21), 2**21)
        for dtype in (torch.float32, torch.float64):
            assert torch.equal(gaussian(5, places.cuda(), dtype).cpu(), gaussian(5, places, dtype))
        assert torch.equal(
            permutation(5, (places + 2**21).cuda(), 2**22).cpu(), permutation(5, places + 2**21, 2**22)
        )
        children = sample_mutations(1, 5, subspace=Dense(), sigma=0.1)
        layout, weights = Layout.flat(2**22), torch.linspace(-1, 1, 5)
        assert torch.equal(
            es_gradient(children, weights, layout, device="cuda").cpu(), es_gradient(children, weights, layout)
        )
        assert {"gaussian32", "gaussian64", "permutation", "add_run"} == set(fresh.kernels)
        assert not fresh.off
