"""Two objectives at once, in EvoTorch and in DEAP: less loss, and as near to the pre-trained network as can be.

python examples/several_objectives.py [GENERATIONS]
"""

import functools
import random
import sys

from deap import algorithms, base, tools
from evotorch.algorithms import GeneticAlgorithm

from smd_evo import AddMutation, Evaluator, FinetuneProblem, Lineage, ToolboxEvaluator, cxLineage, mutSparseGaussian
from smd_evo.zoo import load

generations = int(sys.argv[1]) if len(sys.argv) > 1 else 20
network, data = load("demo-cnn", "digits")
objectives = ["cross_entropy", "change_norm"]  # one forward pass for both: the distance needs none

# EvoTorch's GeneticAlgorithm is NSGA-II where there are several objectives.
problem = FinetuneProblem(network, data.fitness, objectives, steps=generations, seed=1)
operators = [AddMutation(problem, sigma=0.03, density=0.1)]
searcher = GeneticAlgorithm(problem, operators=operators, popsize=32)
searcher.run(generations)
front = problem.front(searcher.population)
print(f"EvoTorch:\n{front.table()}")
front.plot().savefig("front.png")

# DEAP selects by NSGA-II; its hall of fame is the front of all generations.
random.seed(1)
evaluator = ToolboxEvaluator(network, data.fitness, objectives)
toolbox = base.Toolbox()
toolbox.register("evaluate", evaluator.evaluate)
toolbox.register("map", evaluator.map)
toolbox.register("mate", cxLineage)
toolbox.register("mutate", mutSparseGaussian, mu=0, sigma=0.03, density=0.1)
toolbox.register("select", tools.selNSGA2)
population = [evaluator.lineage() for _ in range(32)]
hall = tools.ParetoFront()
evolve = functools.partial(algorithms.eaMuPlusLambda, cxpb=0.2, mutpb=0.8, ngen=generations, verbose=False)
evolve(population, toolbox, 32, 32, halloffame=hall)
print(f"DEAP:\n{evaluator.front(hall).table()}")

# The ends of a front are what its objectives alone would find; all between is for you to choose from.
candidates = {
    "parent": network,
    "EvoTorch, least loss": problem.make_net(searcher.population[front.numbers[0]]),
    "DEAP, least loss": evaluator.make_net(hall[0]),
}
for name, candidate in candidates.items():
    accuracy = Evaluator(candidate, data.validation, "accuracy").evaluate([Lineage()]).fitness.item()
    print(f"{name}: validation accuracy {100 * accuracy:.1f} %")
