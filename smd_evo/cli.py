"""Command line: exit codes, and what an error or an interrupt says. Everything heavy is imported in the commands."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

from smd_evo import __version__
from smd_evo.bar import DryRun, listening
from smd_evo.commands import experiments, lists, stored  # which know the application
from smd_evo.commands.shared import InterruptedWith, app, say
from smd_evo.errors import NotReproduced, SmdEvoError
from smd_evo.interrupts import INTERRUPTED, Interrupts
from smd_evo.streams import open_streams, printable, swallow

__all__ = ["app", "experiments", "lists", "main", "stored"]

# What typer raises for unusable arguments: click's exception, of whichever copy of click typer uses.
_UsageError: type[Any] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
_BROKEN_PIPE = 1  # as typer has it


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"smd-evo {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Gradient-free fine-tuning and ensembling of pre-trained networks by sparse subspace mutation."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(interrupts: Interrupts | None = None) -> None:
    """Entry point: a mistake of the user's is one line on standard error and exit code 2."""
    interrupts = interrupts or Interrupts()
    interrupts.begin()
    open_streams()
    try:
        with listening():
            code = _called(interrupts)
    finally:
        interrupts.end()
    sys.exit(code)


def _called(interrupts: Interrupts) -> int | None:
    """The exit code of the command."""
    what = "nothing was written"
    try:
        code: int | None = app(standalone_mode=False)
        sys.stdout.flush()
    except NotReproduced as error:
        code = _fail(str(error)) - 1
    except SmdEvoError as error:
        code = _fail(str(error))
    except _UsageError as error:
        code = _fail(error.format_message())
    except DryRun as told:
        say(str(told))
        code = 0
    except InterruptedWith as stop:
        code, what = INTERRUPTED, str(stop)
    except BrokenPipeError:  # whoever read the output has seen enough
        swallow()
        code = _BROKEN_PIPE
    except OSError as error:  # a full disk, say
        code = _fail(str(error)) - 1
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception:
        if not interrupts.asked:  # else it is what somebody's code made of the interrupt
            raise
        code = INTERRUPTED
    if code == INTERRUPTED:
        _tell(f"interrupted; {what}")
        # Where the interrupt met an exec of a string (a namedtuple of some import, say), CPython remembers it as
        # unhandled and, under -m, dies of SIGINT after this exit; the next such exec makes it forget.
        exec("")
    return code


def _fail(message: str) -> int:
    _tell(" ".join(message.split()))
    return 2


def _tell(line: str) -> None:
    with suppress(OSError):  # a terminal that is closed hears nothing
        print(f"smd-evo: {printable(line)}", file=sys.stderr)


if __name__ == "__main__":
    main()
