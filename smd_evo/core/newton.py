"""Weights of directions by Newton steps: how far to go along each, by what it does to every output.

Children of small mutations tell directional derivatives J_i of a network's outputs Z, of which the loss of all their
weighted sums follows without another forward pass, as long as the network is linear in the mutations:

    min over a in R^N of  mean loss(Z + sum_i a_i J_i) + ridge / 2 |a|^2

References:
    Gower, Kovalev, Lieder, Richtarik, "RSN: Randomized Subspace Newton", NeurIPS 2019, arXiv 1905.10874
    (algorithm 1).
    Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural Computation 14,
    2002 (the Gauss-Newton matrix J' H J, of the loss's own curvature H).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from smd_evo.errors import InvalidValue, check_count, check_number

__all__ = [
    "CrossEntropy",
    "Differentiable",
    "Loss",
    "Solved",
    "calibrations",
    "solve_weights",
    "unit_directions",
]

_ELEMENTS = 2**23
"""Of directions, that are taken to float64 together: 64 MiB."""

_HALVINGS = 30

_FREE = 30.0
"""Length of the directions of a calibration: the ridge hardly counts for them."""

_SUFFICIENT = 1e-4
"""Share of the decrease that the slope promises with which a step is taken (Armijo)."""

_CONVERGED = 1e-12
"""Promised decrease, beside the loss, at which there is nothing left to gain."""


class Loss(Protocol):
    """A loss of each sample's own outputs, and its derivatives by them."""

    def of(self, samples: slice) -> Loss:
        """The same of some of the samples."""

    def values(self, outputs: Tensor) -> Tensor:
        """Losses, float64 [n], of outputs float64 [n, ...]."""

    def derivatives(self, outputs: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient by outputs [n, ...], and the Hessian times each of the directions [N, n, ...]."""


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """Cross-entropy of outputs [n, C, ...], by its closed form: gradient p - y, Hessian diag(p) - p p'.

    Args:
        targets: class numbers [n, ...], those of no class, such as -100, left out; or probabilities [n, C, ...].

    Example:
        >>> loss = CrossEntropy(torch.tensor([0, -100]))
        >>> loss.values(torch.zeros(2, 2, dtype=torch.float64)).tolist()
        [0.6931471805599453, 0.0]
    """

    targets: Tensor

    def of(self, samples: slice) -> CrossEntropy:
        """See :class:`Loss`."""
        return CrossEntropy(self.targets[samples])

    def values(self, outputs: Tensor) -> Tensor:
        """See :class:`Loss`."""
        losses = -(self._shares(outputs) * outputs.log_softmax(1)).sum(1)
        return losses.reshape(len(losses), -1).mean(1)

    def derivatives(self, outputs: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Loss`."""
        shares = self._shares(outputs)
        whole = shares.sum(1, keepdim=True)  # 0 where there is no class
        places = max(1, outputs[0].numel() // outputs.shape[1])  # over which a sample's loss is a mean
        likely = outputs.softmax(1)
        curved = likely * directions
        curved -= likely * curved.sum(2, keepdim=True)
        return (likely * whole - shares) / places, curved.mul_(whole / places)

    def _shares(self, outputs: Tensor) -> Tensor:
        """Of each class in what is true, as the outputs [n, C, ...]."""
        targets = self.targets.to(outputs.device)
        if targets.is_floating_point():
            return targets.to(outputs)
        classes = outputs.shape[1]
        known = (targets >= 0) & (targets < classes)
        hot = functional.one_hot(targets.long().where(known, 0), classes).to(outputs) * known[..., None]
        return hot.movedim(-1, 1)


@dataclass(frozen=True, eq=False)
class Differentiable:
    """Any loss that can be differentiated twice; its Hessian is met by the gradient of gradients.

    Args:
        score: ``score(outputs, targets)``: a loss for each sample, [n], of outputs in float32.
        targets: [n, ...].
    """

    score: Callable[[Tensor, Tensor], Tensor]
    targets: Tensor

    def of(self, samples: slice) -> Differentiable:
        """See :class:`Loss`."""
        return Differentiable(self.score, self.targets[samples])

    def values(self, outputs: Tensor) -> Tensor:
        """See :class:`Loss`."""
        with torch.no_grad():
            return self.score(outputs.float(), self.targets).double()

    def derivatives(self, outputs: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Loss`."""
        with torch.enable_grad():
            free = outputs.float().requires_grad_()
            losses = self.score(free, self.targets)
            if not losses.requires_grad:
                raise InvalidValue("loss: expected one that can be differentiated, got one that cannot")
            (gradient,) = torch.autograd.grad(losses.sum(), free, create_graph=True)
            curved = torch.zeros_like(directions)
            for place, direction in zip(curved, directions, strict=True) if gradient.requires_grad else ():
                again = torch.autograd.grad(gradient, free, direction.float(), retain_graph=True, allow_unused=True)
                if again[0] is not None:
                    place.copy_(again[0])
        return gradient.detach().double(), curved


@dataclass(frozen=True, eq=False)
class Solved:
    """How far to go along each direction.

    Attributes:
        weights: a, float64 [N].
        before: mean loss of the outputs.
        after: mean loss of ``outputs + sum_i a_i J_i``, without the ridge.
    """

    weights: Tensor
    before: float
    after: float


def unit_directions(parent: Tensor, children: Tensor) -> tuple[Tensor, Tensor]:
    """What children's mutations do to the outputs, each as long as all others.

    Args:
        parent: its outputs Z [n, ...].
        children: their outputs Z_i [N, n, ...].

    Returns:
        ``J_i = (Z_i - Z) / r_i``, float32 [N, n, ...], of root mean square 1; and the lengths r, float64 [N].
        Children that change nothing, and those of outputs that are not finite, have length 0, and so has their
        direction.

    Example:
        >>> unit_directions(torch.zeros(1, 2), torch.tensor([[[0.5, -0.5]], [[0.0, 0.0]]]))
        (tensor([[[ 1., -1.]],
        <BLANKLINE>
                [[ 0.,  0.]]]), tensor([0.5000, 0.0000], dtype=torch.float64))
    """
    found = children - parent
    squares = [float(each.double().square().mean()) for each in found]  # one at a time: no float64 of them all
    lengths = torch.tensor(squares, dtype=torch.float64, device="cpu").sqrt()
    lengths = lengths.where(lengths.isfinite(), 0)
    for each, length in zip(found, lengths.tolist(), strict=True):
        _ = each.div_(length) if length else each.zero_()
    return found, lengths


def calibrations(outputs: Tensor) -> Tensor:
    """What a temperature and a bias for each class do to a classifier's outputs, as directions.

    Beside those of children they take up what is only a matter of calibration, which costs no mutation; what is left
    to the children is what only they can do.

    Args:
        outputs: Z [n, C], finite, not all 0.

    Returns:
        Z itself, and a constant for each class: [1 + C, n, C], each of a root mean square so large that a ridge
        beside directions of length 1 hardly counts.

    Example:
        >>> calibrations(torch.tensor([[3.0, -3.0]]))[0]
        tensor([[ 30., -30.]])
    """
    count, classes = outputs.shape
    size = float(outputs.double().square().mean().sqrt())
    biases = torch.eye(classes, device=outputs.device)[:, None].expand(-1, count, -1)
    return _FREE * torch.cat([outputs.float()[None] / size, biases * classes**0.5])


def solve_weights(outputs: Tensor, directions: Tensor, loss: Loss, ridge: float, *, steps: int = 6) -> Solved:
    """``argmin over a of mean loss(Z + sum_i a_i J_i) + ridge / 2 |a|^2`` by backtracked Newton steps, in float64.

    Each solves ``(J' H J / n + ridge) d = -(J' g / n + ridge a)`` and is halved until the objective falls by a share
    of what the slope promises. Of a loss that is not convex the negative curvatures count as none. Time
    O(steps N^2 n C).

    Args:
        outputs: Z [n, ...], finite.
        directions: J [N, n, ...], finite; best of one length, or the ridge would mean another thing for each.
        loss: of the samples.
        ridge: weight of the squares, above 0.
        steps: most Newton steps.

    Raises:
        InvalidValue, InvalidType: shapes that do not fit, no finite outputs, or a ridge that is not above 0.

    Example:
        >>> outputs, wrong = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
        >>> found = solve_weights(outputs, torch.tensor([[[1.0, -1.0], [1.0, -1.0]]]), CrossEntropy(wrong), 1e-6)
        >>> found.weights  # back to even odds
        tensor([-1.0000], dtype=torch.float64)
        >>> round(found.before, 3), round(found.after, 3)
        (1.127, 0.693)

    Reference: arXiv 1905.10874, algorithm 1.
    """
    ridge = check_number("ridge", ridge, low=0, mend="try 0.1")
    steps = check_count("steps", steps)
    if directions.shape[1:] != outputs.shape or not outputs.numel():
        raise InvalidValue(
            f"directions: expected [N, *{list(outputs.shape)}], as the outputs are, got {list(directions.shape)}"
        )
    if not bool(outputs.isfinite().all()):
        raise InvalidValue("outputs: expected finite ones, got NaN or infinity")
    at = outputs.double()
    weights = torch.zeros(len(directions), dtype=torch.float64, device=at.device)
    before = after = _mean(loss, at)
    for _ in range(steps):
        gradient, curvature = _by_weights(loss, at, directions)
        gradient += ridge * weights
        step = -_solved(curvature, ridge, gradient)
        promised = -float(gradient @ step)
        if promised <= _CONVERGED * abs(after):
            break
        moved = torch.empty_like(at)
        for samples in _pieces(directions):
            moved[samples] = torch.tensordot(step, directions[:, samples].double(), 1)
        objective = after + ridge / 2 * float(weights @ weights)
        for halvings in range(_HALVINGS):
            share = 0.5**halvings
            tried, there = weights + share * step, at + share * moved
            value = _mean(loss, there)
            if value + ridge / 2 * float(tried @ tried) <= objective - _SUFFICIENT * share * promised:
                weights, at, after = tried, there, value
                break
        else:
            break
    return Solved(weights, before, after)


def _pieces(directions: Tensor) -> Iterator[slice]:
    """Samples of which the directions are taken to float64 together."""
    each = max(1, len(directions) * directions[0, 0].numel()) if len(directions) else 1
    size = max(1, _ELEMENTS // each)
    return (slice(start, start + size) for start in range(0, directions.shape[1], size))


def _mean(loss: Loss, outputs: Tensor) -> float:
    return float(loss.values(outputs).mean())


def _by_weights(loss: Loss, outputs: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian of the mean loss by the weights: float64 [N] and [N, N]."""
    count = len(directions)
    gradient = torch.zeros(count, dtype=torch.float64, device=outputs.device)
    curvature = torch.zeros(count, count, dtype=torch.float64, device=outputs.device)
    for samples in _pieces(directions):
        own = directions[:, samples].double()
        slope, curved = loss.of(samples).derivatives(outputs[samples], own)
        flat = own.reshape(count, -1)
        gradient += flat @ slope.reshape(-1)
        curvature += flat @ curved.reshape(count, -1).T
    return gradient / len(outputs), curvature / len(outputs)


def _solved(curvature: Tensor, ridge: float, right: Tensor) -> Tensor:
    """``(curvature + ridge)^-1 right``, negative curvatures taken as none."""
    values, vectors = torch.linalg.eigh((curvature + curvature.T) / 2)
    found: Tensor = vectors @ ((vectors.T @ right) / (values.clamp(min=0) + ridge))
    return found
