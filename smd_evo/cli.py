"""Command line: parse, call, exit code. Everything heavy is imported after the arguments are known."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smd_evo import __version__
from smd_evo.errors import SmdEvoError

if TYPE_CHECKING:
    from rich.progress import TaskID

# What typer raises for unusable arguments: click's exception, of whichever copy of click typer uses.
_UsageError: type[Any] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
_INTERRUPTED = 130

app = typer.Typer(
    name="smd-evo",
    help="Gradient-free fine-tuning and ensembling of pre-trained networks by sparse subspace mutation.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


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


def _option(metavar: str, text: str) -> object:
    return typer.Option(metavar=metavar, help=text, show_default=False)


@app.command()
def finetune(
    model: Annotated[str | None, _option("NAME", "Parent [demo-cnn].")] = None,
    data: Annotated[str | None, _option("NAME", "Data set [digits].")] = None,
    children: Annotated[str | None, _option("N", "Children of each density [128].")] = None,
    density: Annotated[
        str | None, _option("X[,X...]", "Densities in (0, 1] to choose from on validation [0.3,0.1,0.03].")
    ] = None,
    sigma: Annotated[str | None, _option("X", "Mutation strength > 0 [calibrated].")] = None,
    keep: Annotated[
        str | None, _option("X", "Share of the parent's score that calibration leaves the median child [0.9].")
    ] = None,
    subspace: Annotated[str | None, _option("NAME", "random, partition, neuron or tensor [random].")] = None,
    select: Annotated[
        str | None,
        _option("TERMS", "Parameters to mutate: all, weight, bias, norm, head, layers, patterns [all]."),
    ] = None,
    fitness: Annotated[str | None, _option("NAME", "cross_entropy or accuracy [cross_entropy].")] = None,
    seed: Annotated[str | None, _option("N", "Seed of everything [0].")] = None,
    device: Annotated[str | None, _option("NAME", "auto, cpu, cuda or cuda:N [auto].")] = None,
    batch_size: Annotated[str | None, _option("N", "Images a forward pass, or auto [auto].")] = None,
    config: Annotated[
        str | None, _option("FILE", "YAML file of these settings; options given beside it win.")
    ] = None,
    out: Annotated[str | None, _option("DIR", "New folder for the results [runs/finetune-TIME].")] = None,
) -> None:
    """Fine-tune and ensemble a network by one generation of sparse mutations, beside dense controls."""
    given = {
        "model": model,
        "data": data,
        "children": children,
        "density": density,
        "sigma": sigma,
        "keep": keep,
        "subspace": subspace,
        "select": select,
        "fitness": fitness,
        "seed": seed,
        "device": device,
        "batch_size": batch_size,
    }
    from smd_evo.experiments.config import FinetuneConfig, load_settings

    settings = load_settings(config) if config is not None else {}
    settings |= {name: value for name, value in given.items() if value is not None}
    resolved = FinetuneConfig.read(settings)
    target = Path(out or time.strftime("runs/finetune-%Y%m%d-%H%M%S"))

    from rich.console import Console

    os.environ.setdefault("EVOTORCH_VERBOSE_LEVEL", "0")  # its notes on devices and dtypes
    from smd_evo import runs
    from smd_evo.experiments.finetune import finetune
    from smd_evo.report.table import finetune_table, finetune_verdict

    start = time.perf_counter()
    with runs.new_run(target) as folder:
        with Bar() as bar:
            result = finetune(resolved, bar)
        runs.write_finetune(folder, result, time.perf_counter() - start)
    console = Console()
    console.print(finetune_table(result))
    for line in finetune_verdict(result):
        console.print(line, highlight=False)
    console.print(f"Written to {target}", highlight=False, soft_wrap=True)


@app.command()
def verify(run: Annotated[str, typer.Argument(metavar="RUN", help="Folder that finetune wrote.")]) -> None:
    """Load a run's children back onto their parent and check that their fitness comes out again."""
    from smd_evo import runs
    from smd_evo.experiments.finetune import verify_children

    config = runs.read_config(run)
    with Bar() as bar:
        count, worst = verify_children(config, Path(run) / runs.CHILDREN, bar)
    typer.echo(
        f"{count} children loaded; their fitness differs from the stored one by at most {worst:.1e}, relatively"
    )


