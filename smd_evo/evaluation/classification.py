"""What a classifier's outputs are worth: checked against the classes that are true, and scored or counted.

Outputs are [n, C, ...], C classes in dimension 1, and targets class numbers [n, ...], or -100 where there is none.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.fields import fields_of

__all__ = [
    "IGNORED",
    "balanced_accuracy",
    "check_range",
    "class_counts",
    "class_range",
    "correct",
    "cross_entropy",
    "logits_of",
    "macro_f1",
    "say_if_probabilities",
]

IGNORED = -100
"""The target that torch's cross-entropy leaves out."""


def logits_of(outputs: Any) -> Tensor:
    """The one tensor that counts in what a network returns.

    Args:
        outputs: a tensor; a mapping or an object with ``logits``, such as a ``ModelOutput``; or a tuple or list that
            begins with a tensor.

    Raises:
        InvalidType: something else.

    Example:
        >>> [logits_of(outputs).shape for outputs in (torch.ones(2, 3), (torch.ones(2, 3), None))]
        [torch.Size([2, 3]), torch.Size([2, 3])]
        >>> logits_of({"loss": None, "logits": torch.ones(2, 3)}).shape
        torch.Size([2, 3])
    """
    if isinstance(outputs, Tensor):
        return outputs
    named = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    first = outputs[0] if isinstance(outputs, tuple | list) and outputs else None
    for found in (named, first):
        if isinstance(found, Tensor):
            return found
    names = f" of {', '.join(fields)}" if (fields := fields_of(outputs)) else ""
    raise InvalidType(
        f"outputs: expected a tensor, something with logits, or a tuple that begins with them, got "
        f"{type(outputs).__name__}{names}; network.register_forward_hook(TakeOutput(NAME)) takes one of them"
    )


def cross_entropy(outputs: Any, targets: Any) -> Tensor:
    """Negative log-likelihood of the true classes, or of a distribution over them, in nats: [n, ...]."""
    logits = _of_classes(outputs)
    if isinstance(targets, Tensor) and targets.is_floating_point() and targets.dim() > 1:
        _check_shape(targets, logits.shape, logits)  # probabilities
    else:
        targets = _class_numbers(logits, targets)
    return functional.cross_entropy(logits.float(), targets, reduction="none")


def correct(outputs: Any, targets: Any) -> Tensor:
    """Whether the largest output is the true class's, 0 or 1: float64 [n, ...]; NaN where one is not finite."""
    logits = _of_classes(outputs)
    targets = _class_numbers(logits, targets)
    # A network that returns NaN predicts nothing; argmax would say the class of the first NaN.
    return torch.where(logits.isfinite().all(1), (logits.argmax(1) == targets).double(), math.nan)


def class_counts(outputs: Any, targets: Any) -> Tensor:
    """How often each class is true and predicted, is true, is predicted: float64 [3, C].

    All are NaN if an output is not finite. Samples without a class do not count.
    """
    logits = _of_classes(outputs)
    targets = _class_numbers(logits, targets).flatten()
    known = targets != IGNORED
    true, predicted, classes = targets[known], logits.argmax(1).flatten()[known], logits.shape[1]
    hits = true[true == predicted]
    counts = torch.stack([numbers.bincount(minlength=classes) for numbers in (hits, true, predicted)]).double()
    return torch.where(logits.isfinite().all(), counts, math.nan)


def balanced_accuracy(counts: Tensor) -> Tensor:
    """Mean recall of the classes that have samples.

    Args:
        counts: [..., 3, C], of :func:`class_counts`.

    Returns:
        [...]

    Example:
        Of the first class 3 of 4 are found, of the second 1 of 2.

        >>> float(balanced_accuracy(torch.tensor([[3.0, 1.0], [4.0, 2.0], [4.0, 2.0]])))
        0.625
    """
    hits, true, _ = counts.unbind(-2)
    return (hits / true.clamp(min=1)).sum(-1) / (true > 0).sum(-1)


