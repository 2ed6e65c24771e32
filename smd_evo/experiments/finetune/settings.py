"""Settings of a single generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smd_evo.errors import InvalidValue, SmdEvoError, shown
from smd_evo.experiments import readers
from smd_evo.experiments.settings import CHILDREN, FITNESSES, GROUPS, ExperimentConfig, setting
from smd_evo.experiments.subspaces import (
    STAGES,
    SUBSPACES,
    UNIT,
    WITHIN,
    check_density,
    has_density,
    parts_of,
    subspace_of,
)

__all__ = ["DENSE_ARMS", "ENSEMBLES", "FinetuneConfig", "arm_names"]

DENSE_ARMS = {
    "matched-sigma": "dense, matched sigma",
    "matched-norm": "dense, matched norm",
    "own-sigma": "dense, own sigma",
}
"""Dense arms, and what reports call them."""

ENSEMBLES = ("greedy", "diverse", "soup")
"""Beside the best K together: chosen otherwise, or the mean of the weights of the best K."""


def _arms(name: str, value: Any) -> tuple[str, ...]:
    """Dense arms, or subspaces; what these are within may hold commas: ``within:norm,bias:dense``."""
    found: list[str] = []
    for item in (readers.text(name, each) for each in readers.items(name, value)):
        if found and found[-1].startswith("within:") and found[-1].count(":") < 2:
            found[-1] += f",{item}"
        else:
            found.append(item)
    for each in found:
        if each not in DENSE_ARMS:
            _subspace(name, each)
    if not found or len(set(found)) < len(found):
        raise InvalidValue(
            f"{name}: expected one or more different arms, got {shown(value)}; try matched-norm,tensor"
        )
    return tuple(found)


def _subspace(name: str, value: Any) -> None:
    """A kind of subspace, or any spec of one."""
    if value in SUBSPACES or parts_of(str(value))[0] or (":" not in str(value) and value != "dense"):
        subspace_of((*SUBSPACES, *DENSE_ARMS))(name, value)
        return
    from smd_evo.core.specs import parse_subspace  # which imports torch: only where it is needed

    try:
        parse_subspace(value)
    except SmdEvoError as error:
        raise InvalidValue(f"{name}: {error}") from None


def arm_names(config: FinetuneConfig) -> dict[str, str]:
    """What reports call the arms beside the sparse one, by what settings call them.

    >>> list(arm_names(FinetuneConfig(arms=("matched-norm", "within:norm,bias:dense"))).values())
    ['dense, matched norm', 'within:norm,bias:dense']
    """
    return {arm: DENSE_ARMS.get(arm, arm) for arm in config.arms} if config.controls else {}


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
        "Beside the sparse children as many of other arms, and what is nearly free [yes].",
        readers.flag,
    )
    arms: tuple[str, ...] = setting(
        tuple(DENSE_ARMS),
        "NAME[,NAME...]",
        f"These other arms: {', '.join(DENSE_ARMS)} are dense, or subspaces [the dense ones].",
        _arms,
    )
    shortlist: int = setting(
        20,
        "N",
        "Children of each group, the best by fitness, that validation chooses from [20].",
        readers.whole("try 20"),
    )
    ensembles: tuple[str, ...] = setting(
        (),
        "NAME[,NAME...]",
        f"Beside the best K together: {', '.join(ENSEMBLES)} [none].",
        lambda name, value: readers.several_of(ENSEMBLES)(name, value) if value else (),
    )
    also: str | None = setting(
        None,
        "NAME",
        "Other data of the same classes, to see what was forgotten there [none].",
        readers.path,
        GROUPS[0],
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
        if "arms" in given and not self.controls:
            raise InvalidValue("arms: expected none without controls, got some; leave one of the two out")

    def as_dict(self) -> dict[str, Any]:
        """See the base class."""
        left_out = {"density": not has_density(self.subspace), "arms": not self.controls}
        return {name: value for name, value in super().as_dict().items() if not left_out.get(name)}
