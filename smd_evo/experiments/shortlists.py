"""Shortlists: each arm's first children by fitness, with their predictions on validation, and their file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smd_evo.core.mutation import Mutation
from smd_evo.ensemble.container import entry, inconsistent, read, write
from smd_evo.errors import InvalidValue, SmdEvoError, check_number

__all__ = ["SPARSE", "Shortlist", "load_shortlists", "save_shortlists"]

SPARSE = "sparse"
"""Name of the arm that is not a control."""

_FORMAT = "smd_evo shortlists 1"


@dataclass(frozen=True, eq=False)
class Shortlist:
    """Candidates for an ensemble: the first by fitness of an arm's chosen group.

    Attributes:
        name: the arm's.
        density, sigma: of the mutations.
        recipes: the children, best first.
        fitness: float64, one a child.
        best: place of the child that is best on validation.
        logits: float32 [children, n, classes] on validation, or [children, n, ...] where samples have no classes; not
            finite where a child's are not.
        fingerprint: of their parent.
    """

    name: str
    density: float
    sigma: float
    recipes: list[Mutation]
    fitness: Tensor
    best: int
    logits: Tensor
    fingerprint: str


def save_shortlists(path: Path, shortlists: Sequence[Shortlist]) -> None:
    """Write shortlists; the file appears whole or not at all."""
    tensors: dict[str, Tensor] = {}
    arms = []
    for number, arm in enumerate(shortlists):
        tensors |= {f"{number}.fitness": arm.fitness, f"{number}.logits": arm.logits}
        about = {name: getattr(arm, name) for name in ("name", "density", "sigma", "best", "fingerprint")}
        arms.append(about | {"recipes": [recipe.encode() for recipe in arm.recipes]})
    write(path, _FORMAT, {"arms": arms}, tensors)


def load_shortlists(path: Path) -> list[Shortlist]:
    """What :func:`save_shortlists` wrote, the sparse arm's among them.

    Raises:
        ChildrenFileError: the file is missing, truncated, of another format or version, or inconsistent.
    """
    about, tensors = read(path, _FORMAT, lambda present: present)
    try:
        arms = entry(about, "arms", list)
        if tensors.keys() != {f"{number}.{name}" for number in range(len(arms)) for name in ("fitness", "logits")}:
            raise InvalidValue(f"its tensors are not those of {len(arms)} shortlists")
        shortlists = [_shortlist(entry({"arm": arm}, "arm", dict), tensors, str(n)) for n, arm in enumerate(arms)]
        names = [arm.name for arm in shortlists]
        if SPARSE not in names or len(set(names)) < len(names):
            raise InvalidValue(f"it holds no shortlist of {SPARSE!r}, or two of one name")
        return shortlists
    except SmdEvoError as error:
        raise inconsistent(path, error) from None


def _shortlist(about: Mapping[str, Any], tensors: Mapping[str, Tensor], place: str) -> Shortlist:
    """One arm, if its parts agree with each other."""
    fitness, logits = tensors[f"{place}.fitness"], tensors[f"{place}.logits"]
    encoded, best = entry(about, "recipes", list), entry(about, "best", int)
    if (fitness.dim(), fitness.dtype, logits.dtype) != (1, torch.float64, torch.float32) or logits.dim() < 2:
        raise InvalidValue("its fitness or its predictions are of another type or shape")
    if not len(encoded) == len(fitness) == len(logits) > best >= 0:
        raise InvalidValue("its numbers of children differ")
    if not bool(fitness.isfinite().all()):
        raise InvalidValue("its fitness is not all finite")
    return Shortlist(
        name=entry(about, "name", str),
        density=check_number("its density", about.get("density"), low=0, high=1),
        sigma=check_number("its sigma", about.get("sigma"), low=0),
        recipes=[Mutation.decode(entry({"recipe": text}, "recipe", str)) for text in encoded],
        fitness=fitness,
        best=best,
        logits=logits,
        fingerprint=entry(about, "fingerprint", str),
    )
