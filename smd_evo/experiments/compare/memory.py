"""Peak memory of a piece of work."""

from __future__ import annotations

import ctypes
import gc
import re
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import torch

__all__ = ["PeakMemory"]

_PROCESS = Path("/proc/self")


class PeakMemory:
    """A block whose peak memory is measured: on CUDA torch's own, on Linux the process's; elsewhere nobody can tell.

    Attributes:
        peak: bytes beyond what was in use when the block began; None if unknown.
    """

    def __init__(self, device: str) -> None:
        self.peak: int | None = None
        self._cuda = torch.device(device) if torch.device(device).type == "cuda" else None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._cuda)
            self._before: int | None = torch.cuda.memory_allocated(self._cuda)
        else:
            self._before = _fresh_peak()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        now = torch.cuda.max_memory_allocated(self._cuda) if self._cuda else _status("VmHWM")
        if self._before is not None and now is not None:
            self.peak = max(0, now - self._before)


def _fresh_peak() -> int | None:
    """Resident bytes now, from where Linux counts the peak anew."""
    with suppress(OSError, AttributeError, TypeError):  # not every system has it; Windows says so by a TypeError
        ctypes.CDLL(None).malloc_trim(0)  # what earlier work has freed would hide what this work takes
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
