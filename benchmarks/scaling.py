"""Ray's actors: one against two on two cores, what travels, what they cost; and larger clusters on paper.

    python benchmarks/scaling.py [speed|bytes|overhead|costs|paper]...

All five by default. "speed": ResNet-20 with random weights on random images, with one and with two actors of one
thread, in turns. "bytes": all that Ray's serializer makes in a generation. "overhead": generations without work.
"costs": what main and every actor do for N children, whatever the number of GPUs. "paper" measures nothing but what
"costs" does: it computes generations of clusters from that and from the assumptions in ASSUMED.
"""

import logging
import math
import os
import statistics
import sys
import time

import ray
import torch
from ray._private.serialization import SerializationContext
from torch import nn

from smd_evo import (
    Dense,
    FinetuneProblem,
    Layout,
    ModuleFitness,
    ParameterSpace,
    RandomSubspace,
    SubspaceES,
    SubspaceEvolution,
    sample_mutations,
)
from smd_evo.core.checksum import checksum
from smd_evo.core.gradient import centered_ranks, es_gradient
from smd_evo.integrations.evotorch.replica import Replica
from smd_evo.integrations.evotorch.strategies import GradientStep, OptimizerSpec
from smd_evo.zoo.cifar_resnet import CifarResNet

ASSUMED = {
    "images/s of a GPU (ResNet-50, bf16)": 3000.0,
    "images a child": 512,
    "memory traffic of a GPU, bytes/s": 2e12,
    "operations that noise takes, one by one": 250,
    "bytes that each moves, a value": 24,
    "main's network, bytes/s": 1.25e9,
    "spread of the actors' times": 0.05,
}
"""What was not measured: put your own numbers in."""

D = 25_557_032  # ResNet-50


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def work(function, repeats=5):
    """Seconds of CPU time: of one thread, so other programs hardly show."""
    times = []
    function()
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


def with_actors(network, data, fitness, actors, **options):
    problem = FinetuneProblem(network, data, fitness, seed=1, num_actors=max(2, actors), **options)
    problem._num_actors = actors  # EvoTorch takes 1 for 0
    return problem


def shown(values, scale=1.0, digits=0):
    low, middle, high = (scale * part for part in (min(values), statistics.median(values), max(values)))
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def speed(repeats=7, children=32, images=256):
    torch.manual_seed(0)
    data = torch.randn(images, 3, 32, 32), torch.randint(10, (images,))
    problems = {actors: with_actors(CifarResNet(20), data, "cross_entropy", actors) for actors in (1, 2)}
    # Nothing but children: the parent is known after the first generation of a parent that stays.
    searchers = {
        actors: SubspaceEvolution(problem, popsize=children, density=0.01, sigma=1e-3, num_elites=0)
        for actors, problem in problems.items()
    }

    def generation(actors):
        population = searchers[actors]._mutated(problems[actors].generate_batch(children))
        searchers[actors]._steps_count += 1
        return seconds(lambda: problems[actors].evaluate(population))

    for actors in problems:
        generation(actors), generation(actors)
    times = [[generation(actors) for actors in (1, 2)] for _ in range(repeats)]
    print(f"{children} children of ResNet-20 a generation, {images} images each, {repeats} pairs in turns\n")
    print("| actors | s a generation | children/s | images/s |\n| --- | --- | --- | --- |")
    for number, own in enumerate(zip(*times, strict=True), start=1):
        rates = [children / one for one in own]
        print(f"| {number} | {shown(own, digits=2)} | {shown(rates, digits=2)} | {shown(rates, images)} |")
    print(f"\ntwo actors to one: {shown([one / two for one, two in times], digits=2)}")
    for problem in problems.values():
        problem.kill_actors()


def nothing(module):
    return 0.0 if module.training is None else float(module.weight.data_ptr() % 97)  # all children differ a little


class Wire:
    """Counts the bytes that Ray serializes here, and those that come back."""

    def __enter__(self):
        self.bytes = 0
        self.own = SerializationContext.serialize, SerializationContext.deserialize_objects

        def sending(context, value):
            result = self.own[0](context, value)
            self.bytes += result.total_bytes
            return result

        def receiving(context, found, *others):
            self.bytes += sum(len(memoryview(part)) for one in found for part in one[:2] if part)
            return self.own[1](context, found, *others)

        SerializationContext.serialize, SerializationContext.deserialize_objects = sending, receiving
        return self

    def __exit__(self, *error):
        SerializationContext.serialize, SerializationContext.deserialize_objects = self.own


