"""MAP-Elites: the best network for each combination of two features, instead of one best network.

The features are how far a network is from the pre-trained one, and how evenly it says the ten digits.

python examples/map_elites.py [GENERATIONS]
"""

import sys

import torch
from evotorch.algorithms import MAPElites

from smd_evo import AddMutation, FinetuneProblem
from smd_evo.evaluation.fitness import TotalFitness
from smd_evo.zoo import load

generations = int(sys.argv[1]) if len(sys.argv) > 1 else 20


def said(outputs, targets):
    """How often a network says each class."""
    return torch.nn.functional.one_hot(outputs.argmax(1), outputs.shape[1]).sum(0)


def evenness(counts):
    """Entropy of these shares, in bits: log2(10) = 3.32 if all digits are said equally often."""
    return torch.distributions.Categorical(counts / counts.sum(-1, keepdim=True)).entropy() / torch.log(
        torch.tensor(2)
    )


network, data = load("demo-cnn", "digits")
features = ["change_norm", TotalFitness("evenness", "max", said, evenness)]
problem = FinetuneProblem(network, data.fitness, "accuracy", eval_data=features, steps=generations, seed=1)

# Rows of the map are distances from 0.5 to 3.5, columns are bits from 3.20 to 3.30; what is beyond has cells, too.
bins = 6, 5
grid = MAPElites.make_feature_grid([0.5, 3.20], [3.5, 3.30], bins, dtype=problem.eval_dtype)
mutation = AddMutation(problem, sigma=0.05, density=0.1)
searcher = MAPElites(problem, operators=[mutation], feature_grid=grid)
searcher.run(generations)

print(f"fitness accuracy in % of the parent: {100 * problem.status['parent_eval']:.1f}, of the best of each cell:")
accuracy = searcher.population.evals[:, 0].where(searcher.filled, torch.nan).view(bins)
for row in accuracy.tolist():
    print("  ".join("    ." if value != value else f"{100 * value:5.1f}" for value in row))

best = searcher.status["best"]
child = problem.make_net(best)  # an independent network; so is each of the map's
filled, distance = int(searcher.filled.sum()), float(best.evals[1])
print(f"{filled} cells of {len(grid)} are filled; the best network is {distance:.2f} from its parent")
