"""The head refitted: a multinomial regression on what the network hands to its last layer."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from smd_evo.core.mutation import Lineage
from smd_evo.core.selection import head_of
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.evaluator import Evaluator

__all__ = ["Head", "features_of", "fit_head"]

_ITERATIONS = 500


@dataclass(frozen=True, eq=False)
class Head:
    """A linear classifier on features.

    Attributes:
        weight: float64 [classes, features].
        bias: float64 [classes].
    """

    weight: Tensor
    bias: Tensor

    def of(self, features: Tensor) -> Tensor:
        """Its outputs, float32 [n, classes]."""
        return (features.double() @ self.weight.T + self.bias).float()


def features_of(evaluator: Evaluator) -> Tensor:
    """What the network hands to its head for all samples: float32 [n, features] on the CPU, by one forward pass each.

    Args:
        evaluator: of the network, on the samples.

    Raises:
        InvalidValue: the head is no linear layer, or gets something else than one vector a sample.
    """
    head = head_of(evaluator.space.module)
    if not isinstance(head, nn.Linear):
        raise InvalidValue(
            f"head: expected a torch.nn.Linear as the last layer, got {type(head).__name__}; its refit is left out"
        )
    found: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(inputs[0].detach().to("cpu", torch.float32, copy=True))

    handle = head.register_forward_pre_hook(note)
    try:
        evaluator.predict([Lineage()])
    finally:
        handle.remove()
    own, count = [], 0
    for features in reversed(found):  # the trial of the weights, and batches that did not fit, came first
        own.append(features)
        count += len(features)
        if count >= evaluator.samples:
            break
    features = torch.cat(own[::-1]) if own else torch.zeros(0)
    if features.dim() != 2 or len(features) != evaluator.samples:
        raise InvalidValue(
            f"head: expected one vector of features for each of {evaluator.samples} samples, got "
            f"{list(features.shape)}; its refit is left out"
        )
    return features


def fit_head(features: Tensor, targets: Tensor, classes: int, ridge: float) -> Head:
    """A multinomial logistic regression, by scikit-learn.

    ``min over W, b of mean CE(X W + b) + ridge / 2 |W|^2`` with features in units of their standard deviation.

    Args:
        features: [n, features].
        targets: int64 [n]; those that are no class do not count.
        classes: of the network; those without a sample are as good as impossible.
        ridge: weight of the squares, above 0.

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [4.0], [5.0]])
        >>> fit_head(features, torch.tensor([0, 0, 1, 1]), 2, 1e-3).of(features).argmax(1).tolist()
        [0, 0, 1, 1]
    """
    known = (targets >= 0) & (targets < classes)
    inputs, labels = features[known].double(), targets[known]
    if not len(labels) or len(labels.unique()) < 2:
        raise InvalidValue("targets: expected samples of at least two classes, got fewer")
    mean, spread = inputs.mean(0), inputs.std(0, correction=0).clamp(min=1e-6)
    model = LogisticRegression(C=1 / (ridge * len(inputs)), max_iter=_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly there is near enough for a control
        warnings.filterwarnings("ignore", message="The number of unique classes")  # one sample a class may be all
        model.fit(((inputs - mean) / spread).numpy(), labels.numpy())
    weight, bias = torch.from_numpy(model.coef_).double(), torch.from_numpy(model.intercept_).double()
    if len(model.classes_) == 2:  # scikit-learn keeps the second class's
        weight, bias = torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])
    whole = torch.zeros(classes, inputs.shape[1], dtype=torch.float64), torch.full((classes,), -1e3).double()
    place = torch.from_numpy(model.classes_)
    whole[0][place] = weight / spread
    whole[1][place] = bias - (weight / spread) @ mean
    return Head(*whole)
