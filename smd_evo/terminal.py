"""What commands share: options made of settings, and results on the terminal."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from smd_evo.experiments.settings import GROUPS, ExperimentConfig

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Commands", "InGroups", "option", "show", "takes"]

_Command = TypeVar("_Command", bound=Callable[..., None])


class Commands(TyperGroup):
    """The list of commands, each with the whole first sentence of its help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """See click's ``Group.format_commands``."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(limit=200)) for name, command in commands if command]
            )


class InGroups(TyperCommand):
    """A command whose options stand under headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """See click's ``Command.format_options``."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], **{name: [] for name in GROUPS}, "Options": []}
        for parameter in self.get_params(ctx):
            if (line := parameter.get_help_record(ctx)) is not None:
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                groups[getattr(parameter, "rich_help_panel", None) or kind].append(line)
        for name, lines in groups.items():
            if lines:
                with formatter.section(name):
                    formatter.write_dl(lines)


def option(metavar: str, text: str) -> object:
    """An option with this placeholder and help; its default is told in the help."""
    return typer.Option(metavar=metavar, help=text, show_default=False)


_DEFAULT = re.compile(r" \[[^\]]*\](?=\.$)")
"""What a help text says where a setting is not given; a run that goes on keeps its own."""


def _completing(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    """What a shell completes: of several names with commas between them, the last one."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{choice}" for choice in choices if choice.startswith(last)]

    return complete


def takes(
    *configs: type[ExperimentConfig], only: Collection[str] | None = None, shown: Collection[str] | None = None
) -> Callable[[_Command], _Command]:
    """A command whose ``given`` holds the settings that its user has given, an option for each of them.

    Args:
        configs: kinds of settings; where they share a name, the first one's help is shown.
        only: settings that it has; None for all.
        shown: settings that the help tells of; None for all.
    """
    settings = {setting.name: setting for config in reversed(configs) for setting in fields(config)}
    names = dict.fromkeys(each.name for config in configs for each in fields(config))
    ordered = [settings[name] for name in names if only is None or name in only]

    def decorated(command: _Command) -> _Command:
        options = []
        for setting in ordered:
            about, flag = setting.metadata, setting.type in (bool, "bool")
            name = setting.name.replace("_", "-")
            flags = [f"--{name}/--no-{name}" if setting.default is True else f"--{name}"]
            kind = (bool | None) if flag else (str | None)
            option = typer.Option(
                *flags,
                metavar=about["metavar"] or None,
                help=about["help"] if only is None and shown is None else _DEFAULT.sub("", about["help"]),
                show_default=False,
                rich_help_panel=about["group"],
                autocompletion=_completing(about["choices"]) if about["choices"] else None,
                hidden=shown is not None and setting.name not in shown,
            )
            options.append(
                Parameter(
                    setting.name,
                    Parameter.KEYWORD_ONLY,
                    default=None,
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


def show(tables: Iterable[Table], lines: Iterable[str], target: Path | None, run: Path | None = None) -> None:
    """Results: tables, sentences, where all of it is, if it is anywhere, and what reports it: of a part, the run."""
    from smd_evo.console import Plain

    console = Plain()
    for table in tables:
        console.print(table)
        console.print()
    for line in lines:
        console.print(line)
    if target is not None:
        console.print(f"Written to {target}", soft_wrap=True)
        console.print(f"next: smd-evo report {shlex.quote(str(run or target))}", soft_wrap=True)
