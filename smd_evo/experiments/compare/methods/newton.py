"""Newton's method on mixtures of children: SubspaceNewton in its forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from smd_evo.core.parameters import ParameterSpace
from smd_evo.core.subspace import Dense
from smd_evo.evaluation.smooth import smooth
from smd_evo.experiments.compare.methods.base import SearcherMethod, Settings, Task, alone
from smd_evo.integrations.evotorch.finetune import FinetuneProblem
from smd_evo.integrations.evotorch.newton import SubspaceNewton
from smd_evo.zoo.data import Samples

__all__ = ["EarlyNewton", "HeadNewton", "Newton", "NormBiasNewton"]


class Newton(SearcherMethod):
    """A step is solved for by the outputs of the children, of which there is one less: the parent is evaluated, too.

    Args:
        task: the task.
        ridge: weight of the squares beside the mean loss; more images want less.
        children, images: of a generation, the parent counted as a child, no more images than the budget has; None: of
            the task.
    """

    about = "SubspaceNewton: the mixture of children whose outputs have the least loss, by Newton steps"
    grid: ClassVar[Sequence[Settings]] = ({"ridge": 0.3}, {"ridge": 1.0}, {"ridge": 0.1}, {"ridge": 3.0})

    scale: ClassVar[str] = "absolute"
    calibrated: ClassVar[bool] = False

    def __init__(self, task: Task, ridge: float, children: int | None = None, images: int | None = None) -> None:
        super().__init__(task)
        self._children = children or task.children
        self._images = min(images or task.images, task.parent.samples, max(1, task.budget // self._children))
        smooth(task.parent.fitness)  # before its strength is looked for
        space = self.space(task)
        host = task.host | {"minibatch_size": self._images}
        self.problem = FinetuneProblem(space, task.data, task.fitness, **host)
        self.searcher = SubspaceNewton(
            self.problem,
            popsize=self._children - 1,
            subspace=Dense(),
            ridge=ridge,
            sigma=task.response(Dense(), space, self.scale).sigma,
            scale=self.scale,
            calibrated=self.calibrated,
        )

    @property
    def cost(self) -> int:
        """See the base class."""
        return self._children * self._images

    def space(self, task: Task) -> ParameterSpace:
        """What may be mutated."""
        return task.space

    def predict(self, data: Samples) -> Tensor:
        """See the base class."""
        return alone(self.problem.evaluator, data)


class NormBiasNewton(Newton):
    """The same on the parameters of one dimension."""

    about = "SubspaceNewton on scales and shifts of normalisations and on biases alone"

    def space(self, task: Task) -> ParameterSpace:
        """See the base class."""
        return task.vectors("norm-newton")


class EarlyNewton(Newton):
    """The same on the first scales, shifts and biases of the network, beside a calibration of its outputs.

    Args:
        task: the task.
        depth: share of the tensors of one dimension, the first ones.
        ridge, children, images: see :class:`Newton`.
    """

    about = "SubspaceNewton on the early scales and shifts of normalisations, beside a calibration of the outputs"
    scale, calibrated = "relative", True
    grid: ClassVar[Sequence[Settings]] = tuple(
        {"depth": depth, "ridge": ridge, "children": 64, "images": 750}
        for depth, ridge in ((0.67, 0.03), (1.0, 0.03), (0.67, 0.1), (0.34, 0.03))
    )

    def __init__(self, task: Task, depth: float, **settings: Any) -> None:
        self._depth = depth
        super().__init__(task, **settings)

    def space(self, task: Task) -> ParameterSpace:
        """See the base class."""
        return task.early(self._depth, "early-newton")


class HeadNewton(Newton):
    """The same on the last layer, in which outputs are linear: a step is exact."""

    about = "SubspaceNewton on the last layer alone, whose children share all layers before it"
    grid: ClassVar[Sequence[Settings]] = (
        {"ridge": 0.3},
        {"ridge": 0.1, "children": 128, "images": 3000},
        {"ridge": 0.03, "children": 128, "images": 3000},
        {"ridge": 1.0},
    )

    def space(self, task: Task) -> ParameterSpace:
        """See the base class."""
        return task.head("head-newton")
