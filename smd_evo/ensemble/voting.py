"""Soft voting: the mean of the members' class probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from smd_evo.errors import InvalidValue, check_count
from smd_evo.evaluation.fitness import BatchFitness, best_of

__all__ = ["choose_size", "log_vote"]


def log_vote(logits: Tensor) -> Tensor:
    """Logarithm of the members' mean class probabilities.

    Args:
        logits: [members, n, classes].

    Returns:
        [n, classes]; being logits themselves, they go wherever a network's outputs go.

    Example:
        >>> import torch
        >>> log_vote(torch.tensor([[[0.8, 0.2]], [[0.4, 0.6]]]).log()).exp()
        tensor([[0.6000, 0.4000]])

    Reference: Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep
    ensembles", NeurIPS 2017, section 2.4.
    """
    return (logits.double().log_softmax(-1).logsumexp(0) - math.log(len(logits))).to(logits.dtype)


def choose_size(logits: Tensor, targets: Tensor, sizes: Sequence[int], fitness: BatchFitness) -> tuple[int, float]:
    """How many of the first members vote best together.

    Args:
        logits: [members, n, classes] on validation samples, best member first.
        targets: [n].
        sizes: sizes to try; those above the number of members are left out.
        fitness: judge of the vote.

    Returns:
        The best size (the smallest of equals) and the vote's fitness at that size.

    Raises:
        InvalidValue: no size is possible.
    """
    possible = sorted(size for size in sizes if check_count("size", size) <= len(logits))
    if not possible:
        raise InvalidValue(f"sizes: expected one of at most {len(logits)} members, got {list(sizes)}")
    votes = (log_vote(logits[:size]) for size in possible)
    scores = [float(fitness.per_sample(vote, targets, len(targets)).mean()) for vote in votes]
    best = best_of(scores, fitness.sense)
    return possible[best], scores[best]
