"""metrics.jsonl and history.jsonl: a line for each generation, appended as it is done."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from smd_evo.atomic import sync, write_whole
from smd_evo.documents import parse_json, read_file
from smd_evo.errors import InvalidValue

__all__ = ["HISTORY", "METRICS", "Metrics", "read_metrics"]

METRICS, HISTORY = "metrics.jsonl", "history.jsonl"


def read_metrics(run: Path, generations: int | None = None, name: str = METRICS) -> list[dict[str, Any]]:
    """The lines of a run.

    Args:
        run: the run directory.
        generations: how many there must be; what is behind them is left out. None: all whole ones.
        name: of the file.

    Raises:
        InvalidValue: some are missing or damaged.
    """
    found: list[dict[str, Any]] = []
    try:
        content = read_file(run / name)
    except FileNotFoundError:
        content = b""
    except ValueError as error:
        raise InvalidValue(f"run: expected generations in {run / name}, got {error}; take it from a backup") from None
    for line in content.splitlines():
        try:
            record = parse_json(line)
        except ValueError:  # cut off by a crash, or damaged
            break
        if len(found) == generations or not isinstance(record, dict) or record.get("generation") != len(found) + 1:
            break
        found.append(record)
    if generations is not None and len(found) < generations:
        raise InvalidValue(
            f"run: expected generations 1 to {generations} in {run / name}, got {len(found)} in order; "
            "it was changed or damaged, so take it from a backup"
        )
    return found


class Metrics:
    """The file of a run that goes on after these records, of :func:`read_metrics`; later lines are forgotten."""

    def __init__(self, run: Path, records: Sequence[dict[str, Any]], name: str = METRICS) -> None:
        write_whole(run / name, "".join(map(_line, records)).encode())
        self._run = run
        self._file = (run / name).open("ab")

    def append(self, record: dict[str, Any]) -> None:
        """Write a line, whole: what is written survives this process."""
        self._file.write(_line(record).encode())
        self._file.flush()

    def sync(self) -> None:
        """Have all lines on the disk: what is written survives this machine."""
        sync(self._file.fileno(), self._run)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # what a full disk did not take has been told
            self._file.close()


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"
