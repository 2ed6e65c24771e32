"""Mutation and crossover for DEAP toolboxes, in DEAP's own conventions."""

from __future__ import annotations

import array
import functools
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from smd_evo.core.keys import Key, derive
from smd_evo.core.mutation import Lineage, Mutation
from smd_evo.core.subspace import RandomSubspace
from smd_evo.core.vectors import sparse_noise
from smd_evo.errors import InvalidType, InvalidValue, check_number, plain, shown
from smd_evo.integrations.deap.individuals import LineageIndividual
from smd_evo.integrations.deap.rebased import common_steps
from smd_evo.integrations.words import OPERATOR_WORDS
from smd_evo.mends import not_here

__all__ = ["cxLineage", "draw_key", "mutSparseGaussian"]

_Individual = TypeVar("_Individual")


def draw_key() -> Key:
    """A key from Python's ``random``, so that ``random.seed`` alone repeats a run, as DEAP's users expect."""
    return random.getrandbits(64)


@not_here(stdev="write sigma=", **OPERATOR_WORDS)
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
    rule = _rule(density) if type(density) is float else RandomSubspace(density)
    if isinstance(individual, LineageIndividual):
        mean = plain(mu)
        if isinstance(mean, bool) or not (isinstance(mean, int | float) and mean == 0):
            raise InvalidValue(f"mu: expected 0 for a lineage, got {shown(mu)}")
        key = draw_key()
        mutation = Mutation(derive(key, "noise"), check_number("sigma", sigma, low=0), rule, rule.draw(key))
        individual.lineage = individual.lineage.then(mutation)
        return (individual,)
    _check_genes(individual)
    size = len(individual)  # type: ignore[arg-type]
    mean, deviation = _of_each(mu, size, "mu"), _of_each(sigma, size, "sigma")
    if not size:
        return (individual,)
    key = draw_key()
    genes, field = sparse_noise(rule, rule.draw(key), derive(key, "noise"), size)
    noise = _at(mean, genes) + _at(deviation, genes) * field.astype(np.float64)
    if isinstance(individual, np.ndarray):
        individual.view(np.ndarray)[genes] += noise.astype(individual.dtype)
    else:
        _add(individual, genes.tolist(), noise.tolist())
    return (individual,)


_rule = functools.lru_cache(64)(RandomSubspace)
"""Of a float: checked once, not for each individual."""


def _check_genes(individual: Any) -> None:
    """Refuse what is no row of floating numbers that can be changed in place."""
    kind = type(individual)
    if kind is list:
        return
    wrong = not all(hasattr(kind, name) for name in ("__len__", "__getitem__", "__setitem__"))
    if wrong or isinstance(individual, Mapping | bytearray | memoryview):
        raise InvalidType(
            f"individual: expected a list, array, numpy array or lineage, got {kind.__name__}; genes are changed in "
            "place, so list(...) of a tuple"
        )
    if getattr(individual, "ndim", 1) != 1:
        raise InvalidValue(
            f"individual: expected one dimension, got shape {tuple(individual.shape)}; use .reshape(-1)"
        )
    held = getattr(individual, "dtype", getattr(individual, "typecode", "d"))
    floating = held in ("f", "d") or getattr(held, "kind", "") == "f" or getattr(held, "is_floating_point", False)
    if not floating:
        mend = "array('d', ...)" if isinstance(individual, array.array) else ".astype(float)"
        raise InvalidType(f"individual: expected floating numbers, got {held}; use {mend}")


def _add(individual: Any, genes: list[int], noise: list[float]) -> None:
    """All or nothing: a gene that is no number is met before any has changed."""
    mutated = [individual[gene] + value for gene, value in zip(genes, noise, strict=True)]
    for gene, value in zip(genes, mutated, strict=True):
        individual[gene] = value


def _of_each(values: Any, size: int, name: str) -> float | NDArray[np.float64]:
    """One number for all genes, or one for each, as float64."""
    low = 0 if name == "sigma" else -math.inf
    if isinstance(values, float | int | str | bytes) or getattr(values, "shape", None) == ():
        return check_number(name, values, low=low)
    if not hasattr(values, "__len__") or isinstance(values, Mapping):
        return check_number(name, values, low=low, mend="or a sequence of one for each gene")
    if len(values) < size:
        raise IndexError(f"{name} must be at least the size of individual: {len(values)} < {size}")
    found = np.asarray(values)
    if found.dtype.kind not in "fiu":  # fractions, texts, one of torch's: as a number alone would be taken or refused
        checked = (check_number(f"{name}[{place}]", value, low=low) for place, value in enumerate(values))
        found = np.fromiter(checked, np.float64)
    if found.ndim != 1:
        raise InvalidValue(f"{name}: expected one number or one for each gene, got shape {found.shape}")
    found = found.astype(np.float64)
    wrong = ~(np.isfinite(found) & (found > low))
    if wrong.any():
        place = int(wrong.argmax())
        check_number(f"{name}[{place}]", float(found[place]), low=low)
    return found


def _at(values: float | NDArray[np.float64], genes: NDArray[np.int64]) -> float | NDArray[np.float64]:
    return values if isinstance(values, float) else values[genes]


def cxLineage(  # noqa: N802  # DEAP's naming
    ind1: LineageIndividual, ind2: LineageIndividual
) -> tuple[LineageIndividual, LineageIndividual]:
    """Exchange mutations between two lineages, in place.

    What they have in common stays in both, wherever it stands, in the first one's order: of equal mutations as many
    as both have. Each other one goes to either child with equal chance. Mutations add up, so a child is the common
    ancestor plus a random half of what its parents found since; nothing is lost or doubled between the two.

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
    start = len(common_steps((ind1.lineage, ind2.lineage)))
    children: tuple[list[Mutation], list[Mutation]] = ([*first[:start]], [*first[:start]])
    first, second = first[start:], second[start:]
    common = Counter(first) & Counter(second)
    for parent in (first, second):
        left = common.copy()
        for step in parent:
            if not left[step]:
                children[random.randrange(2)].append(step)
                continue
            left[step] -= 1
            if parent is first:  # in whose place both children get it
                for child in children:
                    child.append(step)
    ind1.lineage, ind2.lineage = (Lineage(tuple(steps)) for steps in children)
    return ind1, ind2
