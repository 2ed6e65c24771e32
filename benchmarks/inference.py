"""What an ensemble costs at inference, and in memory and on the disk.

python benchmarks/inference.py
"""

import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch

from smd_evo import ParameterSpace, RandomSubspace, SparseEnsemble, sample_mutations
from smd_evo.zoo import load

MEMBERS = 10


def seconds(function, repeats=7):
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def row(name, network, images, density):
    space = ParameterSpace(network.eval())
    ensemble = SparseEnsemble(space, sample_mutations(0, MEMBERS, subspace=RandomSubspace(density), sigma=0.01))
    with torch.inference_mode():
        plain = seconds(lambda: [network(images) for _ in range(MEMBERS)])
        in_place = seconds(lambda: ensemble(images))
        ensemble.per_pass = MEMBERS
        batched = seconds(lambda: ensemble(images), repeats=3) / plain if space.size < 2e7 else None
        ensemble.per_pass = 1
    held = sum(buffer.numel() * buffer.element_size() for name, buffer in ensemble.named_buffers() if "." not in name)
    with tempfile.TemporaryDirectory() as folder:
        ensemble.save(Path(folder) / "file")
        size = (Path(folder) / "file").stat().st_size
    whole = 4 * space.size
    print(
        f"| {name} | {len(images)} | {density} | {1000 * plain / MEMBERS:.1f} | {in_place / plain:.2f} "
        f"| {f'{batched:.2f}' if batched else ''} | {held / whole:.2f} "
        f"| {size / 1e6:.2f} | {size / whole / MEMBERS:.4f} |",
        flush=True,
    )


def main():
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {MEMBERS} members\n")
    print("| network | images | density | parent, ms | in place | ten in a pass | memory | file, MB | file share |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    demo, _ = load("demo-cnn", "digits")
    for count in (1, 32, 250):
        row("demo CNN", demo, torch.rand(count, 1, 8, 8), 0.1)
    resnet18, resnet50 = timm.create_model("resnet18"), timm.create_model("resnet50")
    for count in (1, 8):
        row("resnet18, 224 px", resnet18, torch.rand(count, 3, 224, 224), 0.01)
    for count in (1, 8):
        row("resnet50, 224 px", resnet50, torch.rand(count, 3, 224, 224), 0.01)


if __name__ == "__main__":
    main()
