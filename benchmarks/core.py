"""What the core costs: a child of 256,000 out of 25.6 million coordinates, on one CPU core.

    python benchmarks/core.py

The floor of applying and reverting is the memory traffic of 256,000 random reads and two times as many
random writes; it is measured in the same run with ready indices and values on one flat tensor.
"""

import statistics
import time

import timm
import torch

from smd_evo import Mutation, ParameterSpace, PartitionSubspace, RandomSubspace, gaussian, permutation

K, D = 256_000, 25_600_000


def milliseconds(function, repeats=15):
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), min(times), max(times)


def report(name, function):
    median, low, high = milliseconds(function)
    print(f"| {name} | {median:.1f} | {low:.1f} to {high:.1f} |")
    return median


def main():
    torch.set_num_threads(1)
    space = ParameterSpace(timm.create_model("resnet50"))
    layout = space.layout
    positions = torch.arange(K)
    mutation = Mutation(1, 0.01, RandomSubspace(K / space.size), 2)
    delta = mutation.delta(layout)
    flat = torch.randn(D)

    def whole(recipe):
        with space.applied(recipe):
            pass

    def floor():
        old = flat.index_select(0, delta.indices)
        flat.index_copy_(0, delta.indices, old + delta.values)
        flat.index_copy_(0, delta.indices, old)

    print(f"torch {torch.__version__}, one thread, k = {K:,}, D = {space.size:,} in {len(layout.slots)} tensors\n")
    print("| step | median ms | range |\n| --- | --- | --- |")
    report("permutation", lambda: permutation(3, positions, D))
    report("gaussian", lambda: gaussian(3, delta.indices))
    report("coordinates (permutation, sorted)", lambda: mutation.subspace.coordinates(2, layout))
    report("delta (coordinates, values)", lambda: mutation.delta(layout))
    ready = report("apply and revert, delta ready", lambda: whole(delta))
    bare = report("floor of that: gather, scatter, scatter on one flat tensor", floor)
    total = report("all: replay the recipe, apply, revert", lambda: whole(mutation))
    part = Mutation(1, 0.01, PartitionSubspace(100), 2)
    report("the same for one of 100 parts of a partition", lambda: whole(part))
    report("torch.randperm(D), for comparison", lambda: torch.randperm(D))
    print(f"\napply and revert / floor: {ready / bare:.2f}; all: {total:.1f} ms of the 60 ms that are its target")


if __name__ == "__main__":
    main()
