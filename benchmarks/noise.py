"""What the compiled noise saves: CPU time of the tensor operations over that of the kernels, to the same bits.

    python benchmarks/noise.py

Both take turns in one process with one thread; a ratio is that of the medians, its range that of the pairs.
"""

import statistics
import time

import timm
import torch
from measure import Report

from smd_evo import Dense, Layout, Mutation, ParameterSpace, RandomSubspace, gaussian, permutation, sample_mutations
from smd_evo.core import fast
from smd_evo.core.gradient import es_gradient
from smd_evo.core.mutation import replay
from smd_evo.integrations.evotorch.replica import Replica
from smd_evo.integrations.evotorch.strategies import GradientStep, OptimizerSpec

SMALL, MIDDLE, LARGE = Layout.flat(270_000), Layout.flat(2_500_000), Layout.flat(25_600_000)


def seconds(function, off, repeats):
    fast._state.off = off
    start = time.process_time()
    for _ in range(repeats):
        function()
    return (time.process_time() - start) / repeats


def measured(report, name, function, turns=11, repeats=1):
    for off in (False, True):
        seconds(function, off, 1)
    pairs = [(seconds(function, True, repeats), seconds(function, False, repeats)) for _ in range(turns)]
    eager, compiled = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = [one / other for one, other in pairs]
    report.row(name, 1e3 * eager, 1e3 * compiled, (eager / compiled, min(ratios), max(ratios)))


def gradient(subspace, layout, count=8):
    children = sample_mutations(1, count, subspace=subspace, sigma=0.1)
    weights = torch.linspace(-0.5, 0.5, count)
    return lambda: es_gradient(children, weights, layout)


def step(count=8):
    """An OpenAI-ES generation of ResNet-50 beside its forward passes: gradient, Adam, the move of the parent."""
    replica = Replica(ParameterSpace(timm.create_model("resnet50")))
    change = GradientStep(
        key=1,
        generation=0,
        weights=torch.linspace(-0.5, 0.5, count),
        subspace=Dense(),
        sigma=0.01,
        scale="absolute",
        optimizer=OptimizerSpec("adam", 1e-4, {}),
        weight_decay=0.0,
    )
    return lambda: replica.apply(change)


def main():
    torch.set_num_threads(1)
    fast._PAYS = 0
    scattered = torch.randint(2**40, (1_000_000,), generator=torch.Generator().manual_seed(0))
    run = torch.arange(1_000_000)
    child = Mutation(1, 0.01, RandomSubspace(0.001), 2)
    large = Mutation(1, 0.01, RandomSubspace(0.01), 2)
    many = sample_mutations(1, 100, subspace=RandomSubspace(0.001), sigma=0.01)
    out = Report("noise", ["what", "tensor operations, ms", "compiled, ms", "ratio (range)"])
    measured(out, "field at 1,000,000 scattered coordinates", lambda: gaussian(3, scattered))
    measured(out, "field on a run of 1,000,000", lambda: gaussian(3, run))
    measured(out, "permutation of 1,000,000 of 25.6 million", lambda: permutation(3, run, LARGE.size))
    measured(out, "delta of 270 of 270,000 coordinates", lambda: child.delta(SMALL), repeats=50)
    measured(out, "deltas of 100 such children together", lambda: replay(many, SMALL))
    measured(out, "delta of 256,000 of 25.6 million", lambda: large.delta(LARGE))
    measured(out, "delta of all of 2.5 million", lambda: Mutation(1, 0.01, Dense(), 0).delta(MIDDLE))
    measured(out, "gradient of 8 dense children, 2.5 million", gradient(Dense(), MIDDLE), turns=5)
    measured(out, "gradient of 8 dense children, 25.6 million", gradient(Dense(), LARGE), turns=2)
    measured(out, "OpenAI-ES step of ResNet-50, 8 children, without their evaluation", step(), turns=2)
    measured(out, "gradient of 8 children of 1 % each", gradient(RandomSubspace(0.01), MIDDLE))
    measured(out, "gradient of 8 children of the same 1 %", gradient(RandomSubspace(0.01, static=True), MIDDLE))


if __name__ == "__main__":
    main()
