"""DEAP's own CMA-ES on 50 coordinates of a pre-trained network, through eaGenerateUpdate.

python examples/deap_cma_subspace.py [GENERATIONS]
"""

import random
import sys

from deap import algorithms, base, tools

from smd_evo import DenseIndividual, Evaluator, Lineage, SubspaceStrategy, ToolboxEvaluator
from smd_evo.zoo import load

generations = int(sys.argv[1]) if len(sys.argv) > 1 else 30
random.seed(1)
network, data = load("demo-cnn", "digits")

evaluator = ToolboxEvaluator(network, data.fitness, "cross_entropy", select="bias,norm,head")
strategy = SubspaceStrategy(evaluator, dimensions=50, sigma=0.05, lambda_=16)
toolbox = base.Toolbox()
toolbox.register("generate", strategy.generate, DenseIndividual)
toolbox.register("update", strategy.update)
toolbox.register("evaluate", strategy.evaluate)
toolbox.register("map", strategy.map)

best = tools.HallOfFame(1, similar=lambda one, other: (one == other).all())
statistics = tools.Statistics(lambda individual: individual.fitness.values[0])
statistics.register("min", min)
algorithms.eaGenerateUpdate(toolbox, generations, stats=statistics, halloffame=best)

before, after = (
    Evaluator(net, data.validation, "accuracy").evaluate([Lineage()]).fitness.item()
    for net in (network, strategy.make_net(best[0]))
)
print(f"validation accuracy {100 * before:.1f} % -> {100 * after:.1f} %")
