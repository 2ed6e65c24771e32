"""A spiking network of snnTorch's leaky neurons on digits, trained by a surrogate, and then put on a poor chip.

    python benchmarks/gradient_free/spikes.py WORK [--seeds 0,1,2] [--methods ...] [--forwards N]

Trained for ten time steps, it has to answer after four, with membrane potentials of four bits (``state_quant``), on
neurons none of which is as another: thresholds vary by a factor, lognormal, more than on good analogue chips. (Time
and bits alone lost half a point of accuracy.) Potentials end at 1.2 on all of them, ``state_quant``'s limit, so that
neurons of a higher threshold never spike, 25, 16 and 18 of 64 on the first three chips: most of what is lost is their
share. Each seed has a chip of its own. Beside what is won without a gradient:
the surrogate's gradient on that very chip, which needs a model of it, and the network as it was trained. WORK is not
used: digits come with scikit-learn.
"""

from __future__ import annotations

import copy
from typing import Any

import ours
import rivals
import snntorch
import torch
from frame import Task, main
from sklearn.datasets import load_digits
from snntorch.functional.quant import state_quant
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import smd_evo

FORWARDS, MINIBATCH = 300_000, 200
LONG, SHORT, BITS, EPOCHS = 10, 4, 4, 60
HIDDEN, SPREAD = 64, 0.5  # neurons, and the deviation of their thresholds' logarithms
MADE: dict[str, Any] = {}


class Spiking(nn.Module):
    """Two layers, the first of leaky neurons; the mean of the second over time.

    Their state is handed on as a variable: snnTorch would keep it from one batch to the next.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, HIDDEN), nn.Linear(HIDDEN, 10)
        self.neurons = snntorch.Leaky(beta=0.9)
        self.steps = LONG

    def forward(self, x: Tensor) -> Tensor:
        current = self.first(x)
        potential, outputs = torch.zeros_like(current), []
        for _ in range(self.steps):
            spikes, potential = self.neurons(current, potential)
            outputs.append(self.last(spikes))
        return torch.stack(outputs).mean(0)


def on_chip(network: Spiking, number: int) -> Spiking:
    """A copy with less time, coarse potentials and the thresholds of the chip of this number."""
    twin = copy.deepcopy(network)
    thresholds = torch.exp(SPREAD * torch.randn(HIDDEN, generator=torch.Generator().manual_seed(number)))
    coarse = state_quant(num_bits=BITS, lower_limit=0.0)
    twin.neurons = snntorch.Leaky(beta=0.9, threshold=thresholds, state_quant=coarse)
    twin.steps = SHORT
    return twin.eval()


def descend(network: nn.Module, samples: tuple[Tensor, Tensor], epochs: int, rate: float, seed: int) -> None:
    """Adam along the surrogate's slopes, in place."""
    optimizer = torch.optim.Adam(network.parameters(), rate)
    draws = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for numbers in torch.randperm(len(samples[1]), generator=draws).split(100):
            optimizer.zero_grad()
            cross_entropy(network(samples[0][numbers]), samples[1][numbers]).backward()
            optimizer.step()
    network.neurons.reset_mem()  # else it keeps the last batch's, with its graph


def prepare(work: Any = None) -> None:
    digits = load_digits()
    inputs = torch.tensor(digits.data, dtype=torch.float32) / 16
    MADE["data"] = smd_evo.split((inputs, torch.tensor(digits.target)), fitness=800, validation=300, seed=0)
    torch.manual_seed(0)
    MADE["parent"] = network = Spiking()
    descend(network, MADE["data"].fitness, EPOCHS, 3e-3, 0)


@torch.no_grad()
def scores(module: nn.Module, samples: tuple[Tensor, Tensor]) -> dict[str, float]:
    logits = module(samples[0])
    right = (logits.argmax(1) == samples[1]).double().mean()
    return {"accuracy, %": 100 * float(right), "loss": float(cross_entropy(logits, samples[1]))}


def task(seed: int) -> Task:
    """Seeds are of chips, children and minibatches; digits and what was trained are the same."""
    data = MADE["data"]
    inputs, classes = data.fitness
    return Task(
        on_chip(MADE["parent"], seed),
        lambda module, numbers: float(cross_entropy(module(inputs[numbers]), classes[numbers])),
        samples=800,
        minibatch=MINIBATCH,
        validate=lambda module: -scores(module, data.validation)["loss"],
        data=data,
    )


def test(module: nn.Module) -> dict[str, float]:
    return scores(module, MADE["data"].test)


def surrogate(task: Task, seed: int) -> tuple[nn.Module, int]:
    """Adam on the network as it is now, by the surrogate's slopes: three forward passes a digit."""
    network, epochs = copy.deepcopy(task.network), task.forwards // 2400
    descend(network, task.data.fitness, epochs, 1e-3, seed)
    return network, 3 * 800 * epochs


METHODS = {
    **rivals.methods(),
    "sparse-es": (ours.SparseSearch, ours.sparse()),
    "newton": ours.newton_of("all", children=128),
}
SPECIAL = {"as-trained": lambda task, seed: (MADE["parent"], 0), "adam-surrogate": surrogate}

if __name__ == "__main__":
    main("spikes", task, test, FORWARDS, METHODS, prepare=prepare, special=SPECIAL)
