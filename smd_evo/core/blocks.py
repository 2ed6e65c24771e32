"""Blocks: what is changed for a while and put back, also where Ctrl-C comes while it is being put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

__all__ = ["Block", "Inference", "within"]

T = TypeVar("T")


class Block(Protocol):
    """A change for a while."""

    def enter(self) -> None:
        """Make the change; what a failure or an interrupt leaves of it, :meth:`leave` takes back."""

    def leave(self) -> None:
        """Take back whatever :meth:`enter` did; once more does no harm, and begins anew if it was cut short."""


def within(block: Block, function: Callable[[], T]) -> T:
    """What a function returns inside of a block.

    Python raises KeyboardInterrupt between any two instructions, also at the very entry of an ``__exit__`` or in the
    first line of a ``finally``. So the block is left twice: whichever of the two an interrupt hits, the other one
    is whole.

    Example:
        >>> within(Inference(True), torch.is_inference_mode_enabled), torch.is_inference_mode_enabled()
        (True, False)
    """
    try:
        try:
            block.enter()
            return function()
        finally:
            block.leave()
    finally:
        block.leave()


class Inference:
    """Inference mode on or off, and no gradients where it is on; both as before afterwards.

    Not ``with torch.inference_mode()``: interrupted in its ``__exit__`` that would end when the interrupt's traceback
    is forgotten, in the middle of something else.
    """

    def __init__(self, mode: bool) -> None:
        self._mode = mode
        self._context = torch.inference_mode(mode)
        self._before: tuple[bool, bool] | None = None

    def enter(self) -> None:
        """Switch."""
        self._before = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        if self._before[0] != self._mode:
            self._context.__enter__()
        elif self._mode:
            torch.set_grad_enabled(False)

    def leave(self) -> None:
        """Switch back."""
        if self._before is None:
            return
        inference, grad = self._before
        if torch.is_inference_mode_enabled() != inference:
            self._context.__exit__(None, None, None)
        if torch.is_grad_enabled() != grad:
            torch.set_grad_enabled(grad)
