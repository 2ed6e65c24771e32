"""What all run directories have in common."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import math
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from smd_evo import __version__
from smd_evo.atomic import write_whole
from smd_evo.documents import parse_json, read_file
from smd_evo.errors import InvalidValue, SmdEvoError, shown
from smd_evo.experiments.folders.rescue import PLOT, RESULTS, reason

if TYPE_CHECKING:
    from smd_evo.experiments.settings import ExperimentConfig
    from smd_evo.statistics.tests import Estimate
    from smd_evo.zoo.data import Data

__all__ = [
    "CONFIG",
    "IDENTITY",
    "PLOT",
    "RESULTS",
    "SUMMARY",
    "TABLE",
    "described",
    "differing",
    "digest",
    "gains",
    "read_results",
    "write_config",
    "write_plot",
    "write_results",
    "write_table",
    "wrong_state",
]

CONFIG, TABLE = "config.yaml", "table.csv"

IDENTITY = "run.json"
"""What a run is of; what :mod:`smd_evo.experiments.generations.identity` writes and reads."""

SUMMARY = "summary.json"
"""Of a folder of runs, one for each architecture."""


def write_config(folder: Path, config: ExperimentConfig) -> None:
    """The settings, as ``--config`` takes them."""
    write_whole(folder / CONFIG, yaml.safe_dump(config.as_dict(), sort_keys=False).encode())


def write_results(file: Path, kind: str, results: Mapping[str, Any], seconds: float | None = None) -> None:
    """Numbers as JSON.

    Args:
        file: where to.
        kind: of experiment; :func:`read_results` wants it back.
        results: dictionaries, lists, numbers and texts.
        seconds: that the experiment took.
    """
    content = {"kind": kind, **results}
    if seconds is not None:
        content["environment"] = _environment(seconds)
    write_whole(file, (json.dumps(_finite(content), indent=1, allow_nan=False) + "\n").encode())


def write_plot(file: Path, draw: Callable[[IO[bytes]], object]) -> None:
    """A picture, whole or not at all; it shows what is in the numbers, and if it fails, that is told and no more.

    Args:
        file: where to.
        draw: draws it as a PNG into a file.
    """
    try:
        picture = io.BytesIO()
        draw(picture)
        write_whole(file, picture.getvalue())
    except Exception as error:
        warnings.warn(
            f"plot: expected to draw {file}, got {reason(error)}; the numbers are there without it",
            RuntimeWarning,
            stacklevel=2,
        )


def differing(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The settings of a run that is there which are not those that are wanted, in words; empty if all are."""
    return ", ".join(
        f"{name} {shown(there.get(name))} instead of {shown(value)}"
        for name, value in wanted.items()
        if there.get(name) != value
    )


def read_results(file: Path, *kinds: str) -> dict[str, Any]:
    """What :func:`write_results` wrote.

    Raises:
        InvalidValue: the file is not there or damaged, or of none of these kinds.
    """
    expected = f"run: expected a folder that {' or '.join(kinds)} wrote, got {file.parent}"
    try:
        content = parse_json(read_file(file))
    except OSError:
        raise InvalidValue(f"{expected}, which holds no {file.name}") from None
    except ValueError as error:
        raise InvalidValue(f"{expected}, whose {file.name} is damaged ({error})") from None
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind not in kinds:
        raise InvalidValue(f"{expected}, which holds results of {shown(kind)}")
    return dict(content)


def gains(against: Mapping[str, tuple[Estimate, float]]) -> dict[str, Any]:
    """Differences in accuracy with their p values."""
    return {
        name: {"accuracy_gain": dataclasses.asdict(gain), "p_value": p_value}
        for name, (gain, p_value) in against.items()
    }


def described(data: Data) -> dict[str, Any]:
    """What the data is; its splits are written apart."""
    return {
        "description": data.description,
        "classes": len(data.classes),
        "samples": data.sizes,
        "unreadable": data.unreadable,
    }


def digest(data: Data) -> str:
    """Of the splits: which samples there are, and, but for the test split, what they are, if memory holds them."""
    import torch

    from smd_evo.evaluation.batches import tensors_of
    from smd_evo.evaluation.records import Records

    found = hashlib.blake2b(digest_size=16)
    for indices in data.indices.values():
        found.update(indices.tobytes())
    for samples in (data.fitness, data.validation):
        whole = [samples] if isinstance(samples, tuple) else samples if isinstance(samples, list) else []
        parts = [part for each in zip(*map(tensors_of, whole), strict=True) for part in each]  # however many batches
        for part in samples.tensors() if isinstance(samples, Records) else parts:
            found.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _environment(seconds: float) -> dict[str, Any]:
    import torch

    return {
        "smd_evo": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": version("numpy"),
        "evotorch": version("evotorch"),
        "platform": platform.platform(),
        "processor": f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
    }


def _processor() -> str:
    """Its model, where the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write_table(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The lines of a run as CSV, in plain columns; what is nested has a dot in its name."""
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    nested = {name for name in names if any(other.startswith(f"{name}.") for other in names)}
    text = io.StringIO()
    columns = [name for name in names if name not in nested]  # of a line without it nothing is told
    table = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    table.writeheader()
    table.writerows(flat)
    write_whole(file, text.getvalue().encode())


def _flat(row: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return found


def _finite(value: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def wrong_state(what: str) -> Iterator[None]:
    """A block that reads what a run has stored, whose own errors say that it is not what this version writes."""
    import torch

    try:
        yield
    except (SmdEvoError, torch.OutOfMemoryError):
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InvalidValue(
            f"run: expected what smd_evo {__version__} writes as {what}, got something else ({reason}); "
            "take it from a backup"
        ) from error
