"""What kinds of numbers a tensor holds, and whether another one may take them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["is_infinite", "same_numbers", "unusable"]

_KINDS = {"float": "floating-point numbers", "complex": "complex numbers", "bool": "truth values", "int": "integers"}


def unusable(tensor: Tensor, target: Tensor | None) -> str | None:
    """Why a tensor's numbers are none that ``target`` means, whatever its shape; None if they are.

    Args:
        tensor: from a file, on the CPU.
        target: the network's; None if only the tensor itself is to be judged.

    Example:
        >>> unusable(torch.ones(2, dtype=torch.int8), torch.ones(2))
        'is of integers (int8) instead of floating-point numbers'
        >>> unusable(torch.tensor([1e5]), torch.ones(1, dtype=torch.float16))
        'holds numbers beyond 65504, the largest of float16'
        >>> unusable(torch.ones(2, dtype=torch.float64), torch.ones(2)) is None
        True
    """
    if tensor.is_meta:
        return "has no numbers, being saved from the meta device"
    if tensor.is_quantized or tensor.layout != torch.strided:
        return f"is {_name(tensor.dtype if tensor.is_quantized else tensor.layout)} instead of a dense tensor"
    if (tensor.is_floating_point() or tensor.is_complex()) and bool(torch.isnan(_wide(tensor)).any()):
        return "holds NaN"
    if target is None:
        return None
    kind, wanted = _kind(tensor), _kind(target)
    if kind != wanted and not _is_lossless(tensor, kind, wanted):
        return f"is of {_KINDS[kind]} ({_name(tensor.dtype)}) instead of {_KINDS[wanted]}"
    largest = torch.finfo(target.dtype).max if wanted == "float" else float("inf")
    if kind == "float" and tensor.numel() and largest < torch.finfo(tensor.dtype).max:
        wide = _wide(tensor)
        if bool((torch.isfinite(wide) & (wide.abs() > largest)).any()):
            return f"holds numbers beyond {largest:g}, the largest of {_name(target.dtype)}"
    return None


def is_infinite(tensor: Tensor) -> bool:
    """Whether some of its numbers are infinite."""
    return tensor.is_floating_point() and bool(torch.isinf(_wide(tensor)).any())


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, on whatever devices."""
    return one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())


def _is_lossless(tensor: Tensor, kind: str, wanted: str) -> bool:
    """Counts that became floating-point numbers on their way, and masks from before PyTorch had truth values."""
    if (kind, wanted) == ("float", "int"):
        return bool((tensor == tensor.round()).all())
    if (kind, wanted) == ("int", "bool"):
        return bool(((tensor == 0) | (tensor == 1)).all())
    return (kind, wanted) == ("bool", "int")


def _kind(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "float"
    return "complex" if tensor.is_complex() else "bool" if tensor.dtype == torch.bool else "int"


def _wide(tensor: Tensor) -> Tensor:
    """In a type of which PyTorch can tell what is finite."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor


def _name(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")
