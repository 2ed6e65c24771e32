"""Weights that are stored as integers: where a network has some, and how sums become integers again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smd_evo.core.wrapped import inner
from smd_evo.errors import InvalidValue

__all__ = ["INTEGERS", "Place", "Rounding", "integers_of", "rounded", "tensors_of"]

INTEGERS = (torch.int8, torch.uint8)
"""Types that weights are stored in; unit of a mutation's strength is one."""

_MANY = 0.05
"""Share of a child's integer coordinates that may be held back at the end of their range without a word."""

_FEW = 16
"""Coordinates of which all may stay as they are by chance."""


@dataclass(frozen=True)
class Place:
    """Where a module keeps a tensor of integers, to be looked up: buffers that move become other tensors.

    Args:
        owner: the module.
        name: of its parameter or buffer.
        part: of the tensor inside of that, if it is a subclass; else None.
    """

    owner: nn.Module
    name: str
    part: str | None = None

    @property
    def holder(self) -> Tensor:
        """The parameter or buffer."""
        found: Tensor = getattr(self.owner, self.name)
        return found

    @property
    def tensor(self) -> Tensor:
        """The integers."""
        found: Tensor = self.holder if self.part is None else getattr(self.holder, self.part)
        return found

    @property
    def stored(self) -> bool:
        """Whether state dicts hold it."""
        return self.name not in self.owner._non_persistent_buffers_set


def integers_of(module: nn.Module) -> dict[str, Place]:
    """All int8 and uint8 tensors of a network by their names: parameters, buffers, and what is inside of subclasses.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.register_buffer("levels", torch.zeros(4, dtype=torch.int8))
        >>> list(integers_of(nn.Sequential(layer)))
        ['0.levels']
    """
    found = {}
    for named in (module.named_parameters(), module.named_buffers()):
        for name, tensor in named:
            path, _, own = name.rpartition(".")
            parts = inner(tensor)
            for part, each in parts.items() if parts else ((None, tensor),):
                if each.dtype in INTEGERS:
                    found[name if part is None else f"{name}.{part}"] = Place(module.get_submodule(path), own, part)
    return found


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """All that may be selected of a network: its parameters, and its integers."""
    return {**dict(module.named_parameters()), **{name: each.tensor for name, each in integers_of(module).items()}}


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums as a parameter's type holds them: integers are the nearest, of two the even one, within their range.

    Args:
        values: floating.
        dtype: of the parameter.

    Raises:
        InvalidValue: NaN, which no integer is.

    Example:
        >>> rounded(torch.tensor([0.5, 1.5, -2.6, 300.0]), torch.int8).tolist()
        [0, 2, -3, 127]
    """
    if dtype not in INTEGERS:
        return values.to(dtype)
    if bool(values.isnan().any()):
        raise InvalidValue(f"child: expected numbers for {dtype} weights, got NaN; leave those coordinates out")
    limits = torch.iinfo(dtype)
    return values.round().clamp_(limits.min, limits.max).to(dtype)  # halves to even: exact, on any processor


class Rounding:
    """Says, once each, that mutations leave the integers' range, or are too weak to change any of them."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._quiet = False
        self._counts: list[Tensor] = []

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """A block in which nothing is said, because strengths are only tried."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def see(self, old: Tensor, sums: Tensor, new: Tensor) -> None:
        """Count what some integers were, were to become and became."""
        if not self._quiet and len(self._told) < 2 and old.dtype in INTEGERS:
            held = (sums - new).abs() > 0.5
            every = torch.full((), len(held), device=held.device)
            self._counts.append(torch.stack([held.sum(), (new != old).sum(), (sums != old).sum(), every]))

    def say(self) -> None:
        """Say what there is to be said of the child that was counted.

        Warns:
            RuntimeWarning: many integers stay at the end of their range, or none is another one.
        """
        if not self._counts:
            return
        held, moved, wanted, count = torch.stack([each.cpu() for each in self._counts]).sum(0).tolist()
        self._counts = []
        if wanted >= _FEW and held > _MANY * count and "held" not in self._told:
            self._told.add("held")
            warnings.warn(
                f"{held:,} of {count:,} integer weights of a child ({held / count:.0%}) would leave the range of "
                "their type, and stay at its end; sigma is in steps of their quantisation: give a smaller one",
                RuntimeWarning,
                stacklevel=2,
            )
        if wanted >= _FEW and not moved and "moved" not in self._told:
            self._told.add("moved")
            warnings.warn(
                f"none of {count:,} integer weights of a child is another one than its parent's: all changes are "
                "below half a step of their quantisation; sigma is in such steps: give a larger one",
                RuntimeWarning,
                stacklevel=2,
            )
