"""How the outputs of several members become one prediction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from smd_evo.ensemble.choices import COMBINES
from smd_evo.ensemble.weights import check_weights
from smd_evo.errors import InvalidType, InvalidValue, check_choice

__all__ = ["COMBINES", "Pool", "ballots", "combined", "pooled", "weighted"]

_TIE = 1e-3
"""Share of a vote that settles ties: too little to outweigh one of a thousand votes, enough for float32."""


def ballots(outputs: Tensor, combine: str) -> Tensor:
    """What of a member's outputs is pooled with the other members'.

    Args:
        outputs: [n, classes] or [classes], two classes or more; of any shape for "logits".
        combine: one of :data:`COMBINES`.

    Returns:
        Log-probabilities; for "majority" those of a vote for one class, of which the member's own
        probabilities make up a thousandth, so that they settle ties and nothing has a likelihood of zero; for
        "logits" the outputs themselves. At least float32.

    Raises:
        InvalidValue: outputs of another shape, or an unknown combination.
    """
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if check_choice("combine", combine, COMBINES) == "logits":
        return outputs
    if outputs.dim() not in (1, 2) or outputs.shape[-1] < 2:
        raise InvalidValue(
            f"outputs: expected scores of two classes or more, [n, classes], for {combine!r}, got "
            f'{list(outputs.shape)}; combine="logits" takes any outputs'
        )
    logs = outputs.log_softmax(-1)
    if combine == "probabilities":
        return logs
    logs, voted = logs + math.log(_TIE), outputs.argmax(-1, keepdim=True)
    vote = torch.logaddexp(logs.gather(-1, voted), logs.new_tensor(math.log1p(-_TIE)))
    return logs.scatter(-1, voted, vote)


def weighted(ballot: Tensor, weight: float, combine: str) -> Tensor:
    """A ballot, or a pool of some, times a number."""
    return ballot * weight if combine == "logits" else ballot + math.log(weight)


def pooled(one: Tensor, other: Tensor, combine: str) -> Tensor:
    """Two ballots, or pools of some, together."""
    return one + other if combine == "logits" else torch.logaddexp(one, other)


def combined(
    outputs: Tensor | Iterable[Tensor], weights: Sequence[float] | None = None, combine: str = "probabilities"
) -> Tensor:
    """One prediction of several members, in the memory of one or two.

    Args:
        outputs: [n, classes] of each member, one after the other: a tensor [M, n, classes] or a stream.
        weights: M numbers > 0 that add up to one, for M members; None: all alike.
        combine: one of :data:`COMBINES`.

    Returns:
        [n, classes]: log-probabilities, or the mean of the outputs for "logits"; being logits themselves,
        both go wherever a network's outputs go.

    Raises:
        InvalidValue, InvalidType: no members, unusable weights, outputs that are no tensors or of shapes that
            differ, or an unknown combination.

    Example:
        >>> both = torch.tensor([[[0.8, 0.2]], [[0.4, 0.6]]]).log()
        >>> combined(both).exp()
        tensor([[0.6000, 0.4000]])
        >>> combined(both, [0.25, 0.75]).exp()
        tensor([[0.5000, 0.5000]])

    Reference: Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep
    ensembles", NeurIPS 2017, section 2.4 (mean probabilities).
    """
    pool = Pool(weights, combine)
    for output in outputs:
        pool.add(output)
    return pool.result()


class Pool:
    """The same, member after member.

    Args:
        weights, combine: see :func:`combined`.

    Raises:
        InvalidValue, InvalidType: as there.

    Example:
        >>> pool = Pool([0.25, 0.75], "logits")
        >>> pool.add(torch.tensor([[1.0]]))
        >>> pool.add(torch.tensor([[2.0]]))
        >>> pool.result()
        tensor([[1.7500]])
    """

    def __init__(self, weights: Sequence[float] | None = None, combine: str = "probabilities") -> None:
        self._shares = None if weights is None else check_weights(weights)
        self._combine, self._used = combine, 0
        self._pool: Tensor | None = None

    def add(self, output: Tensor) -> None:
        """One more member's outputs [n, classes]."""
        if not isinstance(output, Tensor):
            raise InvalidType(
                f"outputs: expected the network to return one tensor, got {type(output).__name__}; "
                "wrap the network in a module that returns its logits"
            )
        if self._shares is not None and self._used == len(self._shares):
            raise InvalidValue(
                f"weights: expected one for each of {self._used + 1} members or more, got {self._used}"
            )
        part = ballots(output, self._combine)
        if self._shares is not None:
            part = weighted(part, self._shares[self._used], self._combine)
        if self._pool is not None and part.shape != self._pool.shape:
            raise InvalidValue(
                f"outputs: expected the same shape of every member, got {tuple(part.shape)} after "
                f"{tuple(self._pool.shape)}"
            )
        self._pool = part if self._pool is None else pooled(self._pool, part, self._combine)
        self._used += 1

    def result(self) -> Tensor:
        """What all of them predict together."""
        if self._pool is None:
            raise InvalidValue("outputs: expected those of at least one member, got none")
        if self._shares is None:
            return weighted(self._pool, 1 / self._used, self._combine)
        if self._used != len(self._shares):
            raise InvalidValue(f"weights: expected one for each of {self._used} members, got {len(self._shares)}")
        return self._pool
