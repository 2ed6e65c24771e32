"""What a measurement of mutation windows finds: cells, windows, rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smd_evo.experiments.window.numbers import PartialEstimate
from smd_evo.experiments.window.settings import WindowConfig
from smd_evo.statistics.tests import Estimate

__all__ = ["SHARES", "BestChild", "Cell", "Profile", "Window", "WindowResult"]

SHARES = (0.99, 0.9)
"""Shares of the parent's accuracy, each of which has a window."""


@dataclass(frozen=True)
class BestChild:
    """The child that is best on the fitness split, among those of one cell or of several.

    Attributes:
        sigma: its mutation strength.
        recipe: itself, encoded.
        accuracy: on the fitness split, where it is the best of many: too high for new images.
        gain: of accuracy over the parent on the validation split, which had no part in its choice.
        p_value: of the exact McNemar test of the same.
    """

    sigma: float
    recipe: str
    accuracy: float
    gain: Estimate
    p_value: float


@dataclass(frozen=True)
class Cell:
    """Children of one rule and one strength.

    Attributes:
        sigma: mutation strength.
        norm: sigma * sqrt(density), the strength of the dense mutation of the same expected norm.
        accuracies: of the children on the fitness split; 0 if an output was not finite.
        nonfinite: how many had such an output.
        median: of the accuracies, with its interval.
        best: the child of the highest accuracy.
    """

    sigma: float
    norm: float
    accuracies: tuple[float, ...]
    nonfinite: int
    median: Estimate
    best: BestChild


@dataclass(frozen=True)
class Window:
    """The strengths at which the median child keeps a share of the parent's accuracy.

    Attributes:
        share: of the parent's accuracy.
        sigma: the edge, the largest such strength.
        norm: the same, times the square root of the density.
        beyond: why the edge has no value: even the weakest cell is "below" the level, even the strongest one is
            "above" it, or so is "chance"; None if it has one.
        matched_sigma: the edge over that of dense mutations; None without these, as the next.
        matched_norm: the same of the edges' norms.
        best: the child of the highest accuracy in the cells up to the edge.
    """

    share: float
    sigma: PartialEstimate
    norm: PartialEstimate
    beyond: Literal["below", "above", "chance"] | None
    matched_sigma: PartialEstimate | None
    matched_norm: PartialEstimate | None
    best: BestChild | None


@dataclass(frozen=True)
class Profile:
    """How the network stands the mutations of one rule.

    Attributes:
        rule: the subspace rule's spec.
        kind: its name: "dense", "random", ...
        density: mean share of the coordinates that a child touches.
        cells: weakest first.
        windows: one for each of :data:`SHARES`.
    """

    rule: str
    kind: str
    density: float
    cells: tuple[Cell, ...]
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class WindowResult:
    """All that was measured; plain numbers and words, so that ``dataclasses.asdict`` makes it JSON.

    Attributes:
        config: the settings.
        parameters: how many are mutated, D.
        samples: of the fitness and of the validation split.
        parent: the parent's accuracy on the fitness split.
        parent_validation: and on the validation split.
        chance: the most frequent class's share of the fitness split, what a constant answer reaches there.
        destroyed: the accuracy below which a cell counts as destroyed.
        profiles: one a rule.
        evaluations: "children" on the fitness split, and of the "full grid" of the same strengths and rules; the best
            ones on the "validation" split. The parent, which is evaluated once on each, is none of them.
    """

    config: WindowConfig
    parameters: int
    samples: dict[str, int]
    parent: float
    parent_validation: float
    chance: float
    destroyed: float
    profiles: tuple[Profile, ...]
    evaluations: dict[str, int]
