"""What commands share: options made of settings, progress and results on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import fields
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from smd_evo.experiments.config import ExperimentConfig

if TYPE_CHECKING:
    from rich.progress import TaskID
    from rich.table import Table

__all__ = ["Bar", "option", "show", "takes"]

_Command = TypeVar("_Command", bound=Callable[..., None])


def option(metavar: str, text: str) -> object:
    """An option with this placeholder and help; its default is told in the help."""
    return typer.Option(metavar=metavar, help=text, show_default=False)


def takes(*configs: type[ExperimentConfig], shown: Collection[str] | None = None) -> Callable[[_Command], _Command]:
    """A command whose ``given`` holds the settings that its user has given, an option for each of them.

    Args:
        configs: kinds of settings; where they share a name, the first one's help is shown.
        shown: settings that the help tells of; None for all.
    """
    settings = {setting.name: setting for config in reversed(configs) for setting in fields(config)}
    ordered = [settings[name] for name in dict.fromkeys(each.name for config in configs for each in fields(config))]

    def decorated(command: _Command) -> _Command:
        options = []
        for setting in ordered:
            about, flag = setting.metadata, setting.type in (bool, "bool")
            names = [f"--{setting.name.replace('_', '-')}"]
            kind = bool if flag else (str | None)
            option = typer.Option(
                *names,
                metavar=about["metavar"] or None,
                help=about["help"],
                show_default=False,
                hidden=shown is not None and setting.name not in shown,
            )
            options.append(
                Parameter(
                    setting.name,
                    Parameter.KEYWORD_ONLY,
                    default=False if flag else None,
                    annotation=Annotated[kind, option],
                )
            )
        own = signature(command, eval_str=True)
        kept = [parameter for parameter in own.parameters.values() if parameter.kind is not Parameter.VAR_KEYWORD]
        made = own.replace(parameters=[*options, *kept])
        vars(command)["__signature__"] = made
        command.__annotations__ = {name: parameter.annotation for name, parameter in made.parameters.items()}
        return command

    return decorated


def show(tables: Iterable[Table], lines: Iterable[str], target: Path | None) -> None:
    """Results: tables, sentences, and where all of it is, if it is anywhere."""
    from rich.console import Console

    console = Console()
    for table in tables:
        console.print(table)
        console.print()
    for line in lines:
        console.print(line, highlight=False)
    if target is not None:
        console.print(f"Written to {target}", highlight=False, soft_wrap=True)


class Bar:
    """Progress of an experiment on the terminal: steps done, steps a second, time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of a terminal that is closed, which must not hide why this block ends
            self._progress.stop()

    def start(self, description: str, total: int | None) -> None:
        """Show a new phase."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        with suppress(OSError):
            self._progress.add_task(description, total=total, rate="")
        self._task = self._progress.task_ids[-1]

    def reached(self, done: int, text: str) -> None:
        """So many steps of this phase are done, and how things stand."""
        assert self._task is not None
        self._progress.update(self._task, completed=done, description=text)

    def advance(self) -> None:
        """Count one step."""
        assert self._task is not None
        speed = self._progress.tasks[0].speed
        self._progress.update(self._task, advance=1, rate=f"{speed:.0f}/s" if speed else "")
