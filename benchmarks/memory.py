"""Memory of a generation: what a process takes at its peak for few children and for many.

    python benchmarks/memory.py

Each number of children is evaluated in a process of its own, after four that warm it up; MiB beyond those four.
"""

import resource
import subprocess
import sys

import timm
import torch
from measure import Report

from smd_evo import Dense, Evaluator, RandomSubspace, sample_mutations
from smd_evo.core import fast

RULES = {"0.01": RandomSubspace(0.01), "dense": Dense()}
WARM, COUNTS = 4, (4, 16, 64, 256)


def peak():
    """Of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def grown(rule, count):
    """By how much the peak grows."""
    torch.set_num_threads(1)
    fast._PAYS = 0  # Numba's 100 MiB are there from the start
    samples = torch.randn(4, 3, 64, 64), torch.zeros(4, dtype=torch.int64)
    evaluator = Evaluator(timm.create_model("resnet18"), samples)
    evaluator.evaluate(sample_mutations(1, WARM, subspace=RULES[rule], sigma=0.001))
    before = peak()
    evaluator.evaluate(sample_mutations(2, count, subspace=RULES[rule], sigma=0.001))
    return peak() - before


def main():
    if sys.argv[1:]:
        print(grown(sys.argv[1], int(sys.argv[2])))
        return
    report = Report("memory", ["resnet18, children", *RULES])
    for count in COUNTS:
        command = [sys.executable, __file__]
        found = [subprocess.run([*command, rule, str(count)], capture_output=True, check=True) for rule in RULES]
        report.row(count, *(float(each.stdout) for each in found))


if __name__ == "__main__":
    main()
