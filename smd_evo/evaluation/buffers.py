"""Buffers: a network's buffers are put back, by their bits, after a forward pass that changed some."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smd_evo.core.blocks import Inference, within
from smd_evo.core.exclusive import memory_of

__all__ = ["BufferChange", "Buffers", "same_bits"]

BufferChange = tuple[int, bool, Tensor | None]
"""Number of a buffer, whether it is another object now, and its value."""

_SMALL = 2**16
"""Elements of a buffer below which it is compared together with others."""

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Saved(NamedTuple):
    part: nn.Module
    name: str
    buffer: Tensor | None
    value: Tensor | None
    version: int | None
    """Count of in-place changes, where that is what tells of them."""
    bits: tuple[Tensor, Tensor] | None
    """The buffer's memory as integers, and a copy, where those tell."""


class Buffers:
    """The buffers of a network as they are now, to be put back.

    Bits are compared, because ``batch_norm`` in training mode, for one, changes statistics without raising their
    version. All small buffers are compared in one go. Those that lie in a parameter's memory, which patches change,
    and those that are not strided go by their version.

    Writing back goes around autograd: a graph that has kept a buffer does not see a change that is taken back.
    """

    def __init__(self, module: nn.Module) -> None:
        weights = {memory_of(weight) for weight in module.parameters()}
        self._saved = [
            _save(part, name, buffer, weights) for part in module.modules() for name, buffer in part._buffers.items()
        ]
        self._objects = [
            (number, saved.part._buffers, saved.name, saved.buffer) for number, saved in enumerate(self._saved)
        ]
        there = [
            (number, saved, saved.buffer) for number, saved in enumerate(self._saved) if saved.buffer is not None
        ]
        self._memory = [(number, buffer, saved.bits[0].data_ptr()) for number, saved, buffer in there if saved.bits]
        self._odd = [number for number, saved, _ in there if not saved.bits]
        self._small, self._large = _grouped(self._saved)

    def restore(self) -> None:
        """Put back values and objects."""
        changed = self._changed()
        if changed:  # in the mode in which a buffer that was made in it may be written to
            within(Inference(True), lambda: self._put_back(changed))

    def changes(self) -> list[BufferChange]:
        """Copies of what is not as it was."""
        found: list[BufferChange] = []
        for number in self._changed():
            part, name, buffer, *_ = self._saved[number]
            now = part._buffers.get(name)
            found.append((number, now is not buffer, None if now is None else now.clone()))
        return found

    def change(self, changes: list[BufferChange]) -> None:
        """Make such changes again, as often as one likes."""
        for number, replaced, value in changes:
            part, name, buffer, *_ = self._saved[number]
            if replaced or buffer is None or value is None:
                part._buffers[name] = None if value is None else value.clone()
            else:
                buffer.data.copy_(value)

    def _changed(self) -> list[int]:
        """Numbers of the buffers that are not as they were, or may not be: of each child, so it is to be quick."""
        found = [number for number, buffers, name, buffer in self._objects if buffers.get(name) is not buffer]
        found += [number for number, buffer, place in self._memory if buffer.data_ptr() != place]
        found += [number for number in self._odd if self._is_touched(self._saved[number])]
        doubtful = self._large
        for numbers, views, value in self._small:
            if not torch.equal(torch.cat(views), value):
                doubtful = doubtful + numbers
        found += [number for number in doubtful if (bits := self._saved[number].bits) and not torch.equal(*bits)]
        return sorted(set(found)) if found else found

    def _is_touched(self, saved: _Saved) -> bool:
        return saved.buffer is not None and (saved.version is None or saved.buffer._version != saved.version)

    def _put_back(self, numbers: list[int]) -> None:
        for number in numbers:
            part, name, buffer, value, _, bits = self._saved[number]
            part._buffers[name] = buffer
            if buffer is None or value is None:
                continue
            if bits is None:
                buffer.copy_(value)
                self._saved[number] = _Saved(part, name, buffer, value, _version(buffer), None)
                continue
            if buffer.data_ptr() != bits[0].data_ptr():
                buffer.data = bits[0].view(value.dtype)
            if not torch.equal(*bits):
                buffer.data.copy_(value)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape and type are the same, NaN and the sign of zero included."""
    words = _WORDS.get(one.element_size())
    if words is None or one.layout != torch.strided or one.is_quantized:
        return torch.equal(one.detach(), other.detach())
    return torch.equal(one.detach().view(words), other.detach().view(words))


def _save(part: nn.Module, name: str, buffer: Tensor | None, weights: set[int]) -> _Saved:
    if buffer is None:
        return _Saved(part, name, None, None, None, None)
    value = buffer.clone()
    words = _WORDS.get(buffer.element_size())
    odd = type(buffer.data) is not Tensor or buffer.layout != torch.strided or buffer.is_quantized or buffer.is_meta
    if odd or words is None or memory_of(buffer) in weights:
        return _Saved(part, name, buffer, value, _version(buffer), None)
    return _Saved(part, name, buffer, value, None, (buffer.data.view(words), value.data.view(words)))


def _grouped(saved: list[_Saved]) -> tuple[list[tuple[list[int], list[Tensor], Tensor]], list[int]]:
    """Small buffers of each device and word, as (numbers, flat views, copy in one piece), and the others' numbers."""
    groups: defaultdict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    large = []
    for number, (*_, bits) in enumerate(saved):
        if bits and bits[0].is_contiguous() and bits[0].numel() < _SMALL:
            groups[bits[0].device, bits[0].dtype].append(number)
        elif bits:
            large.append(number)
    made = []
    for numbers in groups.values():
        pairs = [bits for number in numbers if (bits := saved[number].bits)]
        made.append((numbers, [now.view(-1) for now, _ in pairs], torch.cat([value.view(-1) for _, value in pairs])))
    return made, large


def _version(tensor: Tensor) -> int | None:
    """Count of a tensor's in-place changes; a tensor made in inference mode has none."""
    return None if tensor.is_inference() else tensor._version
