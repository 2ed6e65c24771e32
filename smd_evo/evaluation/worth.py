"""Worth: which share of a forward pass children have from their parent, and whether that pays."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from smd_evo.core.delta import SparseDelta, SparseValues
from smd_evo.core.layout import Layout
from smd_evo.core.parameters import ParameterSpace
from smd_evo.evaluation.calls import Key
from smd_evo.evaluation.recording import Met

__all__ = ["pays", "seems_hopeless", "shared_calls", "touched_by"]

_LEAST = 0.2
"""Share of a forward pass that is worth the trouble."""

_PASSES = 1.5
"""What is saved of all children together must be more than recording costs: so many forward passes."""

_SMALL = 0.002
"""Share of a forward pass below which a call is rather made than compared."""


def touched_by(deltas: Collection[SparseDelta | SparseValues], layout: Layout) -> int:
    """Bits of the tensors that some deltas touch: 2 for the first, 4 for the second, and so on."""
    found = 0
    for delta in deltas:
        bounds = layout.bounds(delta.indices)
        for number in range(len(bounds) - 1):
            if bounds[number] < bounds[number + 1]:
                found |= 2 << number
    return found


def seems_hopeless(space: ParameterSpace, touched: int) -> bool:
    """Whether a child seems to share nothing, by a look at the names: not worth a forward pass to find out more.

    It has touched the first module that has parameters, and tensors that hold at least half of all elements.
    """
    sizes = {name: tensor.numel() for name, tensor in space.module.named_parameters()}
    first = next(iter(sizes)).rpartition(".")[0]
    slots = [slot for number, slot in enumerate(space.layout.slots) if touched & 2 << number]
    return any(slot.layer == first for slot in slots) and 2 * sum(slot.size for slot in slots) >= sum(sizes.values())


def shared_calls(met: Sequence[Met], touched: int) -> tuple[float, set[Key]]:
    """The outermost calls that do not depend on what a child has touched, and their share of the forward pass."""
    if not met or not met[0].cost:
        return 0.0, set()
    covered: list[bool] = []
    keys: set[Key] = set()
    saved = 0.0
    for call in met:
        inside = call.parent >= 0 and covered[call.parent]
        shared = call.usable and not call.sources & touched and call.cost >= _SMALL * met[0].cost
        covered.append(inside or shared)
        if shared and not inside:
            keys.add(call.key)
            saved += call.cost
    return saved / met[0].cost, keys


def pays(shares: Sequence[float], more: bool) -> bool:
    """Whether children that save these shares are worth a recording.

    Args:
        shares: of some of the children.
        more: whether there are others.
    """
    return bool(shares) and sum(shares) >= _LEAST * len(shares) and (more or sum(shares) >= _PASSES)
