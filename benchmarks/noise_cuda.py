"""What Triton's kernels save on a GPU: time of the tensor operations over that of the kernels, to the same bits.

    python benchmarks/noise_cuda.py

Both take turns; times are those between two CUDA events around some calls, so of small requests it is the launches
that count. A ratio is that of the medians, its range that of the pairs. Before each line the results are compared.
"""

import statistics
import time

import torch

from smd_evo import Dense, Layout, Mutation, RandomSubspace, gaussian, permutation, sample_mutations
from smd_evo.core import fast
from smd_evo.core.gradient import es_gradient

SMALL, MIDDLE, LARGE = Layout.flat(270_000), Layout.flat(2_500_000), Layout.flat(25_600_000)


def milliseconds(function, off, repeats):
    fast._on_cuda.off = off
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats


def report(name, function, turns=11, repeats=5):
    results = []
    for off in (True, False):
        milliseconds(function, off, 1)
        results.append(function())
    equal = "yes" if torch.equal(*results) else "NO"
    del results
    pairs = [(milliseconds(function, True, repeats), milliseconds(function, False, repeats)) for _ in range(turns)]
    eager, compiled = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = [one / other for one, other in pairs]
    print(
        f"| {name} | {eager:.3g} | {compiled:.3g} | {eager / compiled:.1f} "
        f"| {min(ratios):.1f} to {max(ratios):.1f} | {equal} |",
        flush=True,
    )


def gradient(subspace, layout, count=8):
    children = sample_mutations(1, count, subspace=subspace, sigma=0.1)
    weights = torch.linspace(-0.5, 0.5, count)
    return lambda: es_gradient(children, weights, layout, device="cuda")


def first():
    """Seconds until the first values: Triton's import, and a kernel from its cache or compiled."""
    start = time.perf_counter()
    gaussian(3, torch.arange(1000, device="cuda"))
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    if not torch.cuda.is_available() or torch.version.hip is not None:
        print("no CUDA here: nothing to compare")
        return
    run = torch.arange(LARGE.size, device="cuda")  # its context, too, before the clock starts
    scattered = torch.randint(2**40, (1_000_000,), generator=torch.Generator().manual_seed(0)).cuda()
    keys = scattered[:1000, None]
    fast._PAYS_CUDA = 0
    waited = first()
    if fast._on_cuda.off:
        print("no kernels: see the log at level INFO")
        return
    child = Mutation(1, 0.01, RandomSubspace(0.001), 2)
    large = Mutation(1, 0.01, RandomSubspace(0.01), 2)
    print(
        f"torch {torch.__version__}, {torch.cuda.get_device_name()}, milliseconds; the first kernel: {waited:.2f} s\n"
    )
    print("| what | tensor operations | Triton | ratio | range | equal |\n| --- | --- | --- | --- | --- | --- |")
    report("field at 1,000 coordinates", lambda: gaussian(3, run[:1000]), repeats=50)
    report("field at 1,000,000 scattered coordinates", lambda: gaussian(3, scattered))
    report("field on a run of 25.6 million", lambda: gaussian(3, run))
    report("the same in float64", lambda: gaussian(3, run, torch.float64))
    report("field of 1,000 keys at 1,000 coordinates", lambda: gaussian(keys, run[:1000]))
    report("permutation of 1,000 of 25.6 million", lambda: permutation(3, run[:1000], LARGE.size), repeats=50)
    report("permutation of 1,000,000 of 25.6 million", lambda: permutation(3, run[:1_000_000], LARGE.size))
    report("permutation of 1,000 keys, 1,000 each", lambda: permutation(keys, run[:1000], LARGE.size))
    report("delta of 270 of 270,000 coordinates", lambda: child.delta(SMALL, "cuda").values, repeats=20)
    report("delta of 256,000 of 25.6 million", lambda: large.delta(LARGE, "cuda").values)
    report("gradient of 8 dense children, 2.5 million", gradient(Dense(), MIDDLE))
    report("gradient of 8 dense children, 25.6 million", gradient(Dense(), LARGE), turns=5)
    report("gradient of 8 children of 1 % each", gradient(RandomSubspace(0.01), MIDDLE))
    report("gradient of 8 children of the same 1 %", gradient(RandomSubspace(0.01, static=True), MIDDLE))


if __name__ == "__main__":
    main()
