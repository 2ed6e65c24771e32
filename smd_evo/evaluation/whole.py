"""A fitness of all samples together that is no sum over them, and the outputs that are kept for it."""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from smd_evo.core.blocks import Inference, within
from smd_evo.core.parameters import Child
from smd_evo.errors import InvalidType, InvalidValue, check_choice, shown
from smd_evo.evaluation.batches import Batch
from smd_evo.evaluation.classification import logits_of

if TYPE_CHECKING:
    from smd_evo.evaluation.fitness import BatchFitness

__all__ = ["Gathered", "Sense", "TooMany", "WholeFitness", "check_made", "in_portions", "one_number"]

Sense = Literal["min", "max"]

_log = logging.getLogger(__name__)

_MOST = 2**30
"""Bytes of outputs of several children that are kept together."""


@dataclass(frozen=True)
class WholeFitness:
    """Any number of the outputs and the targets of all samples together: a ranking's, a correlation.

    Outputs of a child are kept on the CPU until all of its samples are through, those of reduced precision as
    float32; of several children, where they take turns at each batch, as far as 1 GiB goes. Those of one child may
    take 1 GiB or a quarter of the free memory.

    Args:
        name: what reports call it.
        sense: "min" if lower is better, "max" if higher is.
        metric: ``metric(outputs, targets)``: one real number of what the network returns for all samples, in the
            structure that it has for a batch, and their targets; tensors on the CPU. Of outputs with names it gets
            the ``logits``, where there are some, and of others that are not one row a sample what
            :func:`.classification.logits_of` finds.
        classes: whether targets are numbers of the network's outputs; those that it does not have are refused.
        surrogate: a smooth loss that stands for it where slopes are asked for.

    Example:
        >>> def spread(outputs, targets):
        ...     return (outputs - targets).std()
        >>> WholeFitness("spread", "min", spread).of(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0]))
        0.0
    """

    name: str
    sense: Sense
    metric: Callable[[Any, Any], Any]
    classes: bool = False
    surrogate: BatchFitness | None = None

    def __post_init__(self) -> None:
        check_made(self.name, self.sense, metric=self.metric)

    @property
    def wholes(self) -> Sequence[WholeFitness]:
        """Those that outputs are kept for: itself."""
        return [self]

    def total(self, outputs: Any, targets: Any, count: int) -> Tensor:
        """What a batch adds to the whole: nothing, float64 [0]."""
        return torch.zeros(0, dtype=torch.float64, device="cpu")

    def value(self, totals: Tensor, samples: int) -> Tensor:
        """Fitness of several networks [N] by what their outputs came to [N, 1]."""
        return totals[:, 0]

    def of(self, outputs: Any, targets: Any) -> float:
        """Fitness of outputs for all samples.

        Raises:
            InvalidType: the metric returns something else than one real number.
        """
        return one_number(f"{self.name}: expected one real number from its metric", self.metric(outputs, targets))


def one_number(expected: str, found: Any) -> float:
    """A number of Python's, NumPy's or torch's as a float; for anything else the error begins with what is expected.

    >>> one_number("score: expected one", torch.tensor([0.5]))
    0.5
    """
    if math.prod(getattr(found, "shape", (0,))) == 1:  # a tensor's or an array's only element
        found = found.item()
    if not isinstance(found, numbers.Real):
        kind = str(getattr(found, "dtype", "")).removeprefix("torch.")
        got = f"{list(found.shape)} of {kind}" if isinstance(found, Tensor) else repr(found)[:60]
        raise InvalidType(f"{expected}, got {got}; return a float")
    return float(found)


