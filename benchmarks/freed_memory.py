"""A forward pass where glibc keeps freed memory for the next layer, as commands have it do, and where it does not.

    python benchmarks/freed_memory.py

CPU time of one thread. The setting is one of a whole process, so each number is of its own; both kinds take turns.
"""

import resource
import statistics
import subprocess
import sys
import time

NETWORKS = (("efficientnet_lite0", 224), ("mobilenetv2_100", 224), ("resnet18", 224), ("vit_tiny_patch16_224", 224))
BATCHES = 8, 32
TURNS = 3


def one(name, size, batch, keep):
    """Print milliseconds an image and MiB at the peak."""
    import timm
    import torch

    from smd_evo.commands.memory import keep_freed_memory

    if keep:
        keep_freed_memory()
    torch.set_num_threads(1)
    network = timm.create_model(name).eval()
    images, passes = torch.randn(batch, 3, size, size), max(2, 96 // batch)
    if not name.startswith("vit"):  # as the package gives them to convolutional networks
        images, network = (each.to(memory_format=torch.channels_last) for each in (images, network))
    with torch.inference_mode():
        network(images)
        start = time.process_time()
        for _ in range(passes):
            network(images)
    seconds = time.process_time() - start
    print(1000 * seconds / passes / batch, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def main():
    from measure import Report

    report = Report("freed_memory", ["network", "batch", "ms an image", "kept", "kept / not", "MiB, kept / not"])
    for name, size in NETWORKS:
        for batch in BATCHES:
            found = []
            for _ in range(TURNS):
                both = [measured(name, size, batch, keep) for keep in (0, 1)]
                found.append((both[0][0], both[1][0], both[1][0] / both[0][0], both[1][1] / both[0][1]))
            times, kept, ratios, memory = zip(*found, strict=True)
            ratio = statistics.median(ratios), min(ratios), max(ratios)
            report.row(
                name, batch, statistics.median(times), statistics.median(kept), ratio, statistics.median(memory)
            )


def measured(*arguments):
    command = [sys.executable, __file__, *map(str, arguments)]
    return [float(word) for word in subprocess.check_output(command, text=True).split()]


if __name__ == "__main__":
    if sys.argv[1:]:
        one(sys.argv[1], *map(int, sys.argv[2:]))
    else:
        main()
