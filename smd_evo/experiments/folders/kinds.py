"""What kind of run a folder holds, and whether it is finished."""

from __future__ import annotations

from pathlib import Path

from smd_evo.errors import InvalidValue
from smd_evo.experiments.folders.content import CONFIG, IDENTITY, RESULTS, read_results
from smd_evo.experiments.settings import load_settings
from smd_evo.experiments.trust import going_on

__all__ = ["ENSEMBLE", "NETWORK", "check_finished", "check_single", "is_evolution"]

NETWORK, ENSEMBLE = "network.safetensors", "ensemble.safetensors"
"""What a run over generations leaves."""


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


def check_finished(run: Path) -> None:
    """Raise InvalidValue if a run over generations is not finished."""
    if not (run / RESULTS).is_file():
        mend = going_on(run, load_settings(run / CONFIG))
        raise InvalidValue(f"run: expected a finished one, got {run}; {mend} goes on with it")
    read_results(run / RESULTS, "evolution")
