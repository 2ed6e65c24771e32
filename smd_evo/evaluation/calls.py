"""Calls: what a submodule was given and returned, and whether it would return that again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from smd_evo.evaluation.buffers import same_bits

__all__ = ["Call", "Key", "alike", "autocast_now", "bits_of", "copied", "is_counted", "is_plain", "is_simple", "same"]

Key = tuple[int, int]
"""Number of a module, and how often it has been called before in the same forward pass."""

_SIMPLE = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.Size,
    torch.dtype,
    torch.device,
    torch.memory_format,
    type(None),
)

_KINDS = frozenset(_SIMPLE)
"""Looked up first: of each attribute of each module there are many."""

_TENSORS = (Tensor, nn.Parameter, nn.Buffer)

_DEVICES = "cpu", "cuda", "mps", "xpu"


@dataclass(eq=False)
class Call:
    """One call of a submodule.

    Attributes:
        key: which.
        inputs, outputs: the leaves of what it was given and returned.
        given, returned: their structures.
        autocast: whether the devices compute in low precision, and in which.
        sources: bits of the tensors that it depends on, be it by its inputs.
        copied: numbers of the outputs that something writes to later, of which each caller gets a copy.
        usable: whether it does nothing but return what its inputs and weights determine.
        inside: how often other modules were called by it.
        versions: of the outputs, once the forward pass has ended.
    """

    key: Key
    inputs: list[Any]
    given: TreeSpec
    autocast: tuple[Any, ...]
    outputs: list[Any] = field(default_factory=list)
    returned: TreeSpec | None = None
    sources: int = 0
    copied: set[int] = field(default_factory=set)
    usable: bool = True
    inside: Mapping[int, int] = field(default_factory=dict)
    versions: list[int | None] = field(default_factory=list)

    def is_of(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
        """Whether the arguments are these to the bit."""
        if self.autocast != autocast_now():
            return False
        leaves, structure = tree_flatten((arguments, keywords))
        return structure == self.given and all(map(same, leaves, self.inputs))

    def seal(self) -> None:
        """The forward pass has ended: from now on a change of an output is one by somebody to whom it was given."""
        for number, output in enumerate(self.outputs):
            if isinstance(output, Tensor) and output.is_inference():  # whose changes nobody counts
                self.copied.add(number)
        self.versions = [_version(output) for output in self.outputs]

    def again(self) -> Any:
        """What it returned."""
        assert self.returned is not None
        leaves = [leaf.clone() if number in self.copied else leaf for number, leaf in enumerate(self.outputs)]
        return tree_unflatten(leaves, self.returned)

    @property
    def intact(self) -> bool:
        """Whether nobody has written to what was returned."""
        return all(map(lambda output, version: _version(output) == version, self.outputs, self.versions))

    def tensors(self) -> list[Tensor]:
        """Those that it keeps."""
        return [leaf for leaf in (*self.inputs, *self.outputs) if isinstance(leaf, Tensor)]


def same(one: Any, other: Any) -> bool:
    """Whether a module cannot tell two arguments apart."""
    if isinstance(one, Tensor):
        if one is other:
            return True
        alike = (
            type(one) is type(other)
            and one.dtype == other.dtype
            and one.device == other.device
            and one.shape == other.shape
            and one.stride() == other.stride()
        )
        return alike and (one.data_ptr() == other.data_ptr() or same_bits(one, other))
    return type(one) is type(other) and is_simple(one) and repr(one) == repr(other)  # which tells -0.0 from 0.0


def is_simple(leaf: Any) -> bool:
    """Whether an argument is a mere value, that nobody can change."""
    return type(leaf) in _KINDS or isinstance(leaf, _SIMPLE)


def is_plain(leaf: Any) -> bool:
    """Whether an argument is one that may be compared: a value, or a tensor in plain memory."""
    if isinstance(leaf, Tensor):
        return type(leaf) in _TENSORS and leaf.layout == torch.strided and not leaf.is_quantized and not leaf.is_meta
    return is_simple(leaf)


def autocast_now() -> tuple[Any, ...]:
    """Whether the devices compute in low precision, and in which."""
    return tuple(
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None for device in _DEVICES
    )


def is_counted(leaf: Any) -> bool:
    """Whether it is a tensor whose changes in place are counted."""
    return isinstance(leaf, Tensor) and not leaf.is_inference()


def _version(leaf: Any) -> int | None:
    return leaf._version if is_counted(leaf) else None


def copied(leaf: Any) -> Any:
    """A copy of a tensor; anything else as it is."""
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def bits_of(tensor: Tensor) -> object:
    """What tells a tensor from others, to be compared."""
    if not is_plain(tensor):
        return repr(tensor)
    return (
        tensor.dtype,
        tensor.shape,
        tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes(),
    )


def alike(one: Any, other: Any) -> bool:
    """Whether two structures of outputs are the same to the bit."""
    (leaves, structure), (others, like) = tree_flatten(one), tree_flatten(other)
    return bool(structure == like and all(map(same, leaves, others)))
