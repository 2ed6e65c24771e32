"""Trial: whether a network's children may be evaluated together, by some that nobody has asked for."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from smd_evo.core.delta import SparseDelta, everything
from smd_evo.evaluation import sharing
from smd_evo.evaluation.batches import Batch
from smd_evo.evaluation.calls import alike, copied
from smd_evo.evaluation.guard import Evaluating
from smd_evo.evaluation.recording import Parts
from smd_evo.evaluation.sharing import Deltas
from smd_evo.evaluation.stack import Stack
from smd_evo.evaluation.tails import tails_in
from smd_evo.evaluation.turns import Turns
from smd_evo.evaluation.watching import Refused

__all__ = ["TOLERANCE", "tried"]

TOLERANCE = 0.5
"""How far outputs may be from those one by one, as a share of the largest: the epsilon of their type to this power.

Rounding stays far below; what exceeds it is computed from other weights.
"""

_KINDS = 0.0, 1 / 8, -1 / 8, 1 / 16
"""What all weights are moved by, in standard deviations of their tensors, in children that are tried."""


def tried(guard: Evaluating, turns: Turns, stack: Stack, batch: Batch) -> int:
    """Compare children in all places, among others, with the same one by one.

    Args:
        guard: of the network, entered.
        turns: of the children.
        stack: of the parent in all rows, which it is afterwards.
        batch: samples.

    Returns:
        the bytes of one child's outputs.

    Raises:
        Refused: children are not to be evaluated together, with the reason.
    """
    space = guard.space
    every = everything(space.size, space.device)
    scales = space.layout.scales(every)
    kinds: list[Deltas] = [(SparseDelta(every, (share * scales).float()),) for share in _KINDS]
    parts = Parts(space.module, space.names)
    alone = []
    for deltas in kinds:
        turns.fresh()
        before = sharing.state_of(guard), parts.attributes()
        alone.append(space.while_applied(deltas, lambda: tree_map(copied, batch.outputs(space.module))))
        if (sharing.state_of(guard), parts.attributes()) != before:
            raise Refused("a network that draws random numbers or leaves something behind")
    turns.fresh()
    if tails := tails_in(partial(stack.without_fallback, batch)):
        raise Refused(f"last bits of {', '.join(sorted(tails))}, which depend on a child's place")
    together: list[Any] = [None] * len(kinds)
    for turn in range(len(kinds)):
        order = [(place + turn) % len(kinds) for place in range(len(stack.values))]
        stack.fill([kinds[kind] for kind in order])
        turns.fresh()
        found = stack.outputs(batch)
        stack.clear([kinds[kind] for kind in order])
        for place, kind in enumerate(order):
            own = tree_map(lambda leaf, place=place: leaf[place], found)
            if together[kind] is None:
                together[kind] = own
            elif not alike(together[kind], own):
                raise Refused("outputs whose last bits depend on the other children in the pass")
    for one, other in zip(alone, together, strict=True):
        if not _is_near(one, other):
            raise Refused("outputs that are not those one by one")
    return sum(leaf.nbytes for leaf in tree_flatten(alone[0])[0])


def _is_near(one: Any, other: Any) -> bool:
    (leaves, structure), (others, like) = tree_flatten(one), tree_flatten(other)
    return structure == like and all(map(_is_near_tensor, leaves, others))


def _is_near_tensor(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype or not one.is_floating_point():
        return alike(one, other)
    eps, one, other = torch.finfo(one.dtype).eps, one.double(), other.double()
    same = (one == other) | (one.isnan() & other.isnan())
    most = eps**TOLERANCE * one[one.isfinite()].abs().amax() if bool(one.isfinite().any()) else 0.0
    return bool((same | ((one - other).abs() <= most)).all())
