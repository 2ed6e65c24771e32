"""Ray's cluster: how to get one, and how to know that it, or an actor of it, is gone."""

from __future__ import annotations

import ipaddress
import os
import time
import warnings
from contextlib import suppress
from typing import Any

import ray
from ray import exceptions
from ray.util import ActorPool, client

from smd_evo.errors import ClusterLost, InvalidValue
from smd_evo.integrations.ray_address import CLIENT, REFUSED, answer, check_address

__all__ = ["LOST", "WatchedPool", "check_cluster", "start_ray", "started_here"]

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

_raylets: dict[str, str] = {}
"""Where this machine's raylet listens, by the number that Ray gives the machine; asked for while the head answers."""


def start_ray(address: str | None = None) -> None:
    """Connect this process to Ray, unless it is connected already.

    Args:
        address: host:port of a running cluster's head, ray://host:port of a server of Ray Client, or "auto" for the
            cluster that `ray start` has started on this machine; None takes the one that RAY_ADDRESS tells, or starts
            one here for as long as this process lives, which no other machine can reach.

    Raises:
        InvalidValue: there is no such cluster; told in seconds, or in half a minute where one answers as Ray does.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    found = address or os.environ.get("RAY_ADDRESS") or "local"
    if found == "auto":
        if (here := started_here()) is None:
            raise _no_cluster(found, "none was started on this machine, or it is gone")
        found = here
    check_address(found)
    try:
        if found == "local":
            _start_on_loopback()
        elif found.startswith(CLIENT):
            ray.init(address=found, log_to_driver=False)
        else:
            ray.init(address=found, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(found, " ".join(str(error).split())) from error


def _no_cluster(address: str, reason: str) -> InvalidValue:
    return InvalidValue(
        f"ray-address: expected host:port of a Ray cluster that runs, got {address!r} ({reason}); "
        "`ray start --head` starts one and tells its address"
    )


def started_here() -> str | None:
    """The address of the cluster that `ray start` has started on this machine, if it still answers.

    Ray would wait without end for one that was here and is gone.
    """
    with suppress(ImportError, AttributeError, OSError):
        from ray._private.utils import read_ray_address

        address = read_ray_address()
        if address and answer(address) is None:
            return str(address)
    return None


def _start_on_loopback() -> None:
    """A cluster whose ports, which let anybody run programs here, are open to this machine alone.

    Ray replaces 127.0.0.1 by an address that other machines can reach, but where it believes that there can be no
    clusters (on macOS and Windows), and then opens its ports on all interfaces.
    """
    from ray._private import ray_constants

    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", None)
    if before is not None:
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    finally:
        if before is not None:
            ray_constants.ENABLE_RAY_CLUSTER = before
    host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    if not ipaddress.ip_address(host).is_loopback:
        warnings.warn(
            f"ray: expected its ports on 127.0.0.1, got {host} and all interfaces from Ray {ray.__version__}; keep "
            "other machines away by a firewall",
            RuntimeWarning,
            stacklevel=3,
        )


def check_cluster() -> None:
    """Raise if the cluster that this process is connected to is gone: its head, or its part on this machine.

    Raises:
        ClusterLost: the head has not answered for ten seconds, or this machine's raylet has ended.
    """
    if client.ray.is_connected():  # type: ignore[no-untyped-call]
        return  # Ray Client looks after its server itself
    end = time.monotonic() + _PATIENCE
    connected = ray.is_initialized()
    address = str(ray.get_runtime_context().gcs_address) if connected else "that was shut down"
    while answer(address) is not None:
        if not connected or time.monotonic() > end:
            raise ClusterLost(
                f"ray: expected an answer of the cluster's head {address}, got none for {_PATIENCE:.0f} s; "
                "start Ray again, and resume the run"
            )
        time.sleep(0.5)
    _check_raylet()


def _check_raylet() -> None:
    """Raise if this machine's raylet, which starts actors and holds objects, has ended: it does not come back."""
    node = ray.get_runtime_context().get_node_id()
    if node not in _raylets:
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        own = [each for each in nodes if each["NodeID"] == node]
        _raylets[node] = ":".join(str(own[0][f"NodeManager{part}"]) for part in ("Address", "Port")) if own else ""
    if _raylets[node] and answer(_raylets[node]) == REFUSED:
        raise ClusterLost(
            f"ray: expected its raylet on this machine at {_raylets[node]}, got nobody: it has ended, as by the "
            "kernel for want of memory (dmesg tells); start Ray again, and resume the run"
        )


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
