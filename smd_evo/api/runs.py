"""Runs that are stored: read back as what the functions returned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from smd_evo.api.results import Networks, RunResult
from smd_evo.core.copying import whole_copy
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.ensemble.module import SparseEnsemble
from smd_evo.errors import InvalidType, WrongParent
from smd_evo.experiments.finetune.files import read_config, read_shortlists
from smd_evo.experiments.folders.kinds import ENSEMBLE, NETWORK
from smd_evo.experiments.generations.identity import resumed_config
from smd_evo.experiments.parent import load_parent
from smd_evo.experiments.shortlists import SPARSE
from smd_evo.report.records import read_record
from smd_evo.zoo.checkpoint import read_checkpoint
from smd_evo.zoo.weights import load_weights

__all__ = ["Stored", "load_run"]


def load_run(folder: Path | str, network: nn.Module | None = None, *, trust: bool = False) -> RunResult:
    """A finished run, as the function that made it returned it.

    Args:
        folder: the run directory.
        network: its parent, where a program gave it; it stays as it is. None: it is loaded as the run's settings say
            when a network of the run is asked for.
        trust: whether functions that these settings name may be imported then.

    Raises:
        InvalidType: network is none.
        InvalidValue: ``folder`` holds no finished run, or something in it is unreadable.
    """
    if network is not None and not isinstance(network, nn.Module):
        raise InvalidType(f"network: expected a torch.nn.Module, got {type(network).__name__}")
    run = Path(folder)
    record = read_record(run)

    def parent() -> nn.Module:
        if network is not None:
            return network
        config = (
            resumed_config(run, {}, trust, servers=False) if record.kind == "evolution" else read_config(run, trust)
        )
        return load_parent(config)[0]

    kinds: dict[str, Callable[[], Any]] = {
        "finetune": lambda: _Shortlisted(run, record.config.get("select", "all"), record.results, parent),
        "evolution": lambda: Stored(run, parent),
    }
    return RunResult(record, run, kinds[record.kind]() if record.kind in kinds else None)


class Stored:
    """The networks of a finished run over generations.

    Args:
        run: its folder.
        parent: gives a network of its architecture.
    """

    def __init__(self, run: Path, parent: Callable[[], nn.Module]) -> None:
        self._run, self._parent = run, parent

    def best(self) -> nn.Module:
        """A network of its own."""
        network = whole_copy(self._parent()).eval()
        load_weights(network, read_checkpoint(self._run / NETWORK), self._run / NETWORK)
        return network

    def ensemble(self) -> SparseEnsemble | None:
        """Its relatives with it, if there are any."""
        return SparseEnsemble.load(self._run / ENSEMBLE, self.best()) if (self._run / ENSEMBLE).is_file() else None


class _Shortlisted:
    """The networks of a run of a single generation."""

    def __init__(self, run: Path, select: str, results: Any, parent: Callable[[], nn.Module]) -> None:
        self._run, self._select, self._parent = run, select, parent
        own = results["arms"][SPARSE]
        self._size = own["groups"][own["chosen"]]["ensemble_size"]
        # Where samples have no classes there are no probabilities.
        self._combine = "logits" if results["rows"][0]["accuracy"] is None else "probabilities"

    def best(self) -> nn.Module:
        """A network of its own."""
        return self._networks().best()

    def ensemble(self) -> SparseEnsemble | None:
        """The first by fitness that vote best together."""
        return self._networks().ensemble()

    def _networks(self) -> Networks:
        sparse = next(arm for arm in read_shortlists(self._run) if arm.name == SPARSE)
        space = ParameterSpace(whole_copy(self._parent()).eval(), self._select)
        if space.fingerprint() != sparse.fingerprint:
            raise WrongParent(
                f"network: expected the parent of {self._run}, {sparse.fingerprint}, got {space.fingerprint()}; give "
                "the network that the run began with"
            )
        members: list[Child] = list(sparse.recipes[: self._size])
        return Networks(lambda: space, sparse.recipes[sparse.best], members, self._combine)
