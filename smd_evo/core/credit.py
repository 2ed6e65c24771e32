"""Credit: which units of a network are worth their children, by what those have gained and cost.

Probability matching: a unit's chance is proportional to its mean gain per cost, but for a floor.

    chance_u = floor / U + (1 - floor) * (gain_u / cost_u) / sum_v (gain_v / cost_v)

Reference: Thierens, "An adaptive pursuit strategy for allocating operator probabilities", GECCO 2005, section 2
(probability matching; the costs are ours).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from smd_evo.core.keys import Key, derive, derive_tensor

__all__ = ["FLOOR", "RATE", "chances_of", "learned", "picked", "weights_of"]

FLOOR = 0.1
"""Share of the children that all units get alike, so that each keeps being tried."""

RATE = 0.2
"""How much of what is known of a unit a generation replaces."""


def chances_of(gains: Sequence[float], costs: Sequence[float]) -> list[float]:
    """The chance of each unit.

    Args:
        gains: mean gain of each unit's children, >= 0, in any unit of measure; all 1 at first.
        costs: what a child of each takes, > 0, in forward passes.

    Returns:
        Numbers of sum 1, none below FLOOR / U.

    Example:
        >>> chances_of([1, 3], [1, 1])
        [0.275, 0.7250000000000001]
    """
    worth = [gain / cost for gain, cost in zip(gains, costs, strict=True)]
    total = sum(worth)
    if not total > 0:  # nobody has gained anything
        return [1 / len(worth)] * len(worth)
    return [FLOOR / len(worth) + (1 - FLOOR) * (each / total) for each in worth]


def learned(gains: Sequence[float], units: Tensor, improvements: Tensor) -> list[float]:
    """Gains after one more generation: a moving average for each unit that had children.

    They are relative to the generation's mean, as improvements become smaller the longer a search lasts.

    Args:
        gains: before.
        units: number of each child's unit, int64 [N].
        improvements: how much better than its parent each child is, float64 [N]; what is below 0 counts as 0.

    Returns:
        The same gains where no child is better than its parent.

    Example:
        >>> learned([1.0, 1.0, 1.0], torch.tensor([0, 0, 2, 2]), torch.tensor([3.0, 1.0, 0.0, -5.0]))
        [1.2, 1.0, 0.8]
    """
    better = improvements.double().cpu().clamp(min=0)
    mean = float(better.mean())
    found = [float(gain) for gain in gains]
    if not mean > 0:
        return found
    for unit in units.unique().tolist():
        own = float(better[units.cpu() == unit].mean()) / mean
        found[unit] += RATE * (own - found[unit])
    return found


def picked(key: Key, generation: int, count: int, chances: Sequence[float]) -> Tensor:
    """Units of a generation's children, drawn by their chances: int64 [count].

    One child of each unit that is drawn comes first, the last units before the others, then the second of each: who
    looks at the first few children sees how much they share, and of what kinds they are.

    Args:
        key: the run's.
        generation: its number.
        count: of the children, or of their pairs.
        chances: of the units, of sum 1.

    Example:
        >>> picked(1, 0, 6, [0.5, 0.3, 0.2]).tolist()
        [2, 1, 0, 0, 0, 0]
    """
    words = derive_tensor(derive(key, "units", generation), torch.arange(count, device="cpu"))
    places = ((words >> 11) & (2**53 - 1)).double() / 2**53
    ends, total = [], 0.0
    for chance in chances[:-1]:
        total += chance
        ends.append(total)
    drawn = torch.searchsorted(torch.tensor(ends, dtype=torch.float64, device="cpu"), places, right=True).tolist()
    before: dict[int, int] = {}
    turns = []
    for unit in drawn:
        turns.append((before.get(unit, 0), -unit))
        before[unit] = turns[-1][0] + 1
    return torch.tensor([-unit for _, unit in sorted(turns)], dtype=torch.int64, device="cpu")


def weights_of(units: Tensor, chances: Sequence[float]) -> Tensor:
    """What each child's part of a gradient counts, float64 [N]: ``1 / (U * chance)`` of its unit.

    So the gradient's expectation is the one of units that are drawn alike, whatever their chances (importance
    sampling); those that are drawn often count less each.

    Example:
        >>> weights_of(torch.tensor([0, 1]), [0.8, 0.2]).tolist()
        [0.625, 2.5]
    """
    factors = [1 / (len(chances) * chance) for chance in chances]
    return torch.tensor(factors, dtype=torch.float64, device="cpu")[units.cpu()]
