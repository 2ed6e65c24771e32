"""Evolution that begins where what is free ends: statistics of the images first, then another method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from smd_evo.controls.batchnorm import blended, has_statistics, statistics_of
from smd_evo.core.parameters import ParameterSpace
from smd_evo.core.selection import Names
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.work import Work
from smd_evo.experiments.compare.methods.base import Method, SearcherMethod, Settings, Task, alone
from smd_evo.experiments.compare.methods.newton import EarlyNewton
from smd_evo.experiments.compare.methods.strategies import NormBiasES, OpenAIESMethod
from smd_evo.zoo.data import Samples

__all__ = ["Adapted", "AdaptedES", "AdaptedNewton", "AdaptedNormBiasES"]


class Adapted(Method):
    """Another method from the parent whose batch normalisations have statistics of the fitness split.

    Its first step is a forward pass of each of these images, without labels.

    Args:
        task: the task.
        share: of the new statistics, see :func:`smd_evo.controls.batchnorm.blended`.
        settings: of the other method.
    """

    inner: ClassVar[type[SearcherMethod]]

    def __init__(self, task: Task, share: float, **settings: Any) -> None:
        if not has_statistics(task.space.module):
            raise InvalidValue(
                "methods: expected batch normalisations with statistics of their own, got none, or folded ones; "
                "leave adapted methods out"
            )
        self._task, self._share, self._settings = task, share, settings
        self._looked = Work()
        self._method: SearcherMethod | None = None

    @property
    def cost(self) -> int:
        """See the base class."""
        return self._task.parent.samples if self._method is None else self._method.cost

    @property
    def work(self) -> Work:
        """See the base class."""
        own, other = self._looked, self._method.work if self._method else None
        return Work(own.images + other.images, own.forwards + other.forwards) if other else own

    def step(self) -> None:
        """See the base class."""
        if self._method is not None:
            self._method.step()
            return
        parent, space = self._task.parent, self._task.space
        network = blended(space.module, statistics_of(space.module, parent.batches), self._share)
        task = replace(self._task, space=ParameterSpace(network, Names(space.names)), strengths={})
        self._method = self.inner(task, **self._settings)
        self._task.note(task)
        self._looked.count(parent.samples)

    def predict(self, data: Samples) -> Tensor:
        """See the base class."""
        return alone(self._task.parent, data) if self._method is None else self._method.predict(data)


def _grid(kind: type[Method]) -> tuple[Settings, ...]:
    """The other method's first two settings, with three quarters of the new statistics and with all of them."""
    return tuple({"share": share, **kind.grid[number]} for number in (0, 1) for share in (0.75, 1.0))


class AdaptedES(Adapted):
    """OpenAI-ES."""

    about = "statistics of the images in the normalisations, then OpenAI-ES"
    inner, grid = OpenAIESMethod, _grid(OpenAIESMethod)


class AdaptedNormBiasES(Adapted):
    """OpenAI-ES on scales, shifts and biases."""

    about = "statistics of the images in the normalisations, then OpenAI-ES on their scales and shifts and on biases"
    inner, grid = NormBiasES, _grid(NormBiasES)


class AdaptedNewton(Adapted):
    """SubspaceNewton on early scales, shifts and biases."""

    about = "statistics of the images in the normalisations, then SubspaceNewton on early scales and shifts"
    inner, grid = EarlyNewton, _grid(EarlyNewton)
