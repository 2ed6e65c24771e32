"""Types of the functions' keyword arguments, for type checkers and editors.

Defaults, checks and help are the settings' own; a test keeps names and types the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from smd_evo.core.subspace import Subspace

__all__ = ["CompareOptions", "EvolutionOptions", "FinetuneOptions", "WindowOptions"]


class _Options(TypedDict, total=False):
    """See :class:`smd_evo.experiments.settings.ExperimentConfig`."""

    checkpoint: str | None
    checkpoint_key: str | None
    data_dir: str
    download: bool
    fitness_samples: int | None
    validation_samples: int | None
    test_samples: int | None
    memory: float
    skip_unreadable: bool
    outputs: str
    preprocessing: str | None
    select: str | Sequence[str]
    seed: int
    device: str
    precision: str
    batch_size: int | str


class FinetuneOptions(_Options, total=False):
    """See :class:`smd_evo.experiments.finetune.settings.FinetuneConfig`."""

    children: int
    subspace: str | Subspace
    density: float | Sequence[float]
    sigma: float | None
    controls: bool
    arms: str | Sequence[str]
    shortlist: int
    ensembles: str | Sequence[str]
    also: str | None
    race: bool
    keep: float


class EvolutionOptions(_Options, total=False):
    """See :class:`smd_evo.experiments.generations.settings.EvolutionConfig`."""

    generations: int
    searcher: str
    children: int
    images: int | str | None
    subspace: str | Subspace
    density: float
    sigma: float | None
    keep: float
    adapt_sigma: bool
    learning_rate: float | None
    ridge: float
    calibrated: bool
    validate_every: int
    patience: int | None
    late_parents: int
    checkpoint_every: int
    keep_checkpoints: int
    log: str | Sequence[str]
    actors: int
    gpus_per_actor: float | None
    ray_address: str | None


class WindowOptions(_Options, total=False):
    """See :class:`smd_evo.experiments.window.settings.WindowConfig`."""

    children: int
    subspace: str | Sequence[str]
    density: float | Sequence[float]
    sigma: float | Sequence[float] | None


class CompareOptions(_Options, total=False):
    """See :class:`smd_evo.experiments.compare.settings.CompareConfig`."""

    methods: str | Sequence[str]
    controls: bool
    budget: int
    tuning_budget: int | None
    forwards: int | None
    seeds: int
    trials: int
    children: int
    images: int
    checkpoints: int
    metric: str
