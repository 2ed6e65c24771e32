"""What several tests share: small networks and data, and hypothesis settings for a slow machine."""

import gc
import os
import random
import signal
import sys

# As in a shell's background, or under nohup: commands would ignore Ctrl-C and SIGHUP, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the workers of a parallel run, and the commands that they start
os.environ["EVOTORCH_VERBOSE_LEVEL"] = "0"  # before its import: no INFO lines
os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}  # evotorch imports both

import numpy as np
import pytest
import torch
from cli_helpers import few_resamples, sketches
from helpers import SmallNet
from hypothesis import HealthCheck, settings
from resume_helpers import Server

from smd_evo.core import fast
from smd_evo.core.exclusive import _blocks

collect_ignore = ["triton_checks.py"]  # for doctests: needs Triton

settings.register_profile("default", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder; modules that are imported from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    folder = os.path.join(os.getcwd(), "")  # others would be imported again by later tests, which some do not bear
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(folder):
            del sys.modules[name]


LONGEST = (
    *("test_cli_resume", "test_evotorch_ray", "test_notebook", "test_docs", "test_examples", "test_compiled"),
    *(
        "test_evotorch_contract",
        "test_evotorch_cluster",
        "test_cli_experiments",
        "test_cli_compare",
        "test_reuse",
        "test_api",
    ),
)
"""Files that take minutes, each on one worker: begun last, they would keep the others waiting."""

SLOW = (
    *(
        "test_triton_noise",
        "test_compiled",
        "test_few",
        "test_parameters",
        "test_reuse",
        "test_together",
        "test_limit",
    ),
    *("test_interrupts", "test_stream", "test_rewards", "test_features", "test_outputs", "test_module", "test_files"),
)
"""Of the parts that `make quick` tests, files that start processes, look at every line, or take seconds otherwise."""


class Seeded:
    """Every test and doctest begins with the same random numbers, whatever ran before it on its worker."""

    def pytest_runtest_setup(self, item):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(0)


def pytest_configure(config):
    config.pluginmanager.register(Seeded())  # a hook of this file would be for the tests beside it alone


def pytest_collection_modifyitems(items):
    """The longest files first, the others in their order; what `make quick` leaves out is marked."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker("slow")
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="module", autouse=True)
def _what_there_is_stays():
    """What imports and other files have made: collections, of which `compare` asks one a run, pass it over."""
    gc.collect()
    gc.freeze()


RESAMPLED = ("bootstrap", "test_bootstrap", "test_numbers")
"""Files about intervals. All others have them of few resamples."""

DRAWN = (
    *("test_front", "test_shown", "test_finetune", "test_ensembles", "test_window_report", "test_protocol_results"),
    *("test_report_evolution", "test_report_compare"),
)
"""Files about plots. In all others they are not drawn."""


@pytest.fixture(scope="module", autouse=True)
def _brief(request):
    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem not in RESAMPLED:
            few_resamples(patch.setattr)
        if request.path.stem not in DRAWN:
            sketches(patch.setattr)
        yield


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SmallNet()


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(40, 1, 4, 4, generator=generator)
    return images, torch.randint(3, (40,), generator=generator)


@pytest.fixture(autouse=True)
def _nothing_stays_held():
    """No network is left to a thread, or the threads of later tests would wait for it for ever."""
    yield
    assert not _blocks.held
    # A test's trace function raises where no signal does: just before `with` lets a lock go, or a default device.
    while _blocks.moment._is_owned():
        _blocks.moment.release()
    while torch._C._len_torch_function_stack():
        torch.overrides._pop_mode()


@pytest.fixture(scope="module")
def kernels():
    """Kernels from the first value on; what can't be compiled is a failure here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "_PAYS", 0)
        yield
        assert not fast._state.off


@pytest.fixture(scope="session", autouse=True)
def lean(tmp_path_factory):
    """A folder on the path of all processes that are started: without these, EvoTorch is there in half of the time.

    It imports them if it can, for loggers and a searcher that only tests in this process use.
    """
    folder = tmp_path_factory.mktemp("lean")
    for name in ("mlflow", "wandb", "cma"):
        (folder / f"{name}.py").write_text("raise ImportError")
    path = [str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
        yield folder


@pytest.fixture(scope="session")
def server():
    """The process that commands are forked from, with all imports."""
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="session")
def devices():
    """Where results must agree: the CPU, and a GPU if this machine has one."""
    return [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
