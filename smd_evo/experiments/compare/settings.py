"""Settings of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smd_evo.errors import InvalidValue, check_pairs
from smd_evo.experiments import readers
from smd_evo.experiments.settings import CHILDREN, FITNESSES, METRICS, ExperimentConfig, setting

__all__ = ["CompareConfig"]


@dataclass(frozen=True)
class CompareConfig(ExperimentConfig):
    """Settings of ``smd-evo compare``.

    Example:
        >>> CompareConfig.read({"methods": "smd,openai-es", "budget": "20000"}).methods
        ('smd', 'openai-es')
    """

    methods: tuple[str, ...] = setting(
        ("openai-es", "sparse-es", "smd", "smd-ensemble"),
        "NAME[,NAME...]",
        "Methods, or module.path:Class of your own; openai-es is always there "
        "[openai-es,sparse-es,smd,smd-ensemble].",
        readers.names,
    )
    controls: bool = setting(
        True,
        "",
        "Beside them what is nearly free, where it makes sense: temperature, class biases, refitted head, ... [yes].",
        readers.flag,
    )
    budget: int = setting(
        96_000, "N", "Image evaluations of a run: children times images [96000].", readers.whole("try 96000")
    )
    tuning_budget: int | None = setting(
        None, "N", "Image evaluations of a trial, where it is to be fewer [the budget].", readers.samples
    )
    forwards: int | None = setting(
        None,
        "N",
        "Forward passes of a run at most, of which children that share layers need fewer [no limit].",
        readers.samples,
    )
    seeds: int = setting(
        5, "N", "Reported runs of each method; 2 or more [5].", readers.whole("try 5", low=2, high=10_000)
    )
    trials: int = setting(
        4,
        "N",
        "Settings that each method may try; of 1 there is no choice, and no trial [4].",
        readers.whole("try 4"),
    )
    children: int = setting(
        32, "N", "Children a generation, even [32].", readers.whole("try 32", low=8, high=CHILDREN)
    )
    images: int = setting(
        300, "N", "Images that rank a child, others each generation [300].", readers.whole("try 300")
    )
    checkpoints: int = setting(
        10, "N", "Points of a learning curve, in even steps of the budget [10].", readers.whole("try 10", high=10_000)
    )
    metric: str = setting(
        "cross_entropy",
        "NAME",
        "What settings are chosen by on validation: cross_entropy or accuracy [cross_entropy].",
        readers.one_of(METRICS),
        choices=METRICS,
    )
    fitness: str = setting(
        "cross_entropy",
        "NAME",
        f"What ranks children: {', '.join(FITNESSES)} or module.path:name [cross_entropy].",
        readers.one_or_own(tuple(FITNESSES)),
        choices=tuple(FITNESSES),
    )

    def check(self, given: Mapping[str, Any]) -> None:
        """See the base class."""
        check_pairs("children", self.children)
        lowest = self.children * self.images
        for name in ("budget", "tuning_budget", "forwards"):
            if (budget := getattr(self, name)) is not None and budget < lowest:
                raise InvalidValue(
                    f"{name}: expected at least one generation, {self.children} children x {self.images} images = "
                    f"{lowest}, got {budget}; give more, or fewer children or images"
                )
        if self.trials > 1 and self.tuning_budget is not None and self.forwards is not None:
            share = self.forwards * self.tuning_budget / self.budget
            if share < lowest:
                raise InvalidValue(
                    f"tuning_budget: expected at least {math.ceil(lowest * self.budget / self.forwards)}, whose "
                    f"share of {self.forwards} forward passes is a generation of {lowest}, got {self.tuning_budget}"
                )
