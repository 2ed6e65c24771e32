"""What a child costs that changes only some layers, as a ratio to plain inference of the parent on the same images.

    python benchmarks/reuse.py

The layers before those are the parent's, and computed once for all children. Each turn measures, one after the
other: plain inference, and evaluation with and without reuse; each turn gives ratios, so that a machine that changes
its speed does not matter, and their medians are told. The recording is part of it, so it is less with more children.
The numbers of children are those of a generation.
"""

import statistics

import torch
from measure import Report, cpu

from smd_evo import Evaluator, RandomSubspace, sample_mutations
from smd_evo.zoo.cifar_resnet import CifarResNet

BATCH = 128


def ratios(report, name, network, images, select, density, count, turns):
    data = images, torch.arange(len(images)) % 10
    children = sample_mutations(1, count, subspace=RandomSubspace(density), sigma=0.01)
    plain, with_it, without = [], [], []
    evaluators = [Evaluator(network, data, select=select, batch_size=BATCH, reuse=reuse) for reuse in ("auto", False)]

    def infer():
        with torch.inference_mode():
            for _ in range(3):
                for batch in images.split(BATCH):
                    network(batch)

    expected, found = [evaluator.evaluate(children[:8]).fitness for evaluator in evaluators]
    assert torch.equal(expected, found)
    few = children if select == "all" else children[: max(4, count // 16)]
    for _ in range(turns):
        plain.append(cpu(infer) / 3)
        with_it.append(cpu(lambda: evaluators[0].evaluate(children)) / count)
        without.append(cpu(lambda: evaluators[1].evaluate(few)) / len(few))
    ours, theirs = (
        statistics.median(a / b for a, b in zip(times, plain, strict=True)) for times in (with_it, without)
    )
    both = statistics.median(a / b for a, b in zip(with_it, without, strict=True))
    report.row(name, count, ours, theirs, both)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, images = CifarResNet(20).eval(), torch.randn(256, 3, 32, 32)
    report = Report("reuse", ["children change", "children", "with reuse", "without", "with / without"])
    ratios(report, "head", network, images, "head", 0.1, 256, 5)
    ratios(report, "last block and head", network, images, ["layer3.2.*", "linear.*"], 0.01, 64, 5)
    ratios(report, "last stage and head", network, images, ["layer3.*", "linear.*"], 0.01, 64, 5)
    ratios(report, "all", network, images, "all", 0.01, 8, 7)


if __name__ == "__main__":
    main()
