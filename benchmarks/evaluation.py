"""What evaluating children costs, as a ratio to plain inference of the parent on the same images.

    python benchmarks/evaluation.py [ResNet-20 ...]

1.0 means that a child costs one forward pass and nothing else. Peers have as many children of the same network on the
same samples: EvoTorch's SupervisedNE, a loop over torch.func.functional_call, torch.func.vmap over stacked weights,
EvoX's SupervisedLearningProblem where it is installed. CPU time, everything with one thread.
"""

import copy
import os
import sys

os.environ.setdefault("EVOTORCH_VERBOSE_LEVEL", "0")

import torch
from engine_networks import networks
from evotorch import SolutionBatch
from evotorch.neuroevolution import SupervisedNE
from measure import Report, ratios
from torch.func import functional_call, stack_module_state, vmap
from torch.utils.data import TensorDataset

from smd_evo import Dense, Evaluator, RandomSubspace, sample_mutations

RULES = {f"{density:g}": RandomSubspace(density) for density in (0.001, 0.01, 0.1)} | {"dense": Dense()}
SIGMA = 0.001


def ours(network, samples, batch_size, count, rule):
    evaluator = Evaluator(network, samples, batch_size=batch_size)
    children = sample_mutations(1, count, subspace=rule, sigma=SIGMA)
    return lambda: evaluator.evaluate(children)


def evotorch(network, samples, minibatch, count):
    """Dense children: sampling them is within the measured time, as our noise is."""
    problem = SupervisedNE(
        TensorDataset(*samples), copy.deepcopy(network), torch.nn.CrossEntropyLoss(), minibatch_size=minibatch
    )
    center = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    rounds = -(-len(samples[0]) // minibatch)

    def evaluate():
        values = center + SIGMA * torch.randn(count, len(center))
        for _ in range(rounds):
            population = SolutionBatch(problem, popsize=count, empty=True)
            population.set_values(values)
            problem.evaluate(population)

    return evaluate


def functional(network, samples, batch_size, count):
    weights = {name: weight.detach() for name, weight in network.named_parameters()}

    def evaluate():
        with torch.inference_mode():
            for _ in range(count):
                child = {name: weight + SIGMA * torch.randn_like(weight) for name, weight in weights.items()}
                for images, targets in zip(*(part.split(batch_size) for part in samples), strict=True):
                    torch.nn.functional.cross_entropy(functional_call(network, child, (images,)), targets)

    return evaluate


def stacked(network, samples, batch_size, count):
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    _, buffers = stack_module_state([network])
    buffers = {name: buffer[0] for name, buffer in buffers.items()}

    def evaluate():
        with torch.no_grad():
            children = {name: weight + SIGMA * torch.randn(count, *weight.shape) for name, weight in weights.items()}
            for images, targets in zip(*(part.split(batch_size) for part in samples), strict=True):
                call = vmap(lambda child, x=images: functional_call(network, (child, buffers), (x,)))
                outputs = call(children)
                torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.repeat(count), reduction="none")

    return evaluate


def evox(network, samples, batch_size, count):
    from evox.problems.neuroevolution.supervised_learning import SupervisedLearningProblem
    from evox.utils import ParamsAndVector

    network = copy.deepcopy(network)
    adapter = ParamsAndVector(dummy_model=network)
    loader = torch.utils.data.DataLoader(TensorDataset(*samples), batch_size=batch_size)

    class Loss(torch.nn.Module):
        def forward(self, outputs, targets):
            return torch.nn.functional.cross_entropy(outputs, targets)

    problem = SupervisedLearningProblem(
        model=network,
        data_loader=loader,
        criterion=Loss(),
        n_batch_per_eval=-1,  # all samples
        pop_size=count,
        device=torch.device("cpu"),
    )
    center = adapter.to_vector(dict(network.named_parameters())).detach()

    def evaluate():
        with torch.no_grad():
            values = center + SIGMA * torch.randn(count, len(center))
            problem.evaluate(adapter.batched_to_params(values))

    return evaluate


PEERS = {
    "EvoTorch, minibatch 64": lambda network, samples, batch_size, count: evotorch(network, samples, 64, count),
    "EvoTorch, whole": lambda network, samples, batch_size, count: evotorch(network, samples, len(samples[0]), count),
    "functional_call": functional,
    "vmap": stacked,
    "EvoX": evox,
}


def plain(network, samples, batch_size, count):
    def infer():
        with torch.inference_mode():
            for _ in range(count):
                for batch in samples[0].split(batch_size):
                    network(batch)

    return infer


def measured(case):
    """A child's forward pass, and ratios of all that can evaluate a network, or the kind of error of what can't."""
    functions = {label: ours(*case, rule) for label, rule in RULES.items()}
    missing = {}
    for label, make in PEERS.items():
        try:
            functions[label] = make(*case)
            functions[label]()
        except Exception as error:
            functions.pop(label, None)
            missing[label] = type(error).__name__
    floor, found = ratios(plain(*case), functions, turns=5)
    return {"forward, ms": 1e3 * floor / case[-1], **found, **missing}


def main():
    torch.set_num_threads(1)
    only = sys.argv[1:]
    report = Report("evaluation", ["network", "parameters", "samples", "children", "forward, ms", *RULES, *PEERS])
    for name, network, inputs, batch_size, count in networks():
        if only and not any(word in name for word in only):
            continue
        samples = inputs, torch.zeros(len(inputs), dtype=torch.int64)
        found = measured((network.eval(), samples, batch_size, count))
        size = sum(parameter.numel() for parameter in network.parameters())
        report.row(name, size, len(inputs), count, *(found[label] for label in ("forward, ms", *RULES, *PEERS)))


if __name__ == "__main__":
    main()
