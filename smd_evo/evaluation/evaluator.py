"""Evaluator: fitness of many children of one parent, predictions of a few."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.core.selection import Select
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.data import make_batches, take_samples
from smd_evo.evaluation.fitness import WORST, BatchFitness, Fitness, get_fitness
from smd_evo.evaluation.guard import Buffers, evaluating, reseed

__all__ = ["Evaluation", "Evaluator"]

_AT_ONCE = 2**24
"""Bytes of outputs that are predicted in one go: more than one child's only if that saves something."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Fitness of some children.

    Attributes:
        fitness: float64 [N] on the CPU, in the fitness's own units; all finite.
        sense: "min" or "max".
        nonfinite: how many were NaN or infinite and became the worst, +-1e18.
    """

    fitness: Tensor
    sense: str
    nonfinite: int

    def ranking(self) -> list[int]:
        """Numbers of the children, best first; equal ones in their order."""
        order = self.fitness.argsort(stable=True, descending=self.sense == "max")
        return order.tolist()


class Evaluator:
    """Evaluates children of a parent on fixed batches, in eval and inference mode.

    The children are made in place, one after the other. Afterwards the parent's weights, buffers and modes
    and all random states are as they were, bit for bit, also after an exception or Ctrl-C. A network that
    draws random numbers in its forward pass draws the same ones for each child.

    Args:
        parent: the network, or a :class:`ParameterSpace` of it.
        data: see :func:`smd_evo.evaluation.data.make_batches`; None if the fitness brings its own.
        fitness: "cross_entropy", "accuracy", a :class:`BatchFitness` or a :class:`ModuleFitness`.
        select: which parameters are mutated, if ``parent`` is a network.
        batch_size: samples a forward pass, or "auto".
        device: where to evaluate; a parent that is elsewhere is copied there. Default: where it is.

    Raises:
        InvalidValue, InvalidType, UnsupportedParameter: unusable parent, data or fitness.

    Example:
        >>> from torch import nn
        >>> from smd_evo import RandomSubspace, sample_mutations
        >>> data = torch.eye(4), torch.arange(4)
        >>> evaluator = Evaluator(nn.Linear(4, 4), data)
        >>> children = sample_mutations(0, 10, subspace=RandomSubspace(0.2), sigma=0.5)
        >>> result = evaluator.evaluate(children)
        >>> best = children[result.ranking()[0]]
        >>> evaluator.predict([best]).shape
        torch.Size([1, 4, 4])
    """

    def __init__(
        self,
        parent: nn.Module | ParameterSpace,
        data: Any = None,
        fitness: str | Fitness = "cross_entropy",
        *,
        select: Select = "all",
        batch_size: int | str = "auto",
        device: torch.device | str | None = None,
    ) -> None:
        self.fitness = get_fitness(fitness)
        if isinstance(parent, nn.Module):
            parent = ParameterSpace(parent if device is None else _on_device(parent, device), select)
        elif not isinstance(parent, ParameterSpace):
            raise InvalidType(f"parent: expected a torch.nn.Module or ParameterSpace, got {parent!r}")
        elif select != "all" or device is not None:
            raise InvalidValue(
                "parent: expected a torch.nn.Module where select or device is given, got a ParameterSpace"
            )
        self.space = parent
        self.batch_size = batch_size
        if data is None and isinstance(self.fitness, BatchFitness):
            raise InvalidValue(f"data: expected samples for the fitness {self.fitness.name!r}, got None")
        self._batches = [] if data is None else make_batches(data, batch_size, parent.device)

    def on(self, data: Any, fitness: str | Fitness | None = None) -> Evaluator:
        """An evaluator of the same parent on other data."""
        return Evaluator(self.space, data, self.fitness if fitness is None else fitness, batch_size=self.batch_size)

    def on_samples(self, numbers: Tensor) -> Evaluator:
        """An evaluator of the same parent and fitness on some of the samples, by their numbers: a minibatch."""
        other = copy.copy(self)
        other._batches = take_samples(self._batches, numbers)
        return other

    def to(self, device: torch.device | str) -> None:
        """Move the network itself and the samples to a device."""
        self.space.module.to(device)
        self._batches = [batch.to(device) for batch in self._batches]

    @property
    def samples(self) -> int:
        """Number of samples that one child is evaluated on."""
        return sum(batch.count for batch in self._batches)

    def targets(self) -> Tensor:
        """Targets of all samples in order, on the CPU."""
        return torch.cat([batch.targets for batch in self._batches]).cpu()

    def evaluate(self, children: Iterable[Child], progress: Callable[[], object] | None = None) -> Evaluation:
        """Fitness of each child.

        Args:
            children: recipes, lineages or deltas; ``Lineage()`` is the parent.
            progress: called after each child.
        """

        def scored(module: nn.Module) -> Tensor:
            score = self._score(module)
            if progress:
                progress()
            return score

        scores = self._map(scored, children)
        fitness = torch.stack(scores).cpu() if scores else torch.zeros(0, dtype=torch.float64)
        finite = fitness.isfinite() & (fitness.abs() < WORST)
        worst = WORST if self.fitness.sense == "min" else -WORST
        return Evaluation(fitness.where(finite, worst), self.fitness.sense, int((~finite).sum()))

    def predict(self, children: Sequence[Child]) -> Tensor:
        """Outputs of each child for all samples: float32 [N, samples, ...] on the CPU."""
        if not self._batches:
            raise InvalidValue("data: expected samples to predict, got none; use evaluator.on(data)")
        outputs = self._map(
            lambda module: torch.cat([batch.outputs(module).float().cpu() for batch in self._batches]), children
        )
        if not outputs:
            raise InvalidValue("children: expected at least one, got none")
        return torch.stack(outputs)

    def outputs(self, children: Iterable[Child]) -> Iterator[Tensor]:
        """What :meth:`predict` returns, one child after the other, for more children than memory holds at once."""
        waiting, at_once = iter(children), 1
        while some := list(islice(waiting, at_once)):
            outputs = self.predict(some)
            at_once = max(1, min(8, _AT_ONCE // max(1, outputs[0].nbytes)))
            yield from outputs

    def _score(self, module: nn.Module) -> Tensor:
        """Mean score over all samples, float64 []; summed on the device, which is not waited for."""
        if not isinstance(self.fitness, BatchFitness):
            return torch.tensor(float(self.fitness.function(module)), dtype=torch.float64)
        total = torch.zeros((), dtype=torch.float64, device=self.space.device)
        for batch in self._batches:
            total += self.fitness.per_sample(batch.outputs(module), batch.targets, batch.count).sum()
        return total / self.samples

    def _map(self, function: Callable[[nn.Module], Tensor], children: Iterable[Child]) -> list[Tensor]:
        """``function`` of the parent turned into each child in turn, guarded."""
        depth = self.space.depth
        buffers = Buffers(self.space.module)
        results = []
        try:
            with evaluating(self.space.module):
                for deltas in self.space.replayed(children):
                    with self.space.applied(deltas) as module:
                        reseed()
                        results.append(function(module))
                        buffers.restore()
        finally:
            self.space.restore(depth)
            buffers.restore()
        return results


def _on_device(module: nn.Module, device: torch.device | str) -> nn.Module:
    """The network itself if it is all there, or a copy that is."""
    try:
        place = torch.empty(0, device=device).device  # "cuda" is "cuda:0" here
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidValue(f"device: expected one that is there, got {device!r} ({reason}); try 'cpu'") from None
    tensors = (*module.parameters(), *module.buffers())
    return module if all(tensor.device == place for tensor in tensors) else copy.deepcopy(module).to(place)
