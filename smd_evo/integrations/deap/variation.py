"""Mutation and crossover for DEAP toolboxes, in DEAP's own conventions."""

from __future__ import annotations

import array
import math
import random
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from smd_evo.core.keys import Key, derive
from smd_evo.core.layout import Layout
from smd_evo.core.mutation import Lineage, Mutation
from smd_evo.core.noise import gaussian
from smd_evo.core.subspace import RandomSubspace
from smd_evo.errors import InvalidType, InvalidValue, check_number, plain, shown
from smd_evo.integrations.deap.individuals import LineageIndividual

__all__ = ["cxLineage", "draw_key", "mutSparseGaussian"]

_Individual = TypeVar("_Individual")


def draw_key() -> Key:
    """A key from Python's ``random``, so that ``random.seed`` alone repeats a run, as DEAP's users expect."""
    return random.getrandbits(64)


def mutSparseGaussian(  # noqa: N802  # DEAP's naming
    individual: _Individual, mu: float | Sequence[float], sigma: float | Sequence[float], density: float
) -> tuple[_Individual]:
    """Add Gaussian noise to exactly k = round(density * len(individual)) genes, in place.

    DEAP's ``mutGaussian`` with a fixed number of genes, uniformly at random, instead of ``indpb`` for each. A
    LineageIndividual gets one more mutation, of that density, of its network.

    Args:
        individual: a list, array.array, floating numpy array, DenseIndividual or LineageIndividual.
        mu: mean of the noise, or one for each gene; 0 for a lineage.
        sigma: its standard deviation, > 0, or one for each gene; a number for a lineage.
        density: share of the genes, in (0, 1]; at least one.

    Returns:
        The individual, in a tuple.

    Raises:
        IndexError: mu or sigma is shorter than the individual, as in DEAP.
        InvalidValue, InvalidType: the above does not hold.

    The random numbers follow from Python's ``random``.

    Example:
        >>> random.seed(1)
        >>> (individual,) = mutSparseGaussian([0.0] * 10, mu=0, sigma=1, density=0.2)
        >>> sum(gene != 0 for gene in individual)
        2

    Reference: arXiv 2302.05832.
    """
    rule = RandomSubspace(density)
    if isinstance(individual, LineageIndividual):
        mean = plain(mu)
        if isinstance(mean, bool) or not (isinstance(mean, int | float) and mean == 0):
            raise InvalidValue(f"mu: expected 0 for a lineage, got {shown(mu)}")
        key = draw_key()
        mutation = Mutation(derive(key, "noise"), check_number("sigma", sigma, low=0), rule, rule.draw(key))
        individual.lineage = individual.lineage.then(mutation)
        return (individual,)
    if not isinstance(individual, list | array.array | np.ndarray):
        raise InvalidType(
            f"individual: expected a list, array, numpy array or lineage, got {type(individual).__name__}"
        )
    if isinstance(individual, np.ndarray) and individual.ndim != 1:
        raise InvalidValue(f"individual: expected one dimension, got shape {individual.shape}; use .reshape(-1)")
    size = len(individual)
    if not size:
        return (individual,)
    key = draw_key()
    genes = rule.coordinates(rule.draw(key), Layout.flat(size))
    noise = gaussian(derive(key, "noise"), genes).double().numpy()
    noise = _at(mu, genes, size, "mu") + _at(sigma, genes, size, "sigma") * noise
    if isinstance(individual, np.ndarray):
        if not np.issubdtype(individual.dtype, np.floating):
            raise InvalidType(f"individual: expected floating numbers, got {individual.dtype}; use .astype(float)")
        flat = individual.view(np.ndarray)
        flat[genes.numpy()] += noise.astype(individual.dtype)
    else:
        for gene, value in zip(genes.tolist(), noise.tolist(), strict=True):
            individual[gene] += value
    return (individual,)


def _at(values: Any, genes: Tensor, size: int, name: str) -> Any:
    """The values of those genes, of one for all or one for each."""
    if isinstance(values, str | bytes) or getattr(values, "shape", None) == () or not hasattr(values, "__len__"):
        return check_number(name, values, low=0 if name == "sigma" else -math.inf)
    if len(values) < size:
        raise IndexError(f"{name} must be at least the size of individual: {len(values)} < {size}")
    return np.asarray(values, dtype=np.float64)[genes.numpy()]


def cxLineage(  # noqa: N802  # DEAP's naming
    ind1: LineageIndividual, ind2: LineageIndividual
) -> tuple[LineageIndividual, LineageIndividual]:
    """Exchange mutations between two lineages, in place.

    What they have in common from the start, their last common ancestor, stays. Each mutation after that goes to
    either child with equal chance. Mutations add up, so a child is the ancestor plus a random half of what its
    parents found since; nothing is lost or doubled between the two.

    Returns:
        The two individuals.

    The random numbers follow from Python's ``random``.

    Example:
        >>> from smd_evo import RandomSubspace, sample_mutations
        >>> one, two, three = sample_mutations(0, 3, subspace=RandomSubspace(0.1), sigma=1.0)
        >>> parents = LineageIndividual(Lineage((one, two))), LineageIndividual(Lineage((one, three)))
        >>> children = cxLineage(*parents)
        >>> [child.lineage.steps[0] == one for child in children], sum(map(len, children))
        ([True, True], 4)
    """
    for individual in (ind1, ind2):
        if not isinstance(individual, LineageIndividual):
            raise InvalidType(f"individual: expected a LineageIndividual, got {shown(individual)}")
    first, second = ind1.lineage.steps, ind2.lineage.steps
    common = 0
    while common < min(len(first), len(second)) and first[common] == second[common]:
        common += 1
    children: tuple[list[Mutation], list[Mutation]] = (list(first[:common]), list(first[:common]))
    for step in (*first[common:], *second[common:]):
        children[random.randrange(2)].append(step)
    ind1.lineage, ind2.lineage = (Lineage(tuple(steps)) for steps in children)
    return ind1, ind2
