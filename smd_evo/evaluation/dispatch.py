"""Dispatch: a block that sees every operation of PyTorch that a network runs."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

__all__ = ["DispatchBlock"]


class DispatchBlock(TorchDispatchMode):
    """A dispatch mode as a block: see :mod:`smd_evo.core.blocks`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No compiled network is asked under this mode; PyTorch would import its compiler (1.5 s) to be told so."""
        return False

    def enter(self) -> None:
        """Begin to see them."""
        self.__enter__()  # type: ignore[no-untyped-call]

    def leave(self) -> None:
        """End, if it has begun: a mode that stayed behind would meet all operations, and crash some PyTorch."""
        if any(mode is self for mode in _get_current_dispatch_mode_stack()):
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
