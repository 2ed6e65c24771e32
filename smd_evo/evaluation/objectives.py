"""Objectives: several fitnesses of each child, for the forward passes of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smd_evo.core import exact
from smd_evo.core.blocks import within
from smd_evo.core.exclusive import Exclusive
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.errors import InvalidValue, check_choice, kept, nearest, shown
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import (
    NAMES,
    Fitness,
    ModuleFitness,
    OutputFitness,
    Sense,
    TotalFitness,
    WholeFitness,
    get_fitness,
)
from smd_evo.evaluation.front import ParetoFront
from smd_evo.evaluation.metrics import METRICS, metric_of
from smd_evo.evaluation.result import finite

__all__ = ["CHANGED_VALUES", "CHANGE_NORM", "ChangeFitness", "Objective", "Objectives", "listed"]


@dataclass(frozen=True)
class ChangeFitness:
    """Any function of what a child differs from its parent in: no forward pass.

    Args:
        name: what reports call it.
        sense: "min" if lower is better, "max" if higher is.
        function: ``function(difference)``: one real number of child minus parent, float64 [k], at the k coordinates
            that the child's mutations touch; where the parameters' type rounds a mutation away it is 0.

    Example:
        >>> largest = ChangeFitness("largest change", "min", lambda difference: difference.abs().max().item())
    """

    name: str
    sense: Sense
    function: Callable[[Tensor], float]

    def __post_init__(self) -> None:
        check_choice("sense", self.sense, ("min", "max"))

    def of(self, difference: Tensor) -> float:
        """Fitness of a difference."""
        return ModuleFitness(self.name, self.sense, self.function).of(difference)  # type: ignore[arg-type]


def _changed(difference: Tensor) -> float:
    return float(difference.count_nonzero())


CHANGE_NORM = ChangeFitness("change_norm", "min", exact.norm)
"""Euclidean distance from the parent, in units of the parameters."""

CHANGED_VALUES = ChangeFitness("changed_values", "min", _changed)
"""How many parameters have another value than the parent's."""

Objective = Fitness | ChangeFitness

_OF_CHANGES = {fitness.name: fitness for fitness in (CHANGE_NORM, CHANGED_VALUES)}


