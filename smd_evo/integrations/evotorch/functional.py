"""The operator for searches in the style of ``evotorch.operators.functional``: plain tensors, nothing kept."""

from __future__ import annotations

import torch
from torch import Tensor

from smd_evo.core.keys import Key, check_key
from smd_evo.core.subspace import Subspace
from smd_evo.core.vectors import add_noise, check_vector_subspace
from smd_evo.errors import InvalidType, InvalidValue, check_number, shown
from smd_evo.integrations.rules import subspace_of
from smd_evo.integrations.words import OPERATOR_WORDS
from smd_evo.mends import not_here

__all__ = ["sparse_gaussian_mutation"]


@not_here(stdev="write sigma=", **OPERATOR_WORDS)
@torch.no_grad()
def sparse_gaussian_mutation(
    solutions: Tensor,
    *,
    key: Key,
    sigma: float | Tensor,
    density: float | None = None,
    subspace: Subspace | None = None,
    static: bool = False,
    generation: int = 0,
) -> Tensor:
    """Gaussian noise on exactly k coordinates of each solution of one population, or of many.

    ``child_S = parent_S + sigma * eps_S`` on a subspace S of k = round(density * L) coordinates, which each solution
    has for itself. The same arguments give the same bits on every device; populations of a batch are those of
    ``solutions.reshape(-1, L)``, one behind the other.

    Args:
        solutions: [..., N, L], of a floating dtype; further dimensions on the left are batches of populations.
        key: in [0, 2**64): ``int(torch.randint(2**63 - 1, (), generator=g))`` takes one from a generator.
        sigma: mutation strength, the standard deviation of the noise, > 0; or a tensor that has the batch's
            dimensions, or can be expanded to them.
        density: k / L, in (0, 1]: a random subspace. Give this or ``subspace``.
        subspace: a RandomSubspace, PartitionSubspace or Dense, if it is to be another rule.
        static: with ``density``: one subspace for all solutions and generations of a key.
        generation: its number, in [0, 2**64): with one key each has noise of its own.

    Returns:
        The children, like ``solutions``, which stay as they are.

    Raises:
        InvalidValue, InvalidType: the above does not hold.

    Example:
        >>> population = torch.zeros(2, 5, 100)
        >>> children = sparse_gaussian_mutation(population, key=1, sigma=torch.tensor([0.1, 10.0]), density=0.03)
        >>> (children != 0).sum(-1).tolist()
        [[3, 3, 3, 3, 3], [3, 3, 3, 3, 3]]

    Reference: Whitaker, Whitley, arXiv 2302.05832.
    """
    if not isinstance(solutions, Tensor) or not solutions.is_floating_point():
        found = f"{solutions.dtype}" if isinstance(solutions, Tensor) else shown(solutions)
        raise InvalidType(f"solutions: expected a tensor of a floating dtype, got {found}")
    if solutions.dim() < 2 or not solutions.shape[-1]:
        raise InvalidValue(f"solutions: expected [..., N, L], got {list(solutions.shape)}; solutions[None] is one")
    rule = check_vector_subspace(subspace_of(density, subspace, static))
    children = solutions.clone(memory_format=torch.contiguous_format)
    add_noise(
        children.view(-1, children.shape[-1]),
        check_key(key),
        subspace=rule,
        sigma=_strengths(sigma, solutions.shape[:-1]),
        generation=check_key(generation, "generation"),
    )
    return children


def _strengths(sigma: float | Tensor, shape: torch.Size) -> float | Tensor:
    """One strength, or one for each solution."""
    mend = "try a hundredth of the values' own"
    if not isinstance(sigma, Tensor) or not sigma.dim():
        return check_number("sigma", sigma, low=0, mend=mend)
    check_number("sigma", float(sigma.double().min()), low=0, mend=mend)
    check_number("sigma", float(sigma.double().max()), low=0, mend=mend)
    try:
        return sigma.double()[..., None].expand(shape).reshape(-1)
    except RuntimeError:
        raise InvalidValue(
            f"sigma: expected a number, or a tensor for the batch's dimensions {list(shape[:-1])}, got shape "
            f"{list(sigma.shape)}"
        ) from None
