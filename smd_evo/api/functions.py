"""Fine-tuning, runs over generations, mutation windows and comparisons, as functions of a network and its data."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from smd_evo.api import experiments
from smd_evo.api.progress import State, telling
from smd_evo.api.results import RunResult, read_files
from smd_evo.api.runs import Stored
from smd_evo.api.settings import has_settings, taken
from smd_evo.core.parameters import ParameterSpace
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.fitness import BatchFitness, Fitness, Sense
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.folders.content import CONFIG, IDENTITY, differing, digest
from smd_evo.experiments.folders.rescue import RESULTS, fill
from smd_evo.experiments.folders.survival import Interrupted
from smd_evo.experiments.folders.take import new_run
from smd_evo.experiments.generations.files import NETWORK, network_file
from smd_evo.experiments.generations.identity import changed_config, check_data, check_parent, read_identity
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.experiments.parent import Source
from smd_evo.experiments.progress import Progress
from smd_evo.experiments.settings import load_settings
from smd_evo.experiments.window.settings import WindowConfig
from smd_evo.report.records import read_record

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from smd_evo.api.options import CompareOptions, EvolutionOptions, FinetuneOptions, WindowOptions

__all__ = ["compare", "evolve", "finetune", "window"]

Callback = Callable[[State], Any]

_ENDS = ("generations", "patience")
"""Settings that a run which is not finished may go on with others of."""


@has_settings(FinetuneConfig)
def finetune(
    network: nn.Module | str,
    data: Any,
    *,
    fitness: str | BatchFitness = "cross_entropy",
    out: Path | str | None = None,
    callback: Callback | None = None,
    **settings: Unpack[FinetuneOptions],
) -> RunResult:
    """Fine-tune and ensemble a network by one generation of sparse mutations, beside dense controls.

    Args:
        network: the parent; it stays as it is. Or a name, as ``smd-evo finetune --model`` takes it.
        data: :class:`smd_evo.Splits`; with a network's name, the data's.
        fitness: a name ("cross_entropy", "accuracy", "balanced_accuracy", "macro_f1"), or a BatchFitness.
        out: new folder for all that comes out, which the commands go on from; None: nothing is kept on disk.
        callback: told of each :class:`smd_evo.api.progress.State`; where it returns False the experiment ends.
        settings: those of the command.

    Raises:
        InvalidType, InvalidValue, UnsupportedParameter: one of them cannot be used.
        OutputExists: ``out`` holds something.
        Stopped: the callback ended it.

    Example:
        >>> import torch
        >>> from smd_evo import finetune, split
        >>> inputs = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
        >>> data = split((inputs, (inputs[:, 0] > 0).long()))
        >>> network = torch.nn.Linear(4, 2, bias=False)
        >>> network.weight.data = torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0]])  # better than chance, as a parent is
        >>> result = finetune(network, data, children=12, density=0.5, sigma=0.5)
        >>> len(result.ensemble) >= 1, type(result.best).__name__
        (True, 'Linear')
    """
    config, source = taken(FinetuneConfig, network, data, fitness, settings, out=out)
    with _placed(out) as deliver, telling(callback) as progress, _quiet():
        return deliver(experiments.finetune(config, progress, source))


@has_settings(EvolutionConfig)
def evolve(
    network: nn.Module | str,
    data: Any = None,
    *,
    fitness: str | Fitness | Callable[[nn.Module], float] = "cross_entropy",
    sense: Sense | None = None,
    copy: bool = True,
    out: Path | str | None = None,
    callback: Callback | None = None,
    **settings: Unpack[EvolutionOptions],
) -> RunResult:
    """Fine-tune a network over many generations; with ``out``, in a run that can be stopped anywhere and goes on.

    Args:
        network: the parent; it stays as it is. Or a name, as ``smd-evo finetune --model`` takes it.
        data: :class:`smd_evo.Splits`; None where the fitness is of the network; with a network's name, the data's.
        fitness: a name, a BatchFitness of outputs and targets, or a function of the network: a float.
        sense: "max" or "min", of such a function [max].
        copy: False to work in the network's own memory, which is as before afterwards, to the bit: that saves a
            network. Ask for the result's networks before you train it on.
        out: folder of the run. One of the same settings that is there already goes on where it was stopped. None:
            nothing is kept on disk.
        callback: told of each :class:`smd_evo.api.progress.State`; where it returns False the present generation is
            the last.
        settings: those of the command.

    Raises:
        InvalidType, InvalidValue, UnsupportedParameter: one of them cannot be used, or ``out`` is another run.

    Example:
        >>> import torch
        >>> from smd_evo import evolve
        >>> network = torch.nn.Linear(3, 1)
        >>> small = lambda module: module.weight.abs().sum().item()
        >>> result = evolve(network, fitness=small, sense="min", generations=5, sigma=0.1)
        >>> small(result.best) < small(network)
        True
    """
    config, source = taken(EvolutionConfig, network, data, fitness, settings, sense, copy, out)
    with telling(callback, gently=True) as progress, _quiet():
        if out is not None:
            folder = Path(out)
            if (folder / IDENTITY).is_file():
                return _gone_on(folder, config, settings, progress, source)
            made = experiments.evolve(config, folder, progress, source)
            return RunResult(read_record(folder), folder, made.networks)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "run"
            try:
                made = experiments.evolve(_in_passing(config), folder, progress, source, lasting=False)
            except Interrupted:
                raise KeyboardInterrupt("evolve: interrupted; nothing is kept without out") from None
            return _kept(folder, made.networks, lambda: network_file(made.networks.best()))


@has_settings(WindowConfig)
def window(
    network: nn.Module | str,
    data: Any,
    *,
    out: Path | str | None = None,
    callback: Callback | None = None,
    **settings: Unpack[WindowOptions],
) -> RunResult:
    """Measure how strong mutations may be at each density before a classifier breaks.

    Args:
        network: the parent; it stays as it is. Or a name, as ``smd-evo window --model`` takes it.
        data: :class:`smd_evo.Splits`, with classes as targets; with a network's name, the data's.
        out, callback: as for :func:`finetune`.
        settings: those of the command.

    Raises:
        InvalidType, InvalidValue, UnsupportedParameter, OutputExists, Stopped: as for :func:`finetune`.
    """
    config, source = taken(WindowConfig, network, data, None, settings, out=out)
    with _placed(out) as deliver, telling(callback) as progress, _quiet():
        return deliver(experiments.window(config, progress, source))


@has_settings(CompareConfig)
def compare(
    network: nn.Module | str,
    data: Any,
    *,
    fitness: str | BatchFitness = "cross_entropy",
    jobs: int = 1,
    out: Path | str | None = None,
    callback: Callback | None = None,
    **settings: Unpack[CompareOptions],
) -> RunResult:
    """Compare methods with OpenAI-ES: the same budget, trials, minibatches and seeds for each.

    Args:
        network: the parent; it stays as it is. Or a name, as ``smd-evo compare --model`` takes it.
        data: :class:`smd_evo.Splits`, with classes as targets; with a network's name, the data's.
        fitness: what ranks children: a name, or a BatchFitness.
        jobs: runs to make side by side, in processes.
        out: folder of the comparison: what is finished there is not done again. None: nothing is kept on disk.
        callback: as for :func:`finetune`.
        settings: those of the command.

    Raises:
        InvalidType, InvalidValue, UnsupportedParameter, OutputExists, Stopped: as for :func:`finetune`.
    """
    config, source = taken(CompareConfig, network, data, fitness, settings, out=out)
    with telling(callback) as progress, _quiet():
        if out is not None:
            experiments.compare(config, Path(out), jobs, progress, source)
            return RunResult(read_record(out), Path(out))
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "run"
            experiments.compare(config, folder, jobs, progress, source)
            return _kept(folder, None)


def _in_passing(config: EvolutionConfig) -> EvolutionConfig:
    """Settings of a run whose folder does not last."""
    return replace(config, checkpoint_every=config.generations, keep_checkpoints=1)


def _gone_on(
    folder: Path, config: EvolutionConfig, given: Mapping[str, Any], progress: Progress, source: Source
) -> RunResult:
    """A run that is there, at its end."""
    wanted = {name: value for name, value in config.as_dict().items() if name != "device" or name in given}
    if (folder / RESULTS).is_file():
        changed_config(folder, wanted, trust=True)  # which raises if it is another run's
        if differ := differing(load_settings(folder / CONFIG), {name: wanted[name] for name in _ENDS}):
            raise InvalidValue(
                f"out: expected a finished run that ends where this one would, got {folder} with {differ}; it has "
                "read its test split and does not go on, choose another"
            )
        network, data = source.parent(config, progress)
        identity = read_identity(folder)
        check_parent(identity, ParameterSpace(network, config.select).fingerprint())
        check_data(identity, digest(data))
        return RunResult(read_record(folder), folder, Stored(folder, lambda: network))
    made = experiments.resume(folder, wanted, progress, trust=True, source=source)
    return RunResult(read_record(folder), folder, made.networks)


@contextmanager
def _placed(out: Path | str | None) -> Iterator[Callable[[experiments.Made], RunResult]]:
    """What takes the files of a run to their place, which is taken from now on; or into a result alone."""
    if out is None:

        def held(made: experiments.Made) -> RunResult:
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place) / "run"
                folder.mkdir()
                for error in fill(folder, made.files).values():
                    raise error
                return _kept(folder, made.networks)

        yield held
        return
    with new_run(out) as place:

        def written(made: experiments.Made) -> RunResult:
            place.write(made.files)
            return RunResult(read_record(place.target), place.target, made.networks)

        yield written


def _kept(folder: Path, networks: Any, network: Callable[[], bytes] | None = None) -> RunResult:
    """A result of a folder that goes; a whole network is made into a file when that is wanted."""
    files: dict[str, bytes | Callable[[], bytes]] = {**read_files(folder)}
    if network is not None:
        files[NETWORK] = network
    stored = dict(sorted(files.items()))
    return RunResult(replace(read_record(folder), name="run"), None, networks, stored)


@contextmanager
def _quiet() -> Iterator[None]:
    """A block in which EvoTorch, if this imports it, says nothing of devices, nor Ray of a notebook's widgets."""
    os.environ.setdefault("EVOTORCH_VERBOSE_LEVEL", "0")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
        yield
