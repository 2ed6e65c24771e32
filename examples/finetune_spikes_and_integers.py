"""A spiking network of coarse integer weights: no gradient anywhere. Evolution wins back what rounding has cost.

python examples/finetune_spikes_and_integers.py [GENERATIONS]
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import smd_evo

count = int(sys.argv[1]) if len(sys.argv) > 1 else 40


class Integers(nn.Module):
    """A linear layer's weights as integers times a scale."""

    def __init__(self, layer, most):
        super().__init__()
        self.register_buffer("scale", layer.weight.detach().abs().max() / most)
        self.register_buffer("levels", (layer.weight.detach() / self.scale).round().to(torch.int8))

    def forward(self, x):
        return nn.functional.linear(x, self.levels * self.scale)


class Spiking(nn.Module):
    """Leaky neurons integrate and fire; their state is a variable of forward, so it is new for each batch."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 64, bias=False), nn.Linear(64, 10, bias=False)

    def forward(self, x):
        current, potential, counts = 3 * self.first(x), 0.0, 0.0
        for _ in range(8):
            potential = 0.8 * potential + current
            near = potential.clamp(0.5, 1.5)  # whose slope is for the training alone
            spikes = (potential > 1).float() - near.detach() + near
            potential, counts = potential - spikes.detach(), counts + spikes
        return self.last(counts)


torch.manual_seed(0)
digits = load_digits()
data = smd_evo.split((torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)))
network = Spiking()
optimizer = torch.optim.Adam(network.parameters(), 0.01)
for _ in range(60):
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(data.fitness[0]), data.fitness[1]).backward()
    optimizer.step()
trained = 100 * float((network(data.test[0]).argmax(1) == data.test[1]).float().mean())
network.first, network.last = Integers(network.first, 2), Integers(network.last, 2)
result = smd_evo.evolve(network, data, select="*.levels", generations=count, children=32, density=0.1, sigma=0.8)
before, after = (100 * row["accuracy"] for row in result.numbers["rows"][:2])
print(f"test accuracy: float {trained:.1f} %, integers {before:.1f} %, evolved integers {after:.1f} %")
