"""Children evaluated by the actors of a Ray cluster: the same bits as in one process, and tens of bytes a child.

python examples/ray_cluster.py [GENERATIONS] [ACTORS] [ADDRESS]

Without an address it starts a cluster of its own on this machine; `ray start --head` tells that of a big one, where
smd_evo must be installed on every machine. For GPUs: num_gpus_per_actor=1, or 0.25 for four actors on each.
The same on the command line: smd-evo finetune --generations 100 --actors 8 --gpus-per-actor 1 --ray-address ADDRESS.
"""

import sys
import time

from smd_evo import FinetuneProblem, SubspaceES
from smd_evo.integrations.evotorch.cluster import start_ray
from smd_evo.zoo import load

generations = int(sys.argv[1]) if len(sys.argv) > 1 else 20
actors = int(sys.argv[2]) if len(sys.argv) > 2 else 2


def searched(network, data, **host):
    """A search, and the seconds that its generations took after the first, in which actors start."""
    problem = FinetuneProblem(network, data.fitness, minibatch_size=200, seed=1, **host)
    searcher = SubspaceES(problem, popsize=32, density=0.1, sigma=0.02, center_learning_rate=0.002)
    searcher.step()
    start = time.perf_counter()
    for _ in range(generations):
        searcher.step()  # to the actors: ranks and keys, from which each takes the parent's step by itself
    seconds = time.perf_counter() - start
    return searcher, seconds


if __name__ == "__main__":
    start_ray(sys.argv[3] if len(sys.argv) > 3 else None)
    network, data = load("demo-cnn", "digits")
    alone, slow = searched(network, data)
    parallel, fast = searched(network, data, num_actors=actors)
    same = bool((alone.population.evals == parallel.population.evals).all())
    print(f"after {generations} generations all fitness is {'the same' if same else 'NOT the same'}, to the bit")
    print(f"one process {slow:.1f} s, {actors} actors {fast:.1f} s: {100 * slow / fast / actors:.0f} % efficient")
    print(f"loss of the parent on a minibatch: {parallel.status['parent_eval']:.3f}")
