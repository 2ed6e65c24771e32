"""Weights of a finished run over generations."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smd_evo.errors import InvalidValue
from smd_evo.experiments.folders.kinds import ENSEMBLE, NETWORK, check_finished
from smd_evo.experiments.generations.identity import resumed_config

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["evolved_weights"]

_CHOICES = {"method": "greedy", "size": None, "combine": "probabilities"}
"""How its ensemble was chosen."""


def evolved_weights(
    run: Path,
    child: str,
    trust: bool = False,
    given: Mapping[str, Any] | None = None,
    **choice: str | int | None,
) -> tuple[dict[str, Tensor], str]:
    """Weights of the best network, or of the ensemble that was chosen at the end.

    Args:
        run: the folder of a run over generations.
        child: "best" (on validation), "soup" or "ensemble".
        trust: whether functions that the folder names may be imported.
        given: where its parent and data are now.
        choice: method, size and combination; the run has had its choice.

    Returns:
        See :func:`smd_evo.experiments.ensembles.export.exported`.

    Raises:
        InvalidValue: the run is not finished, or has no such child or choice.
        ChildrenFileError, WrongParent: its ensemble's file is damaged, or of another network.
    """
    check_finished(run)
    if child not in ("best", "soup", "ensemble"):
        raise InvalidValue(
            f"child: expected best, soup or ensemble, got {child!r}; a run over generations keeps no other children"
        )
    if other := [name for name, value in choice.items() if value != _CHOICES[name]]:
        raise InvalidValue(
            f"{other[0]}: expected none for a run over generations, which chose its ensemble at its end; leave it out"
        )

    from torch import nn

    from smd_evo.ensemble.module import SparseEnsemble
    from smd_evo.experiments.parent import load_parent
    from smd_evo.experiments.weights import plain_state
    from smd_evo.zoo.checkpoint import read_checkpoint
    from smd_evo.zoo.weights import load_weights

    state = read_checkpoint(run / NETWORK)
    if child == "best":
        return state, "the best network on validation"
    network, _ = load_parent(resumed_config(run, given or {}, trust, servers=False))
    load_weights(network, state, run / NETWORK)
    ensemble = SparseEnsemble.load(run / ENSEMBLE, network)
    shares = ", ".join(str(Fraction(weight).limit_denominator(1000)) for weight in ensemble.weights.tolist())
    if child == "soup":
        return plain_state(ensemble.soup()), f"a soup of the ensemble's networks, weights {shares}"
    networks = nn.ModuleList([ensemble.member(number) for number in range(len(ensemble))])
    return plain_state(networks), f"a torch.nn.ModuleList; weights of its networks' {ensemble.combine}: {shares}"
