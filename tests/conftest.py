"""What several tests share: small networks and data, and hypothesis settings for a slow machine."""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background: commands would ignore Ctrl-C, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["OMP_NUM_THREADS"] = "1"  # for the workers of a parallel run, and the commands that they start
os.environ["EVOTORCH_VERBOSE_LEVEL"] = "0"  # before its import: no INFO lines
os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}  # evotorch imports both

import pytest
import torch
from helpers import SmallNet
from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SmallNet()


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(40, 1, 4, 4, generator=generator)
    return images, torch.randint(3, (40,), generator=generator)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory, worker_id):
    """Trained demo parents go to a folder of this session, shared by its workers."""
    base = tmp_path_factory.getbasetemp()
    os.environ["TORCH_HOME"] = str((base if worker_id == "master" else base.parent) / "torch")


@pytest.fixture(scope="session")
def devices():
    """Where results must agree: the CPU, and a GPU if this machine has one."""
    return [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
