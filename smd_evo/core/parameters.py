"""ParameterSpace: the selected parameters of a network as one flat vector that deltas are applied to."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import reduce
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from smd_evo.core.blocks import within
from smd_evo.core.delta import SparseDelta, SparseValues, union
from smd_evo.core.exact import deviation
from smd_evo.core.exclusive import Exclusive, alone
from smd_evo.core.layout import Layout, Slot
from smd_evo.core.mutation import Lineage, Mutation, replay
from smd_evo.core.patches import Patched, Patches
from smd_evo.core.selection import Select, select_names
from smd_evo.core.supported import check_not_frozen, check_supported, without_aliases
from smd_evo.errors import InvalidType, InvalidValue, WrongParent, check_flag

__all__ = ["Child", "ParameterSpace"]

T = TypeVar("T")

Child = Mutation | Lineage | SparseDelta | SparseValues | tuple[SparseDelta | SparseValues, ...]
"""What stands for a child of a parent: a recipe, a sequence of recipes, a difference, new values, several."""

_AT_ONCE = 2**15
"""Coordinates that are replayed in one go: as many as the noise takes through a CPU's cache at a time."""

_WORTH_IT = 4
"""Children that are replayed in one go, if it is not one by one: sorting them apart costs a little, too."""


class ParameterSpace:
    """The selected parameters of ``module``, row-major, one behind the other: D coordinates.

    Tied parameters count once, buffers never, frozen ones only on request. Coordinates follow the logical
    order of the elements, so a child is the same in any memory format.

    While a thread has a child applied, other threads that want the same network (its parameters, or a part of it, in
    this or another space) wait. A copy is of the network as it is, and has nothing applied.

    Args:
        module: a network; it is patched in place by :meth:`applied` and otherwise only read.
        select: which parameters: see :func:`smd_evo.core.selection.select_names`.
        include_frozen: also parameters that do not require gradients.

    Attributes:
        module: the network.
        names: names of the selected parameters, in order.

    Raises:
        UnsupportedParameter: a selected parameter is quantized, lazy, on the meta device, sparse, not of
            a 16-, 32- or 64-bit floating type, or overlaps another one in memory without being the same; or the
            network was compiled with frozen weights.
        InvalidValue: nothing is selected.

    Example:
        >>> from torch import nn
        >>> from smd_evo import RandomSubspace, Mutation
        >>> network = nn.Linear(3, 2)
        >>> space = ParameterSpace(network)
        >>> space.size, space.names
        (8, ('weight', 'bias'))
        >>> before = network.weight.clone()
        >>> with space.applied(Mutation(1, 0.5, RandomSubspace(0.5), 2)):
        ...     bool((network.weight == before).all())
        False
        >>> torch.equal(network.weight, before)
        True
    """

    def __init__(self, module: nn.Module, select: Select = "all", *, include_frozen: bool = False) -> None:
        if not isinstance(module, nn.Module):
            raise InvalidType(f"module: expected a torch.nn.Module, got {type(module).__name__}")
        check_not_frozen(module)
        found, frozen = dict(module.named_parameters()), check_flag("include_frozen", include_frozen)
        candidates = [name for name, tensor in found.items() if frozen or tensor.requires_grad]
        if not candidates:
            mend = "pass include_frozen=True to mutate those" if found else "a quantized network keeps none"
            raise InvalidValue(f"module: expected trainable parameters, got {len(found)} frozen ones; {mend}")
        chosen = {name: found[name] for name in select_names(module, candidates, select)}
        for name, tensor in chosen.items():
            check_supported(name, tensor)
        chosen = without_aliases(chosen)
        if not any(tensor.numel() for tensor in chosen.values()):
            raise InvalidValue(f"select: expected at least one parameter element, got none from {select!r}")
        self.module = module
        self.names = tuple(chosen)
        self._parameters = tuple(chosen.values())
        self._layout: Layout | None = None
        self._patches = Patches()

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

        All parameters and buffers count, in logical order and by their bits, so that another device or
        memory format makes no difference, and other statistics of a normalisation layer do.
        """
        digest = hashlib.blake2b(self.layout.digest.encode(), digest_size=16)
        for name, tensor in self.module.state_dict(keep_vars=True).items():
            if isinstance(tensor, Tensor):
                data = tensor.detach().contiguous().cpu()
                digest.update(f"{name} {data.dtype} {list(data.shape)} ".encode())
                digest.update(data.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def deltas(self, child: Child) -> list[SparseDelta | SparseValues]:
        """The deltas that make a child of the parent, in the order of their application."""
        if isinstance(child, Lineage):
            return [step.delta(self.layout, self.device) for step in child.steps]
        if isinstance(child, Mutation):
            return [child.delta(self.layout, self.device)]
        if isinstance(child, SparseDelta | SparseValues):
            return [child.to(self.device)]
        if isinstance(child, tuple):
            return [delta for part in child for delta in self.deltas(part)]
        raise InvalidType(f"child: expected a Mutation, Lineage or SparseDelta, got {type(child).__name__}")

    def replayed(self, children: Iterable[Child]) -> Iterator[tuple[SparseDelta | SparseValues, ...]]:
        """The deltas of each child; recipes of few coordinates are replayed several at a time, to the same bits."""
        waiting: list[tuple[Mutation, ...]] = []
        at_once = 1
        for child in children:
            if not isinstance(child, Mutation | Lineage):
                yield from self._replayed(waiting)
                waiting = []
                yield tuple(self.deltas(child))
                continue
            waiting.append(child.steps if isinstance(child, Lineage) else (child,))
            if len(waiting) >= at_once:
                done = self._replayed(waiting)
                touched = sum(len(delta) for deltas in done for delta in deltas)
                at_once = _AT_ONCE * len(done) // max(1, touched)
                at_once = at_once if at_once >= _WORTH_IT else 1
                waiting = []
                yield from done
        yield from self._replayed(waiting)

    def _replayed(self, lineages: list[tuple[Mutation, ...]]) -> list[tuple[SparseDelta, ...]]:
        steps = [step for lineage in lineages for step in lineage]
        deltas = iter(replay(steps, self.layout, self.device) if steps else ())
        return [tuple(islice(deltas, len(lineage))) for lineage in lineages]

    def applied(self, child: Child) -> AbstractContextManager[nn.Module]:
        """Turn the network into a child, in place in O(k), for the duration of a ``with`` block.

        Each delta is added at its coordinates in the wider of float32 and the parameter's type and rounded
        once; new values are rounded as they are. On the way out the saved bits are copied back, whatever
        happened inside; nothing is ever subtracted. Blocks may be nested; the inner child is then a child of the
        outer one. Other threads that want this network wait until the block is left.

        Args:
            child: a recipe, a lineage, a delta, or new values.

        Raises:
            WrongParent: a coordinate lies outside this space, or a parameter changed its shape.
            NetworkInUse: another thread has the network and will not leave it.
        """
        return self._patched(child)

    def while_applied(self, child: Child, function: Callable[[], T]) -> T:
        """What a function returns while a child is applied; an interrupt at any moment leaves the parent."""
        return within(self._patched(child), function)

    def _patched(self, child: Child, then: Callable[[], object] = lambda: None) -> Patched:
        def patch() -> None:
            self._patch(child)
            then()

        return Patched(self.module, self._patches, patch)

    @alone
    def fold(self, child: Child) -> None:
        """Make a child the parent, for good: what was to be applied to it gives the same bits as before.

        Scales of relative mutations stay those of the first parent. An interrupted fold leaves the old one.

        Raises:
            WrongParent: as :meth:`applied`; or a child is applied just now.
        """
        if self.depth:
            raise WrongParent("fold: expected the parent itself, got it inside an applied() block; leave that first")
        within(self._patched(child, self._patches.keep), lambda: None)

    @alone
    def copied(self) -> dict[str, Tensor]:
        """The selected parameters by their names, as copies on the CPU."""
        return {name: parameter.detach().to("cpu", copy=True) for name, parameter in self._named()}

    @alone
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Make what :meth:`copied` gave the parent, to the bit; scales of relative mutations stay.

        Raises:
            WrongParent: other names, shapes or types, or a child is applied just now; nothing has changed then.

        Example:
            >>> space = ParameterSpace(nn.Linear(3, 2))
            >>> values = space.copied()
            >>> space.module.weight.data += 1
            >>> space.load(values)
            >>> torch.equal(space.module.weight, values["weight"])
            True
        """
        here = {name: (parameter.shape, parameter.dtype) for name, parameter in self._named()}
        if self.depth or here != {name: (tensor.shape, tensor.dtype) for name, tensor in values.items()}:
            raise WrongParent(
                f"values: expected the {len(here)} selected parameters in their shapes and types, got {len(values)} "
                "others; take them from the same network and selection"
            )
        torch.clear_autocast_cache()
        _ = self.layout  # read from the first parent, not from this one
        whole = False
        try:
            self._copy(values)
            whole = True
        finally:
            if not whole:  # Ctrl-C: half of it is nobody's parent
                self._copy(values)

    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._named():
            parameter.data.copy_(values[name])

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        return zip(self.names, self._parameters, strict=True)

    @alone
    def values_at(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The parameters at sorted distinct coordinates, ``dtype`` [k] on :attr:`device`."""
        nothing = SparseDelta(
            indices.to(self.device), torch.zeros(len(indices), dtype=torch.float32, device=self.device)
        )
        pieces = [elements.index_select(0, places) for elements, places, _ in self._pieces(nothing)]
        return torch.cat([nothing.values[:0].to(dtype), *(piece.to(self.device, dtype) for piece in pieces)])

    @property
    def dtype(self) -> torch.dtype:
        """The narrowest type that holds every selected parameter exactly."""
        return reduce(torch.promote_types, (parameter.dtype for parameter in self._parameters))

    @property
    def narrowest(self) -> torch.dtype:
        """The type of the selected parameters that has the fewest digits."""
        return max((parameter.dtype for parameter in self._parameters), key=lambda dtype: torch.finfo(dtype).eps)

    @alone
    def values_of(self, child: Child) -> SparseValues:
        """A child as one set of new values: the same bits, whatever steps it was made of.

        Float32, or float64 where a selected parameter is.
        """
        deltas = self.deltas(child)
        wide = torch.promote_types(self.dtype, torch.float32)
        indices = deltas[0].indices if len(deltas) == 1 else union([delta.indices for delta in deltas], self.device)
        return SparseValues(indices, self.while_applied(tuple(deltas), lambda: self.values_at(indices, wide)))

    def _patch(self, child: Child) -> None:
        torch.clear_autocast_cache()  # autocast keeps copies of the weights in low precision
        for delta in self.deltas(child):
            for elements, places, values in self._pieces(delta):
                old = elements.index_select(0, places)  # several times faster than elements[places]
                if isinstance(delta, SparseDelta):
                    values = old.to(torch.promote_types(old.dtype, torch.float32)).add(values)
                new = values.to(old.dtype)
                self._patches.write(elements, places, old, new)

    def make_child(self, child: Child) -> nn.Module:
        """A child as an independent network: a copy with nothing shared, in the parent's modes."""
        return self.while_applied(child, lambda: copy.deepcopy(self.module))

    @property
    def depth(self) -> int:
        """How many patches and blocks are in place now: 0 outside of all :meth:`applied` blocks."""
        return self._patches.depth

    def restore(self, depth: int = 0) -> None:
        """Take back all patches of this thread, or all but the first ``depth``, even while Ctrl-C is pressed.

        :meth:`applied` does this by itself. A caller that must survive an interrupt in the very moment in
        which a ``with`` block is left calls it once more in a ``finally`` of its own.
        """
        self._patches.restore(depth)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_patches": Patches()}

    @alone
    def __deepcopy__(self, memo: dict[int, Any]) -> ParameterSpace:
        other = memo[id(self)] = object.__new__(type(self))
        other.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return other

    def _pieces(self, delta: SparseDelta | SparseValues) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(flat memory of a parameter, places in it, values) for each parameter that a delta touches."""
        layout = self.layout
        if len(delta) and int(delta.indices[-1]) >= layout.size:
            raise WrongParent(
                f"delta: expected coordinates below D = {layout.size}, got {int(delta.indices[-1])}; "
                "it was made for another network or selection"
            )
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


def _by_value(space: ParameterSpace) -> tuple[Any, ...]:
    """To another process as a copy: torch would share the memory, and the processes patch one network at a time."""
    return pickle.loads, (within(Exclusive(space.module), lambda: pickle.dumps(space)),)


ForkingPickler.register(ParameterSpace, _by_value)


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
    return float(np.float32(deviation(parameter))) or 1.0
