"""Controls that change a classifier's outputs alone: a temperature, a bias for each class.

References:
    Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017 (temperature).
    Alexandari, Kundaje, Shrikumar, "Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift
    Adaptation", ICML 2020 (temperature and biases; matching a prior).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp
from torch import Tensor, nn

from smd_evo.errors import InvalidValue
from smd_evo.evaluation.classification import logits_of

__all__ = ["Scaled", "Scaling", "fit_scaling", "match_prior"]

_Floats = NDArray[np.float64]

_RIDGE = 1e-3
"""Weight of the squares of the numbers that are fitted, so that none of them runs away."""

_ITERATIONS = 1000


@dataclass(frozen=True, eq=False)
class Scaling:
    """Outputs times a number, and a bias for each class added.

    Attributes:
        scale: the number; the reciprocal of a temperature.
        biases: float64 [classes].
    """

    scale: float
    biases: _Floats

    def of(self, logits: Tensor) -> Tensor:
        """The changed outputs, float32 [..., classes]."""
        biases = torch.from_numpy(self.biases).to(logits.device)
        return logits.double().mul(self.scale).add(biases).float()


class Scaled(nn.Module):
    """A network whose outputs are changed so: it takes what the network takes, and returns the changed logits.

    Args:
        network: it becomes a part, not a copy.
        scaling: what is done to its logits.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> network, inputs = nn.Linear(2, 2), torch.ones(1, 2)
        >>> scaled = Scaled(network, Scaling(0.5, np.array([0.0, 1.0])))
        >>> bool(torch.allclose(scaled(inputs), 0.5 * network(inputs) + torch.tensor([0.0, 1.0])))
        True
    """

    scale: Tensor
    biases: Tensor

    def __init__(self, network: nn.Module, scaling: Scaling) -> None:
        super().__init__()
        self.network = network
        device = next((tensor.device for tensor in network.parameters()), None)
        self.register_buffer("scale", torch.tensor(scaling.scale, device=device))
        self.register_buffer("biases", torch.from_numpy(scaling.biases).float().to(device))

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """The changed outputs, [..., classes]."""
        return logits_of(self.network(*inputs, **named)) * self.scale + self.biases


def fit_scaling(
    logits: Tensor, targets: Tensor, *, temperature: bool = True, biases: bool = True, ridge: float = _RIDGE
) -> Scaling:
    """Fit a temperature, a bias for each class, or both, to labelled samples.

    ``min over s, b of CE((1 + s) Z + b) + ridge / 2 (s^2 + |b|^2)`` by Newton steps: convex, one minimum.

    Args:
        logits: [n, classes], or log-probabilities.
        targets: int64 [n].
        temperature, biases: what is fitted; at least one.
        ridge: weight of the squares, above 0.

    Raises:
        InvalidValue: nothing to fit, or outputs that are not finite.

    Example:
        >>> logits = torch.tensor([[8.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 0.0]])
        >>> fitted = fit_scaling(logits, torch.tensor([0, 0, 1, 1]), biases=False)
        >>> 0 < fitted.scale < 0.3  # one of four is wrong: less sure
        True

    Reference: Alexandari et al. 2020, section 3 (bias-corrected temperature scaling).
    """
    if not temperature and not biases:
        raise InvalidValue("temperature: expected it or biases to be fitted, got neither")
    outputs, labels = _arrays(logits, targets)
    count, classes = outputs.shape
    hot = np.zeros((count, classes))
    hot[np.arange(count), labels] = 1
    free = np.array([temperature, *[biases] * classes])

    def placed(numbers: _Floats) -> _Floats:
        whole = np.zeros(classes + 1)
        whole[free] = numbers
        return whole

    def loss(numbers: _Floats) -> tuple[float, _Floats]:
        whole = placed(numbers)
        logs = log_softmax((1 + whole[0]) * outputs + whole[1:], axis=1)
        wrong = np.exp(logs) - hot
        gradient = np.array([np.einsum("nc,nc->", wrong, outputs), *wrong.sum(0)]) / count + ridge * whole
        return float(-(logs * hot).sum() / count + ridge / 2 * whole @ whole), gradient[free]

    def curvature(numbers: _Floats) -> _Floats:
        whole = placed(numbers)
        shares = np.exp(log_softmax((1 + whole[0]) * outputs + whole[1:], axis=1))
        means = (shares * outputs).sum(1)
        found = np.empty((classes + 1, classes + 1))
        found[0, 0] = ((shares * outputs**2).sum(1) - means**2).sum()
        found[0, 1:] = found[1:, 0] = (shares * (outputs - means[:, None])).sum(0)
        found[1:, 1:] = np.diag(shares.sum(0)) - shares.T @ shares
        whole_one: _Floats = (found / count + ridge * np.eye(classes + 1))[np.ix_(free, free)]
        return whole_one

    options: Any = {"maxiter": _ITERATIONS, "gtol": 1e-9}
    found = minimize(loss, np.zeros(int(free.sum())), jac=True, hess=curvature, method="trust-exact", options=options)
    whole = placed(found.x)
    return Scaling(float(1 + whole[0]), whole[1:])


def match_prior(logits: Tensor, prior: Tensor | None = None) -> Scaling:
    """Biases with which the mean prediction is a known distribution of the classes; no labels are needed.

    ``b <- b - 0.5 log(mean softmax(Z + b) / prior)`` until nothing moves.

    Args:
        logits: [n, classes], of samples without labels.
        prior: [classes], the share of each class; None: all are equally frequent.

    Raises:
        InvalidValue: shares that are none, or outputs that are not finite.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.0, 2.0]])
        >>> bool((match_prior(logits).of(logits).softmax(1).mean(0) - 0.5).abs().max() < 1e-6)
        True

    Reference: Alexandari et al. 2020, section 2 (shift of priors), by fixed-point iteration.
    """
    outputs, _ = _arrays(logits, None)
    classes = outputs.shape[1]
    shares = np.full(classes, 1 / classes) if prior is None else prior.double().numpy()
    if shares.shape != (classes,) or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise InvalidValue(f"prior: expected {classes} shares above 0 of sum 1, got {shares.tolist()[:9]}")
    biases = np.zeros(classes)
    for _ in range(_ITERATIONS):
        moved = logsumexp(log_softmax(outputs + biases, axis=1), axis=0) - np.log(len(outputs) * shares)
        biases -= 0.5 * moved
        if np.abs(moved).max() < 1e-9:
            break
    return Scaling(1.0, biases - biases.mean())


def _arrays(logits: Tensor, targets: Tensor | None) -> tuple[_Floats, NDArray[np.int64]]:
    """Outputs and classes of the samples that have one, in float64."""
    if logits.dim() != 2 or logits.shape[1] < 2 or not len(logits) or not bool(logits.isfinite().all()):
        raise InvalidValue(
            f"logits: expected finite outputs [n, classes] of two classes or more, got {list(logits.shape)}"
        )
    outputs = logits.detach().cpu().double().numpy()
    if targets is None:
        return outputs, np.zeros(0, np.int64)
    labels = targets.detach().cpu().long().numpy()
    if labels.shape != outputs.shape[:1]:
        raise InvalidValue(f"targets: expected [{len(outputs)}] classes, got {list(labels.shape)}")
    known = (labels >= 0) & (labels < outputs.shape[1])
    if not known.any():
        raise InvalidValue("targets: expected at least one class among the outputs', got none")
    return outputs[known], labels[known]
