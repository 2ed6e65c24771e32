"""What to write instead: for words and values that other libraries know and this one does not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from smd_evo.errors import InvalidType, shown

__all__ = ["network_mend", "not_here"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def not_here(**mends: str) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """A decorator: keywords of other libraries are refused with what to write instead of them.

    Example:
        >>> @not_here(width="write size=")
        ... def area(*, size):
        ...     return size * size
        >>> area(size=2)
        4
        >>> area(width=2)
        Traceback (most recent call last):
        smd_evo.errors.InvalidType: width: expected no such argument, got 2; write size=
    """

    def decorator(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        @functools.wraps(function)
        def checked(*arguments: _Arguments.args, **keywords: _Arguments.kwargs) -> _Result:
            if not mends.keys().isdisjoint(keywords):
                name = next(name for name in keywords if name in mends)
                raise InvalidType(f"{name}: expected no such argument, got {shown(keywords[name])}; {mends[name]}")
            return function(*arguments, **keywords)

        return checked

    return decorator


def network_mend(value: Any) -> str:
    """The end of a message for what was given as a network and is none.

    >>> network_mend(dict)
    '; that is a class, give an instance of it: dict(...)'
    """
    if isinstance(value, str):
        return "; smd_evo.zoo.load(name, data) loads networks by name, torch.nn builds others"
    if isinstance(value, type):
        return f"; that is a class, give an instance of it: {value.__name__}(...)"
    if callable(value):
        return "; that is a function, give the network that it returns"
    return ""
