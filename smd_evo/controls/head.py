"""The head refitted, anew or from what it is: multinomial regressions on what the network hands to its last layer."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from smd_evo.core.copying import whole_copy
from smd_evo.core.mutation import Lineage
from smd_evo.core.selection import head_of
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.evaluator import Evaluator

__all__ = ["Head", "features_of", "fit_head", "head_as_it_is", "tune_head", "with_head"]

_ITERATIONS = 500

_ROUNDING = 0.03
"""Of outputs in bfloat16, relative to the largest; those of another layer are farther away."""

_OF_BIASES = 1e-3
"""Weight of the squares of changes of biases, as where these alone are fitted (:mod:`smd_evo.controls.outputs`)."""


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
        InvalidValue: the head is no linear layer, gets something else than one vector a sample, or what it makes of
            these is not the network's output: it is not the last layer, or one of several.
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
        outputs = evaluator.predict([Lineage()])[0]
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
    made = head_as_it_is(evaluator.space.module).of(features)
    if made.shape != outputs.shape or not _alike(made, outputs):
        raise InvalidValue(
            "head: expected the last linear layer's outputs to be the network's, got others: it is not the last one, "
            "or one of several; its refit is left out"
        )
    return features


def _alike(made: Tensor, outputs: Tensor) -> bool:
    """Whether these are the same logits, or log-probabilities of the same, but for rounding to 16 bits."""
    one, other = (each.double().log_softmax(1) for each in (made, outputs))
    finite = one.isfinite() & other.isfinite()
    gap, size = ((each[finite]).abs().max().item() if finite.any() else 0.0 for each in (one - other, one))
    return gap <= _ROUNDING * (1 + size)


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


def head_as_it_is(network: nn.Module) -> Head:
    """The network's own last layer.

    Raises:
        InvalidValue: it is no linear layer.
    """
    head = head_of(network)
    if not isinstance(head, nn.Linear):
        raise InvalidValue(f"head: expected a torch.nn.Linear as the last layer, got {type(head).__name__}")
    weight = head.weight.detach().to("cpu", torch.float64)
    bias = (
        torch.zeros(len(weight), dtype=torch.float64) if head.bias is None else head.bias.detach().to("cpu").double()
    )
    return Head(weight, bias)


def with_head(network: nn.Module, head: Head) -> nn.Module:
    """A copy of a network with this last layer, which shares its weights with no other any more.

    Args:
        network: its last layer is a torch.nn.Linear.
        head: of the same sizes.
    """
    twin = whole_copy(network)
    old = head_of(twin)
    assert isinstance(old, nn.Linear)
    new = nn.Linear(old.in_features, old.out_features, device=old.weight.device, dtype=old.weight.dtype)
    with torch.no_grad():
        new.weight.copy_(head.weight)
        new.bias.copy_(head.bias)
    new.train(old.training)
    # Not into the old layer, whose weight may be computed: weight_norm, spectral_norm.
    for part in [*twin.modules()]:
        for name in [name for name, child in part._modules.items() if child is old]:
            setattr(part, name, new)
    return new if twin is old else twin


def tune_head(features: Tensor, targets: Tensor, head: Head, ridge: float) -> Head:
    """A head changed by a multinomial logistic regression that is drawn to the head itself, by scipy's L-BFGS.

    ``min over D, e of mean CE(X W + b + Z D + e) + ridge / 2 |D|^2 + 0.0005 |e|^2``, where Z are the features less
    their means, in units of their standard deviations. Where there are few samples, little changes: what they do not
    tell stays as it was, and the stronger the ridge, the more it is the class biases alone that change.

    Args:
        features: [n, features].
        targets: int64 [n]; those that are no class do not count.
        head: as it is.
        ridge: weight of the squares, above 0.

    Example:
        >>> own = Head(torch.zeros(2, 1).double(), torch.zeros(2).double())
        >>> features = torch.tensor([[0.0], [1.0], [4.0], [5.0]])
        >>> tune_head(features, torch.tensor([0, 0, 1, 1]), own, 0.01).of(features).argmax(1).tolist()
        [0, 0, 1, 1]
    """
    known = (targets >= 0) & (targets < len(head.bias))
    inputs, labels = features[known].double(), targets[known].numpy()
    if not len(labels):
        raise InvalidValue("targets: expected samples with classes, got none")
    mean, spread = inputs.mean(0), inputs.std(0, correction=0).clamp(min=1e-6)
    start = (inputs @ head.weight.T + head.bias).numpy()
    # The best change is made of the samples: of as many numbers a class as there are of these, if features are more.
    left, scales, right = np.linalg.svd(((inputs - mean) / spread).numpy(), full_matrices=False)
    rows = np.hstack([left * scales, np.ones((len(labels), 1))])
    size = right.shape[0]
    change = _least_loss(rows, start, labels, np.array([*[ridge] * size, _OF_BIASES])[:, None])
    slopes = torch.from_numpy(right.T @ change[:size]).T / spread
    shift = torch.from_numpy(change[size]) - slopes @ mean
    return Head(head.weight + slopes, head.bias + shift)


def _least_loss(
    rows: NDArray[np.float64], start: NDArray[np.float64], labels: NDArray[np.int64], ridge: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The change [columns, classes] with which rows @ change + start have the least loss, its squares included."""
    count, shape = len(labels), (rows.shape[1], start.shape[1])
    places = np.arange(count)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        change = flat.reshape(shape)
        outputs = start + rows @ change
        outputs -= outputs.max(1, keepdims=True)
        chances = np.exp(outputs)
        sums = chances.sum(1, keepdims=True)
        value = (np.log(sums[:, 0]) - outputs[places, labels]).mean() + (ridge * change**2).sum() / 2
        chances /= sums
        chances[places, labels] -= 1
        return float(value), (rows.T @ chances / count + ridge * change).ravel()

    found = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS})
    result: NDArray[np.float64] = found.x.reshape(shape)
    return result
