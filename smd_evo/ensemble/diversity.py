"""How much the members of an ensemble differ: in what they say, and in where they err."""

from __future__ import annotations

import torch
from torch import Tensor

from smd_evo.ensemble.metrics import accuracy
from smd_evo.errors import InvalidValue

__all__ = ["disagreement", "oracle", "pairwise_kl", "q_statistic"]


def disagreement(logits: Tensor) -> Tensor:
    """Share of the M (M - 1) / 2 pairs of members that predict different classes.

    Args:
        logits: [M, n, C], finite; see :func:`smd_evo.ensemble.metrics.finite_logits`.

    Returns:
        float64 [n], from 0 to 1.

    Raises:
        InvalidValue: one member, other dimensions, or outputs that are not finite.

    Example:
        >>> disagreement(torch.tensor([[[0.0, 1.0]], [[0.0, 2.0]], [[3.0, 1.0]]]))
        tensor([0.6667], dtype=torch.float64)

    Reference: Kuncheva & Whitaker, "Measures of diversity in classifier ensembles", Machine Learning 51, 2003,
    section 2.1.3, but for the classes that are told apart, not only right from wrong.
    """
    predictions = _check(logits).argmax(-1)
    members, samples, classes = logits.shape
    votes = torch.zeros(samples, classes, dtype=torch.float64, device=logits.device)
    votes.scatter_add_(1, predictions.T, torch.ones_like(votes[:, :1]).expand(samples, members))
    return 1 - (votes * (votes - 1)).sum(-1) / (members * (members - 1))


def pairwise_kl(logits: Tensor) -> Tensor:
    """Mean of KL(p_i || p_j) over the ordered pairs of different members i and j, in nats.

    sum over j of KL(p_i || p_j) is M sum over c of p_i (log p_i - mean_j log p_j): one pass over the members
    for the mean and one for the sum, and memory for three members, not for M ** 2 pairs.

    Args:
        logits: [M, n, C], finite; see :func:`smd_evo.ensemble.metrics.finite_logits`.

    Returns:
        float64 [n], 0 or more.

    Raises:
        InvalidValue: one member, other dimensions, or outputs that are not finite.

    Example:
        Half of KL(p || q) + KL(q || p), (0.3 log 4 + 0.3 log 1.5) / 2 of these two.

        >>> pairwise_kl(torch.tensor([[[0.8, 0.2]], [[0.5, 0.5]]]).double().log())
        tensor([0.2079], dtype=torch.float64)
    """
    members = len(_check(logits))
    mean = torch.zeros_like(logits[0], dtype=torch.float64)
    for member in logits:
        mean += member.double().log_softmax(-1) / members
    total = torch.zeros_like(mean[:, 0])
    for member in logits:
        log_p = member.double().log_softmax(-1)
        total += (log_p.exp() * (log_p - mean)).sum(-1)
    return (total / (members - 1)).clamp(min=0)  # of equal members, a rounding error of either sign


def oracle(logits: Tensor, targets: Tensor) -> Tensor:
    """1 where any member is right, 0 elsewhere: the mean is the accuracy of who always picks the right member.

    Args:
        logits: [M, n, C]; a member whose outputs are not finite is wrong.
        targets: int64 [n].

    Returns:
        float64 [n].

    Raises:
        InvalidValue: one member, or other dimensions.

    Example:
        >>> oracle(torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]]), torch.tensor([0])).tolist()
        [1.0]
    """
    _check(logits, finite=False)
    return torch.stack([accuracy(member, targets) for member in logits]).amax(0)


def q_statistic(correct: Tensor) -> float:
    """Mean of Yule's Q over the pairs of members: whether they err on the same samples.

    Q = (N11 N00 - N01 N10) / (N11 N00 + N01 N10), where N10 counts the samples on which the first is right and
    the second wrong, and so on. 1: the one errs only where the other does; 0: independent errors; -1: never both.

    0 / 0 comes only of a member that is always right or always wrong. Its errors are independent of any other's,
    so the pair counts 0; but two members that are always right (or wrong) are equal, and equal members count 1.

    Args:
        correct: bool [M, n], whether each member is right on each sample.

    Returns:
        From -1 to 1.

    Raises:
        InvalidValue: one member, no samples, other dimensions, or no booleans.

    Example:
        N11 = 3, N00 = 1, N10 = 2, N01 = 1: Q = (3 - 2) / (3 + 2).

        >>> q_statistic(torch.tensor([[1, 1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0, 1]]).bool())
        0.2

    Reference: Kuncheva & Whitaker, Machine Learning 51, 2003, section 2.1.1. What 0 / 0 counts is our choice.
    """
    if correct.dim() != 2 or len(correct) < 2 or correct.shape[1] < 1 or correct.dtype != torch.bool:
        raise InvalidValue(
            "correct: expected bool [members, n], two members or more, got "
            f"{correct.dtype} {list(correct.shape)}; one member has no diversity"
        )
    right = correct.double()  # counts below 2 ** 53 and their products' signs are exact
    wrong = 1 - right
    both, neither, first, second = right @ right.T, wrong @ wrong.T, right @ wrong.T, wrong @ right.T
    same, different = both * neither, first * second
    constant = (first + second == 0).double()
    q = torch.where(same + different > 0, (same - different) / (same + different).clamp(min=1), constant)
    pairs = torch.triu_indices(len(q), len(q), offset=1, device=q.device)
    return float(q[pairs[0], pairs[1]].mean())


def _check(logits: Tensor, finite: bool = True) -> Tensor:
    if logits.dim() != 3 or len(logits) < 2:
        raise InvalidValue(
            "logits: expected [members, n, classes], two members or more, got "
            f"{list(logits.shape)}; one member has no diversity"
        )
    if finite and not logits.isfinite().all():
        raise InvalidValue("logits: expected finite numbers, got others; replace them by finite_logits")
    return logits
