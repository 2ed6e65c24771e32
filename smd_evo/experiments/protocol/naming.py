"""Errors about one of several parents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from smd_evo.errors import SmdEvoError

__all__ = ["naming"]


@contextmanager
def naming(parent: str) -> Iterator[None]:
    """A block whose errors say which parent they are about.

    >>> from smd_evo.errors import InvalidValue
    >>> with naming("resnet18"):
    ...     raise InvalidValue("checkpoint: expected a file")
    Traceback (most recent call last):
    smd_evo.errors.InvalidValue: resnet18: checkpoint: expected a file
    """
    try:
        yield
    except SmdEvoError as error:
        raise type(error)(f"{parent}: {error}") from error
