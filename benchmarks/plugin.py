"""What the plug-ins cost: EvoTorch's populations, operator, evaluation and gradient steps; DEAP's mutation.

    python benchmarks/plugin.py [populations] [operator] [evaluation] [step] [deap] [small]

A population is created, mutated, cloned, concatenated and selected from in a process of its own, whose peak of
resident memory is read from /proc, so that part runs on Linux only.
"""

import array
import copy
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from functools import partial

os.environ.setdefault("EVOTORCH_VERBOSE_LEVEL", "0")

import numpy as np
import timm
import torch
from deap import tools
from evotorch import Problem, SolutionBatch
from evotorch.neuroevolution import SupervisedNE
from evotorch.operators import GaussianMutation
from torch.utils.data import TensorDataset

from smd_evo import (
    AddMutation,
    Dense,
    DenseIndividual,
    Evaluator,
    FinetuneProblem,
    LineageIndividual,
    ModuleFitness,
    ParameterSpace,
    RandomSubspace,
    SparseGaussianMutation,
    SubspaceEvolution,
    mutSparseGaussian,
)
from smd_evo.integrations.evotorch.replica import Replica
from smd_evo.integrations.evotorch.strategies import GradientStep, OptimizerSpec
from smd_evo.zoo import load

ZERO = ModuleFitness("zero", "min", lambda module: 0.0)


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def proc(path, field):
    with open(path) as file:
        return int(re.search(rf"{field}:\s+(\d+) kB", file.read()).group(1)) / 1024


def live(kind, count):
    """One generation's handling of a population, and what it takes."""
    network = timm.create_model("resnet50")
    if kind == "FinetuneProblem":
        problem = FinetuneProblem(network, fitness=ZERO, seed=1)
        mutate = AddMutation(problem, stdev=0.01, density=0.01)
    else:
        data = TensorDataset(torch.zeros(1, 3, 224, 224), torch.zeros(1, dtype=torch.int64))
        problem = SupervisedNE(data, network, torch.nn.CrossEntropyLoss())
        mutate = GaussianMutation(problem, stdev=0.01)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    before, start = proc("/proc/self/status", "VmRSS"), time.perf_counter()
    parents = problem.generate_batch(count)
    children = mutate(parents)
    both = SolutionBatch.cat([children, children.clone()])
    both.set_evals(torch.arange(len(both), dtype=problem.eval_dtype))
    assert len(both.take_best(count)) == count
    spent, peak = time.perf_counter() - start, proc("/proc/self/status", "VmHWM") - before
    print(f"| {kind} | {count:,} | {spent:.2f} | {peak:,.0f} |")


