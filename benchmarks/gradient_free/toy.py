"""A check of the methods of this folder: digits by two linear layers, the second not trained and selected alone.

Each method must take three hundredths off its loss, and leave the first layer as it is. It takes a minute.

python benchmarks/gradient_free/toy.py
"""

import sys

import ours
import rivals
import torch
from frame import Task, run
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import smd_evo

METHODS = {
    **rivals.methods(),
    "sparse-es": (ours.SparseSearch, ours.sparse()),
    "newton": ours.newton_of("1"),
}


def task(seed=0):
    """1,000 digits that rank, 400 that choose."""
    digits = load_digits()
    inputs = torch.tensor(digits.data, dtype=torch.float32) / 16
    data = smd_evo.split((inputs, torch.tensor(digits.target)), fitness=1000, validation=400, seed=seed)
    network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 10))
    with torch.no_grad():  # as it is, and then the classes' means: a parent that no gradient has seen
        network[0].weight.copy_(torch.eye(64)), network[0].bias.zero_()
        for number in range(10):
            network[1].weight[number] = data.fitness[0][data.fitness[1] == number].mean(0)
        network[1].bias.copy_(-network[1].weight.square().sum(1) / 2)

    def loss(module, samples):
        with torch.no_grad():
            return float(cross_entropy(module(samples[0]), samples[1]))

    return Task(
        network.eval(),
        lambda module, numbers: loss(module, tuple(part[numbers] for part in data.fitness)),
        samples=1000,
        minibatch=200,
        validate=lambda module: -loss(module, data.validation),
        select="1",
        data=data,
    )


def main():
    made = task()
    first = -made.validate(made.network)
    print(f"parent: validation loss {first:.3f}")
    for name, (maker, grid) in METHODS.items():
        outcome = run(made, maker, 60_000, 0, grid[0])
        print(f"{name}: {-outcome.validation:.3f} after {outcome.forwards:,} forward passes", flush=True)
        if -outcome.validation > 0.97 * first or outcome.forwards > 60_000:
            sys.exit(f"{name}: expected less loss within 60,000 forward passes")
        if not torch.equal(outcome.module[0].weight, made.network[0].weight):
            sys.exit(f"{name}: expected the first layer as it was")


if __name__ == "__main__":
    main()
