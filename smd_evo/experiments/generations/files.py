"""Runs over many generations that survive anything: begun, interrupted, resumed, finished."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from smd_evo.atomic import write_whole
from smd_evo.errors import InvalidValue
from smd_evo.experiments.folders.content import (
    IDENTITY,
    PLOT,
    RESULTS,
    TABLE,
    described,
    write_config,
    write_plot,
    write_results,
    write_table,
    wrong_state,
)
from smd_evo.experiments.folders.kinds import ENSEMBLE, NETWORK
from smd_evo.experiments.folders.survival import Interrupted, disk, has_checkpoint, locked, signals
from smd_evo.experiments.folders.take import new_run
from smd_evo.experiments.generations.checkpoints import newest, notes_its_run, write_checkpoint
from smd_evo.experiments.generations.identity import check_same, identity_of, read_identity, resumed_config
from smd_evo.experiments.generations.loggers import open_loggers, tell_csv_anew
from smd_evo.experiments.generations.metrics import HISTORY, Metrics, read_metrics
from smd_evo.experiments.generations.results import EvolutionResult, finish
from smd_evo.experiments.generations.run import Evolution
from smd_evo.experiments.generations.settings import EvolutionConfig
from smd_evo.experiments.parent import NAMED, Source
from smd_evo.experiments.progress import Logged, Progress
from smd_evo.experiments.settings import fitness_name
from smd_evo.experiments.trust import going_on
from smd_evo.experiments.weights import encode_weights, plain_state

__all__ = ["ENSEMBLE", "NETWORK", "Interrupted", "evolve", "network_file", "resume"]

_log = logging.getLogger(__name__)

_Numbered = tuple[int, Mapping[str, Any]]
_Validated = tuple[_Numbered, _Numbered, _Numbered]


def evolve(
    config: EvolutionConfig,
    out: Path,
    progress: Progress | None = None,
    source: Source = NAMED,
    lasting: bool = True,
) -> EvolutionResult:
    """Begin a run, and go through all its generations.

    Args:
        config: the settings.
        out: new folder; it appears when the first checkpoint is there.
        progress: told of children and generations.
        source: of the parent, the data and the fitness; by default the settings name them.
        lasting: whether the folder stays; else it gets no checkpoints and no whole network.

    Raises:
        OutputExists: ``out`` is not empty.
        InvalidValue, InvalidType, UnsupportedParameter: settings that the network or the data cannot have.
        Interrupted: by SIGINT or SIGTERM; :func:`resume` goes on.
        OSError: the disk is full, or nothing can be written there; once it can, :func:`resume` goes on.
    """
    progress = progress or Logged()
    with new_run(out) as place:
        evolution = Evolution(config, progress, source)
        evolution.begin()
        write_config(place.folder, config)
        write_whole(place.folder / IDENTITY, (json.dumps(identity_of(evolution), indent=1) + "\n").encode())
        if lasting:
            write_checkpoint(place.folder, 0, evolution.state_dict(), config.keep_checkpoints)
        place.publish()
        return _go_on(evolution, out, progress, lasting)


def resume(
    run: Path,
    given: Mapping[str, Any],
    progress: Progress | None = None,
    trust: bool = False,
    source: Source = NAMED,
) -> EvolutionResult:
    """Go on with a run where its newest checkpoint is, to the same bits as if it had never stopped.

    Args:
        run: its folder.
        given: settings that are to be others from here on.
        progress: told of children and generations; what else the user should know, :mod:`logging` is told.
        trust: whether code and servers that the folder names, and ``given`` does not, may be imported and contacted.
        source: as for :func:`evolve`.

    Raises:
        InvalidValue: ``run`` is no unfinished run, another process has it, or a setting may not change.
        WrongParent: the parent is another one by now.
        Interrupted, OSError: see :func:`evolve`.
    """
    progress = progress or Logged()
    identity = read_identity(run)
    if (run / RESULTS).is_file():
        raise InvalidValue(
            f"run: expected one that is not finished, got {run}, whose test split has been read; a new run can "
            f"begin with --checkpoint {run / NETWORK}"
        )
    with locked(run):
        config = resumed_config(run, given, trust)
        number, state, damaged = newest(run)
        for each in damaged:
            _log.warning("%s; going on from %s", each, number)
        if not notes_its_run(run, number):
            _log.warning(
                "checkpoint %s is of a version that did not note whose it is; it is taken for this run's", number
            )
        if config.generations < number:
            raise InvalidValue(f"generations: expected at least the {number} that are done, got {config.generations}")
        evolution = Evolution(config, progress, source)
        for note in check_same(identity, identity_of(evolution)):
            _log.warning("%s", note)
        evolution.announce(number)
        with wrong_state(f"checkpoint {number} of {run}"):
            evolution.load_state_dict(state)
            if evolution.generation != number:
                raise ValueError(f"it is of generation {evolution.generation}")
        write_config(run, config)
        return _go_on(evolution, run, progress)


def network_file(network: nn.Module) -> bytes:
    """The content of a run's file of its best network."""
    return encode_weights(plain_state(network), "the best network on validation", "safetensors")


def _go_on(evolution: Evolution, run: Path, progress: Progress, lasting: bool = True) -> EvolutionResult:
    """What is left of a run; an interrupt, whenever it comes, tells what is kept."""
    try:
        return _to_its_end(evolution, run, progress, lasting)
    except KeyboardInterrupt as stop:
        if not has_checkpoint(run):
            raise Interrupted(f"{run} is gone, with its checkpoints") from None
        mend = going_on(run, evolution.config.as_dict())
        raise Interrupted(f"{str(stop) or 'the last checkpoint is kept'}; {mend} goes on") from None


