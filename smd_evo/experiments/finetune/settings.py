"""Settings of a single generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smd_evo.experiments import readers
from smd_evo.experiments.settings import CHILDREN, FITNESSES, ExperimentConfig, setting
from smd_evo.experiments.subspaces import STAGES, SUBSPACES, UNIT, WITHIN, check_density, has_density, subspace_of

__all__ = ["FinetuneConfig"]


@dataclass(frozen=True)
class FinetuneConfig(ExperimentConfig):
    """Settings of ``smd-evo finetune``.

    Example:
        >>> FinetuneConfig.read({"children": "64", "density": "0.1,0.01"}).density
        (0.1, 0.01)
    """

    children: int = setting(
        128, "N", "Children of each density [128], or generation [32].", readers.whole("try 128", high=CHILDREN)
    )
    subspace: str = setting(
        "random",
        "NAME",
        f"{', '.join(SUBSPACES)}, {WITHIN} or {UNIT}; with --generations {STAGES}, too [random].",
        subspace_of(SUBSPACES),
        choices=SUBSPACES,
    )
    density: tuple[float, ...] = setting(
        (0.3, 0.1, 0.03),
        "X[,X...]",
        "Densities in (0, 1] to choose from on validation [0.3,0.1,0.03]; of several generations one [0.1].",
        readers.numbers("try 0.1", 1),
    )
    sigma: float | None = setting(None, "X", "Mutation strength > 0 [calibrated].", readers.sigma)
    controls: bool = setting(
        True,
        "",
        "Beside the sparse children as many dense ones of three strengths, and what is nearly free [yes].",
        readers.flag,
    )
    race: bool = setting(
        False,
        "",
        "Show all samples only to children that may win, a third of the work; not with --generations [no].",
        readers.flag,
    )
    keep: float = setting(
        0.9,
        "X",
        "Share of the parent's score that calibration leaves the median child [0.9].",
        readers.keep,
    )
    fitness: str = setting(
        "cross_entropy",
        "NAME",
        f"{', '.join(FITNESSES)} or module.path:name [cross_entropy].",
        readers.one_or_own(tuple(FITNESSES)),
        choices=tuple(FITNESSES),
    )

    def check(self, given: Mapping[str, Any]) -> None:
        """See the base class."""
        check_density(self.subspace, given)

    def as_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {
            name: value
            for name, value in super().as_dict().items()
            if name != "density" or has_density(self.subspace)
        }