@dataclass(frozen=True, init=False)
class Objectives:
    """Some fitnesses of each child, computed together.

    Those of outputs share one forward pass a sample, one of the network itself (a ModuleFitness) calls it on its own,
    and one of the change needs none. Each has the bits that it has alone, except with ``together``.

    Args:
        parts: fitnesses or their names: those of :mod:`smd_evo.evaluation.fitness`, "change_norm", "changed_values",
            or a ChangeFitness.

    Raises:
        InvalidValue, InvalidType: nothing, an unknown name, two of one name, or changes alone.

    Example:
        >>> from torch import nn
        >>> from smd_evo import Lineage, RandomSubspace, sample_mutations
        >>> objectives = Objectives(["cross_entropy", "changed_values"])
        >>> evaluator = objectives.evaluator(nn.Linear(4, 4), (torch.eye(4), torch.arange(4)))
        >>> children = sample_mutations(0, 3, subspace=RandomSubspace(0.2), sigma=0.5)
        >>> objectives.evaluate(evaluator, [Lineage(), *children])[:, 1].tolist()
        [0.0, 4.0, 4.0, 4.0]
    """

    parts: tuple[Objective, ...]

    def __init__(self, parts: Iterable[str | Objective]) -> None:
        kept(self, parts=tuple(_found(part) for part in parts))
        names = self.names
        if double := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidValue(f"fitness: expected different names, got {double[0]!r} twice; leave one out")
        if all(isinstance(part, ChangeFitness) for part in self.parts):
            got = ", ".join(names) or "none"
            raise InvalidValue(
                f"fitness: expected at least one of outputs or of the network, got {got}; the parent itself is best "
                "at being near"
            )

    def __len__(self) -> int:
        """How many."""
        return len(self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the fitnesses."""
        return tuple(part.name for part in self.parts)

    @property
    def senses(self) -> tuple[Sense, ...]:
        """Of the fitnesses."""
        return tuple(part.sense for part in self.parts)

    @property
    def first(self) -> Fitness:
        """The first that is not of the change alone."""
        return next(part for part in self.parts if not isinstance(part, ChangeFitness))

    @property
    def of_changes(self) -> list[str]:
        """Names of those that are of the change alone."""
        return [part.name for part in self.parts if isinstance(part, ChangeFitness)]

    @property
    def of_networks(self) -> list[int]:
        """Numbers of those that are not of the change alone."""
        return [number for number, part in enumerate(self.parts) if not isinstance(part, ChangeFitness)]

    def evaluator(self, parent: Any, data: Any = None, **options: Any) -> Evaluator:
        """An evaluator that :meth:`evaluate` can work with; its own fitness is the first, of outputs if one is.

        Args:
            parent, data, options: see :class:`smd_evo.evaluation.evaluator.Evaluator`.
        """
        need = [part for part in self.parts if not isinstance(part, ModuleFitness | ChangeFitness)]
        if data is None and need:
            raise InvalidValue(f"data: expected samples for the fitness {need[0].name!r}, got None")
        return Evaluator(parent, data, need[0] if need else self.first, **options)

    def evaluate(
        self, evaluator: Evaluator, children: Iterable[Child], progress: Callable[[], object] | None = None
    ) -> Tensor:
        """Each fitness of each child: float64 [N, len(self)] on the CPU.

        Args:
            evaluator: of the parent and the samples.
            children: recipes, lineages or deltas; ``Lineage()`` is the parent.
            progress: called once for each child.

        Returns:
            Finite numbers: what was not is the worst there is, +-1e18.
        """
        children = list(children)
        values = torch.zeros(len(children), len(self), dtype=torch.float64, device="cpu")
        if not children:
            return values
        numbers = [n for n, part in enumerate(self.parts) if not isinstance(part, ModuleFitness | ChangeFitness)]
        numbers.sort(key=lambda n: isinstance(self.parts[n], WholeFitness))
        if numbers:
            joint = JointFitness([self.parts[number] for number in numbers])  # type: ignore[misc]
            values[:, numbers] = joint.of_all(evaluator, children, progress)
            progress = None
        for number, part in enumerate(self.parts):
            if isinstance(part, ModuleFitness):
                own = evaluator.by(part)
                values[:, number] = part.value(own.totals(children, progress), own.samples)
                progress = None
        changes = {number: part for number, part in enumerate(self.parts) if isinstance(part, ChangeFitness)}
        if changes:
            values[:, [*changes]] = _of_changes([*changes.values()], evaluator.space, children)
        columns = zip(values.unbind(1), self.senses, strict=True)
        return torch.stack([finite(column, sense) for column, sense in columns], dim=1)

    def front(self, values: Tensor, parent: Sequence[float] | None = None) -> ParetoFront:
        """The front of what :meth:`evaluate` has returned."""
        return ParetoFront(values, self.names, self.senses, parent)


class JointFitness(TotalFitness):
    """Several fitnesses of the same outputs as one: its totals are theirs, one behind the other.

    Args:
        parts: the metrics of all samples behind the others.
    """

    parts: Sequence[OutputFitness]
    wholes: Sequence[WholeFitness]
    shapes: list[torch.Size]

    def __init__(self, parts: Sequence[OutputFitness]) -> None:
        classes = any(part.classes for part in parts)
        super().__init__("objectives", "min", lambda *_: torch.zeros(()), lambda sums: sums, classes=classes)
        wholes = [part for part in parts if isinstance(part, WholeFitness)]
        kept(self, parts=parts, wholes=wholes, shapes=[])

    def total(self, outputs: Any, targets: Any, count: int) -> Tensor:
        """What a batch adds to the whole: float64 [*]."""
        totals = [part.total(outputs, targets, count) for part in self.parts]
        self.shapes[:] = [
            torch.Size([1]) if isinstance(part, WholeFitness) else own.shape  # its value, which comes later
            for part, own in zip(self.parts, totals, strict=True)
        ]
        return torch.cat([own.reshape(-1) for own in totals])

    def value(self, totals: Tensor, samples: int) -> Tensor:
        """Fitnesses [N, len(parts)] by the totals of all samples."""
        pieces = totals.split([shape.numel() for shape in self.shapes], dim=1)
        whole = [own.reshape(len(totals), *shape) for own, shape in zip(pieces, self.shapes, strict=True)]
        return torch.stack([p.value(own, samples).double() for p, own in zip(self.parts, whole, strict=True)], 1)

    def of_all(
        self, evaluator: Evaluator, children: Sequence[Child], progress: Callable[[], object] | None
    ) -> Tensor:
        """Fitnesses [N, len(parts)] of children, at least one."""
        if len(self.parts) == 1:  # which may have a faster way of its own
            (part,) = self.parts
            return part.value(evaluator.by(part).totals(children, progress), evaluator.samples)[:, None]
        return self.value(evaluator.by(self).totals(children, progress), evaluator.samples)


def listed(fitness: str | Objective | Sequence[str | Objective]) -> Sequence[str | Objective]:
    """A list or tuple of fitnesses as it is, or one of a single fitness."""
    return fitness if isinstance(fitness, list | tuple) else [fitness]  # type: ignore[list-item]


def _found(part: str | Objective) -> Objective:
    if isinstance(part, ChangeFitness):
        return part
    if isinstance(part, str):
        known = [*NAMES, *METRICS, *_OF_CHANGES]
        if part not in known and metric_of(part) is None:
            raise InvalidValue(
                f"fitness: expected one of {', '.join(known)}, got {shown(part)}{nearest(part, known)}"
            )
        return _OF_CHANGES.get(part) or get_fitness(part)
    return get_fitness(part)


def _of_changes(parts: Sequence[ChangeFitness], space: ParameterSpace, children: Sequence[Child]) -> Tensor:
    """Fitnesses [N, len(parts)] of child minus parent, one child after the other: dense ones are large."""
    found: list[list[float]] = []

    def look() -> None:
        for child in children:
            new = space.values_of(child)
            difference = new.values.double() - space.values_at(new.indices, new.values.dtype).double()
            found.append([part.of(difference) for part in parts])

    within(Exclusive(space.module), look)
    return torch.tensor(found, dtype=torch.float64, device="cpu")
