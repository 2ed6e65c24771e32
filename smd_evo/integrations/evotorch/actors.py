"""A problem whose evaluations outlive their actors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from evotorch import Problem

from smd_evo.errors import ActorsLost
from smd_evo.integrations.evotorch.cluster import LOST, check_cluster

__all__ = ["LastingActors"]

_LOSSES = 3
"""Times that actors may die in a row without getting anything done."""

_START = 600.0
"""Seconds that new actors have for their start: a cluster may have to start machines, or may have lost one."""

_LOOK = 5.0
"""Seconds between two looks at the cluster while actors start."""


def _processors() -> str:
    """What there is of them."""
    found = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return f"{found.get('CPU', 0):g} processors and {found.get('GPU', 0):g} GPUs"


class LastingActors(Problem):  # type: ignore[misc]
    """Base of problems that start new actors where some have died, and repeat what was not done.

    Attributes:
        restarts: how many times that was.
    """

    restarts = 0

    def kill_actors(self) -> None:
        """End the actors, if there are some yet; EvoTorch's own fails without."""
        if self.actors or not self.is_main:
            super().kill_actors()

    def _sync_before(self) -> bool:
        if self.actors:
            check_cluster()
        return bool(self._persistently(self._tell))

    def _start_preparations(self) -> None:
        self._persistently(super()._start_preparations)

    def _sync_after(self) -> None:
        self._persistently(super()._sync_after)

    def _persistently(self, call: Callable[[], Any], left: Callable[[], int] = lambda: 0) -> Any:
        """What a call of the actors returns; if some die, new ones get the present parent, and it is repeated.

        Args:
            call: it does not repeat what it has done before.
            left: how much is left to do; losses count anew if it has become less.
        """
        losses, before = 0, left()
        while True:
            try:
                if losses:
                    self._start_again()
                return call()
            except LOST as error:
                losses, before = 1 if left() < before else losses + 1, left()
                if losses == _LOSSES or getattr(error, "actor_init_failed", False):
                    raise ActorsLost(
                        f"actors: expected them to live through an evaluation, got deaths in a row: {losses} "
                        f"({' '.join(str(error).split())}); is there enough memory for {self.num_actors} of them?"
                    ) from error

    def _start_again(self) -> None:
        check_cluster()
        self.kill_actors()
        self.restarts += 1
        self._parallelize()
        self._tell()
        super()._start_preparations()

    def _tell(self) -> bool:
        """EvoTorch's message before an evaluation; it would wait without end for actors that cannot start."""
        if self.actors and not self._prepared:
            self._await_start()
        return bool(super()._sync_before())

    def _await_start(self) -> None:
        """Wait for new actors while the cluster is there; the processors for them may have to come, or come back."""
        starting, end = [actor.__ray_ready__.remote() for actor in self.actors], time.monotonic() + _START
        while starting:
            ready, starting = ray.wait(starting, num_returns=len(starting), timeout=_LOOK)
            ray.get(ready)  # raises what went wrong
            if starting:
                check_cluster()
            if starting and time.monotonic() > end:
                self.kill_actors()
                raise ActorsLost(
                    f"actors: expected {self.num_actors} to start, got {self.num_actors - len(starting)} in "
                    f"{_START:.0f} s; the cluster has {_processors()}: are these enough, and free?"
                )
