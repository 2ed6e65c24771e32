"""What the actors of the tests on Ray import, too: fitness and changes with which things go wrong."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn


class Slow:
    """A fitness that takes its time in other processes than this one, and tells which they are."""

    def __init__(self, folder, seconds):
        self.folder, self.seconds, self.main = Path(folder), seconds, os.getpid()

    def __call__(self, module):
        if os.getpid() != self.main:
            (self.folder / str(os.getpid())).touch()
            time.sleep(self.seconds)
        return float(sum(parameter.double().sum() for parameter in module.parameters()))

    def processes(self):
        return [int(file.name) for file in self.folder.iterdir()]

    def kill_one(self):
        """The death of an actor that is at work, as soon as there is one."""
        while not self.processes():
            time.sleep(0.01)
        time.sleep(1.5 * self.seconds)
        os.kill(min(self.processes()), signal.SIGKILL)


class Cramped(nn.Module):
    """A network that has room for six samples at a time in other processes than this one, and tells of failures."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.main = Path(folder), os.getpid()
        self.layer = nn.Linear(16, 3)

    def forward(self, x):
        if len(x) > 6 and os.getpid() != self.main:
            (self.folder / f"{len(x)} samples in {os.getpid()}").touch()
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        return self.layer(x.flatten(1))


def deadly(module):
    """A fitness that only the parent, whose weights are zero, survives."""
    if any(bool(parameter.any()) for parameter in module.parameters()):
        os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


class Flip:
    """A change that goes wrong in the first process, other than this one, that applies it."""

    def __init__(self, file):
        self.main, self.file = os.getpid(), file

    def apply(self, replica):
        if os.getpid() != self.main and not os.path.exists(self.file):
            Path(self.file).touch()
            parameter = next(replica.space.module.parameters())
            parameter.data.view(-1).view(torch.int32)[3] ^= 1
