"""The parent as one process holds it, and the changes that move it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor

from smd_evo.core.checksum import checksum
from smd_evo.core.keys import Key
from smd_evo.core.mutation import Mutation, sample_mutations
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.core.subspace import Subspace
from smd_evo.evaluation.evaluator import Evaluator

__all__ = ["Change", "Fold", "GenerationStep", "Replica"]


class Change(Protocol):
    """One move of the parent, small enough to be sent to every actor and to be kept for ever.

    Applied to the same parent it gives the same bits in every process, so that parents never travel.
    """

    def apply(self, replica: Replica) -> None:
        """Move the parent of a replica: its selected parameters, and nothing else of its network."""


class Replica:
    """The parent of a problem in one process: the main one and each actor have their own.

    Attributes:
        space: the parent.
        evaluator: its evaluator on all samples; None for one that is only to be looked at.
        changes: how many changes the parent has gone through since it was the pre-trained one.
        optimizer: state of the gradient searcher's optimizer, which belongs to the parent that it moves.
        rest: what the types of the parameters have rounded away of that optimizer's steps, which its next one carries
            on; None where nothing is carried.
    """

    rest: Tensor | None = None  # of pickles from before there was one, too

    def __init__(self, space: ParameterSpace, evaluator: Evaluator | None = None) -> None:
        self.space = space
        self.evaluator = evaluator
        self.changes = 0
        self.optimizer: Any = None
        self.rest = None

    def copied(self) -> Replica:
        """The same parent on its own, a :meth:`ParameterSpace.twin`, with nothing to evaluate it on."""
        other = Replica(self.space.twin())
        other.changes, other.optimizer = self.changes, copy.deepcopy(self.optimizer)
        other.rest = None if self.rest is None else self.rest.clone()
        return other

    def apply(self, change: Change) -> None:
        """Move the parent."""
        change.apply(self)
        self.changes += 1

    def catch_up(self, first: int, changes: Sequence[Change]) -> None:
        """Apply those of some consecutive changes, of which the first has number ``first``, that are missing."""
        for change in changes[self.changes - first :]:
            self.apply(change)

    def checksum(self) -> tuple[str, int]:
        """The kind of device that the parent is on, and its checksum: other kinds may round steps otherwise."""
        return self.space.device.type, checksum(self.space.module)


@dataclass(frozen=True)
class Fold:
    """A child becomes the parent."""

    child: Child

    def apply(self, replica: Replica) -> None:
        """See :meth:`smd_evo.core.parameters.ParameterSpace.fold`."""
        replica.space.fold(self.child)


@dataclass(frozen=True, eq=False)
class GenerationStep:
    """Base of changes that are made of one generation's mutations: scalars and keys, and a weight for each."""

    antithetic: ClassVar[bool] = False
    key: Key
    generation: int
    weights: Tensor
    subspace: Subspace
    sigma: float
    scale: str
    units: Tensor | None = field(default=None, kw_only=True)

    def mutations(self) -> list[Mutation]:
        """The generation's recipes."""
        return sample_mutations(
            self.key,
            len(self.weights),
            subspace=self.subspace,
            sigma=self.sigma,
            generation=self.generation,
            antithetic=self.antithetic,
            scale=self.scale,
            units=self.units,
        )
