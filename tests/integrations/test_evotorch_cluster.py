"""The whole cluster is gone, or is not there at all: a clear error, and no waiting without end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import evotorch_helpers
import pytest

import smd_evo

PROGRAM = """
import ipaddress, os, sys, threading, time
from pathlib import Path
import ray
from torch import nn
from ray_helpers import Slow, listening
from smd_evo import FinetuneProblem, ModuleFitness, SubspaceEvolution
from smd_evo.errors import ClusterLost, InvalidValue
from smd_evo.integrations.evotorch import cluster

cluster._PATIENCE = 2
for address in ("127.0.0.1:1", "nowhere.invalid:6379", "auto") if sys.argv[2] == "all" else ():  # seconds each
    try:
        cluster.start_ray(address)
    except InvalidValue as error:
        assert "\\n" not in str(error), error
        print("refused", flush=True)
cluster.start_ray()
cluster.start_ray("127.0.0.1:1")  # there is one already
assert cluster.started_here() is None  # it is this program's own
folder = Path(sys.argv[1])
slow = Slow(folder, 0.2)
problem = FinetuneProblem(nn.Linear(2, 2), None, ModuleFitness("sum", "min", slow), num_actors=2, seed=1)
searcher = SubspaceEvolution(problem, popsize=10, density=0.5, sigma=0.1)
searcher.step()
node = ray._private.worker._global_node
if sys.platform == "linux":
    places = listening()
    assert len(places) > 4, places
    assert all(ipaddress.ip_address(place).is_loopback for place in places), places
kinds = ["raylet"] if sys.argv[2] == "the raylet alone" else node.all_processes
pids = [process.process.pid for kind in kinds for process in node.all_processes[kind]]
print(*pids, *(slow.processes() if sys.argv[2] == "all" else []), flush=True)
try:
    searcher.run(1000)
except ClusterLost as error:
    assert isinstance(error, ConnectionError) and "\\n" not in str(error), error
    assert ("raylet on this machine" in str(error)) == (sys.argv[2] == "the raylet alone"), error
    print("lost", flush=True)
os._exit(0)  # Ray's own end takes five seconds
"""


@pytest.fixture
def environment(lean):
    places = Path(evotorch_helpers.__file__).parent, Path(smd_evo.__file__).parents[1], lean
    return {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join(map(str, places))}


@pytest.mark.parametrize("what", ["all", "the actors live on", "the raylet alone"])
def test_a_cluster_that_dies_in_mid_generation(what, environment, tmp_path):
    """Ray would end the process after a minute, or wait ten for processors that are gone; its ports are local."""
    folder = tmp_path / "processes"
    folder.mkdir()
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, folder, what]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as program:
        try:
            *refused, last = [program.stdout.readline().strip() for _ in range(4 if what == "all" else 1)]
            assert refused in ([], 3 * ["refused"])
            pids = [int(word) for word in last.split()]
            time.sleep(0.5)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            died = time.monotonic()
            assert "lost\n" in program.stdout  # beside what Ray has to say
            assert time.monotonic() - died < 20
        finally:
            program.kill()
