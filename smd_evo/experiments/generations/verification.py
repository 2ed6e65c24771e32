"""The history of a run over generations, replayed from the pre-trained parent."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from smd_evo.core.parameters import ParameterSpace
from smd_evo.errors import NotReproduced
from smd_evo.experiments.folders.content import wrong_state
from smd_evo.experiments.generations.checkpoints import newest
from smd_evo.experiments.generations.identity import check_parent, read_identity, resumed_config
from smd_evo.experiments.generations.metrics import HISTORY, read_metrics
from smd_evo.experiments.generations.state import present_searcher
from smd_evo.experiments.parent import load_parent
from smd_evo.experiments.progress import Logged, Progress

__all__ = ["verify_history"]

_log = logging.getLogger(__name__)


def verify_history(
    run: Path, progress: Progress | None = None, trust: bool = False, given: Mapping[str, Any] | None = None
) -> int:
    """Make the newest checkpoint's parent again, from the pre-trained one and the recipes of all generations.

    Args:
        run: the run directory, of a finished run or an unfinished one.
        progress: told of each generation; what else the user should know, :mod:`logging` is told.
        trust: whether functions that the folder names may be imported.
        given: where its parent and data are now.

    Returns:
        How many generations there are.

    Raises:
        WrongParent: the pre-trained parent is another one.
        NotReproduced: the replayed one differs from the checkpoint's.
        InvalidValue: ``run`` is no run over generations, or damaged.
    """
    progress = progress or Logged()
    identity = read_identity(run)
    number, state, damaged = newest(run)
    for each in damaged:
        _log.warning("%s; that of generation %s is looked at", each, number)
    records = read_metrics(run, number, HISTORY)
    config = resumed_config(run, given or {}, trust, servers=False)
    network, _ = load_parent(config, progress)
    space = ParameterSpace(network, config.select)
    check_parent(identity, space.fingerprint())

    from smd_evo.integrations.evotorch.history import decoded
    from smd_evo.integrations.evotorch.replica import Replica

    replica = Replica(space)
    progress.start("replaying generations", number)
    with wrong_state(f"{run / HISTORY} and checkpoint {number}"):
        for record in records:
            for change in record["changes"]:
                replica.apply(decoded(change))
            progress.advance()
        parent = present_searcher(state)["problem"]["parent"]
        differing = [name for name, values in replica.space.copied().items() if not torch.equal(values, parent[name])]
    if differing:
        raise NotReproduced(
            f"parent: expected that of checkpoint {number} from the run's history, got another {differing[0]}; "
            f"{run / HISTORY} or the checkpoint was changed, or other versions round differently"
        )
    return number
