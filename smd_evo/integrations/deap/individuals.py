"""Individuals for DEAP: plain classes of this module, which copy and pickle fast."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from deap import base
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from smd_evo.core.mutation import Lineage
from smd_evo.errors import InvalidType, InvalidValue, check_number, shown

__all__ = ["DenseIndividual", "LineageIndividual", "MaxFitness", "MinFitness", "fitness_class", "genes_of"]


class MinFitness(base.Fitness):  # type: ignore[misc]
    """One objective, lower is better."""

    weights = (-1.0,)


class MaxFitness(base.Fitness):  # type: ignore[misc]
    """One objective, higher is better."""

    weights = (1.0,)


class _Several(base.Fitness):  # type: ignore[misc]
    """Some objectives; its classes are made again where one is unpickled."""

    weights = (-1.0, -1.0)

    def __reduce__(self) -> Any:
        return _remade_fitness, (self.weights,), self.__dict__


def fitness_class(senses: Sequence[str]) -> type[base.Fitness]:
    """The class of fitness of some objectives: MinFitness or MaxFitness for one, else one for these senses.

    Args:
        senses: "min" or "max", of each.

    Example:
        >>> fitness_class(["max", "min"]).weights
        (1.0, -1.0)
    """
    if len(senses) == 1:
        return MinFitness if senses[0] == "min" else MaxFitness
    return _class_of(tuple(-1.0 if sense == "min" else 1.0 for sense in senses))


@functools.cache
def _class_of(weights: tuple[float, ...]) -> type[base.Fitness]:
    return type("SeveralFitness", (_Several,), {"weights": weights, "__doc__": "Some objectives."})


def _remade_fitness(weights: tuple[float, ...]) -> base.Fitness:
    return _class_of(weights)()


class DenseIndividual(np.ndarray[Any, Any]):
    """Numbers with a fitness: all parameters of a network, or a point of a subspace.

    A slice, a view or the result of arithmetic is an individual with a fitness of its own, of the same class and not
    valid. A slice is a copy, as of a list, so DEAP's cross-overs that swap slices lose no genes; ``view`` and
    ``reshape`` are numpy's. ``HallOfFame`` and ``ParetoFront`` want ``similar=np.array_equal``, as for all arrays.

    Args:
        values: the numbers, copied; float32 unless they are of another floating type. An iterator will do, as
            ``tools.initRepeat``, ``initCycle`` and ``initIterate`` give one.
        fitness: class of the fitness; that of ``creator.create`` comes first.

    Example:
        >>> individual = DenseIndividual([1.0, 2.0, 3.0])
        >>> individual.fitness.values = (0.5,)
        >>> individual[:2].fitness.valid, copy.deepcopy(individual).fitness.values
        (False, (0.5,))
    """

    fitness: base.Fitness

    def __new__(
        cls, values: ArrayLike | Iterable[float], fitness: type[base.Fitness] = MinFitness
    ) -> DenseIndividual:
        """See the class."""
        individual = _numbers(list(values) if isinstance(values, Iterator) else values).view(cls)
        individual.fitness = _fitness_of(fitness)
        return individual

    def __init__(self, values: ArrayLike | Iterable[float], fitness: type[base.Fitness] = MinFitness) -> None:
        """All is done before; ``creator`` calls this after it has set its own fitness."""

    def __array_finalize__(self, source: Any) -> None:
        fitness = getattr(source, "fitness", None)
        self.fitness = type(fitness)() if isinstance(fitness, base.Fitness) else MinFitness()

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        sliced = isinstance(place, slice) or (isinstance(place, tuple) and any(isinstance(p, slice) for p in place))
        return found.copy() if sliced else found

    def __setitem__(self, place: Any, values: Any) -> None:
        genes = self.view(np.ndarray)  # a subclass's own asks for the slice, and would write to the copy
        if isinstance(place, slice) and isinstance(values, DenseIndividual) and len(values) != len(genes[place]):
            raise InvalidValue(
                f"individual: expected {len(genes[place])} genes for that slice, got {len(values)}; an array keeps "
                "its length, which cxMessyOnePoint changes: cxTwoPoint does not"
            )
        genes[place] = values

    def __deepcopy__(self, memo: dict[int, Any] | None) -> DenseIndividual:
        twin = self.copy()
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _remade, (type(self), np.asarray(self)), self.__dict__

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)


_NO_GENES = (
    "individual: expected an operator for lineages, got one that asks for genes; write mutSparseGaussian to mutate "
    "and cxLineage to mate, or take evaluator.dense()"
)


class LineageIndividual:
    """A network as the mutations that lead to it from the parent: some dozen bytes a step, whatever its size.

    ``mutSparseGaussian`` appends a mutation; :func:`cxLineage` mates. A clone shares the (immutable) steps.

    Args:
        lineage: the mutations; none for the parent itself.
        fitness: class of the fitness; that of ``creator.create`` comes first.

    Example:
        >>> individual = LineageIndividual()
        >>> len(individual), individual == LineageIndividual()
        (0, True)
    """

    lineage: Lineage
    fitness: base.Fitness

    def __init__(self, lineage: Lineage = Lineage(), fitness: type[base.Fitness] = MinFitness) -> None:  # noqa: B008  # immutable
        if not isinstance(lineage, Lineage):
            raise InvalidType(f"lineage: expected a Lineage, got {shown(lineage)}")
        self.lineage = lineage
        if not hasattr(self, "fitness"):
            self.fitness = _fitness_of(fitness)

    def __len__(self) -> int:
        return len(self.lineage)

    def __getitem__(self, place: Any) -> Any:
        raise InvalidType(_NO_GENES)

    def __setitem__(self, place: Any, gene: Any) -> None:
        raise InvalidType(_NO_GENES)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """One thing, and no row of genes: ``similar=np.array_equal`` compares lineages, too."""
        array = np.empty((), object)
        array[()] = self
        return array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LineageIndividual) and self.lineage == other.lineage

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.lineage.encode()!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> LineageIndividual:
        twin = type(self).__new__(type(self))
        lineage = self.lineage
        twin.__dict__.update(
            (name, value if value is lineage else copy.deepcopy(value, memo)) for name, value in self.__dict__.items()
        )
        return twin


def _fitness_of(fitness: type[base.Fitness]) -> base.Fitness:
    if not (isinstance(fitness, type) and issubclass(fitness, base.Fitness)):
        raise InvalidType(
            f"fitness: expected a class of deap.base.Fitness, got {fitness!r}; MinFitness, for instance"
        )
    return fitness()


def genes_of(individual: Any, mend: str) -> NDArray[np.float32]:
    """The numbers that an individual is, float32.

    Args:
        individual: an array, a tensor, or another sequence of numbers.
        mend: what to give instead of anything else.

    Raises:
        InvalidType: it is of something else.
    """
    try:
        return np.asarray(_for_numpy(individual), np.float32)
    except (TypeError, ValueError):
        raise InvalidType(f"individual: expected real numbers, in a row, got {shown(individual)}; {mend}") from None


def _for_numpy(values: Any) -> Any:
    """An array of a tensor, also where numpy wants none: of parameters, of bfloat16, on another device."""
    if not isinstance(values, Tensor):
        return values
    return (values.float() if values.dtype is torch.bfloat16 else values).detach().cpu().numpy()


def _numbers(values: Any) -> np.ndarray[Any, Any]:
    """An array of its own, of a floating type."""
    try:
        array = np.array(_for_numpy(values))
    except (TypeError, ValueError):  # rows of several lengths
        array = np.array("")
    if array.dtype == object and array.ndim:  # fractions, one of torch's
        numbers = [check_number("values", value, low=-math.inf) for value in array.flat]
        array = np.array(numbers, np.float32).reshape(array.shape)
    if array.dtype.kind in "biu":
        array = array.astype(np.float32)
    if array.dtype.kind != "f":
        raise InvalidType(f"values: expected real numbers, in a row, got {shown(values)}")
    return array


def _remade(kind: type[DenseIndividual], values: Any) -> DenseIndividual:
    return values.view(kind)  # type: ignore[no-any-return]
