"""What a run over generations costs beyond its children, and whether that grows with the generations.

python benchmarks/generations.py
"""

import os
import tempfile
import time
from pathlib import Path

import torch

os.environ.setdefault("EVOTORCH_VERBOSE_LEVEL", "0")

from smd_evo import FinetuneProblem, SubspaceES, SubspaceEvolution
from smd_evo.experiments.generations.checkpoints import newest, write_checkpoint
from smd_evo.zoo.cifar_resnet import CifarResNet


def seconds(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def searcher_of(kind, network, data, children):
    problem = FinetuneProblem(network, data, minibatch_size=min(300, len(data[1])), seed=1)
    options = {"center_learning_rate": 0.001} if kind is SubspaceES else {}
    return kind(problem, popsize=children, density=0.1, sigma=0.01, **options)


def share():
    """Checkpoints, beside the generations between them."""
    generator = torch.Generator().manual_seed(1)
    data = torch.randn(300, 3, 32, 32, generator=generator), torch.arange(300) % 10
    print("| searcher | generation, s | state_dict and checkpoint, s | bytes | of every tenth generation |")
    print("| --- | --- | --- | --- | --- |")
    for kind in (SubspaceEvolution, SubspaceES):
        searcher = searcher_of(kind, CifarResNet(20), data, 32)
        searcher.step()
        generation, _ = seconds(searcher.step)
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder)
            taken = sorted(
                seconds(lambda n=n, s=searcher, r=run: write_checkpoint(r, n, s.state_dict(), 3))[0] for n in range(9)
            )[4]
            size = sum(file.stat().st_size for file in run.rglob("*8.*"))
        print(f"| {kind.__name__} | {generation:.2f} | {taken:.3f} | {size:,} | {taken / generation / 10:.2%} |")


def growth():
    """The same after many generations: of a network so small that its forward passes cost little."""
    network, data = torch.nn.Linear(64, 10), (torch.eye(64), torch.arange(64) % 10)
    print("\n| searcher | generations | one more, ms | checkpoint, bytes | reading it and going on, ms |")
    print("| --- | --- | --- | --- | --- |")
    for kind in (SubspaceEvolution, SubspaceES):
        searcher = searcher_of(kind, network, data, 8)
        for generations in (10, 100, 1000):
            while searcher.step_count < generations:
                searcher.step()
            more = sorted(seconds(searcher.step)[0] for _ in range(41))[20]
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder)
                write_checkpoint(run, 1, searcher.state_dict(), 3)
                size = sum(file.stat().st_size for file in run.rglob("*1.*"))
                other = searcher_of(kind, network, data, 8)
                back, _ = seconds(lambda o=other, r=run: o.load_state_dict(newest(r)[1]))
            print(f"| {kind.__name__} | {generations} | {1e3 * more:.1f} | {size:,} | {1e3 * back:.1f} |")


def large():
    """A checkpoint of 25.6 million parameters, their best, four late parents and Adam's moments."""
    tensors = {name: {"weight": torch.randn(25_600_000)} for name in ("parent", "best", "m", "v", *"abcd")}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        write, _ = seconds(lambda: write_checkpoint(run, 1, tensors, 3))
        read, _ = seconds(lambda: newest(run))
        size = sum(file.stat().st_size for file in run.rglob("*1.*"))
    print(f"\n25.6 million parameters: {size / 1e6:.0f} MB, written in {write:.1f} s, read in {read:.1f} s")


if __name__ == "__main__":
    share()
    growth()
    large()
