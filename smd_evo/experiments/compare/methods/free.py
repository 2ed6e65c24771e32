"""Controls: what is nearly free, as methods. Each looks at some images once and leaves the rest of the budget."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from smd_evo.controls.batchnorm import Statistics, blended, has_statistics, statistics_of
from smd_evo.controls.head import Head, features_of, fit_head
from smd_evo.controls.outputs import Scaling, fit_scaling, match_prior
from smd_evo.core.mutation import Lineage
from smd_evo.core.selection import head_of
from smd_evo.evaluation.data import make_batches, minibatch
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.work import Work
from smd_evo.experiments.compare.methods.base import Method, Settings, Task, alone
from smd_evo.experiments.views import are_images, changes, voted_views
from smd_evo.zoo.data import Samples

__all__ = ["BatchNormBlend", "Calibrated", "ClassBias", "Control", "HeadRefit", "PriorMatch", "Temperature", "Views"]


class Control(Method):
    """A method of a single step.

    Args:
        task: the task.
        images: that it looks at, at most: all of the fitness split, or the budget.
    """

    def __init__(self, task: Task, images: int) -> None:
        self._task, self._images = task, min(images, task.parent.samples, task.budget)
        self._done = False

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
        self.fit()
        self._done = True

    @property
    def numbers(self) -> Tensor:
        """Of the images that it looks at."""
        return minibatch(self._task.key, 0, self._images, self._task.parent.samples)

    @property
    def looked_at(self) -> Evaluator:
        """The parent on these."""
        return self._task.parent.on_samples(self.numbers)

    @abstractmethod
    def fit(self) -> None:
        """Look at the images."""


class _Outputs(Control):
    """A control that changes the outputs alone."""

    grid: ClassVar[Sequence[Settings]] = ({"images": 1000}, {"images": 300}, {"images": 3000}, {"images": 10000})
    _scaling: Scaling | None = None

    def fit(self) -> None:
        """See the base class."""
        parent = self.looked_at
        self._scaling = self.fitted(parent.predict([Lineage()])[0], parent.targets())

    @abstractmethod
    def fitted(self, logits: Tensor, targets: Tensor) -> Scaling:
        """What is done to all outputs, by those for some images."""

    def predict(self, data: Samples) -> Tensor:
        """See the base class."""
        logits = alone(self._task.parent, data)
        return logits if self._scaling is None else self._scaling.of(logits)


class Temperature(_Outputs):
    """One number."""

    about = "control: a temperature fitted to labelled images"

    def fitted(self, logits: Tensor, targets: Tensor) -> Scaling:
        """See the base class."""
        return fit_scaling(logits, targets, biases=False)


class ClassBias(_Outputs):
    """A number for each class."""

    about = "control: a bias for each class, fitted to labelled images"

    def fitted(self, logits: Tensor, targets: Tensor) -> Scaling:
        """See the base class."""
        return fit_scaling(logits, targets, temperature=False)


class Calibrated(_Outputs):
    """Both."""

    about = "control: a temperature and a bias for each class, fitted to labelled images"

    def fitted(self, logits: Tensor, targets: Tensor) -> Scaling:
        """See the base class."""
        return fit_scaling(logits, targets)


class PriorMatch(_Outputs):
    """Biases, without labels."""

    about = "control: biases with which all classes are predicted equally often, without labels"

    def fitted(self, logits: Tensor, targets: Tensor) -> Scaling:
        """See the base class."""
        return match_prior(logits)


class HeadRefit(Control):
    """The last layer, fitted anew.

    Args:
        task: the task.
        ridge: weight of the squares.
        images: that it is fitted to, at most.
    """

    about = "control: the last layer refitted by multinomial regression on its inputs"
    grid: ClassVar[Sequence[Settings]] = ({"ridge": 0.1}, {"ridge": 0.01}, {"ridge": 1.0}, {"ridge": 0.001})

    def __init__(self, task: Task, ridge: float, images: int = 10**9) -> None:
        super().__init__(task, images)
        self._ridge = ridge
        self._head: Head | None = None

    @staticmethod
    def refusal(network: nn.Module, samples: Samples) -> str:
        """See the base class."""
        return "" if isinstance(head_of(network), nn.Linear) else "its last layer is no torch.nn.Linear"

    def fit(self) -> None:
        """See the base class."""
        layer = head_of(self._task.space.module)
        assert isinstance(layer, nn.Linear)
        parent = self.looked_at
        self._head = fit_head(features_of(parent), parent.targets(), layer.out_features, self._ridge)

    def predict(self, data: Samples) -> Tensor:
        """See the base class."""
        if self._head is None:
            return alone(self._task.parent, data)
        return self._head.of(features_of(self._task.parent.on(data)))


class BatchNormBlend(Control):
    """Statistics of the normalisations, moved towards those of the images.

    Args:
        task: the task.
        share: of the new ones.
        images: that they are of, at most.
    """

    about = "control: statistics of batch normalisation blended with those of the images, without labels"
    grid: ClassVar[Sequence[Settings]] = ({"share": 0.5}, {"share": 0.25}, {"share": 0.75}, {"share": 1.0})

    def __init__(self, task: Task, share: float, images: int = 10**9) -> None:
        super().__init__(task, images)
        self._share = share
        self._statistics: Statistics | None = None

    @staticmethod
    def refusal(network: nn.Module, samples: Samples) -> str:
        """See the base class."""
        return "" if has_statistics(network) else "it has no batch normalisation with statistics"

    def fit(self) -> None:
        """See the base class."""
        task = self._task
        batches = make_batches(task.data, task.batch_size, task.space.device).take(self.numbers)
        self._statistics = statistics_of(task.space.module, batches)
        self.work.count(self._images)

    def predict(self, data: Samples) -> Tensor:
        """See the base class."""
        if self._statistics is None:
            return alone(self._task.parent, data)
        network = blended(self._task.space.module, self._statistics, self._share)
        judge: Tensor = Evaluator(network, data, batch_size=self._task.batch_size).predict([Lineage()])[0]
        return judge


class Views(Control):
    """The parent's votes for several views of each image.

    Args:
        task: the task.
        views: how many; each takes a forward pass of every image that is predicted.
        flips: whether mirrored ones are among them.
    """

    about = "control: mean probabilities of the parent for shifted views of each image, each a forward pass more"
    grid: ClassVar[Sequence[Settings]] = (
        {"views": 10, "flips": True},
        {"views": 10, "flips": False},
        {"views": 5, "flips": True},
        {"views": 5, "flips": False},
    )

    def __init__(self, task: Task, views: int, flips: bool) -> None:
        super().__init__(task, 0)
        self._changes = changes(views, flips)

    @staticmethod
    def refusal(network: nn.Module, samples: Samples) -> str:
        """See the base class."""
        return "" if are_images(samples) else "its samples are no images"

    def fit(self) -> None:
        """Nothing is."""

    def predict(self, data: Samples) -> Tensor:
        """See the base class."""
        if not self._done:
            return alone(self._task.parent, data)
        return voted_views(self._task.parent, data, self._changes, "probabilities")
