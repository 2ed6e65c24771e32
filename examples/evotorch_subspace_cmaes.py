"""CMA-ES on a network that is far too large for it: along 50 coordinates at a time, another 50 after each round.

python examples/evotorch_subspace_cmaes.py [ROUNDS]
"""

import sys

from evotorch.algorithms import CMAES

from smd_evo import Evaluator, Lineage, SubspaceProblem
from smd_evo.zoo import load

rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 4
network, data = load("demo-cnn", "digits")

# A numeric problem of 50 variables for any EvoTorch searcher; 0 is the parent. Biases, norms and the head here.
problem = SubspaceProblem(network, data.fitness, dimensions=50, select="bias,norm,head", seed=1)
for number in range(rounds):
    searcher = CMAES(problem, stdev_init=0.05, popsize=16)
    searcher.run(15)
    print(f"round {number + 1}: fitness {searcher.status['parent_eval']:.3f} -> {searcher.status['best_eval']:.3f}")
    problem.rebase(searcher.status["best"])  # the best point becomes the parent, and other coordinates are drawn

tuned = problem.make_net()
before, after = (
    Evaluator(net, data.validation, "accuracy").evaluate([Lineage()]).fitness.item() for net in (network, tuned)
)
print(f"validation accuracy {100 * before:.1f} % -> {100 * after:.1f} %")
