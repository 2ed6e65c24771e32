"""Settings of a mutation window."""

from __future__ import annotations

from dataclasses import dataclass

from smd_evo.experiments import readers
from smd_evo.experiments.settings import CHILDREN, ExperimentConfig, setting
from smd_evo.experiments.subspaces import SUBSPACES

__all__ = ["WindowConfig"]


@dataclass(frozen=True)
class WindowConfig(ExperimentConfig):
    """Settings of ``smd-evo window``.

    Example:
        >>> WindowConfig.read({"density": "1,0.01", "subspace": "random,neuron"}).subspace
        ('random', 'neuron')
    """

    children: int = setting(
        24,
        "N",
        "Children of a cell, at most; 6 or more [24].",
        readers.whole("fewer give no 95 % interval, try 24", low=6, high=CHILDREN),
    )
    subspace: tuple[str, ...] = setting(
        ("random",),
        "NAME[,NAME...]",
        "Kinds of subspaces: random, partition, neuron [random].",
        readers.several_of(SUBSPACES[:-1]),
        choices=SUBSPACES[:-1],
    )
    density: tuple[float, ...] = setting(
        (1.0, 0.1, 0.01, 0.001), "X[,X...]", "Densities in (0, 1] [1,0.1,0.01,0.001].", readers.numbers("try 0.1", 1)
    )
    sigma: tuple[float, ...] | None = setting(
        None,
        "X[,X...]",
        "Mutation strengths > 0 [found: from what nothing survives down to what changes nothing].",
        lambda name, value: None if value is None else readers.numbers("try 0.01", float("inf"))(name, value),
    )
