"""How good a classifier's probabilities are: accuracy, likelihood, Brier score, calibration.

The first three are means over samples, so each is given sample by sample: what an interval needs. The
calibration error is no mean; it is made of two numbers a sample, the confidence and whether it was right.

A target of -100 is no class, as in training: such a sample is never right and has no loss, of either kind.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from smd_evo.errors import InvalidType, InvalidValue, check_count
from smd_evo.evaluation.classification import IGNORED, check_range, class_range
from smd_evo.evaluation.fitness import ACCURACY, CROSS_ENTROPY

__all__ = [
    "PER_SAMPLE",
    "WORST_LOSS",
    "accuracy",
    "binned_calibration_error",
    "brier_score",
    "calibration_error",
    "confidence",
    "finite_logits",
    "negative_log_likelihood",
]

WORST_LOSS = 1e3
"""Largest loss of a sample, in nats; a probability of 1e-434."""


def finite_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """The logits, but a sample whose outputs are not all finite becomes a certain wrong answer.

    A network that returns NaN answers nothing. It is not to be left out, which would flatter it, and not to
    make the mean of all samples NaN. Every metric here begins with this, so one rule serves all: such a sample
    is wrong, of confidence 1, of the worst loss, of Brier score 2.

    Args:
        logits: [..., n, C], two classes or more.
        targets: integers [n], class numbers or -100.

    Returns:
        [..., n, C], of the same type.

    Raises:
        InvalidValue: other shapes, fewer than two classes, or targets that are none of them.
        InvalidType: targets that are no integers.

    Example:
        >>> finite_logits(torch.tensor([[0.0, 2.0], [float("nan"), 9.0]]), torch.tensor([1, 1])).tolist()
        [[0.0, 2.0], [1000.0, 0.0]]
    """
    if logits.dim() < 2 or logits.shape[-1] < 2 or targets.shape != logits.shape[-2:-1]:
        raise InvalidValue(
            "logits: expected [n, classes] of two classes or more and targets [n], got "
            f"{list(logits.shape)} and {list(targets.shape)}; give one row of outputs for each target"
        )
    if targets.is_floating_point() or targets.is_complex():
        raise InvalidType(f"targets: expected class numbers, got {targets.dtype}; use targets.long()")
    check_range(class_range([targets.long()]), logits.flatten(0, -2))
    classes = logits.shape[-1]
    wrong = WORST_LOSS * torch.nn.functional.one_hot((targets.long() + 1) % classes, classes).to(logits.dtype)
    # As float32, the type of the losses, which a larger float64 does not fit.
    return torch.where(logits.float().isfinite().all(-1, keepdim=True), logits, wrong)


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether the largest output is the true class's, 0 or 1; the mean is the accuracy.

    Args:
        logits: [n, C].
        targets: integers [n].

    Returns:
        float64 [n].

    Example:
        >>> accuracy(torch.tensor([[0.0, 2.0], [0.0, 2.0]]), torch.tensor([1, 0])).tolist()
        [1.0, 0.0]
    """
    return ACCURACY.per_sample(finite_logits(logits, targets), targets, len(targets))


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p[y] of the true class y, in nats; from 0 to :data:`WORST_LOSS`, beyond which it is cut.

    Args:
        logits: [n, C].
        targets: integers [n].

    Returns:
        float64 [n].

    Example:
        >>> negative_log_likelihood(torch.tensor([[0.8, 0.2], [0.0, 1.0]]).log(), torch.tensor([0, 0])).tolist()
        [0.2231435477733612, 1000.0]
    """
    loss = CROSS_ENTROPY.per_sample(finite_logits(logits, targets), targets, len(targets))
    return loss.clamp(max=WORST_LOSS)


def brier_score(logits: Tensor, targets: Tensor) -> Tensor:
    """Squared distance of the probabilities to the truth, sum over classes c of (p[c] - [c = y]) ** 2.

    From 0 (certain and right) to 2 (certain and wrong). Brier's own form, for any number of classes; that of
    two classes is twice the (p - [y]) ** 2 that goes by the same name.

    Args:
        logits: [n, C].
        targets: integers [n].

    Returns:
        float64 [n].

    Example:
        0.3 ** 2 + 0.2 ** 2 + 0.1 ** 2 = 0.14.

        >>> brier_score(torch.tensor([[0.7, 0.2, 0.1]]).double().log(), torch.tensor([0]))
        tensor([0.1400], dtype=torch.float64)

    Reference: Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78, 1950.
    """
    probabilities = finite_logits(logits, targets).double().softmax(-1)
    numbers = targets.long()  # unsigned ones have no -100 to compare with
    known = numbers != IGNORED
    right = torch.nn.functional.one_hot(numbers.where(known, 0), logits.shape[-1])
    return (probabilities - right).square().sum(-1).where(known, 0.0)


PER_SAMPLE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "accuracy": accuracy,
    "nll": negative_log_likelihood,
    "brier": brier_score,
}
"""The metrics that are means over samples."""


def confidence(logits: Tensor, targets: Tensor) -> Tensor:
    """Probability of the predicted class; 1 where the outputs are not finite, which counts as wrong.

    Args:
        logits: [n, C].
        targets: integers [n].

    Returns:
        float64 [n].

    Example:
        >>> confidence(torch.zeros(1, 4), torch.tensor([2])).tolist()
        [0.25]
    """
    return finite_logits(logits, targets).double().softmax(-1).amax(-1)


def calibration_error(logits: Tensor, targets: Tensor, bins: int = 15) -> float:
    """Expected calibration error: how far the confidence is from the accuracy.

    See :func:`binned_calibration_error`; both follow from the same two numbers a sample.

    Args:
        logits: [n, C].
        targets: integers [n].
        bins: how many, of equal width.

    Returns:
        From 0 to 1.

    Example:
        Confidence 0.25, and one of four right.

        >>> calibration_error(torch.zeros(4, 4), torch.arange(4))
        0.0
    """
    return binned_calibration_error(confidence(logits, targets), accuracy(logits, targets), bins)


def binned_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    """Expected calibration error of given confidences: sum over bins b of n_b / n * |accuracy_b - confidence_b|.

    Cheaper than :func:`calibration_error` where the samples are drawn again and again, as in a bootstrap.

    Args:
        confidence: [n], of the predicted class, in [0, 1].
        correct: [n], 1 or True where that class is the true one.
        bins: how many, of equal width on [0, 1].

    Returns:
        From 0 to 1.

    Raises:
        InvalidValue: shapes differ, no samples, or no bins.

    Example:
        The example of torchmetrics' own page: three samples in one bin, one in another.

        >>> error = binned_calibration_error(torch.tensor([0.55, 0.55, 0.6, 0.9]), torch.tensor([0, 0, 1, 1]), bins=3)
        >>> round(error, 6)
        0.2

    Reference: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017, equation 3.
    """
    # Seconds to import, and most of the package does without.
    from torchmetrics.functional.classification import multiclass_calibration_error

    bins = check_count("bins", bins)
    if confidence.dim() != 1 or confidence.shape != correct.shape or len(confidence) < 1:
        raise InvalidValue(
            "confidence: expected [n] and correct [n], a sample or more, got "
            f"{list(confidence.shape)} and {list(correct.shape)}; give one of each for every sample"
        )
    # torchmetrics gives a confidence of exactly 1 a bin of its own, beside the others.
    top = confidence.float().clamp(max=1 - torch.finfo(torch.float32).eps / 2)
    # The predicted class against nothing: its number is 0, and the target is 0 where it is right. Being in
    # [0, 1], the numbers are taken for probabilities (logits that happen to be there would be, too).
    predictions, targets = torch.stack([top, torch.zeros_like(top)], 1), 1 - correct.long()
    error = multiclass_calibration_error(predictions, targets, num_classes=2, n_bins=bins, validate_args=False)
    return float(error)
