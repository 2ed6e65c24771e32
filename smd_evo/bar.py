"""What a command tells while it works: a bar on a terminal, lines where standard error is a file or a pipe."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

from smd_evo.experiments.progress import Logged
from smd_evo.experiments.workload import Workload
from smd_evo.streams import printable

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = ["Bar", "DryRun", "listening"]


class DryRun(Exception):
    """All that was asked for is known: what there would be to evaluate."""


class Bar(Logged):
    """Progress of an experiment: steps done, steps a second, time left.

    Args:
        dry_run: whether DryRun ends the experiment as soon as it says what it is about to evaluate.
    """

    def __init__(self, dry_run: bool = False) -> None:
        super().__init__()
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        from smd_evo.console import Plain

        console = Plain(stderr=True)
        self._dry_run = dry_run
        widgets = console.is_jupyter and find_spec("ipywidgets") is not None  # with which rich draws in a notebook
        self._shown = console.is_terminal or widgets
        self._progress = Progress(
            SpinnerColumn("dots" if console.encoding.startswith("utf") else "line"),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        if self._shown:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            with suppress(OSError):  # of a terminal that is closed, which must not hide why this block ends
                self._progress.stop()

    def expect(self, workload: Workload) -> None:
        """Tell what is to come, or end with that."""
        if self._dry_run:
            raise DryRun(str(workload))
        super().expect(workload)

    def start(self, description: str, total: int | None) -> None:
        """Show a new phase."""
        if not self._shown:
            super().start(description, total)
            return
        if self._task is not None:
            self._progress.remove_task(self._task)
        with suppress(OSError):
            self._progress.add_task(printable(description), total=total, rate="")
        self._task = self._progress.task_ids[-1]

    def reached(self, done: int, text: str) -> None:
        """So many steps of this phase are done, and how things stand."""
        if self._task is None:
            super().reached(done, text)
        else:
            self._progress.update(self._task, completed=done, description=printable(text))

    def advance(self) -> None:
        """Count one step."""
        if self._task is None:
            super().advance()
        else:
            speed = self._progress.tasks[0].speed
            self._progress.update(self._task, advance=1, rate=f"{speed:.0f}/s" if speed else "")


class _ToStandardError(logging.Handler):
    """Each record is a line: notes as the command's own, what goes on with its time where nobody looks on."""

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(" ".join(record.getMessage().split()))
        if record.levelno >= logging.WARNING:
            _tell(f"note: {text}")
        elif sys.stderr is not None and sys.stderr.isatty():
            _tell(text)
        else:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
            _line(f"{when} {text}")


@contextmanager
def listening() -> Iterator[None]:
    """A block in which standard error shows what the library logs and warns of, each a line."""
    logger, handler = logging.getLogger("smd_evo"), _ToStandardError()
    level, propagate, format_warning = logger.level, logger.propagate, warnings.formatwarning
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a library that configures the root would show all of it twice
    warnings.formatwarning = _one_line
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate, warnings.formatwarning = propagate, format_warning


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    return f"smd-evo: note: {printable(' '.join(str(message).split()))}\n"


def _tell(text: str) -> None:
    _line(f"smd-evo: {text}")


def _line(text: str) -> None:
    with suppress(OSError):  # nobody reads it any more
        print(text, file=sys.stderr, flush=True)
