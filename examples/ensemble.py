"""An ensemble of sparse children: chosen on validation, saved in one small file, beside the soup of its members.

python examples/ensemble.py [CHILDREN]
"""

import sys
from pathlib import Path

from smd_evo import (
    Evaluator,
    Lineage,
    RandomSubspace,
    SparseEnsemble,
    calibrate_sigma,
    sample_mutations,
    select_members,
)
from smd_evo.zoo import load

count = int(sys.argv[1]) if len(sys.argv) > 1 else 128

# A pre-trained network and labelled images; put your own here.
network, data = load("demo-cnn", "digits")
ranker = Evaluator(network, data.fitness, "cross_entropy")
judge = ranker.on(data.validation)

# One generation, as in finetune_your_network.py.
subspace = RandomSubspace(density=0.1)
sigma = calibrate_sigma(ranker, subspace, keep=0.9).sigma
children = sample_mutations(key=1, count=count, subspace=subspace, sigma=sigma)
result = ranker.evaluate(children)

# Members are chosen by what they predict together on validation images: not on those that ranked them.
chosen = select_members(judge, children, result, method="greedy")
print(f"{len(chosen.members)} members, weights {[round(weight, 2) for weight in chosen.weights]}")

# One module: it takes what the network takes, and returns log-probabilities.
ensemble = SparseEnsemble(ranker.space, [children[number] for number in chosen.members], chosen.weights)

# One file: what the members change, nothing else. It loads onto the same network, or takes it along.
ensemble.save("ensemble.safetensors")
ensemble = SparseEnsemble.load("ensemble.safetensors", network)
whole = sum(parameter.numel() for parameter in network.parameters()) * 4 * len(ensemble)
print(f"{Path('ensemble.safetensors').stat().st_size:,} bytes; as independent networks: {whole:,}")

# The test split is looked at once, now. The soup is one network: the mean of the members' weights.
images, targets = data.test
parent, best = ranker.on(data.test, "accuracy").evaluate([Lineage(), children[result.ranking()[0]]]).fitness
both = [float((model(images).argmax(1) == targets).double().mean()) for model in (ensemble, ensemble.soup())]
for name, accuracy in zip(("parent", "best child", "ensemble", "soup"), (parent, best, *both), strict=True):
    print(f"{name}: {100 * accuracy:.1f} %")
