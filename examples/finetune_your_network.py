"""Fine-tune any classifier by one generation of sparse children: the five steps, on the embedded demo's parent.

python examples/finetune_your_network.py [CHILDREN]
"""

import sys

from smd_evo import Evaluator, Lineage, RandomSubspace, calibrate_sigma, sample_mutations
from smd_evo.zoo import load

count = int(sys.argv[1]) if len(sys.argv) > 1 else 128

# A pre-trained network and labelled images; put your own here. Data may also be a Dataset or a DataLoader.
network, data = load("demo-cnn", "digits")

# 1. Children are ranked on data that is neither validation nor test data. The network is patched in place
#    and afterwards as it was, bit for bit.
evaluator = Evaluator(network, data.fitness, "cross_entropy")

# 2. A subspace, and the strength at which the median child keeps 90 % of the parent's score.
subspace = RandomSubspace(density=0.1)
sigma = calibrate_sigma(evaluator, subspace, keep=0.9).sigma

# 3. Recipes of one generation: a few dozen bytes each, whatever the network's size.
children = sample_mutations(key=1, count=count, subspace=subspace, sigma=sigma)

# 4. Evaluate, keep the best.
result = evaluator.evaluate(children)
best = children[result.ranking()[0]]

# 5. Make it a network of its own. To store it, its recipe is enough: one line of text.
child = evaluator.space.make_child(best)
print(best.encode())

# The test split is looked at once, now. Lineage() is the parent: no steps.
before, after = evaluator.on(data.test, "accuracy").evaluate([Lineage(), best]).fitness.tolist()
print(f"{subspace.spec}, sigma {sigma:.3g}: test accuracy {100 * before:.1f} % -> {100 * after:.1f} %")
