"""Each experiment as one call on its settings: the functions and the commands are made of these."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from smd_evo.api.results import Networks
from smd_evo.core.blocks import within
from smd_evo.core.checksum import checksum_of
from smd_evo.core.exclusive import Exclusive, memory_of
from smd_evo.ensemble.module import SparseEnsemble
from smd_evo.errors import WrongParent
from smd_evo.experiments.compare import files as comparisons
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.compare.table import compare_tables, compare_verdict
from smd_evo.experiments.ensembles import run as ensembles
from smd_evo.experiments.ensembles.files import ensemble_files
from smd_evo.experiments.ensembles.table import ensemble_tables, ensemble_verdict
from smd_evo.experiments.finetune import run as finetuning
from smd_evo.experiments.finetune.files import finetune_files, read_config, read_shortlists
from smd_evo.experiments.finetune.results import FinetuneResult
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.finetune.table import finetune_table, finetune_verdict
from smd_evo.experiments.folders.rescue import Files
from smd_evo.experiments.generations import files as generations
from smd_evo.experiments.generations.results import EvolutionResult
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.experiments.generations.table import evolution_table, evolution_verdict
from smd_evo.experiments.parent import NAMED, Given, Source
from smd_evo.experiments.progress import Progress
from smd_evo.experiments.window import run as windows
from smd_evo.experiments.window.files import window_files
from smd_evo.experiments.window.settings import WindowConfig
from smd_evo.experiments.window.table import window_tables, window_verdict

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Made", "compare", "ensemble", "evolve", "finetune", "resume", "window"]

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class Made:
    """What came out of an experiment.

    Attributes:
        tables, verdict: what a terminal shows.
        files: what writes its run directory; nothing where that was written as it went.
        networks: those that it found, if it hands over any.
    """

    tables: Sequence[Table]
    verdict: Sequence[str]
    files: Files = field(default_factory=dict)
    networks: Any = None


def finetune(config: FinetuneConfig, progress: Progress, source: Source = NAMED) -> Made:
    """One generation beside dense controls."""
    start = time.perf_counter()
    result = finetuning.finetune(config, progress, source)
    files = finetune_files(result, time.perf_counter() - start)
    return Made([finetune_table(result)], finetune_verdict(result), files, _found(result))


def evolve(
    config: EvolutionConfig, folder: Path, progress: Progress, source: Source = NAMED, lasting: bool = True
) -> Made:
    """A run over many generations, in its folder, which lasts or not."""
    return _evolved(generations.evolve(config, folder, progress, source, lasting), source)


def resume(
    folder: Path, settings: Mapping[str, Any], progress: Progress, trust: bool, source: Source = NAMED
) -> Made:
    """Such a run, from its newest checkpoint on."""
    return _evolved(generations.resume(folder, settings, progress, trust=trust, source=source), source)


def window(config: WindowConfig, progress: Progress, source: Source = NAMED) -> Made:
    """How strong mutations may be at each density."""
    start = time.perf_counter()
    result, samples = windows.window(config, progress, source)
    files = window_files(result, samples, time.perf_counter() - start)
    return Made(window_tables(result), window_verdict(result), files)


def compare(config: CompareConfig, folder: Path, jobs: int, progress: Progress, source: Source = NAMED) -> Made:
    """Methods beside OpenAI-ES, in the comparison's folder."""
    result = comparisons.compare(config, folder, jobs, progress, source)
    return Made(compare_tables(result), compare_verdict(result))


def ensemble(
    run: Path,
    given: Mapping[str, Any],
    progress: Progress,
    *,
    method: str,
    size: int | None,
    combine: str,
    trust: bool,
) -> Made:
    """Ensembles of the children that a run of one generation stored; given is where its parent and data are now."""
    start = time.perf_counter()
    config, shortlists = read_config(run, trust, given), read_shortlists(run)
    result = ensembles.score_ensembles(
        config, shortlists, method=method, size=size, combine=combine, progress=progress
    )
    files = ensemble_files(result, time.perf_counter() - start)
    return Made(ensemble_tables(result), ensemble_verdict(result), files)


class _Evolved:
    """The networks of a run over generations.

    Args:
        found: by it.
        given: the network whose memory they share, if they share a program's own: what is handed over never does, and
            nothing is when that has been changed meanwhile.
    """

    def __init__(self, found: EvolutionResult, given: nn.Module | None) -> None:
        self._network, self._ensemble, self._shares = found.network, found.ensemble, given is not None
        theirs = {memory_of(tensor) for tensor in _tensors(given)} if given else set()
        self._shared = [tensor for tensor in _tensors(self._network) if memory_of(tensor) in theirs]
        self._checksum = checksum_of(self._shared)

    def best(self) -> nn.Module:
        """A network of its own."""
        return within(Exclusive(self._network), lambda: self._copied(self._network))

    @cached_property
    def _voting(self) -> SparseEnsemble | None:
        found = self._ensemble
        return found and within(Exclusive(self._network), lambda: self._copied(found))

    def ensemble(self) -> SparseEnsemble | None:
        """Its relatives with it, if there are any, in a network that is theirs alone."""
        return self._voting

    def _copied(self, what: _Module) -> _Module:
        if checksum_of(self._shared) != self._checksum:
            raise WrongParent(
                "network: expected it as evolve(copy=False) left it, which this result shares memory with, got other "
                "weights; ask for the result's networks before, or leave copy out"
            )
        return copy.deepcopy(what)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _evolved(found: EvolutionResult, source: Source) -> Made:
    measure = found.fitness, found.sense
    tables, verdict = [evolution_table(found.rows, *measure)], evolution_verdict(found.rows, *measure)
    given = source.network if isinstance(source, Given) and not source.copy else None
    return Made(tables, verdict, networks=_Evolved(found, given))


def _found(result: FinetuneResult) -> Networks:
    group = result.arms[0].group
    chosen = group.chosen(result.space)
    best, members = (list(chosen[name].members.values()) for name in ("best child", "ensemble"))
    return Networks(lambda: result.space, best[0], members, group.ensemble.combine, result.best_free)
