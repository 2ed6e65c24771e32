"""Memory that the command line keeps for the next layer."""

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import os, resource
from smd_evo.commands.memory import keep_freed_memory

if {asked}:
    keep_freed_memory()
b"x" * 2**26
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    b"x" * 2**26
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, os.environ.get("MALLOC_TRIM_THRESHOLD_"))
"""


def faults(asked, **environment):
    """New pages of 50 times 64 MiB, and what processes that are started then are told."""
    command = [sys.executable, "-c", CODE.format(asked=asked)]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found = subprocess.check_output(command, text=True, env=plain | environment).split()
    return int(found[0]), found[1]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left as they are")
def test_pages_are_zeroed_once_and_workers_are_told():
    size = 2**31 - 1
    few, told = faults(True)
    assert few < 500
    assert told == str(size)
    assert faults(False)[0] > 1000  # 1,600 huge pages, or 819,200 others
    assert faults(False, MALLOC_MMAP_THRESHOLD_=str(2**30), MALLOC_TRIM_THRESHOLD_=str(size))[0] < 500


def test_what_the_user_has_set_stays():
    assert faults(True, MALLOC_TRIM_THRESHOLD_="5")[1] == "5"
