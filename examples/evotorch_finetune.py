"""Fine-tune a pre-trained network inside EvoTorch: problem, searcher, logger, and the best network at the end.

python examples/evotorch_finetune.py [GENERATIONS]
"""

import sys

from evotorch.logging import StdOutLogger

from smd_evo import Evaluator, FinetuneProblem, Lineage, SubspaceEvolution
from smd_evo.zoo import load

generations = int(sys.argv[1]) if len(sys.argv) > 1 else 10
network, data = load("demo-cnn", "digits")  # put your own torch.nn.Module and data here

# 250 samples a generation, the same ones for all its children; num_actors=4 would share the work through Ray.
problem = FinetuneProblem(network, data.fitness, "cross_entropy", minibatch_size=250, seed=1)

# (1 + 64): each generation the best of 64 sparse children and their parent. sigma is calibrated on the network and
# adapted by the 1/5 success rule. run(1) is the single generation of the paper.
searcher = SubspaceEvolution(problem, popsize=64, density=0.1, sigma="auto", adapt_sigma=True)
StdOutLogger(searcher, interval=5)
searcher.run(generations)

# The validation split says whether the last parent is to be kept; the test split is looked at once.
best = problem.make_net(searcher.status["pop_best"])  # an independent network; `network` is as it was
for name, candidate in {"parent": network, "child": best}.items():
    fitness = Evaluator(candidate, data.validation, "accuracy").evaluate([Lineage()]).fitness.item()
    print(f"{name}: validation accuracy {100 * fitness:.1f} %")
