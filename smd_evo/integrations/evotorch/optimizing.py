"""What a gradient searcher's steps are made with: the settings of its optimizer, and what steps have left, stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from evotorch.optimizers import get_optimizer_class
from torch import Tensor

from smd_evo.core.keys import Key
from smd_evo.core.optimizers import OPTIMIZERS, Optimizer
from smd_evo.core.parameters import ParameterSpace
from smd_evo.core.subspace import Dense, Subspace
from smd_evo.errors import InvalidType, InvalidValue, check_choice, check_number, kept, plain, shown

__all__ = ["OptimizerSpec", "moved_by", "restored_rest"]

_FLAGS = ("amsgrad", "nesterov")
"""Settings of optimizers that are no numbers."""


@dataclass(frozen=True)
class OptimizerSpec:
    """The name and the settings of one of evotorch.optimizers; :mod:`smd_evo.core.optimizers` computes its steps.

    Raises:
        InvalidValue: there is no such optimizer, or it has no such settings.
    """

    name: str
    learning_rate: float
    config: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.config, Mapping):
            raise InvalidType(f"optimizer_config: expected a dict of settings, got {self.config!r}")
        config = self.config
        kept(
            self,
            name=check_choice("optimizer", self.name, ("adam", "sgd", "clipup")),
            learning_rate=check_number("center_learning_rate", self.learning_rate, low=0, mend="try 0.01"),
            config=plain(self.config),
        )
        host = get_optimizer_class(self.name)
        try:
            for name, given in self.config.items():
                kinds = (bool,) if name in _FLAGS else (int, float)
                if config[name] is not None and type(given) not in kinds:  # which would be 1, or a default, unseen
                    raise TypeError(f"{name} is no {'truth value' if name in _FLAGS else 'number'}")
            host(solution_length=1, dtype=torch.float32, device="cpu", stepsize=self.learning_rate, **self.config)
            ours = self.make()
            for _ in range(2):  # the second step is the first that knows of another one
                ours.ascent(torch.ones(1, dtype=torch.float32, device="cpu"))
        except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise InvalidValue(
                f"optimizer_config: expected settings of evotorch.optimizers' {self.name}, got "
                f"{shown(self.config)} ({' '.join(str(error).split())[:200]})"
            ) from None

    @property
    def remembers(self) -> bool:
        """Whether a step follows from former ones."""
        return self.name != "sgd" or bool(self.config.get("momentum"))

    def make(self) -> Optimizer:
        """A new optimizer."""
        given = {name: value for name, value in self.config.items() if value is not None}  # None is the default
        optimizer: Optimizer = OPTIMIZERS[self.name](self.learning_rate, **given)
        return optimizer

    def restored(self, state: Mapping[str, Tensor], most: int) -> Optimizer:
        """An optimizer of at most so many numbers, with the state of another one of this kind.

        Raises:
            InvalidValue: it is the state of none.
        """
        optimizer, other = self.make(), self.make()
        other.ascent(torch.ones(1, dtype=torch.float32, device="cpu"))
        kinds = {name: (tensor.dtype, tensor.dim()) for name, tensor in other.state.items()}
        found = {name: (tensor.dtype, tensor.dim()) for name, tensor in state.items() if isinstance(tensor, Tensor)}
        sizes = {tensor.numel() for tensor in state.values() if isinstance(tensor, Tensor) and tensor.dim()}
        if state and (found != kinds or len(sizes) > 1 or max(sizes, default=0) > most):
            raise InvalidValue(
                f"optimizer: expected at most D = {most} numbers in each of {', '.join(kinds) or 'nothing'}, got "
                f"{shown({name: list(tensor.shape) for name, tensor in state.items() if name in found} or state)}"
            )
        optimizer.state.update({name: tensor.clone() for name, tensor in state.items()})
        return optimizer


def moved_by(subspace: Subspace) -> Subspace:
    """The coordinates that steps of a rule's mutations move."""
    common = subspace.static and subspace.siblings == 1  # the parts of a partition are several
    return subspace if common else Dense()


def restored_rest(rest: Any, subspace: Subspace, key: Key, space: ParameterSpace) -> Tensor | None:
    """What a state says that steps have left.

    Raises:
        InvalidValue: it is not of as many coordinates, or not finite.
    """
    if rest is None:
        return None
    moved = moved_by(subspace)
    count = len(moved.coordinates(moved.draw(key), space.layout, "cpu"))
    right = isinstance(rest, Tensor) and rest.dtype == torch.float32 and rest.shape == (count,)
    if not right or not bool(rest.isfinite().all()):
        raise InvalidValue(
            f"rest: expected {count} finite float32, got {shown(rest)}; it was changed, or is of another search"
        )
    found: Tensor = rest.to(space.device, copy=True)
    return found
