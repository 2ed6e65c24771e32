"""Where generations are told besides metrics.jsonl: CSV, TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import contextlib
import csv
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from smd_evo.atomic import write_whole
from smd_evo.errors import InvalidValue
from smd_evo.experiments.generations.run import Generation, Validation
from smd_evo.experiments.generations.settings import EvolutionConfig

__all__ = ["open_loggers", "tell_csv_anew"]

Log = Callable[[Mapping[str, float], int], object]
_Records = Sequence[Mapping[str, Any]]


@contextlib.contextmanager
def open_loggers(
    config: EvolutionConfig, run: Path, records: _Records, start: Validation
) -> Iterator[Callable[[Generation], None]]:
    """A function that tells all loggers of a generation.

    Args:
        config: the settings.
        run: the run directory, in which they write.
        records: the generations that are told already, if the run goes on.
        start: the pre-trained parent on validation.
    """
    with contextlib.ExitStack() as stack:
        logs: dict[str, Log] = {}
        for name in config.log:
            try:
                logs[name] = stack.enter_context(_LOGGERS[name](config, run, records, start))
            except Exception as error:
                raise InvalidValue(
                    f"log: expected {name} to start, got {error}; mend that, or leave it out"
                ) from error

        def tell(record: Generation) -> None:
            for name, log in list(logs.items()):
                try:
                    log(_numbers(record.as_dict()), record.generation)
                except Exception as error:  # of a server that is gone, say: no reason to end the run
                    del logs[name]
                    warnings.warn(f"{name}: no more generations are told there ({error})", stacklevel=2)

        yield tell


def tell_csv_anew(config: EvolutionConfig, run: Path, records: _Records, start: Validation) -> None:
    """Write metrics.csv once more, if there is one: more has become known of a generation that was told already."""
    if "csv" in config.log:
        with _csv(config, run, records, start):
            pass


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """A record without levels and without what there is not: ``validation_loss``, where samples have classes."""
    flat = {name: value for name, value in record.items() if isinstance(value, int | float)}
    found = record.get("validation") or {}
    return flat | {f"validation_{name}": 1 * value for name, value in found.items() if value is not None}


@contextlib.contextmanager
def _csv(config: EvolutionConfig, run: Path, records: _Records, start: Validation) -> Iterator[Log]:
    """metrics.csv, written anew when a run goes on."""
    columns = list(_numbers({**dict.fromkeys(Generation.__annotations__, 0), "validation": start.as_dict()}))
    with (run / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [name for name in columns if name != "validation"])
        writer.writeheader()
        writer.writerows(map(_numbers, records))

        def log(numbers: Mapping[str, float], _: int) -> None:
            writer.writerow(numbers)
            file.flush()

        yield log


@contextlib.contextmanager
def _tensorboard(config: EvolutionConfig, run: Path, records: _Records, start: Validation) -> Iterator[Log]:
    """Event files in tensorboard/; what an interrupted run told too much is purged."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run / "tensorboard"), purge_step=len(records) + 1) as writer:

        def log(numbers: Mapping[str, float], generation: int) -> None:
            for name, value in numbers.items():
                writer.add_scalar(name, value, generation)
            writer.flush()

        yield log


@contextlib.contextmanager
def _mlflow(config: EvolutionConfig, run: Path, records: _Records, start: Validation) -> Iterator[Log]:
    """A run of the tracking server that MLFLOW_TRACKING_URI names, or files in the run directory."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # or it wants a data base, which takes another package
    from mlflow.tracking import MlflowClient

    uri = os.environ.get("MLFLOW_TRACKING_URI") or (run.absolute() / "mlruns").as_uri()
    client, name = MlflowClient(uri), "smd-evo"
    experiment = client.get_experiment_by_name(name)
    number = experiment.experiment_id if experiment else client.create_experiment(name)
    place = run / "mlflow.txt"  # the run's name there, for when it goes on
    if place.is_file():
        identity = place.read_text().strip()
    else:
        identity = client.create_run(number, run_name=run.resolve().name).info.run_id
        write_whole(place, identity.encode())
        for setting, value in config.as_dict().items():
            client.log_param(identity, setting, value)

    def log(numbers: Mapping[str, float], generation: int) -> None:
        for metric, value in numbers.items():
            client.log_metric(identity, metric, value, step=generation)

    yield log
    client.set_terminated(identity)


@contextlib.contextmanager
def _wandb(config: EvolutionConfig, run: Path, records: _Records, start: Validation) -> Iterator[Log]:
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in the run directory."""
    import wandb

    place = run / "wandb.txt"
    identity = place.read_text().strip() if place.is_file() else uuid.uuid4().hex[:8]
    write_whole(place, identity.encode())
    session = wandb.init(
        project="smd-evo", name=run.resolve().name, id=identity, resume="allow", dir=str(run), config=config.as_dict()
    )
    try:
        yield lambda numbers, generation: session.log(dict(numbers), step=generation)
    finally:
        session.finish()


_LOGGERS: dict[str, Callable[..., contextlib.AbstractContextManager[Log]]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
