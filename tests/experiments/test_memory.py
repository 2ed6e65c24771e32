"""The peak of a block is what it took beyond what was there before, freed or not."""

import ctypes
import mmap
import sys
from types import SimpleNamespace

import pytest
import torch

from smd_evo.experiments.compare import memory, runner
from smd_evo.experiments.compare.memory import PeakMemory
from smd_evo.experiments.compare.run import Job
from smd_evo.experiments.compare.runner import Runner
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.progress import Silent

MIB = 2**20
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a process's peak anew")


def taken(mebibytes):
    """Memory of that size, every page of which was written to.

    The system's own: a C library may serve 32 MiB from a hole in its heap, and keeps them there when freed.
    """
    block = mmap.mmap(-1, mebibytes * MIB)
    for page in range(0, len(block), mmap.PAGESIZE):
        block[page] = 1
    return block


@on_linux
class TestProcess:
    def test_what_was_freed_before_the_end_counts(self):
        with PeakMemory("cpu") as measured:
            taken(64)
        assert abs(measured.peak - 64 * MIB) < 16 * MIB

    def test_it_is_the_highest_and_not_the_sum(self):
        with PeakMemory("cpu") as measured:
            taken(32)
            taken(64)
            taken(48)
        assert abs(measured.peak - 64 * MIB) < 16 * MIB

    def test_nothing_is_little(self):
        """Neither what is held from before counts, nor an earlier, higher peak."""
        taken(96)
        held = taken(64)
        with PeakMemory("cpu") as measured:
            pass
        assert 0 <= measured.peak < 16 * MIB
        assert len(held) == 64 * MIB

    def test_a_block_that_fails_is_measured(self):
        def broken():
            with measured:
                taken(64)
                raise RuntimeError("broken")

        measured = PeakMemory("cpu")
        with pytest.raises(RuntimeError, match="broken"):
            broken()
        assert abs(measured.peak - 64 * MIB) < 16 * MIB

    def test_what_the_heap_keeps_of_earlier_work_hides_nothing(self):
        """Small blocks, which go back to the C library and, below one that is held, no further."""
        earlier = [bytearray(MIB // 16) for _ in range(64 * 16)]
        pin = bytearray(MIB // 16)
        del earlier
        with PeakMemory("cpu") as measured:
            again = [bytearray(MIB // 16) for _ in range(64 * 16)]
        assert abs(measured.peak - 64 * MIB) < 16 * MIB
        assert len(again) * len(pin) == 64 * MIB

    @pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
    def test_a_c_library_without_malloc_trim(self, monkeypatch, error):
        """AttributeError on macOS and with musl, TypeError on Windows."""

        def refused(_):
            raise error

        monkeypatch.setattr(ctypes, "CDLL", refused)
        with PeakMemory("cpu") as measured:
            taken(64)
        assert measured.peak >= 0


class TestElsewhere:
    def test_before_the_block_ends_nothing_is_known(self):
        assert PeakMemory("cpu").peak is None

    def test_no_process_files(self, monkeypatch, tmp_path):
        monkeypatch.setattr(memory, "_PROCESS", tmp_path / "missing")
        with PeakMemory("cpu") as measured:
            taken(1)
        assert measured.peak is None

    @pytest.mark.parametrize("status", [None, "Name:\tpython\nVmSwap:\t       8 kB\n"])
    def test_files_that_do_not_tell(self, monkeypatch, tmp_path, status):
        monkeypatch.setattr(memory, "_PROCESS", tmp_path)
        if status:
            (tmp_path / "status").write_text(status)
        with PeakMemory("cpu") as measured:
            taken(1)
        assert measured.peak is None

    def test_it_is_the_high_water_mark_less_what_was_resident(self, monkeypatch, tmp_path):
        """In the kernel's kB, which are KiB; counted anew by a 5 in clear_refs."""
        monkeypatch.setattr(memory, "_PROCESS", tmp_path)
        (tmp_path / "status").write_text("VmPeak:\t  999999 kB\nVmHWM:\t    5000 kB\nVmRSS:\t    3000 kB\n")
        with PeakMemory("cpu") as measured:
            (tmp_path / "status").write_text("VmPeak:\t  999999 kB\nVmHWM:\t    7500 kB\nVmRSS:\t    2000 kB\n")
        assert measured.peak == 4500 * 1024
        assert (tmp_path / "clear_refs").read_text() == "5"


@pytest.mark.parametrize("others", [0, 7])
def test_a_comparisons_collections_pass_over_what_was_there_unless_somebody_has_frozen_that(
    others, monkeypatch, tmp_path
):
    """Frozen with the imports of the first run, between runs alone, and never for longer than the comparison."""
    calls = []
    asked = {name: lambda name=name: calls.append(name) for name in ("collect", "freeze", "unfreeze")}
    monkeypatch.setattr(runner, "gc", SimpleNamespace(get_freeze_count=lambda: others, **asked))
    made = Runner(CompareConfig(), tmp_path, 1, Silent())
    made._comparison = SimpleNamespace(steps=1, run=lambda job: calls.append(job.seed))
    with made:
        assert len([*made._made([Job("smd", seed, 0, True) for seed in range(3)])]) == 3
    expected = ["collect", "freeze", 0, "collect", "freeze", 1, 2, "unfreeze"]
    assert calls == [call for call in expected if not others or isinstance(call, int)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_is_torchs_own_count():
    held = torch.ones(32 * MIB, dtype=torch.uint8, device="cuda")
    with PeakMemory("cuda") as measured:
        torch.ones(64 * MIB, dtype=torch.uint8, device="cuda")
    assert measured.peak == 64 * MIB
    assert len(held) == 32 * MIB
