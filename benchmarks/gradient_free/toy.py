"""A toy problem for the methods of this folder: digits by a linear layer that was half trained. It takes a minute.

python benchmarks/gradient_free/toy.py
"""

import torch
from frame import Task, run
from ours import GRIDS as OUR_GRIDS
from ours import MAKERS as OURS
from rivals import GRIDS, MAKERS
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import smd_evo

METHODS = {name: (maker, {**GRIDS, **OUR_GRIDS}[name]) for name, maker in {**MAKERS, **OURS}.items()}


def task(seed=0):
    """1,000 digits that rank, 400 that choose."""
    digits = load_digits()
    inputs = torch.tensor(digits.data, dtype=torch.float32) / 16
    data = smd_evo.split((inputs, torch.tensor(digits.target)), fitness=1000, validation=400, seed=seed)
    network = torch.nn.Linear(64, 10)
    with torch.no_grad():  # the classes' means: a parent that is not trained, and no gradient needed
        for number in range(10):
            network.weight[number] = data.fitness[0][data.fitness[1] == number].mean(0)
        network.bias.copy_(-network.weight.square().sum(1) / 2)

    def loss(module, samples):
        with torch.no_grad():
            return float(cross_entropy(module(samples[0]), samples[1]))

    return Task(
        network.eval(),
        lambda module, numbers: loss(module, tuple(part[numbers] for part in data.fitness)),
        samples=1000,
        minibatch=200,
        validate=lambda module: -loss(module, data.validation),
        data=data,
    )


def main():
    made = task()
    print(f"parent: validation loss {-made.validate(made.network):.3f}")
    for name, (maker, grid) in METHODS.items():
        setting = {**grid[0], **({"select": "all"} if name == "newton" else {})}
        outcome = run(made, maker, 60_000, 0, setting)
        print(f"{name}: {-outcome.validation:.3f} after {outcome.forwards:,} forward passes")


if __name__ == "__main__":
    main()
