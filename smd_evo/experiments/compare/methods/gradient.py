"""Stochastic gradient descent: what the gradient-free methods do without."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from smd_evo.errors import InvalidValue
from smd_evo.evaluation.data import make_batches, minibatch
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import BatchFitness
from smd_evo.evaluation.records import pad_of
from smd_evo.experiments.compare.methods.base import Method, Settings, Task, alone
from smd_evo.zoo.data import Samples

__all__ = ["Sgd"]

_FORWARDS = 3
"""A forward pass and a backward pass, which counts as two."""


class Sgd(Method):
    """SGD with momentum on the same loss; statistics of normalisations stay as they are, as for all others.

    A step takes a third of the task's images, so that it costs what one child costs.

    Args:
        task: the task.
        rate: learning rate.
    """

    about = "SGD with momentum 0.9, the gradient reference; a backward pass counts as two forward passes"
    grid: ClassVar[Sequence[Settings]] = ({"rate": 0.003}, {"rate": 0.001}, {"rate": 0.01}, {"rate": 0.0003})

    def __init__(self, task: Task, rate: float) -> None:
        space = copy.deepcopy(task.space)
        self._evaluator = Evaluator(space, task.data, task.fitness, batch_size=task.batch_size)
        fitness = self._evaluator.fitness
        if not isinstance(fitness, BatchFitness) or fitness.sense != "min":
            raise InvalidValue(f"fitness: expected a loss for sgd, got {fitness.name}; cross_entropy is one")
        self._fitness, self._task, self._steps = fitness, task, 0
        self._batches = make_batches(task.data, task.batch_size, space.device, pad_of(space.module))
        self._size = max(1, task.minibatch_size // _FORWARDS)
        if space.integers:
            raise InvalidValue(
                f"methods: expected floating parameters for sgd, got {space.integers[0]}; leave sgd out"
            )
        chosen = dict(space.module.named_parameters())
        for name, parameter in chosen.items():
            parameter.requires_grad_(name in space.names)
        self._optimizer = torch.optim.SGD([chosen[name] for name in space.names], lr=rate, momentum=0.9)

    @property
    def cost(self) -> int:
        """See the base class."""
        return _FORWARDS * self._size

    def step(self) -> None:
        """See the base class."""
        numbers = minibatch(self._task.key, self._steps, self._size, self._batches.samples)
        network = self._evaluator.space.module.eval()
        self._optimizer.zero_grad()
        for chunk in self._batches.take(numbers).chunks():
            for batch in chunk:
                scores = self._fitness.score(batch.outputs(network), batch.targets)
                (scores.sum() / len(numbers)).backward()
        self._optimizer.step()
        torch.clear_autocast_cache()  # which holds the old weights in low precision
        self._steps += 1

    def predict(self, data: Samples) -> Tensor:
        """See the base class."""
        return alone(self._evaluator, data)
