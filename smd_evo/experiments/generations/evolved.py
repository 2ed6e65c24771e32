"""Weights of a finished run over generations."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from smd_evo.errors import InvalidValue
from smd_evo.experiments.folders.content import CONFIG, IDENTITY, RESULTS, read_results
from smd_evo.experiments.generations.identity import resumed_config
from smd_evo.experiments.settings import load_settings
from smd_evo.experiments.trust import trust_option

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ENSEMBLE", "NETWORK", "check_finished", "check_single", "evolved_weights", "is_evolution"]

NETWORK, ENSEMBLE = "network.safetensors", "ensemble.safetensors"
_CHOICES = {"method": "greedy", "size": None, "combine": "probabilities"}
"""How its ensemble was chosen."""


def is_evolution(run: Path) -> bool:
    """Whether a folder holds a run over generations, finished or not."""
    return (run / IDENTITY).is_file()


def check_single(run: Path) -> None:
    """Raise InvalidValue if a folder holds a run over generations, which says where its ensemble is."""
    if is_evolution(run):
        check_finished(run)
        raise InvalidValue(
            f"run: expected one of a single generation, got {run} of many, which chose its ensemble at its end: "
            f"{run / ENSEMBLE}, for SparseEnsemble.load with a network of {run / NETWORK}; smd-evo export {run} "
            "--child ensemble --out FILE writes it as plain weights"
        )


def evolved_weights(
    run: Path, child: str, trust: bool = False, **choice: str | int | None
) -> tuple[dict[str, Tensor], str]:
    """Weights of the best network, or of the ensemble that was chosen at the end.

    Args:
        run: the folder of a run over generations.
        child: "best" (on validation), "soup" or "ensemble".
        trust: whether functions that the folder names may be imported.
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
    from smd_evo.experiments.ensembles.export import plain_state
    from smd_evo.experiments.parent import load_parent
    from smd_evo.zoo.checkpoint import read_checkpoint
    from smd_evo.zoo.weights import load_weights

    state = read_checkpoint(run / NETWORK)
    if child == "best":
        return state, "the best network on validation"
    network, _ = load_parent(resumed_config(run, {}, trust, servers=False))
    load_weights(network, state, run / NETWORK)
    ensemble = SparseEnsemble.load(run / ENSEMBLE, network)
    shares = ", ".join(str(Fraction(weight).limit_denominator(1000)) for weight in ensemble.weights.tolist())
    if child == "soup":
        return plain_state(ensemble.soup()), f"a soup of the ensemble's networks, weights {shares}"
    networks = nn.ModuleList([ensemble.member(number) for number in range(len(ensemble))])
    return plain_state(networks), f"a torch.nn.ModuleList; weights of its networks' probabilities: {shares}"


def check_finished(run: Path) -> None:
    """Raise InvalidValue if a run over generations is not finished."""
    if not (run / RESULTS).is_file():
        option = trust_option(load_settings(run / CONFIG))
        raise InvalidValue(f"run: expected a finished one, got {run}; smd-evo resume {run}{option} goes on with it")
    read_results(run / RESULTS, "evolution")