_METHOD = _option("NAME", "top_k, greedy, diverse or all [greedy].")
_SIZE = _option("N", "Choices to make [the best number on validation].")
_COMBINE = _option("NAME", "probabilities, logits or majority [probabilities].")


@app.command()
def ensemble(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder that finetune wrote.")],
    method: Annotated[str, _METHOD] = "greedy",
    size: Annotated[str | None, _SIZE] = None,
    combine: Annotated[str, _COMBINE] = "probabilities",
    out: Annotated[str | None, _option("DIR", "New folder for the results [RUN/ensemble-METHOD-...].")] = None,
) -> None:
    """Choose an ensemble of a run's children on validation and score it on test, beside its rivals."""
    from rich.console import Console

    from smd_evo import runs
    from smd_evo.experiments.ensembles import score_ensembles
    from smd_evo.report.ensemble_table import ensemble_tables, ensemble_verdict

    start = time.perf_counter()
    choices = runs.read_size(size)
    name = runs.ensemble_name(method, choices, combine)
    config, shortlists = runs.read_config(run), runs.read_shortlists(run)
    target = Path(out) if out else Path(run) / name
    with runs.new_run(target) as folder:
        result = score_ensembles(config, shortlists, method=method, size=choices, combine=combine)
        runs.write_ensemble(folder, result, time.perf_counter() - start)
    console = Console()
    for table in ensemble_tables(result):
        console.print(table)
        console.print()
    for line in ensemble_verdict(result):
        console.print(line, highlight=False)
    console.print(f"Written to {target}", highlight=False, soft_wrap=True)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder that finetune wrote.")],
    out: Annotated[str, _option("FILE", "New file for the weights.")],
    child: Annotated[str, _option("NAME", "best, the K of the K-th best, soup or ensemble [best].")] = "best",
    format: Annotated[str, _option("NAME", "safetensors or torch [safetensors].")] = "safetensors",
    method: Annotated[str, _METHOD] = "greedy",
    size: Annotated[str | None, _SIZE] = None,
    combine: Annotated[str, _COMBINE] = "probabilities",
) -> None:
    """Write weights that load with plain load_state_dict, where smd_evo is not installed."""
    from smd_evo import runs

    choices = runs.read_size(size)
    how = runs.export_weights(run, Path(out), child, format, method=method, size=choices, combine=combine)
    typer.echo(f"Written to {out}: {how}")


class Bar:
    """Progress of an experiment on the terminal: children, children a second, time left."""

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
        self._progress.stop()

    def start(self, description: str, total: int | None) -> None:
        """Show a new phase."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(description, total=total, rate="")

    def advance(self) -> None:
        """Count one child."""
        assert self._task is not None
        speed = self._progress.tasks[0].speed
        self._progress.update(self._task, advance=1, rate=f"{speed:.0f} children/s" if speed else "")


def main() -> None:
    """Entry point: a mistake of the user's is one line on standard error and exit code 2."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to leave nothing half-written then either
    try:
        code = app(standalone_mode=False)
    except SmdEvoError as error:
        code = _fail(str(error))
    except _UsageError as error:
        code = _fail(error.format_message())
    except OSError as error:  # a full disk, say
        code = _fail(str(error)) - 1
    if code == _INTERRUPTED:
        print("smd-evo: interrupted; nothing was written", file=sys.stderr)
        # Where the interrupt met an exec of a string (a namedtuple of some import, say), CPython remembers it as
        # unhandled and, under -m, dies of SIGINT after this exit; the next such exec makes it forget.
        exec("")
    sys.exit(code)


def _fail(message: str) -> int:
    print(f"smd-evo: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
