"""What the actors of the tests on Ray import, too: fitness and changes with which things go wrong."""

import contextlib
import ipaddress
import os
import signal
import time
from pathlib import Path

import pytest
import ray
import torch
from torch import nn


@contextlib.contextmanager
def cluster(lean, **options):
    """Ray on this machine, for a file of tests; actors find the helpers, and an EvoTorch that is soon there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray leaves a token in the user's home
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # 15 would wait for the other files' tests
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(lean)]))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, **options)
        try:
            yield
        finally:
            ray.shutdown()


def listening():
    """Where this process and all that it has started listen for TCP connections, on Linux: addresses."""
    places = {}  # by the number of their socket
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # it listens
                words = bytes.fromhex(fields[1].partition(":")[0])
                turned = b"".join(words[start : start + 4][::-1] for start in range(0, len(words), 4))
                address = ipaddress.ip_address(turned)
                places[f"socket:[{fields[9]}]"] = getattr(address, "ipv4_mapped", None) or address
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        if _is_ours(int(folder.parent.name)):
            with contextlib.suppress(OSError):  # it has ended
                found += [str(places[link]) for link in map(os.readlink, folder.iterdir()) if link in places]
    return found


def _is_ours(pid):
    with contextlib.suppress(OSError):
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


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


class Levels(nn.Module):
    """A layer of integers."""

    def __init__(self):
        super().__init__()
        levels = torch.randint(-60, 61, (3, 16), generator=torch.Generator().manual_seed(1))
        self.register_buffer("levels", levels.to(torch.int8))

    def forward(self, x):
        return nn.functional.linear(x.flatten(1), self.levels.float() * 0.02)


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
