"""Controls: what is nearly free, and what evolution is to be better than. Each looks at some samples once.

It is made with the settings of one entry of its ``grid``, fitted to samples, and predicts others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from smd_evo.controls.batchnorm import Statistics, blended, has_statistics, statistics_of
from smd_evo.controls.head import Head, features_of, fit_head, head_as_it_is, tune_head, with_head
from smd_evo.controls.outputs import Scaled, Scaling, fit_scaling, match_prior
from smd_evo.core.copying import whole_copy
from smd_evo.core.mutation import Lineage
from smd_evo.core.parameters import ParameterSpace
from smd_evo.core.selection import Names, head_of
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.experiments.views import Viewed, are_images, changes, voted_views
from smd_evo.zoo.data import Samples

__all__ = [
    "FREE",
    "BatchNormBlend",
    "Calibrated",
    "ClassBias",
    "Free",
    "HeadRefit",
    "HeadTuned",
    "PriorMatch",
    "Temperature",
    "Views",
]

_VOTE = "probabilities"
"""How views are combined."""


class Free(ABC):
    """A control.

    Attributes:
        about: one line for reports.
        grid: settings to choose from on validation, the most promising first.
        looks: whether it looks at samples to be fitted.
        passes: forward passes that each predicted sample takes.
    """

    about: ClassVar[str]
    grid: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    looks: ClassVar[bool] = True
    passes = 1

    @staticmethod
    def refusal(network: nn.Module, samples: Samples) -> str:
        """Why the control makes no sense for a network and samples, if it does not."""
        return ""

    @classmethod
    @abstractmethod
    def look(cls, parent: Evaluator) -> Any:
        """What all settings are fitted to: of the samples of the parent's evaluator, by one forward pass each.

        Raises:
            InvalidValue: they, or the network's outputs, are of a kind that nothing can be fitted to.
        """

    @abstractmethod
    def fit(self, seen: Any) -> None:
        """Fit it to what :meth:`look` has seen."""

    @abstractmethod
    def predict(self, parent: Evaluator, data: Samples, before: Tensor | None = None) -> Tensor:
        """Outputs for samples, [n, classes], once it is fitted.

        Args:
            parent: the network, on any samples.
            data: the samples.
            before: the parent's own outputs for them, where they are known.
        """

    @abstractmethod
    def network(self, parent: nn.Module) -> nn.Module:
        """A network of its own that predicts so, once it is fitted."""


class _Outputs(Free):
    """One that changes the outputs alone."""

    _scaling: Scaling

    @classmethod
    def look(cls, parent: Evaluator) -> tuple[Tensor, Tensor]:
        """See the base class."""
        return parent.predict([Lineage()])[0], parent.targets()

    def fit(self, seen: tuple[Tensor, Tensor]) -> None:
        """See the base class."""
        self._scaling = self.fitted(*seen)

    @abstractmethod
    def fitted(self, logits: Tensor, targets: Tensor) -> Scaling:
        """What is done to all outputs, by those for some samples."""

    def predict(self, parent: Evaluator, data: Samples, before: Tensor | None = None) -> Tensor:
        """See the base class."""
        return self._scaling.of(parent.on(data).predict([Lineage()])[0] if before is None else before)

    def network(self, parent: nn.Module) -> nn.Module:
        """See the base class."""
        return Scaled(whole_copy(parent), self._scaling)


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


class HeadRefit(Free):
    """The last layer, fitted anew.

    Args:
        ridge: weight of the squares.
    """

    about = "control: the last layer refitted by multinomial regression on its inputs"
    grid: ClassVar[Sequence[Mapping[str, Any]]] = ({"ridge": 0.1}, {"ridge": 0.01}, {"ridge": 1.0}, {"ridge": 0.001})
    _head: Head

    def __init__(self, ridge: float) -> None:
        self._ridge = ridge

    @staticmethod
    def refusal(network: nn.Module, samples: Samples) -> str:
        """See the base class."""
        return "" if isinstance(head_of(network), nn.Linear) else "its last layer is no torch.nn.Linear"

    @classmethod
    def look(cls, parent: Evaluator) -> tuple[Tensor, Tensor, int]:
        """See the base class."""
        layer = head_of(parent.space.module)
        assert isinstance(layer, nn.Linear)
        return features_of(parent), parent.targets(), layer.out_features

    def fit(self, seen: tuple[Tensor, Tensor, int]) -> None:
        """See the base class."""
        self._head = fit_head(*seen, self._ridge)

    def predict(self, parent: Evaluator, data: Samples, before: Tensor | None = None) -> Tensor:
        """See the base class."""
        return self._head.of(features_of(parent.on(data)))

    def network(self, parent: nn.Module) -> nn.Module:
        """See the base class."""
        return with_head(parent, self._head)


class HeadTuned(Free):
    """The last layer, fitted on from what it is.

    Args:
        ridge: weight of the squares of its change.
    """

    about = "control: the last layer changed by multinomial regression on its inputs, as little as these ask for"
    grid: ClassVar[Sequence[Mapping[str, Any]]] = ({"ridge": 0.1}, {"ridge": 0.01}, {"ridge": 1.0}, {"ridge": 10.0})
    _head: Head

    def __init__(self, ridge: float) -> None:
        self._ridge = ridge

    @staticmethod
    def refusal(network: nn.Module, samples: Samples) -> str:
        """See the base class."""
        return HeadRefit.refusal(network, samples)

    @classmethod
    def look(cls, parent: Evaluator) -> tuple[Tensor, Tensor, Head]:
        """See the base class."""
        return features_of(parent), parent.targets(), head_as_it_is(parent.space.module)

    def fit(self, seen: tuple[Tensor, Tensor, Head]) -> None:
        """See the base class."""
        self._head = tune_head(*seen, self._ridge)

    def predict(self, parent: Evaluator, data: Samples, before: Tensor | None = None) -> Tensor:
        """See the base class."""
        return self._head.of(features_of(parent.on(data)))

    def network(self, parent: nn.Module) -> nn.Module:
        """See the base class."""
        return with_head(parent, self._head)


class BatchNormBlend(Free):
    """Statistics of the normalisations, moved towards those of the samples.

    Args:
        share: of the new ones.
    """

    about = "control: statistics of batch normalisation blended with those of the images, without labels"
    grid: ClassVar[Sequence[Mapping[str, Any]]] = ({"share": 0.5}, {"share": 0.25}, {"share": 0.75}, {"share": 1.0})
    _statistics: Statistics

    def __init__(self, share: float) -> None:
        self._share = share

    @staticmethod
    def refusal(network: nn.Module, samples: Samples) -> str:
        """See the base class."""
        return "" if has_statistics(network) else "it has no batch normalisation with statistics of its own"

    @classmethod
    def look(cls, parent: Evaluator) -> Statistics:
        """See the base class."""
        found = statistics_of(parent.space.module, parent.batches, parent.limit)
        parent.work.count(parent.samples)
        return found

    def fit(self, seen: Statistics) -> None:
        """See the base class."""
        self._statistics = seen

    def predict(self, parent: Evaluator, data: Samples, before: Tensor | None = None) -> Tensor:
        """See the base class."""
        space = ParameterSpace(self.network(parent.space.module), Names(parent.space.names), include_frozen=True)
        judge = Evaluator(space, data, batch_size=parent.batch_size)
        judge.limit = parent.limit
        outputs: Tensor = judge.predict([Lineage()])[0]
        return outputs

    def network(self, parent: nn.Module) -> nn.Module:
        """See the base class."""
        return blended(parent, self._statistics, self._share)


class Views(Free):
    """The parent's votes for several views of each image.

    Args:
        views: how many.
        flips: whether mirrored ones are among them.
    """

    about = "control: mean probabilities of the parent for shifted views of each image, each a forward pass more"
    grid: ClassVar[Sequence[Mapping[str, Any]]] = ({"views": 10, "flips": True}, {"views": 10, "flips": False})
    looks = False

    def __init__(self, views: int, flips: bool) -> None:
        self._changes = changes(views, flips)
        self.passes = views

    @staticmethod
    def refusal(network: nn.Module, samples: Samples) -> str:
        """See the base class."""
        return "" if are_images(samples) else "its samples are no images"

    @classmethod
    def look(cls, parent: Evaluator) -> None:
        """At nothing."""

    def fit(self, seen: None) -> None:
        """Nothing is."""

    def predict(self, parent: Evaluator, data: Samples, before: Tensor | None = None) -> Tensor:
        """See the base class."""
        return voted_views(parent, data, self._changes, _VOTE)

    def network(self, parent: nn.Module) -> nn.Module:
        """See the base class."""
        return Viewed(whole_copy(parent), self._changes, _VOTE)


FREE: dict[str, type[Free]] = {
    "temperature": Temperature,
    "class-bias": ClassBias,
    "calibrated": Calibrated,
    "head-refit": HeadRefit,
    "head-tuned": HeadTuned,
    "prior-match": PriorMatch,
    "batchnorm-blend": BatchNormBlend,
    "views": Views,
}
"""By their names in commands and reports."""
