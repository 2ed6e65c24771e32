"""Keeping: whether a module's forward leaves something at objects, which a call that is not made would not."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from functools import cache
from types import CodeType
from typing import Any

from torch import nn

__all__ = ["sets_attributes"]


def sets_attributes(module: nn.Module) -> bool:
    """Whether the forward of a module's class sets attributes, or a method that it may call, by its name.

    What they are set to need not be seen in a forward pass: often it is what they were before.

    Example:
        >>> class Counter(nn.Module):
        ...     def forward(self, x):
        ...         return self.count(x)
        ...     def count(self, x):
        ...         self.calls = 1
        ...         return x
        >>> sets_attributes(Counter()), sets_attributes(nn.Linear(1, 1))
        (True, False)
    """
    kind: Any = type(module)  # mypy thinks that it cannot be hashed
    return _sets_attributes(kind)


@cache
def _sets_attributes(kind: type) -> bool:
    waiting, seen = ["forward"], {"forward"}
    while waiting:
        for code in _codes(kind, waiting.pop()):
            if any(step.opname == "STORE_ATTR" for step in dis.get_instructions(code)):
                return True
            waiting += set(code.co_names) - seen
            seen |= set(code.co_names)
    return False


def _codes(kind: type, name: str) -> Iterator[CodeType]:
    """All that a method or property of this name may run, with the functions that are defined in it."""
    waiting: list[Any] = []
    for base in kind.__mro__:
        if base.__module__.startswith("torch."):  # those keep what they set to themselves
            continue
        found = vars(base).get(name)
        found = getattr(found, "fget", None) or getattr(found, "__func__", found)
        while found is not None:  # decorators keep what they wrap
            waiting.append(getattr(found, "__code__", None))
            found = getattr(found, "__wrapped__", None)
    while waiting:
        code = waiting.pop()
        if isinstance(code, CodeType):
            yield code
            waiting += code.co_consts