def populations():
    free = int(proc("/proc/meminfo", "MemAvailable"))
    print(f"resnet50, 25,557,032 parameters; {free / 1024:.0f} GiB of memory\n")
    print("| problem | children | seconds | peak MiB |")
    print("| --- | --- | --- | --- |")

    def fits(kind, count):
        command = [sys.executable, "-W", "ignore", __file__, "--live", kind, str(count), str(free)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        print(result.stdout, end="", flush=True)
        if result.returncode and "alloc" not in result.stderr:
            raise RuntimeError(result.stderr)
        return result.returncode == 0

    fits("FinetuneProblem", 100_000)
    low, high = 1, 2
    while fits("SupervisedNE", high):
        low, high = high, 2 * high
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits("SupervisedNE", middle) else (low, middle)


def operator(length=1_000_000, count=50, density=0.01):
    problem = Problem("min", torch.linalg.norm, initial_bounds=(-1, 1), solution_length=length, seed=1)
    batch = problem.generate_batch(count)
    ours = SparseGaussianMutation(problem, stdev=0.1, density=density)
    host = GaussianMutation(problem, stdev=0.1, mutation_probability=density)
    ways = {
        "clone of the population: the floor": batch.clone,
        "SparseGaussianMutation": partial(ours, batch),
        "GaussianMutation, mutation_probability": partial(host, batch),
    }
    print(f"{count} solutions of {length:,} float32, density {density}\n")
    print("| operation | ms | ratio to the floor |")
    print("| --- | --- | --- |")
    rounds = [{name: seconds(way) for name, way in ways.items()} for _ in range(8)][1:]
    for name in ways:
        ratios = [times[name] / next(iter(times.values())) for times in rounds]
        middle = statistics.median(times[name] for times in rounds)
        print(f"| {name} | {1e3 * middle:.0f} | {statistics.median(ratios):.1f} |")


def evaluation(count=64):
    """A generation of the searcher against the core's Evaluator on the same children."""
    network, data = load("demo-cnn", "digits")
    problem = FinetuneProblem(network, data.fitness, seed=1)
    searcher = SubspaceEvolution(problem, popsize=count, density=0.1, sigma=0.01, num_elites=0)
    searcher.run(1)
    children = problem.lineages(searcher.population)
    evaluator = Evaluator(network, data.fitness)
    rounds = [
        (seconds(lambda: searcher.run(1)), seconds(lambda: evaluator.evaluate([*children, children[0]])))
        for _ in range(8)
    ][1:]
    ratios = sorted(ours / core for ours, core in rounds)
    print(f"a generation of {count} children of the demo's network, ratio to Evaluator.evaluate of as many lineages:")
    print(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def median_of(function):
    return statistics.median(seconds(function) for _ in range(3))


def step(popsize=8):
    """One update of the parent from the ranks of a generation."""
    network = timm.create_model("resnet50")
    print(f"resnet50, {popsize} children, Adam\n")
    print("| subspace | seconds a step |")
    print("| --- | --- |")
    weights = torch.linspace(-0.5, 0.5, popsize)
    for rule in (RandomSubspace(0.01, static=True), RandomSubspace(0.01), Dense()):
        replica = Replica(ParameterSpace(network))
        spec = OptimizerSpec("adam", 1e-6, {})
        update = GradientStep(1, 0, weights, rule, 0.01, "absolute", spec, 0.0)
        replica.apply(update)
        print(f"| {rule.spec} | {median_of(partial(replica.apply, update)):.2f} |")


def deap(length=1_000_000, density=0.01):
    """Mutation of a million genes: exactly k of them against each with a probability."""
    print(f"{length:,} genes, {density} of them\n")
    print("| individual | mutSparseGaussian, ms | mutGaussian, ms | ratio |")
    print("| --- | --- | --- | --- |")
    individuals = {
        "list": [0.0] * length,
        "array.array": array.array("d", bytes(8 * length)),
        "numpy.ndarray": np.zeros(length),
        "DenseIndividual": DenseIndividual(np.zeros(length, np.float32)),
    }
    for name, individual in individuals.items():
        ours = partial(mutSparseGaussian, individual, mu=0, sigma=0.1, density=density)
        host = partial(tools.mutGaussian, individual, mu=0, sigma=0.1, indpb=density)
        rounds = [(seconds(ours), seconds(host)) for _ in range(6)][1:]
        one, other = (1e3 * statistics.median(times) for times in zip(*rounds, strict=True))
        ratio = statistics.median(mine / theirs for mine, theirs in rounds)
        print(f"| {name} | {one:.1f} | {other:.0f} | {ratio:.3f} |")
    child = LineageIndividual()
    for _ in range(10):
        mutSparseGaussian(child, mu=0, sigma=0.1, density=density)
    clone = statistics.median(seconds(partial(copy.deepcopy, child)) for _ in range(1000))
    print(f"\nclone of a LineageIndividual of ten steps: {1e6 * clone:.0f} microseconds")


def small():
    """Genomes of a few numbers, before kernels are loaded (the first 20 calls) and after, beside the hosts' own."""
    print("| genome | host, ms | ours, ms | ratio | before kernels are loaded, ms |")
    print("| --- | --- | --- | --- | --- |")
    cases = {
        f"list of {length:,}": (_mutation(length), 2000 if length < 1000 else 200) for length in (10, 100, 10_000)
    }
    cases |= {f"EvoTorch, {count:,} x 3": (_population(count), 200) for count in (20, 200)}
    cold = {name: 1e3 * seconds(partial(_calls, pair[0], 20)) / 20 for name, (pair, _) in cases.items()}
    for (ours, _), _ in cases.values():
        seconds(partial(_calls, ours, 3000))  # until kernels pay
    for name, ((ours, host), calls) in cases.items():
        rounds = [(seconds(partial(_calls, ours, calls)), seconds(partial(_calls, host, calls))) for _ in range(5)]
        one, other = (1e3 * statistics.median(times) / calls for times in zip(*rounds, strict=True))
        ratio = statistics.median(mine / theirs for mine, theirs in rounds)
        print(f"| {name} | {other:.4f} | {one:.4f} | {ratio:.2f} | {cold[name]:.3f} |")


def _calls(function, count):
    for _ in range(count):
        function()


def _mutation(length, density=0.1):
    genes = [0.0] * length
    return (
        partial(mutSparseGaussian, genes, mu=0, sigma=0.1, density=density),
        partial(tools.mutGaussian, genes, mu=0, sigma=0.1, indpb=density),
    )


def _population(count):
    problem = Problem(
        "min", lambda rows: rows.square().sum(-1), solution_length=3, initial_bounds=(-1, 1), vectorized=True
    )
    batch = problem.generate_batch(count)
    return (
        partial(SparseGaussianMutation(problem, sigma=0.1, density=0.34), batch),
        partial(GaussianMutation(problem, stdev=0.1, mutation_probability=0.34), batch),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--live"]:
        kind, count, limit = sys.argv[2:]
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit) * 2**20,) * 2)
        live(kind, int(count))
    else:
        parts = {part.__name__: part for part in (populations, operator, evaluation, step, deap, small)}
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
        for name in sys.argv[1:] or parts:
            print(f"\n### {name}\n")
            parts[name]()
