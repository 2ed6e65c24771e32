"""A DEAP toolbox fine-tunes a pre-trained network: eaMuPlusLambda as it is, each generation evaluated at once.

python examples/deap_ga.py [GENERATIONS]
"""

import random
import sys

from deap import algorithms, base, tools

from smd_evo import Evaluator, Lineage, ToolboxEvaluator, cxLineage, mutSparseGaussian
from smd_evo.zoo import load

generations = int(sys.argv[1]) if len(sys.argv) > 1 else 10
random.seed(1)  # repeats the whole run
network, data = load("demo-cnn", "digits")

evaluator = ToolboxEvaluator(network, data.fitness, "cross_entropy")  # device="cuda" if you have one
toolbox = base.Toolbox()
toolbox.register("evaluate", evaluator.evaluate)
toolbox.register("map", evaluator.map)
toolbox.register("mate", cxLineage)
toolbox.register("mutate", mutSparseGaussian, mu=0, sigma=0.03, density=0.1)
toolbox.register("select", tools.selBest)

# An individual is the list of its mutations; the population starts at the network itself.
population = [evaluator.lineage() for _ in range(8)]
best = tools.HallOfFame(5)
statistics = tools.Statistics(lambda individual: individual.fitness.values[0])
statistics.register("min", min)
algorithms.eaMuPlusLambda(
    population, toolbox, 8, 32, cxpb=0.2, mutpb=0.8, ngen=generations, stats=statistics, halloffame=best
)

child = evaluator.make_net(best[0])  # an independent network; `network` is as it was
for name, candidate in {"parent": network, "child": child}.items():
    accuracy = Evaluator(candidate, data.validation, "accuracy").evaluate([Lineage()]).fitness.item()
    print(f"{name}: validation accuracy {100 * accuracy:.1f} %")
