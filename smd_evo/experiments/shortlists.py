"""Shortlists: each arm's first children by fitness, with their predictions on validation, and their file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from smd_evo.atomic import write_whole
from smd_evo.core.mutation import Mutation
from smd_evo.errors import ChildrenFileError, SmdEvoError

__all__ = ["Shortlist", "load_shortlists", "save_shortlists"]

_ENTRY, _FORMAT = "smd_evo", "smd_evo shortlists 1"


@dataclass(frozen=True, eq=False)
class Shortlist:
    """Candidates for an ensemble: the first by fitness of an arm's chosen group.

    Attributes:
        name: the arm's.
        density, sigma: of the mutations.
        recipes: the children, best first.
        fitness: float64, one a child.
        best: place of the child that is best on validation.
        logits: float32 [children, n, classes] on validation.
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
    write_whole(path, save(tensors, {_ENTRY: json.dumps({"format": _FORMAT, "arms": arms})}))


def load_shortlists(path: Path) -> list[Shortlist]:
    """What :func:`save_shortlists` wrote.

    Raises:
        ChildrenFileError: the file is missing, truncated or inconsistent.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()[_ENTRY])
            if about["format"] != _FORMAT:
                raise ValueError(f"its format is {about['format']!r} and not {_FORMAT!r}")
            shortlists = []
            for number, arm in enumerate(about["arms"]):
                recipes = [Mutation.decode(recipe) for recipe in arm["recipes"]]
                fitness, logits = (file.get_tensor(f"{number}.{name}") for name in ("fitness", "logits"))
                if logits.dim() != 3 or not len(recipes) == len(fitness) == len(logits) > int(arm["best"]) >= 0:
                    raise ValueError("its numbers of children differ")
                shortlists.append(
                    Shortlist(
                        name=str(arm["name"]),
                        density=float(arm["density"]),
                        sigma=float(arm["sigma"]),
                        recipes=recipes,
                        fitness=fitness.double(),
                        best=int(arm["best"]),
                        logits=logits.float(),
                        fingerprint=str(arm["fingerprint"]),
                    )
                )
            return shortlists
    except (OSError, SafetensorError, SmdEvoError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ChildrenFileError(
            f"{path}: expected a run's shortlists, but {reason}; run finetune again to write them"
        ) from None
