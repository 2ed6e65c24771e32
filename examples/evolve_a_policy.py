"""A policy that was cloned from a controller, but badly, is evolved by what it earns in Gymnasium's CartPole.

python examples/evolve_a_policy.py [GENERATIONS]
"""

import sys

import gymnasium
import torch
from torch import nn

from smd_evo import FinetuneProblem, ModuleFitness, SubspaceEvolution

generations = int(sys.argv[1]) if len(sys.argv) > 1 else 10
seed, longest = 1, 500  # CartPole-v1 pays 1 a step until the pole falls, for 500 steps at most


def controller(states):
    """It earns all: push to where the pole leans and goes, which its angle and angular velocity tell."""
    return (states[:, 2] + states[:, 3] > 0).long()


def cloned_policy():
    """Gradients imitate the controller; so few states and steps that the pole falls, sooner or later."""
    torch.manual_seed(seed)
    policy = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    states = 0.4 * torch.rand(16, 4) - 0.2
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(policy(states), controller(states)).backward()
        optimizer.step()
    return policy


@torch.inference_mode()
def mean_return(policy, episodes, count=16):
    """Of ``count`` games that run side by side; ``episodes`` is the seed of how they all begin."""
    games = gymnasium.make_vec("CartPole-v1", num_envs=count, vectorization_mode="vector_entry_point")
    states, _ = games.reset(seed=episodes)
    running, total = torch.ones(count, dtype=torch.bool), 0
    while running.any():
        total += int(running.sum())
        states, _, fallen, late, _ = games.step(policy(torch.from_numpy(states)).argmax(1).numpy())
        running &= ~torch.from_numpy(fallen | late)  # a game that is over begins again, which no longer counts
    return total / count


parent = cloned_policy()
# The same 16 games for every child: one is better by what it does, not by how its games began.
fitness = ModuleFitness("mean return", sense="max", function=lambda policy: mean_return(policy, episodes=seed))
problem = FinetuneProblem(parent, fitness=fitness, seed=seed)
searcher = SubspaceEvolution(problem, popsize=32, density=0.1, sigma=0.3)  # strong noise on 22 of the 226 weights
searcher.run(generations)

for name, policy in {"cloned": parent, "evolved": problem.make_net(searcher.status["pop_best"])}.items():
    share = mean_return(policy, episodes=seed + 1000, count=100) / longest  # games that chose nothing
    print(f"{name}: {100 * share:.1f} % of the longest possible return, in 100 other games")
