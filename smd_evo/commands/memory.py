"""Memory that one layer frees is kept for the next one."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

__all__ = ["keep_freed_memory"]

_SETTINGS = {"MALLOC_MMAP_THRESHOLD_": (-3, 2**30), "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1)}
"""What glibc reads when a process starts, its number for ``mallopt``, and bytes."""


def keep_freed_memory() -> None:
    """Have glibc keep what a layer's outputs took, in this process and in those that it starts.

    Else it gives large pieces back to the system, which zeroes them for the next layer: up to 40 % of the time of a
    convolutional network on a CPU (docs/speed.md). Other allocators, and what the user has set, are left alone.
    """
    if any(name in os.environ for name in _SETTINGS):
        return
    with suppress(OSError, AttributeError, TypeError):  # no C library by that name, or not glibc
        mallopt = ctypes.CDLL(None).mallopt
        for name, (number, size) in _SETTINGS.items():
            mallopt(number, size)
            os.environ[name] = str(size)
