"""What there is to gain on a task, rung by rung: the parent, what is free, and gradient descent on more and more.

    python benchmarks/ladder.py cifar-resnet20 FILE [jpeg blur noise contrast]

Gradient descent is Adam on the 5,000 fitness images, of all epochs the best on validation; a step costs three forward
passes an image. It starts at the parent, or at the parent with statistics of the images in its normalisations,
whichever is better on validation. Test accuracy in % and cross-entropy, as they are and with a temperature and biases
fitted to the fitness split.
"""

import copy
import sys

import torch
from measure import Report
from torch.nn.functional import cross_entropy

from smd_evo import Evaluator, Lineage
from smd_evo.controls.batchnorm import blended, statistics_of
from smd_evo.controls.outputs import fit_scaling
from smd_evo.experiments.finetune.free import choose_free
from smd_evo.zoo import load

RUNGS = {
    "head": lambda name, tensor: name.startswith("linear"),
    "norms, biases, head": lambda name, tensor: tensor.dim() == 1 or name.startswith("linear"),
    "everything": lambda name, tensor: True,
}
RATES = {"head": 3e-3, "norms, biases, head": 3e-3, "everything": 3e-4}
EPOCHS, BATCH = 5, 100


def outputs(network, samples):
    return Evaluator(network, samples).predict([Lineage()])[0]


def loss_of(network, samples):
    return float(cross_entropy(outputs(network, samples), samples[1]))


def scores(predicted, known, data):
    """Accuracy and loss on test, raw and calibrated on the fitness split."""
    targets = data.test[1]
    found = []
    for logits in (predicted, fit_scaling(known, data.fitness[1]).of(predicted)):
        right = (logits.argmax(1) == targets).double().mean()
        found += [100 * float(right), float(cross_entropy(logits, targets))]
    return found


def descended(network, data, rung):
    """The best epoch of Adam on some of the parameters; statistics stay."""
    network = copy.deepcopy(network).eval()
    chosen = [tensor for name, tensor in network.named_parameters() if RUNGS[rung](name, tensor)]
    optimizer = torch.optim.Adam(chosen, RATES[rung])
    best, kept = float("inf"), None
    order = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        for numbers in torch.randperm(len(data.fitness[1]), generator=order).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(network(data.fitness[0][numbers]), data.fitness[1][numbers]).backward()
            optimizer.step()
        if (loss := loss_of(network, data.validation)) < best:
            best, kept = loss, copy.deepcopy(network)
    return kept


def main():
    model, file, *only = sys.argv[1:]
    report = Report(
        f"ladder-{model}", ["task", "rung", "forwards", "accuracy", "loss", "calibrated accuracy", "calibrated loss"]
    )
    for name in only or ("jpeg", "blur", "noise", "contrast"):
        parent, data = load(model, f"tasks:{name}", checkpoint=file)
        ranker = Evaluator(parent, data.fitness)
        report.row(name, "parent", 0, *scores(outputs(parent, data.test), outputs(parent, data.fitness), data))
        for each in choose_free(ranker, ranker.on(data.validation), data)[0]:
            known, predicted = (each.control.predict(ranker, some) for some in (data.fitness, data.test))
            report.row(name, each.name, each.images, *scores(predicted, known, data))
        adapted = blended(parent, statistics_of(parent, ranker.batches), 1.0)
        start = min((parent, adapted), key=lambda network: loss_of(network, data.validation))
        words = "the parent" if start is parent else "statistics of the images"
        for rung in RUNGS:
            found = descended(start, data, rung)
            cost = 3 * EPOCHS * len(data.fitness[1])
            both = (outputs(found, some) for some in (data.test, data.fitness))
            report.row(name, f"Adam on {rung}, from {words}", cost, *scores(*both, data))


if __name__ == "__main__":
    main()
