"""The selected parameters of a network as one flat vector, to read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Iterator
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn

from smd_evo.core.delta import SparseDelta, SparseValues
from smd_evo.core.exact import deviation
from smd_evo.core.exclusive import alone, memory_of, things_of
from smd_evo.core.integers import integers_of
from smd_evo.core.layout import Layout, Slot
from smd_evo.core.selection import Select, select_names, settled, spelt_out
from smd_evo.core.supported import check_integers, check_not_frozen, check_supported, without_aliases
from smd_evo.core.wrapped import plain
from smd_evo.errors import InvalidType, InvalidValue, WrongParent, check_flag, shown
from smd_evo.markup import html_table
from smd_evo.mends import network_mend

__all__ = ["Elements"]


class Elements:
    """The selected parameters of a network to read: which there are, where, and what they hold.

    See :class:`smd_evo.core.parameters.ParameterSpace`, which makes children of them.
    """

    def __init__(self, module: nn.Module, select: Select = "all", *, include_frozen: bool = False) -> None:
        if not isinstance(module, nn.Module):
            raise InvalidType(f"module: expected a torch.nn.Module, got {shown(module)}{network_mend(module)}")
        check_not_frozen(module)
        found, frozen = dict(module.named_parameters()), check_flag("include_frozen", include_frozen)
        candidates = [name for name, tensor in found.items() if frozen or tensor.requires_grad]
        integers = integers_of(module)
        select = settled(select)
        spelt = spelt_out(integers, select)
        if not candidates and not spelt:
            mend = "a quantized network keeps none"
            mend = "pass include_frozen=True, or call its requires_grad_(True)" if found else mend
            mend = f"name its integers, as in select={next(iter(integers))!r}" if integers else mend
            if any(".lora_" in name for name in found):
                mend = "load the adapter with is_trainable=True, as PeftModel.from_pretrained leaves it frozen"
                mend += ", or enable it"
            raise InvalidValue(f"module: expected trainable parameters, got {len(found)} frozen ones; {mend}")
        chosen: dict[str, Tensor] = {}
        for name in select_names(module, candidates, select, integers):
            if name in spelt:
                check_integers(name, integers[name])
            else:
                check_supported(name, found[name])
            chosen[name] = integers[name].tensor if name in spelt else found[name]
        chosen = without_aliases(chosen)
        if not any(tensor.numel() for tensor in chosen.values()):
            raise InvalidValue(f"select: expected at least one parameter element, got none from {select!r}")
        self.module = module
        # Integers last, also those that are parameters: with the frozen ones these come in the parameters' order.
        self.names = tuple(sorted(chosen, key=lambda name: name in spelt))
        self._floats = tuple(found[name] for name in chosen if name not in spelt)
        self._places = tuple(integers[name] for name in chosen if name in spelt)
        self._layout: Layout | None = None

    @property
    def _parameters(self) -> tuple[Tensor, ...]:
        return (*self._floats, *(place.tensor for place in self._places)) if self._places else self._floats

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The selected tensors as they are now, in the order of :attr:`names`."""
        return self._parameters

    @property
    def integers(self) -> tuple[str, ...]:
        """Names of the selected tensors of integers, which come last."""
        return self.names[len(self._floats) :]

    @property
    def layout(self) -> Layout:
        """Names, shapes and scales of the tensors; the scales are read from the parent at the first use."""
        return self._layout or self._read_layout()

    @alone
    def _read_layout(self) -> Layout:
        if self._layout is None:
            slots = zip(self.names, self._parameters, strict=True)
            self._layout = Layout(tuple(Slot(name, tuple(p.shape), _scale(p)) for name, p in slots))
        return self._layout

    def __repr__(self) -> str:
        own = [each for each in self.tensors if not isinstance(each, nn.Parameter)]
        kind, every = type(self.module).__name__, sum(each.numel() for each in (*self.module.parameters(), *own))
        return f"{type(self).__name__}({kind}: {self.size:,} of {every:,} parameters, in {len(self.names)} tensor(s))"

    def _repr_html_(self) -> str:
        slots = {slot.name: slot for slot in self.layout.slots}
        rows = [
            [name, "x".join(map(str, each.shape)), f"{each.numel():,}", f"{slots[name].scale:.3g}"]
            if name in slots
            else [name, "x".join(map(str, each.shape)), f"{each.numel():,}", "not selected"]
            for name, each in {**dict(self.module.named_parameters()), **dict(self._named())}.items()
        ]
        return html_table(repr(self), ["tensor", "shape", "size", "scale"], rows)

    @property
    def size(self) -> int:
        """D, the number of coordinates."""
        return sum(parameter.numel() for parameter in self._parameters)

    @property
    def device(self) -> torch.device:
        """Where the first selected parameter is now; recipes are replayed there."""
        return self._parameters[0].device

    @alone
    def fingerprint(self) -> str:
        """32 hexadecimal digits of the parent's whole state and of the selection.

        All parameters count, and all buffers that state dicts hold (not those of ``persistent=False``), in logical
        order and by their bits, so that another device or memory format makes no difference, and other statistics of
        a normalisation layer do.
        """
        digest = hashlib.blake2b(self.layout.digest.encode(), digest_size=16)
        for name, tensor in self.module.state_dict(keep_vars=True).items():
            for own, part in plain(name, tensor) if isinstance(tensor, Tensor) else ():
                data = part.detach().contiguous().cpu()
                digest.update(f"{own} {data.dtype} {list(data.shape)} ".encode())
                digest.update(data.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @alone
    def values_at(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The parameters at sorted distinct coordinates, ``dtype`` [k] on :attr:`device`."""
        nothing = SparseDelta(
            indices.to(self.device), torch.zeros(len(indices), dtype=torch.float32, device=self.device)
        )
        pieces = [elements.index_select(0, places) for elements, places, _ in self._pieces(nothing)]
        return torch.cat([nothing.values[:0].to(dtype), *(piece.to(self.device, dtype) for piece in pieces)])

    @alone
    def flat(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """All of the parameters, ``dtype`` [D] on :attr:`device`."""
        return torch.cat([each.detach().reshape(-1).to(self.device, dtype) for each in self._parameters])

    @property
    def dtype(self) -> torch.dtype:
        """The narrowest type that holds every selected parameter exactly."""
        return reduce(torch.promote_types, (parameter.dtype for parameter in self._parameters))

    @property
    def narrowest(self) -> torch.dtype:
        """The type of the selected parameters that has the fewest digits; float32 where all are integers."""
        kinds = [parameter.dtype for parameter in self._floats] or [torch.float32]
        return max(kinds, key=lambda dtype: torch.finfo(dtype).eps)

    @property
    def narrow(self) -> bool:
        """Whether some selected parameters have fewer than 32 bits, so that small steps of them are lost."""
        return any(parameter.itemsize < 4 for parameter in self._parameters)

    def coarseness(self, indices: Tensor) -> list[tuple[int, int, float]]:
        """How far rounding may leave sorted coordinates from what they were to be: (start, end, most) a tensor.

        Half a step for integers; infinity for floats of 16 bits, whose numbers say it; 0 for wider ones, whose steps
        are not lost before they are beyond all use.
        """
        bounds = self.layout.bounds(indices)
        most = [0.5 if each.itemsize < 2 else 0.0 if each.itemsize > 2 else math.inf for each in self._parameters]
        return list(zip(bounds[:-1], bounds[1:], most, strict=True))

    def are_integers(self, indices: Tensor) -> Tensor:
        """Which of some coordinates are of tensors of integers, bool [k]: the last ones."""
        return indices >= self.layout.offsets[len(self._floats)]

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        return zip(self.names, self._parameters, strict=True)

    def check_coordinates(self, delta: SparseDelta | SparseValues) -> None:
        """Raise WrongParent for coordinates that this space does not have."""
        if len(delta) and int(delta.indices[-1]) >= self.layout.size:
            raise WrongParent(
                f"delta: expected coordinates below D = {self.layout.size}, got {int(delta.indices[-1])}; "
                "it was made for another network or selection"
            )

    def check_parts(self, things: Container[int]) -> None:
        """Raise WrongParent if a selected parameter is no longer the network's: patching it would change nothing.

        Args:
            things: what the network consisted of shortly before.
        """
        named = list(zip(self.names, self._floats, strict=False))
        for _ in range(2):
            named = [(name, each) for name, each in named if each.numel() and memory_of(each) not in things]
            if not named:
                return
            things = frozenset(things_of(self.module))  # another thread may have left it only then
        raise WrongParent(
            f"{named[0][0]}: expected the parameter that the network had when its space was made, got another one; "
            "make that anew after load_state_dict(assign=True), or when layers were replaced"
        )

    def _pieces(self, delta: SparseDelta | SparseValues) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(flat memory of a parameter, places in it, values) for each parameter that a delta touches."""
        self.check_coordinates(delta)
        layout = self.layout
        bounds = layout.bounds(delta.indices)
        for number, (parameter, slot) in enumerate(zip(self._parameters, layout.slots, strict=True)):
            start, end = bounds[number], bounds[number + 1]
            if start == end:
                continue
            if tuple(parameter.shape) != slot.shape:
                raise WrongParent(f"{slot.name}: expected shape {slot.shape}, got {tuple(parameter.shape)}")
            local = delta.indices[start:end] - layout.offsets[number]
            elements, places = _in_memory(parameter, local.to(parameter.device))
            yield elements, places, delta.values[start:end].to(parameter.device)


def _in_memory(parameter: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
    """A flat view of a parameter's memory, and where the elements of these logical positions are in it.

    ``.data`` on purpose: the patch is taken back, so it must not count as a change of the user's tensor.
    """
    data = parameter.data
    if data.is_contiguous():
        return data.view(-1), local
    places = torch.zeros_like(local)
    for length, stride in zip(reversed(data.shape), reversed(data.stride()), strict=True):
        places += local % length * stride
        local = local // length
    return data.as_strided((data.numel(),), (1,)), places


def _scale(parameter: Tensor) -> float:
    """Standard deviation of a tensor, rounded to float32; 1 for one element or equal ones, which have none."""
    if parameter.numel() < 2:
        return 1.0
    if parameter.dtype is torch.float64:  # where the mean of equal values may be another one
        low, high = parameter.detach().aminmax()
        if low == high:
            return 1.0
    return float(np.float32(deviation(parameter))) or 1.0
