"""Adam, SGD and ClipUp to the same bits on every processor: PyTorch's use operations that are not (see ``exact``).

References:
    Kingma, Ba, arXiv 1412.6980 (Adam); Reddi, Kale, Kumar, ICLR 2018 (AMSGrad).
    Sutskever, Martens, Dahl, Hinton, ICML 2013 (SGD's momentum, as PyTorch has it).
    Toklu, Liskowski, Srivastava, arXiv 2008.02387 (ClipUp).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from smd_evo.core.exact import norm, power, sqrt_

__all__ = ["OPTIMIZERS", "SGD", "Adam", "ClipUp", "Optimizer"]


_PIECE = 2**17
"""Elements that are worked on together on a CPU: what is in between stays in its cache."""


class Optimizer(Protocol):
    """What turns gradients into steps.

    Attributes:
        state: what it has gathered: nothing before the first step, then tensors by their names.
    """

    state: dict[str, Tensor]

    def ascent(self, gradient: Tensor) -> Tensor:
        """The step upwards, like the gradient (any shape, float32, on the state's device)."""


@dataclass
class Adam:
    """Steps of the gradient's running mean over the root of its running square.

    Example:
        >>> Adam(0.5).ascent(torch.tensor([4.0, -0.1]))
        tensor([ 0.5000, -0.5000])
    """

    stepsize: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    amsgrad: bool = False
    state: dict[str, Tensor] = field(default_factory=dict)

    def ascent(self, gradient: Tensor) -> Tensor:
        """See :class:`Optimizer`."""
        state, gradient = self.state, gradient.contiguous()
        names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if self.amsgrad else [])]
        if not state:
            state.update({name: torch.zeros_like(gradient) for name in names})
            state["step"] = torch.tensor(0, device="cpu")
        state["step"] += 1
        step = int(state["step"])
        found = torch.empty_like(gradient)
        flat = [tensor.view(-1) for tensor in (found, gradient, *(state[name] for name in names))]
        size = _PIECE if gradient.device.type == "cpu" else max(1, gradient.numel())
        for pieces in zip(*(tensor.split(size) for tensor in flat), strict=True):
            self._ascent(*pieces, step=step)
        return found

    def _ascent(
        self, place: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, most: Tensor | None = None, *, step: int
    ) -> None:
        """The step of some elements, each by itself."""
        mean.mul_(self.beta1).add_(gradient * (1 - self.beta1))
        square.mul_(self.beta2).add_((gradient * gradient).mul_(1 - self.beta2))
        if most is not None:
            square = torch.maximum(most, square, out=most)
        root = sqrt_(square.clone()).div_(math.sqrt(1 - power(self.beta2, step))).add_(self.epsilon)
        torch.mul(mean, self.stepsize / (1 - power(self.beta1, step)), out=place).div_(root)


@dataclass
class SGD:
    """Steps along the gradient, or along its decaying sum.

    Example:
        >>> SGD(0.5).ascent(torch.tensor([4.0, -0.1]))
        tensor([ 2.0000, -0.0500])
    """

    stepsize: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    state: dict[str, Tensor] = field(default_factory=dict)

    def ascent(self, gradient: Tensor) -> Tensor:
        """See :class:`Optimizer`."""
        if not self.momentum:
            return gradient * self.stepsize
        if not self.state:
            self.state["momentum_buffer"] = velocity = gradient.clone()
        else:
            velocity = self.state["momentum_buffer"].mul_(self.momentum).add_(gradient * (1 - self.dampening))
        if self.nesterov:
            velocity = gradient + velocity * self.momentum
        return velocity * self.stepsize


@dataclass
class ClipUp:
    """Steps of one length, a velocity that is clipped.

    Example:
        >>> ClipUp(0.5).ascent(torch.tensor([4.0, 3.0]))
        tensor([0.4000, 0.3000])
    """

    stepsize: float
    momentum: float = 0.9
    max_speed: float | None = None
    state: dict[str, Tensor] = field(default_factory=dict)

    def ascent(self, gradient: Tensor) -> Tensor:
        """See :class:`Optimizer`; the gradient must not be all zeros."""
        velocity = (gradient / norm(gradient)).mul_(self.stepsize)
        if self.state:
            velocity = self.state["velocity"].mul_(self.momentum).add_(velocity)
        limit = 2 * self.stepsize if self.max_speed is None else self.max_speed
        length = norm(velocity)
        if length > limit:
            velocity.mul_(limit / length)
        self.state["velocity"] = velocity
        return velocity.clone()


OPTIMIZERS = {"adam": Adam, "sgd": SGD, "clipup": ClipUp}
"""By EvoTorch's names; their settings are EvoTorch's, too."""
