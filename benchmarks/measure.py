"""What benchmarks of the engine share: alternating measurement, a table, JSON beside it, the machine."""

import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import torch

RESULTS = Path(__file__).with_name("results")


def machine():
    """Processor, its vector instructions as PyTorch sees them, threads, versions."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in ("numpy", "numba", "evotorch")},
    }


def _cpuinfo():
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def cpu(function):
    """Seconds of CPU time of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def ratios(floor, functions, turns=7):
    """CPU time of each function over that of the floor in the same turn: median, lowest, highest; and the floor's.

    All take turns in one process, so that a machine that changes its speed does not matter.
    """
    floor()
    for function in functions.values():
        function()
    turned = [(cpu(floor), {name: cpu(function) for name, function in functions.items()}) for _ in range(turns)]
    found = {}
    for name in functions:
        each = sorted(times[name] / base for base, times in turned)
        found[name] = statistics.median(each), each[0], each[-1]
    return statistics.median(base for base, _ in turned), found


class Report:
    """A table that is printed row by row, and written as JSON with what it was measured on."""

    def __init__(self, name, columns):
        self._name, self._columns, self._rows, self._machine = name, columns, [], machine()
        print(", ".join(f"{key} {value}" for key, value in self._machine.items()), end="\n\n")
        print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")

    def row(self, *cells):
        """One more row, kept on the disk at once."""
        self._rows.append(dict(zip(self._columns, cells, strict=True)))
        print(f"| {' | '.join(map(shown, cells))} |", flush=True)
        RESULTS.mkdir(exist_ok=True)
        content = {"machine": self._machine, "rows": self._rows}
        (RESULTS / f"{self._name}.json").write_text(json.dumps(content, indent=1) + "\n")


def shown(cell):
    if isinstance(cell, tuple):
        value, low, high = (f"{number:.3g}" for number in cell)
        return f"{value} ({low} to {high})"
    return f"{cell:.3g}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else str(cell)
