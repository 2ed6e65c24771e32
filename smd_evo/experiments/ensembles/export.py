"""Weights that load with plain ``load_state_dict``, where no smd_evo is installed."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from torch import Tensor, nn

from smd_evo.core.parameters import Child
from smd_evo.ensemble.files import load_children
from smd_evo.ensemble.soup import soup
from smd_evo.errors import InvalidValue
from smd_evo.experiments.ensembles.run import choose, parent_on_validation
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.shortlists import SPARSE, Shortlist
from smd_evo.experiments.weights import plain_state

__all__ = ["exported"]

_POOLED = {"probabilities": "probabilities", "logits": "logits", "majority": "votes"}


def exported(
    config: FinetuneConfig,
    shortlists: Sequence[Shortlist],
    children: Path,
    child: str,
    *,
    method: str = "greedy",
    size: int | None = None,
    combine: str = "probabilities",
) -> tuple[dict[str, Tensor], str]:
    """Weights of a run's child, soup or ensemble.

    Args:
        config: settings of the run.
        shortlists: what it has stored.
        children: its children file.
        child: "best" (on validation), the K of the K-th best by fitness, "soup" or "ensemble".
        method, size, combine: see :func:`smd_evo.ensemble.selection.select_members`.

    Returns:
        The state, on the CPU; that of an ensemble is of a ``torch.nn.ModuleList``. And a line that says what it is.

    Raises:
        InvalidValue: there is no such child.
    """
    _, validation = parent_on_validation(config, shortlists)
    space = validation.space
    sparse = next(arm for arm in shortlists if arm.name == SPARSE)
    if child in ("soup", "ensemble"):
        chosen = choose(sparse, validation, method, size, combine)
        recipes = [sparse.recipes[number] for number in chosen.members]
        # Exactly, and short: a weight counts some of the choices.
        shares = ", ".join(str(Fraction(weight).limit_denominator(len(chosen.curve))) for weight in chosen.weights)
        if child == "ensemble":
            networks = nn.ModuleList([space.make_child(recipe) for recipe in recipes])
            how = f"a torch.nn.ModuleList; weights of its networks' {_POOLED[chosen.combine]}: {shares}"
            return plain_state(networks), how
        mean = space.make_child(soup(space, recipes, chosen.weights))
        return plain_state(mean), f"a soup of children, weights {shares}"
    made: Child
    if child == "best":
        made, what = sparse.recipes[sparse.best], "the best child on validation"
    else:
        members = load_children(children, space).members
        numbers = [str(number) for number in range(1, len(members) + 1)]
        if child not in numbers:
            raise InvalidValue(f"child: expected best, soup, ensemble or 1 to {len(members)}, got {child!r}")
        made, what = members[numbers.index(child)], f"child {child} of {len(members)} by fitness"
    return plain_state(space.make_child(made)), what
