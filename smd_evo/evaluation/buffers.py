"""Buffers: a network's buffers are put back, by their bits, after a forward pass that changed some."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from smd_evo.core.blocks import Inference, within
from smd_evo.core.exclusive import memory_of

__all__ = ["BufferChange", "Buffers", "same_bits", "words_of"]

BufferChange = tuple[int, bool, Tensor | None]
"""Number of a buffer, whether it is another object now, and its value."""

_Place = tuple[int, torch.Size, tuple[int, ...]]
"""Where a tensor begins, its shape and strides."""

_SMALL = 2**16
"""Elements of a buffer below which it is compared together with others."""

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Buffers:
    """The buffers of a network as they are now, to be put back.

    Args:
        module: the network.
        patched: of its buffers those that are weights, which patches change and take back: of these only the object
            counts, and there is no copy.

    Bits are compared, because ``batch_norm`` in training mode, for one, changes statistics without raising their
    version. All small buffers are compared in one go. Those that lie in a weight's memory, which patches change,
    and those that are not strided go by their version.

    Writing back goes around autograd: a graph that has kept a buffer does not see a change that is taken back.
    """

    def __init__(self, module: nn.Module, patched: Iterable[Tensor] = ()) -> None:
        own = {id(weight): memory_of(weight) for weight in patched}
        weights = {*own.values(), *map(memory_of, module.parameters())}
        self._parts = [(part._buffers, dict(part._buffers.items())) for part in module.modules()]
        self._count = sum(len(first) for _, first in self._parts)
        self._all = [(buffers, name, buffer) for buffers, first in self._parts for name, buffer in first.items()]
        self._bits: dict[int, tuple[Tensor, Tensor]] = {}  # memory as integers, and a copy
        self._places: list[tuple[int, Tensor, _Place]] = []  # buffer, and how it lies in memory
        self._memory: dict[int, Tensor] = {}
        self._by_version: dict[int, tuple[Tensor, Tensor, int | None]] = {}  # buffer, copy, count of in-place changes
        groups: defaultdict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
        self._large = []
        for number, (_, _, buffer) in enumerate(self._all):
            if buffer is None or id(buffer) in own:
                continue
            words = words_of(buffer)
            if words is None or memory_of(buffer) in weights:
                self._by_version[number] = buffer, buffer.clone(), _version(buffer)
                continue
            self._memory[number] = memory = buffer.data
            self._places.append((number, buffer, _place(memory)))
            now = memory.view(words)
            if now.is_contiguous() and now.numel() < _SMALL:
                self._bits[number] = now.view(-1), now
                groups[now.device, words].append(number)
            else:
                self._bits[number] = now, now.clone()
                self._large.append(number)
        self._small = [self._together(numbers) for numbers in groups.values()]

    def _together(self, numbers: list[int]) -> tuple[list[int], list[Tensor], Tensor]:
        """Numbers of small buffers, their memory, and a copy of it in one piece."""
        views = [self._bits[number][0] for number in numbers]
        copy = torch.cat(views)
        for number, view, piece in zip(numbers, views, copy.split([len(view) for view in views]), strict=True):
            self._bits[number] = view, piece
        return numbers, views, copy

    def restore(self) -> None:
        """Put back values and objects; take away what was not there."""
        if sum(len(buffers) for buffers, _ in self._parts) != self._count:
            for buffers, first in self._parts:
                for name in {*buffers} - {*first}:
                    del buffers[name]
        changed = self._changed()
        if changed:  # in the mode in which a buffer that was made in it may be written to
            within(Inference(True), lambda: self._put_back(changed))

    def changes(self) -> list[BufferChange]:
        """Copies of what is not as it was."""
        found: list[BufferChange] = []
        for number in self._changed():
            buffers, name, buffer = self._all[number]
            now = buffers.get(name)
            found.append((number, now is not buffer, None if now is None else now.clone()))
        return found

    def change(self, changes: list[BufferChange]) -> None:
        """Make such changes again, as often as one likes."""
        for number, replaced, value in changes:
            buffers, name, buffer = self._all[number]
            if replaced or buffer is None or value is None:
                buffers[name] = None if value is None else value.clone()
            else:
                buffer.data.copy_(value)

    def _changed(self) -> list[int]:
        """Numbers of the buffers that are not as they were, or may not be: of each child, so it is to be quick."""
        found = [
            number for number, (buffers, name, buffer) in enumerate(self._all) if buffers.get(name) is not buffer
        ]
        found += [number for number, buffer, place in self._places if _place(buffer) != place]
        for number, (buffer, _, version) in self._by_version.items():
            if version is None or buffer._version != version:
                found.append(number)
        doubtful = list(self._large)
        for numbers, views, copy in self._small:
            if not torch.equal(torch.cat(views), copy):
                doubtful += numbers
        found += [number for number in doubtful if not torch.equal(*self._bits[number])]
        return sorted(set(found))

    def _put_back(self, numbers: list[int]) -> None:
        for number in numbers:
            buffers, name, buffer = self._all[number]
            buffers[name] = buffer
            if buffer is None:
                continue
            if number in self._by_version:
                _, copy, _ = self._by_version[number]
                buffer.copy_(copy)
                self._by_version[number] = buffer, copy, _version(buffer)
                continue
            if number not in self._bits:
                continue
            now, copy = self._bits[number]
            if _place(buffer) != _place(self._memory[number]):  # another memory, or shape, was given to it
                buffer.data = self._memory[number]
            if not torch.equal(now, copy):
                now.copy_(copy)


def _place(tensor: Tensor) -> _Place:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape and type are the same, NaN and the sign of zero included."""
    words = words_of(one)
    if words is None:
        return torch.equal(one.detach(), other.detach())
    return torch.equal(one.detach().view(words), other.detach().view(words))


def words_of(tensor: Tensor) -> torch.dtype | None:
    """The integers that a tensor's elements may be seen as; None where they may not."""
    plain = type(tensor.data) is Tensor and tensor.layout == torch.strided and not tensor.is_quantized
    return _WORDS.get(tensor.element_size()) if plain and not tensor.is_meta else None


def _version(tensor: Tensor) -> int | None:
    """Count of a tensor's in-place changes; a tensor made in inference mode has none."""
    return None if tensor.is_inference() else tensor._version