def travelled(side, children, make):
    """Bytes of the first evaluation, when the parent is sent, and of a later generation with a step before it."""
    problem = with_actors(nn.Linear(side, side), None, ModuleFitness("nothing", "min", nothing), 2)
    searcher = make(problem, children, RandomSubspace(20 / problem.space.size))
    with Wire() as wire:
        problem.evaluate(problem.generate_batch(1))
        first = wire.bytes
        searcher.step()
        wire.bytes = 0
        searcher.step()
        later = wire.bytes
    problem.kill_actors()
    return first, later


def travel():
    kinds = {
        "selection": lambda problem, size, rule: SubspaceEvolution(problem, popsize=size, subspace=rule, sigma=1e-3),
        "gradient": lambda problem, size, rule: SubspaceES(
            problem, popsize=size, subspace=rule, sigma=1e-3, center_learning_rate=1e-3
        ),
    }
    print("Two actors; messages, rows and fitness in both directions, all framing included.\n")
    print("| searcher | D | children | bytes a generation | a child | once, for the parent |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, make in kinds.items():
        for children in (32, 1_000, 100_000 if name == "selection" else 10_000):  # replaying takes its time
            for side in (519, 5000):
                first, later = travelled(side, children, make)
                size = side * side + side
                print(f"| {name} | {size:,} | {children:,} | {later:,} | {later / children:.1f} | {first:,} |")


def overhead():
    print("Generations of two children without work; all actors on this machine's cores\n")
    print("| D | actors | ms a generation | of the main process, ms of CPU |\n| --- | --- | --- | --- |")
    for side in (519, 5000):
        for actors in (0, 2, 6):
            wall, cpu = overheads(side, actors)
            print(f"| {side * side + side:,} | {actors} | {1e3 * wall:.1f} | {1e3 * cpu:.1f} |")


def overheads(side, actors, repeats=15):
    """Seconds of a generation, and of those that the main process worked: medians."""
    problem = FinetuneProblem(
        nn.Linear(side, side), None, ModuleFitness("nothing", "min", nothing), seed=1, num_actors=actors
    )
    rule = RandomSubspace(20 / problem.space.size)

    def generation(key):
        batch = problem.mutate(problem.generate_batch(2), key=key, subspace=rule, sigma=1e-3)
        start = time.process_time()
        return seconds(lambda: problem.evaluate(batch)), time.process_time() - start

    times = [generation(key) for key in range(repeats + 2)][2:]
    if actors:
        problem.kill_actors()
    return [statistics.median(one) for one in zip(*times, strict=True)]


def costs():
    """Seconds that more GPUs do not make fewer, measured on one thread of this machine's CPU."""
    layout, children, found = Layout.flat(D), 10_000, {}
    problem = FinetuneProblem(nn.Linear(8, 8), None, ModuleFitness("nothing", "min", nothing), seed=1)
    rule = RandomSubspace(0.1)
    batch = problem.mutate(problem.generate_batch(children), key=1, subspace=rule, sigma=0.1)
    fitness = torch.rand(children)

    def rows():
        made = problem.mutate(problem.generate_batch(children), key=1, subspace=rule, sigma=0.1)
        return dict.fromkeys(problem._labels(made.access_values(keep_evals=True)))

    found["rows and labels, a child"] = work(rows) / children
    found["ranks, a child"] = work(lambda: centered_ranks(fitness, "min")) / children
    context = ray._private.worker.global_worker.get_serialization_context()
    found["pickling, a child"] = work(lambda: context.serialize((0, batch))) / children
    for name, subspace, pairs in (
        ("0.001", RandomSubspace(0.001), 20),
        ("0.01", RandomSubspace(0.01), 10),
        ("1", Dense(), 1),
    ):
        mutations = sample_mutations(1, 2 * pairs, subspace=subspace, sigma=0.1, antithetic=True)
        weights = torch.linspace(-0.5, 0.5, 2 * pairs)
        replay = work(lambda m=mutations, w=weights: es_gradient(m, w, layout), repeats=3)
        empty = work(lambda: torch.zeros(D), repeats=3)
        found[f"noise of a pair, density {name}"] = (replay - empty) / pairs
    found["Adam's step on all D coordinates"] = adam_step()
    network = nn.Linear(5000, 5000)
    found["checksum of the parent"] = work(lambda: checksum(network))
    (wall, few), (_, many) = (overheads(519, actors) for actors in (2, 6))
    found["messages, a generation"], found["messages, main's work for an actor"] = wall, max(0.0, (many - few) / 4)
    print(f"D = {D:,}; one thread\n\n| cost | value |\n| --- | --- |")
    for name, value in found.items():
        print(f"| {name} | {1e6 * value:,.1f} us |" if value < 1e-3 else f"| {name} | {1e3 * value:,.1f} ms |")
    return found


def adam_step():
    """Seconds of a gradient step without its noise: two children of hardly any coordinates, which are dynamic."""
    step = GradientStep(
        key=1,
        generation=0,
        weights=torch.tensor([0.5, -0.5]),
        subspace=RandomSubspace(1e-6),
        sigma=0.1,
        scale="absolute",
        optimizer=OptimizerSpec("adam", 0.01, {}),
        weight_decay=0.0,
    )
    replica = Replica(ParameterSpace(nn.Linear(D - 1, 1)))
    return work(lambda: replica.apply(step), repeats=3)


def on_gpu(density):
    """Seconds of a pair's noise on a GPU: PyTorch's operations one by one, each limited by memory."""
    moved = ASSUMED["operations that noise takes, one by one"] * ASSUMED["bytes that each moves, a value"]
    launches = ASSUMED["operations that noise takes, one by one"] * 5e-6
    return max(launches, density * D * moved / ASSUMED["memory traffic of a GPU, bytes/s"])


SEARCHERS = {  # density of a gradient's children, and whether all coordinates move
    "selection": (None, False),
    "gradient, density 0.001, static": (0.001, False),
    "gradient, density 0.01, static": (0.01, False),
    "OpenAI-ES": (1.0, True),
}


def generation_on(gpus, children, searcher, cost):
    """Seconds of one generation of a cluster, by what they are spent on."""
    density, all_move = SEARCHERS[searcher]
    child = ASSUMED["images a child"] / ASSUMED["images/s of a GPU (ResNet-50, bf16)"]
    largest = math.ceil((children + 1) / gpus)  # the parent is evaluated, too, and pieces are whole
    # The largest of n normal numbers is at most about that many standard deviations from their mean.
    late = ASSUMED["spread of the actors' times"] * math.sqrt(2 * math.log(gpus))
    in_main = in_actor = ranks = 0.0
    if density:
        in_main = children / 2 * cost[f"noise of a pair, density {density:g}"]
        in_main += cost["Adam's step on all D coordinates"] * all_move
        in_actor, ranks = children / 2 * on_gpu(density), 4.0 * children
    main = ("rows and labels, a child", "ranks, a child", "pickling, a child")
    return {
        "forward passes, shared evenly": children * child / gpus,
        "pieces that are not equal": (largest - children / gpus) * child,
        "waiting for the slowest": largest * child * late,
        "the gradient in main, on a core": in_main,
        "the gradient in each actor": in_actor,
        "rows, ranks and pickling in main": children * sum(cost[name] for name in main),
        "messages": cost["messages, a generation"]
        + gpus * cost["messages, main's work for an actor"]
        + (gpus * ranks + 50 * children) / ASSUMED["main's network, bytes/s"],
        "checksums": 2 * cost["checksum of the parent"],
    }


def paper():
    cost = costs()
    print("\nAssumed: " + "; ".join(f"{name}: {value:,g}" for name, value in ASSUMED.items()) + ".")
    print(f"Computed from that: a pair's noise on a GPU takes {1e3 * on_gpu(1.0):.0f} ms if it is dense.\n")
    print("Time of the forward passes, shared evenly, to that of the generation; and the latter\n")
    print("| searcher | children | 8 GPUs | 64 | 1,024 | largest of the rest at 8 | at 1,024 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for searcher in SEARCHERS:
        for children in (1_024, 16_383, 102_399):
            cells, worst = [], []
            for gpus in (8, 64, 1024):
                parts = generation_on(gpus, children, searcher, cost)
                total, ideal = sum(parts.values()), parts.pop("forward passes, shared evenly")
                cells.append(f"{100 * ideal / total:.0f} %, {total:,.1f} s")
                name = max(parts, key=parts.__getitem__)
                worst.append(f"{name}, {parts[name]:,.1f} s")
            print(f"| {searcher} | {children:,} | {' | '.join(cells)} | {worst[0]} | {worst[-1]} |")


PARTS = {"speed": speed, "bytes": travel, "overhead": overhead, "costs": costs, "paper": paper}


def main(wanted):
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else Ray leaves a token in the user's home
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    ray.init(num_cpus=6, include_dashboard=False, log_to_driver=False)
    print(f"torch {torch.__version__}, ray {ray.__version__}, {os.cpu_count()} cores")
    for name in wanted:
        print(f"\n## {name}\n")
        PARTS[name]()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:] or ["speed", "bytes", "overhead", "paper"])
