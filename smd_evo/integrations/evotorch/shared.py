"""A parent in every process: sent to Ray's actors once, and moved by the same changes everywhere."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import torch

from smd_evo.core.parameters import ParameterSpace
from smd_evo.errors import ActorsDiverged
from smd_evo.evaluation.limit import BatchLimit
from smd_evo.integrations.evotorch.actors import LastingActors
from smd_evo.integrations.evotorch.cluster import WatchedPool, start_ray, started_here
from smd_evo.integrations.evotorch.replica import Change, Replica

__all__ = ["SharedParent"]


def _shared_gpus(host: dict[str, Any]) -> dict[str, Any]:
    """Actors that share a GPU share a CPU, too: Ray would reserve a whole one for each, and wait for ever."""
    config = dict(host.get("actor_config") or {})
    share = host.get("num_gpus_per_actor") or config.get("num_gpus")
    if isinstance(share, int | float) and 0 < share < 1:
        config.setdefault("num_cpus", share)
        return {**host, "actor_config": config}
    return host


def _connect() -> None:
    """Have Ray ready before EvoTorch starts it, with its ports on all interfaces."""
    start_ray(os.environ.get("RAY_ADDRESS") or started_here())


class SharedParent(LastingActors):
    """Base of problems with a parent in each process.

    With every evaluation main sends what the parent has gone through since the last one, what :meth:`_told` says, and
    how many samples fit into memory; after it each actor sends how many it has found to fit, and the checksum of its
    parent, which must be main's.
    """

    def __init__(self, sense: str | Sequence[str], *, host: dict[str, Any], **options: Any) -> None:
        if isinstance(host.get("num_actors"), str):  # EvoTorch asks the cluster how many that are
            _connect()
        super().__init__(sense, **options, **_shared_gpus(host))
        self._replica: Replica
        self._log: list[Change] = []
        self._logged_from = 0
        self._unsent = 0
        self._message: tuple[Any, int | None, int, Sequence[Change]] = (None, None, 0, ())
        self._shipping = False

    @property
    def space(self) -> ParameterSpace:
        """The present parent, the problem's own copy: look at it, and leave it as it is."""
        return self._replica.space

    @property
    def replica(self) -> Replica:
        """The present parent as this process holds it, with its optimizer."""
        return self._replica

    @property
    def changes(self) -> int:
        """How many times the parent was changed: 0 while it is the pre-trained one."""
        return self._replica.changes

    @property
    def _limit(self) -> BatchLimit:
        assert self._replica.evaluator is not None
        return self._replica.evaluator.limit

    def change(self, change: Change) -> None:
        """Move the parent, here and, before their next evaluation, in every actor."""
        self._replica.apply(change)
        self._log.append(change)

    def changes_since(self, number: int) -> list[Change]:
        """The changes that the parent has gone through after so many."""
        return self._log[number - self._logged_from :]

    @abstractmethod
    def _told(self) -> Any:
        """What actors have to know for the next evaluation besides."""

    @abstractmethod
    def _hear(self, told: Any) -> None:
        """In an actor: what main's :meth:`_told` has said."""

    @abstractmethod
    def _forget(self) -> None:
        """Fitness that is known may be wrong."""

    def _parallelize(self) -> None:
        if self.num_actors and self.is_main and self.actors is None:
            _connect()
            self._prepared = False  # new actors need the parent, also after kill_actors() and unpickling
            self._unsent = self.changes
            with self._same_random_state():
                self._shipping = True
                try:
                    super()._parallelize()
                finally:
                    self._shipping = False
            self._actor_pool = WatchedPool(self._actors)

    def all_remote_problems(self) -> Any:
        """As EvoTorch's; actors that have evaluated nothing yet get the parent before."""
        self._parallelize()
        self._start_preparations()
        return super().all_remote_problems()

    @contextmanager
    def _same_random_state(self) -> Iterator[None]:
        """EvoTorch draws the actors' seeds from the problem's generator: a run must not depend on that."""
        state = None if self.generator is None else self.generator.get_state()
        with torch.random.fork_rng(devices=[]):
            yield
        if state is not None:
            self.generator.set_state(state)

    @property
    def _nonserialized_attribs(self) -> list[str]:
        return ["progress", *(["_seen", "_replica", "_first", "_log"] if self._shipping else [])]

    def _share_attributes(self) -> None:
        """Send the parent to the actors; one that cannot load it says why, as it would not in EvoTorch's own."""
        if self.actors:
            sent = {"obj_ref": ray.put(self._replica), "attrib_name": "_replica"}
            ray.get([actor.call.remote("put_ray_object", [], sent) for actor in self.actors])

    def _make_sync_data_for_actors(self) -> Any:
        return self._told(), self._limit.samples, self._unsent, self.changes_since(self._unsent)

    def _use_sync_data_from_main(self, received: Any) -> None:
        self._message = received

    def _catch_up(self) -> None:
        """In an actor: what the main process has told last."""
        told, samples, first, changes = self._message
        self._hear(told)
        self._limit.samples = min(filter(None, (samples, self._limit.samples)), default=None)
        self._replica.catch_up(first, changes)

    def _make_sync_data_for_main(self) -> tuple[int | None, str, int]:
        """An actor that had nothing to evaluate catches up, too: it is told only once."""
        self._catch_up()
        return self._limit.samples, *self._replica.checksum()

    def _use_sync_data_from_actors(self, received: list[tuple[int | None, str, int]]) -> None:
        """Every actor's parent must be that of this process, bit for bit; on other devices, of each other.

        The smallest memory's limit becomes everybody's.
        """
        if fitting := [samples for samples, *_ in received if samples is not None]:
            self._limit.lower(min(fitting), "out of memory in an actor")
        expected = dict([self._replica.checksum()])
        for number, (_, device, found) in enumerate(received):
            if found != expected.setdefault(device, found):
                self._forget()
                raise ActorsDiverged(
                    f"actor {number}: expected the parent after {self.changes} changes with checksum "
                    f"{expected[device]:08x}, got {found:08x}; kill_actors() has it sent anew"
                )
