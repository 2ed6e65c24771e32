"""Whether a parent does no more than guess, which mutations seldom mend."""

from __future__ import annotations

from torch import Tensor

from smd_evo.ensemble.metrics import accuracy
from smd_evo.experiments.scores import of_classes

__all__ = ["chance", "near_chance", "remark"]

LEAST = 0.05
"""Share of the way from chance to certainty, (accuracy - chance) / (1 - chance), below which a parent is told of."""


def chance(targets: Tensor) -> float:
    """Share of the most frequent class: what a network reaches that always answers the same.

    Example:
        >>> import torch
        >>> chance(torch.tensor([0, 7, 7, 3]))
        0.5
    """
    return float(targets.flatten().unique(return_counts=True)[1].max()) / targets.numel()


def remark(outputs: Tensor, targets: Tensor, split: str = "fitness") -> str:
    """What is to be said of a parent that is hardly better than chance, in one line; else nothing.

    Args:
        outputs: the parent's, [n, classes]; of other tasks nothing is said.
        targets: class numbers, int64 [n].
        split: where these samples are from.
    """
    if not of_classes(outputs, targets):
        return ""
    return near_chance(float(accuracy(outputs, targets).mean()), targets, split)


def near_chance(right: float, targets: Tensor, split: str = "fitness") -> str:
    """The same of a parent of which the accuracy is known.

    Args:
        right: its share of right answers.
        targets: class numbers, int64 [n].
        split: where these samples are from.

    Example:
        >>> import torch
        >>> near_chance(0.9, torch.tensor([0, 1]))
        ''
        >>> near_chance(0.5, torch.tensor([0, 1])).partition(", its")[0]
        'parent: expected an accuracy well above chance on the fitness split (50.0 %'
    """
    guessed = chance(targets)
    if guessed == 1 or right - guessed >= LEAST * (1 - guessed):
        return ""
    return (
        f"parent: expected an accuracy well above chance on the {split} split ({100 * guessed:.1f} %, its most "
        f"frequent class), got {100 * right:.1f} %; check normalisation (mean, std, scale) and resizing "
        "(preprocessing), the order of the labels (data), and the weights (checkpoint, checkpoint_key)"
    )
