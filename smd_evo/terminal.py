"""What commands share: options made of settings, and results on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from smd_evo.experiments.settings import ExperimentConfig

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["option", "show", "takes"]

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
    from smd_evo.console import Plain

    console = Plain()
    for table in tables:
        console.print(table)
        console.print()
    for line in lines:
        console.print(line)
    if target is not None:
        console.print(f"Written to {target}", soft_wrap=True)
