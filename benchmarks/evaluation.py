"""What evaluating children costs, as a ratio to plain inference of the parent on the same images.

    python benchmarks/evaluation.py

Every child needs one forward pass of all images; 1.0 means that it costs nothing more. Plain inference and
evaluation take turns, and each pair gives a ratio, so that a machine that changes its speed does not matter.
"""

import statistics
import time

import timm
import torch

from smd_evo import Evaluator, RandomSubspace, sample_mutations
from smd_evo.zoo import load


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def ratio(name, network, images, density, count, batch_size, pairs=7):
    network.eval()
    evaluator = Evaluator(network, (images, torch.zeros(len(images), dtype=torch.int64)), batch_size=batch_size)
    children = sample_mutations(1, count, subspace=RandomSubspace(density), sigma=0.01)

    def plain():
        with torch.inference_mode():
            for _ in range(count):
                for batch in images.split(batch_size):
                    network(batch)

    plain(), evaluator.evaluate(children)
    both = [(seconds(lambda: evaluator.evaluate(children)), seconds(plain)) for _ in range(pairs)]
    ratios = sorted(ours / theirs for ours, theirs in both)
    child = 1e3 * statistics.median(ours for ours, _ in both) / count
    print(
        f"| {name} | {evaluator.space.size:,} | {len(images)} | {density} | {child:.1f} | "
        f"{statistics.median(ratios):.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f} |"
    )


def main():
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| network | parameters | images | density | ms a child | ratio | range |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    demo, data = load("demo-cnn", "digits")
    for density in (0.01, 0.1, 1.0):
        ratio("demo CNN", demo, data.fitness[0], density, 50, 512)
    small = timm.create_model("resnet18", num_classes=10)
    for density in (0.001, 0.01, 0.1):
        ratio("resnet18, 64 px", small, torch.randn(64, 3, 64, 64), density, 3, 16)


if __name__ == "__main__":
    main()
