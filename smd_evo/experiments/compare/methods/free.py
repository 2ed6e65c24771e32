"""Controls as methods: each has one step, and leaves the rest of the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from smd_evo.core.parameters import ParameterSpace
from smd_evo.evaluation.data import minibatch
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.work import Work
from smd_evo.experiments import free
from smd_evo.experiments.compare.methods.base import Method, Settings, Task, alone
from smd_evo.experiments.compare.methods.registry import CONTROLS, find_method
from smd_evo.zoo.data import Samples

__all__ = [
    "BatchNormBlend",
    "Calibrated",
    "ClassBias",
    "Control",
    "HeadRefit",
    "HeadTuned",
    "PriorMatch",
    "Temperature",
    "Views",
    "refused",
]

_FEW = 8
"""Samples that show what a network makes of any."""

_IMAGES = ({"images": 1000}, {"images": 300}, {"images": 3000}, {"images": 10000})


class Control(Method):
    """A control of :mod:`smd_evo.experiments.free`.

    Args:
        task: the task.
        images: that it looks at, at most: all of the fitness split, or the budget.
        settings: of the control.
    """

    kind: ClassVar[type[free.Free]]

    def __init__(self, task: Task, images: int = 10**9, **settings: Any) -> None:
        self._task = task
        self._images = min(images, task.parent.samples, task.budget) if self.kind.looks else 0
        self._free = self.kind(**settings)
        self._done = False

    @classmethod
    def refusal(cls, network: nn.Module, samples: Samples) -> str:
        """See the base class."""
        return cls.kind.refusal(network, samples)

    @property
    def cost(self) -> int:
        """See the base class; there is one step."""
        return self._task.budget + 1 if self._done else self._images

    @property
    def work(self) -> Work:
        """See the base class."""
        return self._task.parent.work

    def step(self) -> None:
        """See the base class."""
        parent = self._task.parent
        if self._images:
            parent = parent.on_samples(minibatch(self._task.key, 0, self._images, parent.samples))
        self._free.fit(self.kind.look(parent))
        self._done = True

    def predict(self, data: Samples) -> Tensor:
        """See the base class."""
        if not self._done:
            return alone(self._task.parent, data)
        return self._free.predict(self._task.parent, data)


class Temperature(Control):
    """See :class:`smd_evo.experiments.free.Temperature`."""

    kind, about, grid = free.Temperature, free.Temperature.about, _IMAGES


class ClassBias(Control):
    """See :class:`smd_evo.experiments.free.ClassBias`."""

    kind, about, grid = free.ClassBias, free.ClassBias.about, _IMAGES


class Calibrated(Control):
    """See :class:`smd_evo.experiments.free.Calibrated`."""

    kind, about, grid = free.Calibrated, free.Calibrated.about, _IMAGES


class PriorMatch(Control):
    """See :class:`smd_evo.experiments.free.PriorMatch`."""

    kind, about, grid = free.PriorMatch, free.PriorMatch.about, _IMAGES


class HeadRefit(Control):
    """See :class:`smd_evo.experiments.free.HeadRefit`."""

    kind, about, grid = free.HeadRefit, free.HeadRefit.about, free.HeadRefit.grid


class HeadTuned(Control):
    """See :class:`smd_evo.experiments.free.HeadTuned`."""

    kind, about, grid = free.HeadTuned, free.HeadTuned.about, free.HeadTuned.grid


class BatchNormBlend(Control):
    """See :class:`smd_evo.experiments.free.BatchNormBlend`."""

    kind, about, grid = free.BatchNormBlend, free.BatchNormBlend.about, free.BatchNormBlend.grid


class Views(Control):
    """See :class:`smd_evo.experiments.free.Views`."""

    kind, about = free.Views, free.Views.about
    grid: ClassVar[Sequence[Settings]] = (
        *free.Views.grid,
        {"views": 5, "flips": True},
        {"views": 5, "flips": False},
    )


def refused(space: ParameterSpace, samples: Samples, batch_size: int | str) -> dict[str, str]:
    """Controls that make no sense for a network or samples, and why.

    Args:
        space: of the network.
        samples: of the fitness split.
        batch_size: samples a forward pass, or "auto".
    """
    parent = Evaluator(space, samples, batch_size=batch_size)
    found, few = {}, parent.on_samples(torch.arange(min(_FEW, parent.samples), device="cpu"))
    for name in CONTROLS:
        control = cast("type[Control]", find_method(name))
        why = control.refusal(space.module, samples)
        try:
            if not why:
                control.kind.look(few)
        except Exception as error:  # of features that only a forward pass shows: it would end the whole comparison
            why = str(error).partition("\n")[0] or type(error).__name__
        if why:
            found[name] = why
    return found
