"""How the demo's parent was trained: `python benchmarks/demo_parent.py FILE` writes its weights.

With PyTorch's plainest kernels (ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41) and PyTorch 2.14 these are the
bits of smd_evo/zoo/demo-cnn.safetensors; other kernels train other networks.
"""

import sys

import torch
from safetensors.torch import save_file
from torch.nn import functional

from smd_evo.core.keys import derive
from smd_evo.zoo.demo import DemoCNN, clean_digits, split_digits

EPOCHS, BATCH, RATE = 30, 64, 0.2


def trained(seed: int = 0) -> DemoCNN:
    """A network that knows the clean scans of the source split."""
    images, targets = clean_digits()
    source = split_digits(targets, 0)["source"]
    images, targets = images[source], targets[source]
    torch.set_num_threads(1)  # sums of several threads depend on how many they are
    torch.manual_seed(derive(seed, "parent") >> 1)
    network = DemoCNN()
    order = torch.Generator().manual_seed(derive(seed, "order") >> 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = len(targets) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(targets), generator=order)[: steps * BATCH].split(BATCH):
            loss = functional.cross_entropy(network(images[chosen]), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


if __name__ == "__main__":
    save_file(trained().state_dict(), sys.argv[1])