class TooMany(Exception):
    """Outputs of so many children do not fit beside each other; at most so many do."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.most = most


@dataclass(eq=False)
class _Rows:
    """Tensors of all samples, filled batch by batch, in the structure of a batch's.

    Args:
        samples: n.
    """

    samples: int
    tensors: list[Tensor] = field(default_factory=list)
    spec: TreeSpec | None = None

    def keep(self, name: str, batch: Batch, part: Any) -> None:
        """What there is for a batch.

        Raises:
            InvalidValue: it is not of the shape that the first was, or there is no room for all.
        """
        named = part.get("logits") if isinstance(part, Mapping) else getattr(part, "logits", None)
        leaves, spec = tree_flatten(named if isinstance(named, Tensor) else part)
        if not all(isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == batch.count for leaf in leaves):
            leaves, spec = tree_flatten(logits_of(part))
        if self.spec is None:
            self.spec = spec
            _check_room(name, self.samples, leaves)
            self.tensors = within(Inference(False), lambda: [_room(self.samples, leaf) for leaf in leaves])
        places = [tensor[batch.start : batch.start + batch.count] for tensor in self.tensors]
        got, expected = ([list(tensor.shape) for tensor in some] for some in (leaves, places))
        if got != expected:
            raise InvalidValue(
                f"{name}: expected {expected} for a batch as for those before, got {got}; a metric of all samples "
                "needs one shape: pad them to one length, or return one row a sample"
            )
        for place, leaf in zip(places, leaves, strict=True):
            place.copy_(leaf)

    @property
    def whole(self) -> Any:
        """All of them."""
        assert self.spec is not None
        return tree_unflatten(self.tensors, self.spec)

    @property
    def nbytes(self) -> int:
        """That they take."""
        return sum(tensor.nbytes for tensor in self.tensors)


class Gathered:
    """The outputs of the children of one visit, each child's until its last batch, and what metrics make of them.

    Args:
        fitnesses: the metrics.
        samples: that each child sees.
    """

    def __init__(self, fitnesses: Sequence[WholeFitness], samples: int) -> None:
        self._fitnesses, self._samples = fitnesses, samples
        self._targets = _Rows(samples)
        self._known: set[tuple[int, int]] = set()
        self._outputs: dict[int, _Rows] = {}
        self._values: dict[int, list[float]] = {}

    def keep(self, number: int, batch: Batch, outputs: Any) -> None:
        """What a child has returned for a batch.

        Raises:
            InvalidValue: it is of another shape than the first.
            TooMany: outputs of all children do not fit.
        """
        if (batch.start, batch.count) not in self._known:
            self._targets.keep("targets", batch, batch.targets)
            self._known.add((batch.start, batch.count))
        rows = self._outputs.setdefault(number, _Rows(self._samples))
        rows.keep("outputs", batch, outputs)
        if len(self._outputs) > (most := max(1, _MOST // max(1, rows.nbytes))):
            raise TooMany(most)

    def finish(self, number: int, last: Batch) -> None:
        """After a batch of a child: if it was the last one, the metrics have its outputs, and these are gone."""
        if last.start + last.count == self._samples:
            outputs, targets = self._outputs[number].whole, self._targets.whole
            self._values[number] = [fitness.of(outputs, targets) for fitness in self._fitnesses]
            del self._outputs[number]

    def values(self) -> Tensor:
        """Float64 [N, fitnesses]."""
        found = [self._values[number] for number in range(len(self._values))]
        return torch.tensor(found, dtype=torch.float64, device="cpu").view(len(found), len(self._fitnesses))


def in_portions(totals: Callable[[Sequence[Child], int], Tensor], children: Sequence[Child]) -> Tensor:
    """Totals of all children; of so many at a time as :class:`Gathered` has room for.

    Args:
        totals: ``totals(some, first)`` of some children, of which the first has this number.
        children: all of them.
    """
    try:
        return totals(children, 0)
    except TooMany as error:
        most = error.most
    _log.info("outputs: those of %d networks do not fit into 1 GiB; %d take turns together", len(children), most)
    return torch.cat([totals(children[first : first + most], first) for first in range(0, len(children), most)])


def _check_room(name: str, samples: int, leaves: Sequence[Tensor]) -> None:
    from smd_evo.evaluation.sharing import room  # which knows fitnesses

    nbytes = sum(samples * leaf[:1].numel() * max(4, leaf.element_size()) for leaf in leaves)
    if nbytes > (most := room(torch.device("cpu"))):
        raise InvalidValue(
            f"{name}: expected at most {most / 2**30:.3g} GiB (1, or a quarter of the free memory) of one network "
            f"for {samples:,} samples, got {nbytes / 2**30:.3g}; a metric of all samples needs them at once: return "
            "less for each sample, or give fewer samples"
        )


def _room(samples: int, leaf: Tensor) -> Tensor:
    kind = torch.promote_types(leaf.dtype, torch.float32) if leaf.is_floating_point() else leaf.dtype
    return torch.empty(samples, *leaf.shape[1:], dtype=kind, device="cpu")


def check_made(name: object, sense: object, **functions: object) -> None:
    """Raise if a fitness is made of anything else, or in another order."""
    order = f"the order is name, sense, {', '.join(functions)}"
    if not isinstance(name, str):
        raise InvalidType(f"name: expected a text, got {shown(name)}; {order}")
    check_choice("sense", sense, ("min", "max"))
    for what, function in functions.items():
        if not callable(function):
            raise InvalidType(f"{what}: expected a function, got {shown(function)}; {order}")
