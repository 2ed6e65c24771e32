"""Model soups: the mean of the children's weights instead of the mean of their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from smd_evo.core.delta import SparseValues, union
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.ensemble.weights import check_weights
from smd_evo.errors import InvalidType, shown

__all__ = ["soup"]


def soup(space: ParameterSpace, members: Sequence[Child], weights: Sequence[float] | None = None) -> SparseValues:
    """The weighted mean of children of one parent, itself a child: one network at inference.

    Args:
        space: the parent's.
        members: M children.
        weights: M numbers > 0 that add up to one; by default all alike.

    Returns:
        New values of all coordinates that any member touches, summed in float64. It goes wherever a recipe goes:
        ``space.make_child(soup(...))`` is the network.

    Raises:
        InvalidValue, InvalidType: no space or members, or unusable weights.

    Example:
        >>> from torch import nn
        >>> from smd_evo import ParameterSpace, SparseDelta
        >>> space = ParameterSpace(nn.Linear(1, 2, bias=False))
        >>> children = [SparseDelta(torch.tensor([place]), torch.ones(1)) for place in (0, 1)]
        >>> mean = soup(space, children)
        >>> (mean.values - space.module.weight[:, 0].detach()).tolist()
        [0.5, 0.5]

    Reference: Wortsman et al., "Model soups", ICML 2022.
    """
    if not isinstance(space, ParameterSpace):
        raise InvalidType(
            f"space: expected a ParameterSpace, got {type(space).__name__}; ParameterSpace(network) is one"
        )
    if not isinstance(members, Sequence):
        raise InvalidType(f"members: expected a list of children, got {shown(members)}; put it in a list")
    shares = check_weights(weights, len(members))
    values = [space.values_of(member) for member in members]
    indices = union([own.indices for own in values], space.device)
    total = torch.full((len(indices),), -0.0, dtype=torch.float64, device=space.device)  # -0.0 + x is x, also -0.0
    for own, share in zip(values, shares, strict=True):
        own_values = space.while_applied(own, partial(space.values_at, indices, torch.float64))
        total += share / sum(shares) * own_values
    return SparseValues(indices, total.to(torch.promote_types(space.dtype, torch.float32)))
