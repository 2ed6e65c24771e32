"""An EvoTorch program of yours with one line changed: each child differs from its parent in few weights, not in all.

python examples/evotorch_operator.py [GENERATIONS]
"""

import sys

import torch
from evotorch.algorithms import GeneticAlgorithm
from evotorch.neuroevolution import GymNE

from smd_evo.integrations.evotorch.operators import SparseGaussianMutation

generations = int(sys.argv[1]) if len(sys.argv) > 1 else 12
torch.manual_seed(1)

# A cart that balances a pole by a small network: one reward for each step that the pole stands, 500 at most.
problem = GymNE("CartPole-v1", "Linear(obs_length, 16) >> Tanh() >> Linear(16, act_length)", num_episodes=3)
searcher = GeneticAlgorithm(
    problem,
    operators=[
        # GaussianMutation(problem, stdev=0.5),  # the old line
        SparseGaussianMutation(problem, sigma=0.5, density=0.1),
    ],
    popsize=20,
)

for _ in range(generations):
    searcher.step()
    status = searcher.status
    print(f"generation {status['iter']}: mean reward {status['mean_eval']:.0f}, best {status['pop_best_eval']:.0f}")

# Episodes differ in how they begin, and the best of many was lucky in its own: so try it in others.
best = problem.to_policy(status["pop_best"])
reward = problem.run(best, num_episodes=20)["cumulative_reward"]
print(f"best policy, 20 other episodes: mean reward {reward:.0f}, {100 * reward / 500:.0f} % of what is possible")
