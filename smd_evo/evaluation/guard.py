"""Guards: a network is evaluated, and afterwards everything of the user's is as it was before."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BufferChange", "Buffers", "evaluating", "reseed"]

BufferChange = tuple[int, bool, Tensor | None]
"""Number of a buffer, whether it is another object now, and its value."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and inference mode inside; the mode of every submodule and all random states as before after.

    Covered are the states of torch (CPU, and CUDA once it is in use), of ``random`` and of numpy's global
    generator.
    """
    modes = [(part, part.training) for part in module.modules()]
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    numpy: Any = sys.modules.get("numpy")
    python_state, numpy_state = random.getstate(), numpy and numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=cuda), torch.inference_mode():
            module.eval()
            yield
    finally:
        for part, training in modes:
            part.training = training
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)


def reseed() -> None:
    """The same random numbers for each child, so that one that draws some does not depend on the order."""
    random.seed(0)
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)


class Buffers:
    """The buffers of a network as they are now, to be put back after a forward pass that changed some.

    In eval mode batch normalisation changes none; a network's own forward may.
    """

    def __init__(self, module: nn.Module) -> None:
        self._saved = [
            (part, name, buffer, None if buffer is None else (buffer.clone(), _version(buffer)))
            for part in module.modules()
            for name, buffer in part._buffers.items()
        ]

    def restore(self) -> None:
        """Put back values and objects, at no cost where nothing changed."""
        with torch.inference_mode():  # where a buffer that was made in that mode may be written to
            self._restore()

    def changes(self) -> list[BufferChange]:
        """Copies of what is not as it was."""
        found: list[BufferChange] = []
        for number, (part, name, buffer, saved) in enumerate(self._saved):
            now = part._buffers.get(name)
            if now is not buffer or _touched(buffer, saved):
                found.append((number, now is not buffer, None if now is None else now.clone()))
        return found

    def change(self, changes: list[BufferChange]) -> None:
        """Make such changes again, as often as one likes."""
        for number, replaced, value in changes:
            part, name, buffer, _ = self._saved[number]
            if replaced or buffer is None or value is None:
                part._buffers[name] = None if value is None else value.clone()
            else:
                buffer.copy_(value)

    def _restore(self) -> None:
        for number, (part, name, buffer, saved) in enumerate(self._saved):
            part._buffers[name] = buffer
            if buffer is not None and saved is not None and _touched(buffer, saved):
                buffer.copy_(saved[0])
                self._saved[number] = (part, name, buffer, (saved[0], _version(buffer)))


def _touched(buffer: Tensor | None, saved: tuple[Tensor, int | None] | None) -> bool:
    """Whether a buffer may have been written to since it was saved."""
    return buffer is not None and saved is not None and (saved[1] is None or _version(buffer) != saved[1])


def _version(tensor: Tensor) -> int | None:
    """Count of a tensor's in-place changes; a tensor made in inference mode has none."""
    return None if tensor.is_inference() else tensor._version
