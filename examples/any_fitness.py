"""Any function of the network can be the fitness: here the worst class's accuracy, which has no useful gradient.

python examples/any_fitness.py [CHILDREN]
"""

import sys

import torch

from smd_evo import Evaluator, Lineage, ModuleFitness, RandomSubspace, sample_mutations
from smd_evo.zoo import load

count = int(sys.argv[1]) if len(sys.argv) > 1 else 128
network, data = load("demo-cnn", "digits")
images, targets = data.fitness


def worst_class(module):
    right = module(images).argmax(1) == targets
    return min(right[targets == number].float().mean().item() for number in range(10))


# The fitness says which direction is better; nothing is ever negated.
fitness = ModuleFitness("accuracy of the worst class", sense="max", function=worst_class)
evaluator = Evaluator(network, fitness=fitness, select="norm,head")  # only these parameters are mutated
children = sample_mutations(key=1, count=count, subspace=RandomSubspace(0.3), sigma=0.1)
result = evaluator.evaluate(children)

best = children[result.ranking()[0]]
child = evaluator.space.make_child(best).eval()
with torch.inference_mode():
    right = (child(data.test[0]).argmax(1) == data.test[1]).float().mean().item()
print(f"{fitness.name}: parent {evaluator.evaluate([Lineage()]).fitness[0]:.2f}, ", end="")
print(f"best of {count} {result.fitness.max():.2f}; its accuracy on all test images: {100 * right:.1f} %")
