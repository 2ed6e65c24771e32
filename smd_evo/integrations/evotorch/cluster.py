"""Ray's cluster: how to get one, and how to know that it, or an actor of it, is gone."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import ray
from ray import exceptions
from ray.util import ActorPool

from smd_evo.errors import ClusterLost, InvalidValue

__all__ = ["LOST", "WatchedPool", "check_cluster", "start_ray"]

LOST = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.OutOfMemoryError,
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
    exceptions.ObjectLostError,
)
"""What Ray raises if an actor, or the machine it was on, is gone."""

_PATIENCE = 10.0
"""Seconds for which the head of a cluster may be silent; after 60 Ray itself ends the process, without a word."""


def start_ray(address: str | None = None) -> None:
    """Connect this process to Ray, unless it is connected already.

    Args:
        address: host:port of a running cluster's head; None takes the one that RAY_ADDRESS tells, or starts one here
            for as long as this process lives. Ray's "auto" is not taken: it waits without end for a cluster that was
            here and is gone.

    Raises:
        InvalidValue: there is no such cluster; told within half a minute.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    found = address or os.environ.get("RAY_ADDRESS") or "local"
    if found != "local" and not _answers(found):
        raise _no_cluster(found, "nobody listens there")
    try:
        ray.init(address=found, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(found, " ".join(str(error).split())) from error


def _no_cluster(address: str, reason: str) -> InvalidValue:
    return InvalidValue(
        f"ray-address: expected host:port of a Ray cluster that runs, got {address!r} ({reason}); "
        "`ray start --head` starts one and tells its address"
    )


def _answers(address: str, timeout: float = 3.0) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def check_cluster() -> None:
    """Raise if the head of the cluster that this process is connected to is gone.

    Raises:
        ClusterLost: nothing has answered for ten seconds.
    """
    end = time.monotonic() + _PATIENCE
    connected = ray.is_initialized()
    address = ray.get_runtime_context().gcs_address if connected else "that was shut down"
    while not _answers(address):
        if not connected or time.monotonic() > end:
            raise ClusterLost(
                f"ray: expected an answer of the cluster's head {address}, got none for {_PATIENCE:.0f} s; "
                "start Ray again, and resume the run"
            )
        time.sleep(0.5)


class WatchedPool(ActorPool):
    """A pool that looks after the cluster while it waits, where Ray's own would wait without end."""

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """As Ray's, without a limit of time.

        Raises:
            ClusterLost: see :func:`check_cluster`.
        """
        while True:
            try:
                return super().get_next_unordered(timeout=_PATIENCE / 2)
            except TimeoutError as error:
                if isinstance(error, exceptions.RayError):  # the fitness' own
                    raise
                check_cluster()
