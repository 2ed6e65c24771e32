"""Sparse ES beside dense OpenAI-ES: the same problem, minibatches, optimizer and budget; only the subspace differs.

Dense mutations are run twice: at the sparse ones' sigma, and at the sigma that makes them as long as those.

python examples/openai_es_baseline.py [GENERATIONS]
"""

import sys

from smd_evo import Evaluator, FinetuneProblem, Lineage, OpenAIES, SubspaceES
from smd_evo.zoo import load

generations = int(sys.argv[1]) if len(sys.argv) > 1 else 30
network, data = load("demo-cnn", "digits")
density, sigma, budget = 0.1, 0.05, {"popsize": 32, "center_learning_rate": 0.003, "weight_decay": 0.0}

searchers = {
    f"sparse, density {density}": lambda problem: SubspaceES(problem, density=density, sigma=sigma, **budget),
    "dense, matched sigma": lambda problem: OpenAIES(problem, sigma=sigma, **budget),
    "dense, matched norm": lambda problem: OpenAIES(problem, sigma=sigma * density**0.5, **budget),
}
for name, make in searchers.items():
    problem = FinetuneProblem(network, data.fitness, minibatch_size=250, seed=1)
    searcher = make(problem)
    searcher.run(generations)
    # One seed and untuned settings: an example of the interface, not a result.
    judge = Evaluator(problem.make_net(), data.validation, "cross_entropy")
    loss = judge.evaluate([Lineage()]).fitness.item()
    accuracy = judge.on(data.validation, "accuracy").evaluate([Lineage()]).fitness.item()
    print(f"{name}: validation accuracy {100 * accuracy:.1f} %, loss {loss:.3f}")
