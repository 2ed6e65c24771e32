"""The gradient that an evolution strategy estimates from the fitness of its children.

References:
    Salimans, Ho, Chen, Sidor, Sutskever, "Evolution Strategies as a Scalable Alternative to Reinforcement
    Learning", arXiv 1703.03864 (equation of algorithm 1; centred ranks).
    Wierstra et al., "Natural Evolution Strategies", JMLR 15, 2014 (fitness shaping).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from smd_evo.core import fast
from smd_evo.core.delta import SparseDelta
from smd_evo.core.layout import Layout
from smd_evo.core.mutation import Mutation
from smd_evo.core.subspace import Dense, Subspace
from smd_evo.errors import InvalidValue, check_choice

__all__ = ["centered_ranks", "es_gradient", "mixture"]


def centered_ranks(fitness: Tensor, sense: str) -> Tensor:
    """Ranks from -1/2 (worst) to 1/2 (best) in even steps; equal ones share the mean of their ranks.

    So children between which the fitness makes no difference make none, whatever their order.

    Args:
        fitness: [N], finite.
        sense: "min" if lower is better, "max" if higher is.

    Returns:
        float64 [N], of sum 0.

    Example:
        >>> centered_ranks(torch.tensor([3.0, 1.0, 9.0]), "max").tolist()
        [0.0, -0.5, 0.5]
        >>> centered_ranks(torch.tensor([3.0, 1.0, 1.0]), "min").tolist()
        [-0.5, 0.25, 0.25]

    Reference: arXiv 1703.03864, section 2.1, but for the ties.
    """
    check_choice("sense", sense, ("min", "max"))
    _, places, counts = fitness.unique(return_inverse=True, return_counts=True)
    middle = counts.cumsum(0).double() - (counts + 1).double() / 2
    ranks: Tensor = (middle / max(1, len(fitness) - 1) - 0.5 * (len(fitness) > 1))[places]
    return -ranks if sense == "min" else ranks


def es_gradient(
    mutations: Sequence[Mutation],
    weights: Tensor,
    layout: Layout,
    *,
    coordinates: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Direction of ascent that weighted mutations point to: time O(N k), memory that of the result.

    ``g = 1 / N * sum_i weights_i * sign_i * eps_i / sigma_i``, where ``eps_i`` is zero off the subspace of
    mutation i. Relative mutations search in units of each tensor's standard deviation; so is their g.

    Args:
        mutations: N recipes. Antithetic partners share their noise, which is drawn once.
        weights: [N], the larger the better: :func:`centered_ranks` of the fitness.
        layout: where the tensors lie.
        coordinates: the coordinates of a static subspace, if it is one: the result is of these only.
        device: where the result is made; each coordinate is summed in the order of the mutations.

    Returns:
        float32 [D], or [len(coordinates)].

    Raises:
        InvalidValue: no mutations, not as many weights, or mutations off ``coordinates``.

    Example:
        >>> from smd_evo import Dense
        >>> one = Mutation(key=1, sigma=0.5, subspace=Dense(), draw=0)
        >>> es_gradient([one, one.antithetic], torch.tensor([0.5, -0.5]), Layout.flat(3))
        tensor([-0.4139,  0.2473, -0.8812])
        >>> from smd_evo import gaussian
        >>> gaussian(1, torch.arange(3))  # the same, as (0.5 + 0.5) / (2 * sigma) is 1
        tensor([-0.4139,  0.2473, -0.8812])

    Reference: arXiv 1703.03864, algorithm 1.
    """
    if not mutations or len(weights) != len(mutations):
        raise InvalidValue(f"weights: expected one for each mutation, got {len(weights)} for {len(mutations)}")
    shares: dict[tuple[Subspace, int, int], tuple[Mutation, float]] = {}
    for mutation, weight in zip(mutations, weights.tolist(), strict=True):
        known = (mutation.subspace, mutation.key, mutation.draw)
        share = weight * mutation.sign / (mutation.sigma * len(mutations))
        shares[known] = (mutation, share + shares[known][1] if known in shares else share)
    size = layout.size if coordinates is None else len(coordinates)
    gradient = torch.zeros(size, dtype=torch.float32, device=device)
    # Of a static subspace all draws are the same.
    for (subspace, draw), group in groupby(shares.values(), lambda child: (child[0].subspace, child[0].draw)):
        keys, own = zip(*((mutation.key, share) for mutation, share in group), strict=True)
        everything, within = type(subspace) is Dense, coordinates is None
        if everything and within and fast.add_fields(keys, own, gradient):
            continue
        indices = subspace.coordinates(draw, layout, device)
        if coordinates is not None and not torch.equal(indices, coordinates):
            raise InvalidValue(f"coordinates: expected those of every mutation, got others by draw {draw}")
        if subspace.plain and fast.add_fields(keys, own, gradient, None if everything else indices, within):
            continue
        for key, share in zip(keys, own, strict=True):
            noise = subspace.noise(key, indices, layout).mul_(share)
            if within:
                gradient.index_add_(0, indices, noise)
            else:
                gradient.add_(noise)
    return gradient


def mixture(
    mutations: Sequence[Mutation], weights: Tensor, layout: Layout, *, device: torch.device | str = "cpu"
) -> SparseDelta:
    """``sum_i weights_i * delta_i``: what a soup of children adds to their parent, for one rule of the coordinates.

    Args:
        mutations: N recipes of one subspace and scale.
        weights: [N], of any sign and sum.
        layout: where the tensors lie.
        device: where the result is made.

    Returns:
        A delta of a static subspace's coordinates, or of all.

    Raises:
        InvalidValue: no mutations, or not as many weights.

    Example:
        >>> from smd_evo import Dense
        >>> one = Mutation(key=1, sigma=0.5, subspace=Dense(), draw=0)
        >>> mixture([one], torch.tensor([2.0]), Layout.flat(3)).values  # gaussian(1, torch.arange(3))
        tensor([-0.4139,  0.2473, -0.8812])
    """
    if not mutations or len(weights) != len(mutations):
        raise InvalidValue(f"weights: expected one for each mutation, got {len(weights)} for {len(mutations)}")
    first = mutations[0]
    common = first.subspace.static and first.subspace.siblings == 1  # the parts of a partition are several
    moved = first.subspace if common else Dense()
    coordinates = moved.coordinates(first.draw, layout, device)
    squares = torch.tensor([mutation.sigma**2 for mutation in mutations], dtype=torch.float64, device="cpu")
    shares = weights.double().cpu() * squares * len(mutations)  # the gradient is a mean over noise / sigma
    values = es_gradient(mutations, shares, layout, coordinates=coordinates if common else None, device=device)
    if first.scale == "relative":
        values *= layout.scales(coordinates).float()
    return SparseDelta(coordinates, values)
