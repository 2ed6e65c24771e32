"""A search that is driven from outside: its solutions are asked for, measured elsewhere, and told.

Elsewhere may be a laboratory, a queue of jobs, or people who look at what the networks do. Here it is a handful of
threads that get a network as a file and answer with a number, in any order and whenever they are ready.

python examples/ask_and_tell.py [GENERATIONS]
"""

import io
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

import torch

from smd_evo import Evaluator, FinetuneProblem, Lineage, ModuleFitness, SubspaceEvolution
from smd_evo.zoo import load

generations = int(sys.argv[1]) if len(sys.argv) > 1 else 10
network, data = load("demo-cnn", "digits")


@torch.inference_mode()
def measured_elsewhere(file):
    """What somebody answers who has got a network: here, its accuracy on images of theirs."""
    module = torch.load(io.BytesIO(file), weights_only=False)
    images, targets = data.fitness
    return (module(images).argmax(1) == targets).double().mean().item()


def as_file(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    return buffer.getvalue()


def nobody(module):
    raise RuntimeError("expected evaluations from elsewhere")


fitness = ModuleFitness("measured elsewhere", sense="max", function=nobody)  # says which direction is better
problem = FinetuneProblem(network, fitness=fitness, seed=1)
searcher = SubspaceEvolution(problem, popsize=32, density=0.1, sigma=0.05)

with ThreadPoolExecutor(4) as elsewhere:
    for _ in range(generations):
        batch = searcher.ask()  # the parent and its 32 children; asked again, it gives the same ones
        files = [as_file(problem.make_net(solution)) for solution in batch]
        jobs = {elsewhere.submit(measured_elsewhere, file): number for number, file in enumerate(files)}
        evals = torch.full((len(batch),), torch.nan, dtype=torch.float64)
        for job in as_completed(jobs):
            evals[jobs[job]] = job.result()
        batch.set_evals(evals)
        searcher.tell(batch)  # one that is missing, or not finite, would be refused
        print(f"generation {searcher.step_count}: {100 * searcher.status['pop_best_eval']:.1f} %")

best = problem.make_net(searcher.status["pop_best"])
for name, candidate in {"parent": network, "best": best}.items():
    accuracy = Evaluator(candidate, data.validation, "accuracy").evaluate([Lineage()]).fitness.item()
    print(f"{name}: validation accuracy {100 * accuracy:.1f} %")
