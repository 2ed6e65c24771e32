"""Tensors that hold others: subclasses, as torchao's, which keep integers and their scales inside."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

__all__ = ["inner", "plain"]


def inner(tensor: Tensor) -> dict[str, Tensor]:
    """The tensors inside of a subclass that says which it has (``__tensor_flatten__``), by their names; else none.

    Example:
        >>> import torch
        >>> inner(torch.zeros(3))
        {}
    """
    flatten = getattr(type(tensor), "__tensor_flatten__", None)
    if flatten is None:
        return {}
    found = {name: getattr(tensor, name) for name in flatten(tensor)[0]}
    return {name: part for name, part in found.items() if isinstance(part, Tensor)}


def plain(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor with its name, or those inside of it, however deep."""
    parts = inner(tensor)
    if not parts:
        yield name, tensor
    for own, part in parts.items():
        yield from plain(f"{name}.{own}", part)
