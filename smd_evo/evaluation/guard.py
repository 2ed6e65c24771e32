"""Guards: a network is evaluated, and afterwards everything of the user's is as it was before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch

from smd_evo.core.blocks import Inference
from smd_evo.core.exclusive import Exclusive
from smd_evo.core.parameters import ParameterSpace
from smd_evo.evaluation.attributes import Attributes
from smd_evo.evaluation.buffers import Buffers
from smd_evo.evaluation.modes import Modes
from smd_evo.evaluation.randomness import RandomStates

__all__ = ["Evaluating", "Guard", "Predicting"]


class Guard(ABC):
    """A block in which a network may be patched, and no other thread has it: see :mod:`smd_evo.core.blocks`.

    Afterwards its weights and buffers and whatever else the guard changes are as before.

    Args:
        space: the network's.
        random: whether no other thread may use the random states of the process either.
    """

    def __init__(self, space: ParameterSpace, *, random: bool) -> None:
        self.space = space
        self._exclusive = Exclusive(space.module, random=random)
        self._undos: list[Callable[[], object]] = []

    def enter(self) -> None:
        """Have the network, and note what there is to be put back."""
        self._exclusive.enter()
        depth = self.space.depth
        self.space.restore(depth)
        self._undos = [lambda: self.space.restore(depth)]
        self._begin()

    def leave(self) -> None:
        """Put everything back, the last change first, even while Ctrl-C is pressed; then let others have it."""
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                failure = self._undo()
                break
            except KeyboardInterrupt as caught:
                interrupt = caught
        self._exclusive.leave()
        if interrupt or failure:
            raise interrupt or failure  # type: ignore[misc]

    def _undo(self) -> Exception | None:
        """Undo every change, whatever goes wrong with one of them; once more does no harm."""
        failure: Exception | None = None
        for undo in reversed(self._undos):
            try:
                undo()
            except Exception as caught:
                failure = caught
        self._undos = []
        return failure

    @abstractmethod
    def _begin(self) -> None:
        """Change what the guard is there for, each undo noted before."""

    def _change(self, change: Callable[[], object], undo: Callable[[], object]) -> None:
        self._undos.append(undo)
        change()


class Evaluating(Guard):
    """Eval mode and inference mode inside; modes, random states and buffers as before after.

    Args:
        space: the network's.
        free: whether the network itself is handed out, to a fitness that may switch its modes.

    Attributes:
        modes, random, buffers: of the network, to be put back between children, too.
    """

    modes: Modes
    random: RandomStates
    buffers: Buffers

    def __init__(self, space: ParameterSpace, *, free: bool = False) -> None:
        super().__init__(space, random=True)
        self._free = free

    def _begin(self) -> None:
        module = self.space.module
        self.random = RandomStates(module)
        self._undos.append(self.random.restore)
        self.modes = Modes(module, self._free)
        self._change(self.modes.eval, self.modes.restore)
        attributes = Attributes(module)
        self._undos.append(attributes.restore)
        inference = Inference(True)
        self._change(inference.enter, inference.leave)
        self.buffers = Buffers(module, self.space.tensors)
        self._undos.append(self.buffers.restore)


class Predicting(Guard):
    """Eval mode and no gradients inside; random numbers are drawn as ever, and are not the thread's own."""

    buffers: Buffers

    def __init__(self, space: ParameterSpace) -> None:
        super().__init__(space, random=False)

    def _begin(self) -> None:
        module = self.space.module
        if any(part.training for part in module.modules()):  # whoever holds the network has switched it
            modes = Modes(module)
            self._change(modes.eval, modes.restore)
        grad = torch.is_grad_enabled()
        self._change(lambda: torch.set_grad_enabled(False), lambda: torch.set_grad_enabled(grad))
        self.buffers = Buffers(module, self.space.tensors)
        self._undos.append(self.buffers.restore)
