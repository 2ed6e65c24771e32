"""Islands in DEAP: populations of one network's children that now and then send their best on; each costs few steps.

python examples/deap_islands.py [GENERATIONS]
"""

import random
import sys

from deap import algorithms, base, tools

from smd_evo import Evaluator, Lineage, ToolboxEvaluator, cxLineage, mutSparseGaussian
from smd_evo.zoo import load

generations = int(sys.argv[1]) if len(sys.argv) > 1 else 12
random.seed(1)  # repeats the whole run
network, data = load("demo-cnn", "digits")


def island():
    """A toolbox that goes on from what its population has in common, and the population: the network itself."""
    evaluator = ToolboxEvaluator(network, data.fitness, "cross_entropy")  # device="cuda" if you have one
    toolbox = base.Toolbox()
    toolbox.register("evaluate", evaluator.evaluate)
    toolbox.register("map", evaluator.map)
    toolbox.register("mate", cxLineage)
    toolbox.register("mutate", mutSparseGaussian, mu=0, sigma=0.03, density=0.1)
    toolbox.register("select", tools.selBest)
    toolbox.register("rebase", evaluator.rebase)
    toolbox.register("make_net", evaluator.make_net)
    return toolbox, [evaluator.lineage() for _ in range(4)]


toolboxes, islands = (list(both) for both in zip(*(island() for _ in range(3)), strict=True))
best = tools.HallOfFame(1)
for generation in range(1, generations + 1):
    for place, (toolbox, population) in enumerate(zip(toolboxes, islands, strict=True)):
        islands[place], _ = algorithms.eaMuPlusLambda(
            population, toolbox, 4, 8, cxpb=0.2, mutpb=0.8, ngen=1, halloffame=best, verbose=False
        )
        toolbox.rebase(islands[place])  # what all four share need not be replayed for each child
    if generation % 4 == 0:
        tools.migRing(islands, 1, tools.selBest)  # migrants are of the same network, so they are right anywhere

child = toolboxes[0].make_net(best[0])  # an independent network; `network` is as it was
for name, candidate in {"parent": network, "child": child}.items():
    accuracy = Evaluator(candidate, data.validation, "accuracy").evaluate([Lineage()]).fitness.item()
    print(f"{name}: validation accuracy {100 * accuracy:.1f} %")
