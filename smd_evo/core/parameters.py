"""ParameterSpace: the selected parameters of a network as one flat vector that deltas are applied to."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor

from smd_evo.core.applying import Applying, Child
from smd_evo.core.blocks import within
from smd_evo.core.copying import without_graphs
from smd_evo.core.exclusive import AloneState, Exclusive, alone, things_of
from smd_evo.core.integers import Rounding
from smd_evo.core.patches import Patched, Patches
from smd_evo.core.twins import sharing
from smd_evo.errors import WrongParent

__all__ = ["Child", "ParameterSpace"]


class ParameterSpace(Applying):
    """The selected parameters of ``module``, row-major, one behind the other: D coordinates.

    Tied parameters count once, frozen ones only on request, buffers never, unless they are int8 or uint8 weights that
    ``select`` spells out: those are counted in steps of their quantisation, and come last. Coordinates follow the
    logical order of the elements, so a child is the same in any memory format.

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
        UnsupportedParameter: a selected parameter is packed, lazy, on the meta device, sparse, not of a 16-, 32- or
            64-bit floating type (or int8 or uint8, if it is spelt out), or overlaps another one in memory without
            being the same; or the network was compiled with frozen weights.
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

    @alone
    def fold(self, child: Child) -> None:
        """Make a child the parent, for good: what was to be applied to it gives the same bits as before.

        Scales of relative mutations stay those of the first parent. An interrupted fold leaves the old one.

        Raises:
            WrongParent: as :meth:`applied`; or a child is applied just now.
        """
        if self._is_child:
            raise WrongParent("fold: expected the parent itself, got it inside an applied() block; leave that first")
        within(self._patched(child, self._patches.keep), lambda: None)

    @alone
    def twin(self) -> ParameterSpace:
        """The same parent once more, to be moved on its own: what is not selected both have in common.

        For networks that nobody else has: whoever writes to what is not selected changes both.

        Example:
            >>> from torch import nn
            >>> from smd_evo import RandomSubspace, Mutation
            >>> space = ParameterSpace(nn.Linear(3, 2), "bias")
            >>> twin = space.twin()
            >>> twin.fold(Mutation(1, 0.5, RandomSubspace(1.0), 2))
            >>> torch.equal(twin.module.bias, space.module.bias)
            False
            >>> twin.module.weight.data_ptr() == space.module.weight.data_ptr()
            True
        """
        return copy.deepcopy(self, sharing(self.module, self.tensors))

    @alone
    def copied(self) -> dict[str, Tensor]:
        """The selected parameters by their names, as copies on the CPU."""
        return {name: parameter.detach().to("cpu", copy=True) for name, parameter in self._named()}

    @alone
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Make what :meth:`copied` gave the parent, to the bit; scales of relative mutations stay.

        Raises:
            WrongParent: other names, shapes or types, a child is applied just now, or a parameter is no longer the
                network's; nothing has changed then.

        Example:
            >>> from torch import nn
            >>> space = ParameterSpace(nn.Linear(3, 2))
            >>> values = space.copied()
            >>> space.module.weight.data += 1
            >>> space.load(values)
            >>> torch.equal(space.module.weight, values["weight"])
            True
        """
        here = {name: (parameter.shape, parameter.dtype) for name, parameter in self._named()}
        if self._is_child or here != {name: (tensor.shape, tensor.dtype) for name, tensor in values.items()}:
            raise WrongParent(
                f"values: expected the {len(here)} selected parameters in their shapes and types, got {len(values)} "
                "others; take them from the same network and selection"
            )
        self.check_parts(frozenset(things_of(self.module)))
        torch.clear_autocast_cache()
        _ = self.layout  # read from the first parent, not from this one
        whole = False
        try:
            self._copy(values)
            whole = True
        finally:
            if not whole:  # Ctrl-C: half of it is nobody's parent
                self._copy(values)

    @property
    def _is_child(self) -> bool:
        """Whether a child is applied just now, also if another space of something of the network has done that."""
        return self.depth > 0 or any(isinstance(block, Patched) for block in Exclusive(self.module).around())

    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._named():
            parameter.data.copy_(values[name])

    def __getstate__(self) -> dict[str, Any]:
        return AloneState(self.module, self.__dict__ | {"_patches": Patches()})

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_parameters" in state:  # a pickle from before there were integers
            state = {**state, "_floats": state["_parameters"], "_places": (), "rounding": Rounding()}
            del state["_parameters"]
        self.__dict__.update(state)

    @alone
    def __deepcopy__(self, memo: dict[int, Any]) -> ParameterSpace:
        other = memo[id(self)] = object.__new__(type(self))
        other.__dict__.update(copy.deepcopy(self.__getstate__(), without_graphs(self.module, memo)))
        return other


def _by_value(space: ParameterSpace) -> tuple[Any, ...]:
    """To another process as a copy: torch would share the memory, and the processes patch one network at a time."""
    return pickle.loads, (pickle.dumps(space),)


ForkingPickler.register(ParameterSpace, _by_value)