def _to_its_end(evolution: Evolution, run: Path, progress: Progress, lasting: bool) -> EvolutionResult:
    from smd_evo.experiments.generations.plot import (
        plot_evolution,  # it takes a second to load: when all settings are right
    )

    records = _generations(evolution, run, progress, lasting)
    if evolution.stopped == "callback" and not records[-1]["validation"]:
        _validate_last(evolution, run, records, lasting)
    if evolution.problem.actors:
        evolution.problem.kill_actors()
    progress.start("ensemble and test", None)
    start = time.perf_counter()
    result = finish(evolution)
    seconds = time.perf_counter() - start + sum(record["seconds"] for record in records)
    with disk(run, evolution.generation):
        if lasting:
            write_whole(run / NETWORK, network_file(result.network))
        if result.ensemble is not None:
            result.ensemble.save(run / ENSEMBLE)
        write_plot(run / PLOT, lambda file: plot_evolution(records, evolution.start, evolution.config, file))
        write_table(run / TABLE, records)
        _write_results(run, evolution, result, seconds)
    return result


def _generations(evolution: Evolution, run: Path, progress: Progress, lasting: bool) -> list[dict[str, Any]]:
    """Go through what is left of them, and return all lines of metrics.jsonl."""
    config, begin = evolution.config, evolution.generation
    stored, records = begin, read_metrics(run, begin)
    start = (0, asdict(evolution.start))
    validated: _Validated = (start, start, start)
    for record in records:
        validated = _validated(validated, record)
    progress.start("generations", (config.generations - begin) * config.children)

    def keep() -> int:
        metrics.sync()
        history.sync()
        if lasting:
            write_checkpoint(run, evolution.generation, evolution.state_dict(), config.keep_checkpoints)
        return evolution.generation

    with (
        Metrics(run, records) as metrics,
        Metrics(run, read_metrics(run, begin, HISTORY), HISTORY) as history,
        open_loggers(config, run, records, evolution.start) as log,
        signals() as asked,
    ):
        while not evolution.stopped:
            changes = evolution.problem.changes
            found = evolution.step()
            records.append(found.as_dict())
            with disk(run, stored):
                history.append({"generation": found.generation, "changes": evolution.history(changes)})
                metrics.append(records[-1])
                if evolution.generation % config.checkpoint_every == 0 or evolution.stopped:
                    stored = keep()
            log(found)
            validated = _validated(validated, records[-1])
            progress.reached((evolution.generation - begin) * config.children, _told(records[-1], validated, config))
            if asked:  # looked at here alone, so that what is told is what is kept
                with disk(run, stored):
                    if stored < evolution.generation:
                        keep()
                raise Interrupted(f"{evolution.generation} of {config.generations} generations are done")
    return records


def _validate_last(evolution: Evolution, run: Path, records: list[dict[str, Any]], lasting: bool) -> None:
    """Have a run that its callback has ended hand over its last parent, too, of which no validation was due."""
    records[-1]["validation"] = evolution.validate().as_dict()
    with disk(run, evolution.generation):
        with Metrics(run, records) as metrics:
            metrics.sync()
        tell_csv_anew(evolution.config, run, records, evolution.start)
        if lasting:
            write_checkpoint(run, evolution.generation, evolution.state_dict(), evolution.config.keep_checkpoints)


def _validated(before: _Validated, record: Mapping[str, Any]) -> _Validated:
    """The pre-trained parent, the best one and the last one that were validated, after one more generation."""
    if not record["validation"]:
        return before
    new = record["generation"], record["validation"]
    return before[0], new if record["validation"]["best"] else before[1], new


def _told(last: Mapping[str, Any], validated: _Validated, config: EvolutionConfig) -> str:
    """How things stand, on three short lines at most.

    Args:
        last: the last generation.
        validated: number and validation of the pre-trained parent, of the best one and of the last one.
        config: the settings.
    """
    speed = last["images"] * config.children / last["seconds"]
    told = f"{last['generation']}/{config.generations}: fitness {last['fitness']:.4g}, sigma {last['sigma']:.3g}"
    (_, start), (at, best), (latest, found) = validated
    if latest:
        told += f"\nvalidation {_measured(found)}"
        if found["accuracy"] is not None and found.get("fitness") is not None:
            told += f", {fitness_name(config.fitness)} {found['fitness']:.3f}"
        told += ", the best" if at == latest else f"; best {_measured(best, brief=True)} at {at}"
        told += f" (pre-trained {_measured(start, brief=True)})"
    return f"{told}\n{speed:,.0f} images/s"


def _measured(found: Mapping[str, Any], brief: bool = False) -> str:
    """A validation in words: accuracy and loss, or where there are none the fitness."""
    if found["accuracy"] is None:
        return f"{found['fitness']:.4g}"
    return f"{found['accuracy']:.1%}, {'' if brief else 'loss '}{found['loss']:.3f}"


def _write_results(run: Path, evolution: Evolution, result: EvolutionResult, seconds: float) -> None:
    results = {
        "rows": [asdict(row) for row in result.rows],
        "validation": evolution.start.as_dict(),
        "sense": evolution.fitness.sense,
        "stopped": evolution.stopped,
        "generations": evolution.generation,
        "candidates": result.candidates,
        "weights": result.weights,
        "calibration": evolution.calibration,
        "parameters": evolution.space.size,
        "fingerprint": evolution.fingerprint,
        "data": described(evolution.data),
        "splits": {name: indices.tolist() for name, indices in evolution.data.indices.items()},
    }
    write_results(run / RESULTS, "evolution", results, seconds)
