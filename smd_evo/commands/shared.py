"""What the commands share: the application, reading of settings, places of results, showing of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from smd_evo.commands.memory import keep_freed_memory
from smd_evo.experiments.folders.take import check_new
from smd_evo.experiments.settings import ExperimentConfig, load_settings
from smd_evo.streams import printable
from smd_evo.terminal import Commands, option, show

if TYPE_CHECKING:
    from smd_evo.api.experiments import Made
    from smd_evo.experiments.folders.place import Place

__all__ = [
    "CONFIG",
    "DRY_RUN",
    "TRUST",
    "InterruptedWith",
    "app",
    "calls",
    "chosen",
    "deliver",
    "interrupts_tell",
    "merged",
    "placed",
    "present",
    "read",
    "say",
]

Config = TypeVar("Config", bound=ExperimentConfig)


class InterruptedWith(Exception):
    """By the user, in a place where there is more to say than that nothing was written."""


app = typer.Typer(
    cls=Commands,
    name="smd-evo",
    help="Gradient-free fine-tuning and ensembling of pre-trained networks by sparse subspace mutation.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def merged(given: Mapping[str, Any], file: str | None) -> dict[str, Any]:
    """Settings of the file and of the command line, which win."""
    settings = load_settings(file) if file is not None else {}
    return settings | {name: value for name, value in given.items() if value is not None}


def read(
    kind: type[Config], settings: Mapping[str, Any], out: str | None, check_place: Callable[[Path], None] = check_new
) -> Config:
    """Settings; what is wrong with them or with the place for the results shows before torch is imported."""
    from smd_evo.early import check_settings

    config = kind.parsed(settings)
    check_settings(config, out)
    if out is not None:
        check_place(Path(out))
    return config.on_device()


DRY_RUN = typer.Option("--dry-run", help="Tell how much there is to evaluate and how long it may take; no more.")
TRUST = typer.Option("--trust", help="Import functions, and contact servers, that the folder's settings name.")
CONFIG = option("FILE", "YAML file of these settings; options given beside it win.")


def chosen(out: str | None, kind: str) -> AbstractContextManager[Path]:
    """The place for results, which has a name of its own where none is given."""
    from smd_evo.experiments.folders.take import chosen

    return chosen(out, kind)


@contextmanager
def interrupts_tell(what: Callable[[], str] = str) -> Iterator[None]:
    """An interrupt in this block tells what it says itself, or what is found then, if anything."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if told := str(stop) or what():
            raise InterruptedWith(told) from None
        raise


def calls() -> ModuleType:
    """The experiments as calls, imported when all is read."""
    os.environ.setdefault("EVOTORCH_VERBOSE_LEVEL", "0")  # its notes on devices and dtypes
    keep_freed_memory()
    from smd_evo.api import experiments

    return experiments


def placed(target: Path) -> AbstractContextManager[Place]:
    """The place of results, taken for this process."""
    from smd_evo.experiments.folders.take import new_run

    return new_run(target)


def deliver(place: Place, made: Made, run: Path | None = None) -> None:
    """Write results, of a run or a part of it, and show them, also where they cannot be written."""
    with interrupts_tell():
        try:
            place.write(made.files)
        except OSError:
            show(made.tables, made.verdict, None)
            raise
    present(made, place.target, run)


def present(made: Made, target: Path, run: Path | None = None) -> None:
    """Show results that are written."""
    with interrupts_tell(lambda: f"the results are in {target}"):
        show(made.tables, made.verdict, target, run)


def say(line: str) -> None:
    """Print a line that may hold anything."""
    typer.echo(printable(line))
