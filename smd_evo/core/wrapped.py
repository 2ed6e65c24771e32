"""Tensors that hold others: subclasses, as torchao's, which keep integers and their scales inside; sparse ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["inner", "plain"]

_ROWS, _COLUMNS = ("crow_indices", "col_indices", "values"), ("ccol_indices", "row_indices", "values")

_STORED = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: _ROWS,
    torch.sparse_bsr: _ROWS,
    torch.sparse_csc: _COLUMNS,
    torch.sparse_bsc: _COLUMNS,
}
"""What a sparse tensor consists of, by its layout."""


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
    """A tensor with its name, or those inside of it, however deep: of subclasses, and of sparse ones.

    Example:
        >>> import torch
        >>> [part.tolist() for _, part in plain("links", torch.eye(2).to_sparse())]
        [[[0, 1], [0, 1]], [1.0, 1.0]]
    """
    parts = inner(tensor) or _stored(tensor)
    if not parts:
        yield name, tensor
    for own, part in parts.items():
        yield from plain(f"{name}.{own}", part)


def _stored(tensor: Tensor) -> dict[str, Tensor]:
    """What a sparse tensor stores, in the order in which it does so; its shape is in the names."""
    found = {name: getattr(tensor.detach(), name)() for name in _STORED.get(tensor.layout, ())}
    return {f"{name.strip('_')} {list(tensor.shape)}": part for name, part in found.items()}