def macro_f1(counts: Tensor) -> Tensor:
    """Mean F1 of the classes that have samples or are predicted.

    Args:
        counts: [..., 3, C], of :func:`class_counts`.

    Returns:
        [...]

    Example:
        >>> float(macro_f1(torch.tensor([[3.0, 1.0], [4.0, 2.0], [4.0, 2.0]])))
        0.625
    """
    hits, true, predicted = counts.unbind(-2)
    either = true + predicted
    return (2 * hits / either.clamp(min=1)).sum(-1) / (either > 0).sum(-1)


def class_range(targets: Iterable[Any]) -> tuple[int, int] | None:
    """The lowest and the highest class number of several batches; None where they are none, or none is there."""
    lowest, highest = [], []
    for some in targets:
        if not isinstance(some, Tensor) or some.is_floating_point() or some.is_complex():
            return None
        numbers = some.long()
        known = numbers[numbers != IGNORED]
        if known.numel():
            lowest.append(int(known.min()))
            highest.append(int(known.max()))
    return (min(lowest), max(highest)) if lowest else None


def check_range(found: tuple[int, int] | None, outputs: Any) -> None:
    """Refuse classes that the network does not have, before a GPU asserts and ends the process's use of it.

    Args:
        found: of :func:`class_range`, of all samples.
        outputs: the network's for some of them.

    Raises:
        InvalidValue: that is so.
    """
    logits = logits_of(outputs)
    classes = logits.shape[1] if logits.dim() > 1 else 0
    if found is None or classes < 2 or 0 <= found[0] <= found[1] < classes:  # one output is refused elsewhere
        return
    if found[0] < 0:
        known, wrong = f"from 0 on, or {IGNORED} for none", found[0]
    else:
        known, wrong = f"below {classes}, which the network knows", found[1]
    raise InvalidValue(
        f"targets: expected classes {known}, got {wrong}; use the data that the network was made for, or number its "
        "classes as the outputs are"
    )


def say_if_probabilities(outputs: Any, what: str = "outputs") -> None:
    """Warn where what should be logits looks like probabilities, whose softmax says next to nothing.

    Args:
        outputs: some of a network's, [n, C, ...].
        what: the name of what they are.

    Example:
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error")
        ...     say_if_probabilities(torch.eye(3).softmax(1))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        UserWarning: outputs: expected logits, got rows of numbers >= 0 whose sum is 1: ...
    """
    logits = logits_of(outputs)
    if logits.dim() < 2 or logits.shape[1] < 2 or not logits.numel() or not logits.is_floating_point():
        return
    logits = logits.detach().float()
    if bool(((logits >= 0).all(1) & ((logits.sum(1) - 1).abs() < 1e-2)).all()):
        warnings.warn(
            f"{what}: expected logits, got rows of numbers >= 0 whose sum is 1: if these are probabilities, "
            "cross_entropy, ensembles and what is free take the softmax of them once more; return what the network's "
            "softmax gets, or their logarithm",
            UserWarning,
            stacklevel=3,
        )


def _of_classes(outputs: Any) -> Tensor:
    logits = logits_of(outputs)
    if logits.dim() < 2 or logits.shape[1] < 2:
        raise InvalidValue(
            f"outputs: expected [n, classes] of two classes or more, got {list(logits.shape)}; for a network "
            "with one output give a BatchFitness of your own"
        )
    return logits


def _class_numbers(logits: Tensor, targets: Any) -> Tensor:
    """Class numbers as int64, if they are some and belong to the outputs."""
    if not isinstance(targets, Tensor):
        raise InvalidType(f"targets: expected one tensor of class numbers, got {type(targets).__name__}")
    if targets.is_floating_point() or targets.is_complex():
        kind = str(targets.dtype).removeprefix("torch.")
        raise InvalidType(f"targets: expected class numbers, got {kind} {list(targets.shape)}; use targets.long()")
    _check_shape(targets, logits.shape[:1] + logits.shape[2:], logits)
    return targets.long()


def _check_shape(targets: Tensor, expected: torch.Size, logits: Tensor) -> None:
    if targets.shape == expected:
        return
    squeezed = targets.dim() == logits.dim() and targets.shape[1] == 1
    mend = "use targets.squeeze(1)" if squeezed else "classes are dimension 1 of the outputs"
    raise InvalidValue(
        f"targets: expected {list(expected)} for outputs {list(logits.shape)}, got {list(targets.shape)}; {mend}"
    )
