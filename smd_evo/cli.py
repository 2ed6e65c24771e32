"""Command line: parse, call, exit code. Everything heavy is imported after the arguments are known."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from smd_evo import __version__
from smd_evo.bar import Bar, DryRun, listening
from smd_evo.ensemble.choices import COMBINES, METHODS
from smd_evo.errors import NotReproduced, SmdEvoError, check_choice
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.generations.settings import MAY_CHANGE, EvolutionConfig, check_single_generation
from smd_evo.experiments.readers import whole_number
from smd_evo.experiments.settings import FORMATS, ExperimentConfig, load_settings
from smd_evo.experiments.window.settings import WindowConfig
from smd_evo.interrupts import INTERRUPTED, Interrupts
from smd_evo.streams import open_streams, printable, swallow
from smd_evo.terminal import option, show, takes

if TYPE_CHECKING:
    from rich.table import Table

    from smd_evo.experiments.folders.place import Place
    from smd_evo.experiments.folders.rescue import Files

# What typer raises for unusable arguments: click's exception, of whichever copy of click typer uses.
_UsageError: type[Any] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
_BROKEN_PIPE = 1  # as typer has it
_Config = TypeVar("_Config", bound=ExperimentConfig)


class _Interrupted(Exception):
    """By the user, in a place where there is more to say than that nothing was written."""


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


def _settings(given: Mapping[str, Any], file: str | None) -> dict[str, Any]:
    """Settings of the file and of the command line, which win."""
    settings = load_settings(file) if file is not None else {}
    return settings | {name: value for name, value in given.items() if value not in (None, False)}


def _read(kind: type[_Config], settings: Mapping[str, Any], out: str | None = None) -> _Config:
    """Settings; what is wrong with them or with the place for the results shows before torch is imported."""
    from smd_evo.early import check_settings
    from smd_evo.experiments.folders.take import check_new

    config = kind.parsed(settings)
    check_settings(config)
    if out is not None:
        check_new(Path(out))
    return config.on_device()


_DRY_RUN = typer.Option("--dry-run", help="Tell how much there is to evaluate and how long it may take; no more.")
_TRUST = typer.Option("--trust", help="Import functions, and contact servers, that the folder's settings name.")
_CONFIG = option("FILE", "YAML file of these settings; options given beside it win.")


@app.command()
@takes(FinetuneConfig, EvolutionConfig)
def finetune(
    *,
    models: Annotated[
        str | None, option("NAME[,NAME...]", "Several parents, one after the other; names of timm need no prefix.")
    ] = None,
    protocol: Annotated[
        str | None, option("NAME", "imagenet: a dozen parents of timm, if no models are given.")
    ] = None,
    config: Annotated[str | None, _CONFIG] = None,
    out: Annotated[str | None, option("DIR", "New folder for the results [runs/finetune-TIME].")] = None,
    dry_run: Annotated[bool, _DRY_RUN] = False,
    **given: Any,
) -> None:
    """Fine-tune and ensemble a network by sparse mutations: one generation beside dense controls, or many.

    With --generations, one run over so many, which `smd-evo resume` goes on with after whatever ended it.

    With --models or --protocol, each network in turn: a folder for each in DIR, and one table of all. What is
    finished there already is not done again. There, --checkpoint is a folder of NAME.safetensors or NAME.pth.
    """
    settings = _settings(given, config)
    if models is not None or protocol is not None:
        _finetune_all(settings, models, protocol, out, dry_run)
    elif "generations" in settings:
        config_of_many = _read(EvolutionConfig, settings, out)
        with _chosen(out, "finetune") as target:
            _evolve(lambda bar: _runs().evolve(config_of_many, target, bar), target, dry_run)
    else:
        check_single_generation(settings)
        config_of_one = _read(FinetuneConfig, settings, out)
        with _chosen(out, "finetune") as target:
            _finetune(config_of_one, target, dry_run)


@app.command()
@takes(EvolutionConfig, shown=MAY_CHANGE)
def resume(
    *,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder that finetune --generations wrote.")],
    dry_run: Annotated[bool, _DRY_RUN] = False,
    trust: Annotated[bool, _TRUST] = False,
    **given: Any,
) -> None:
    """Go on with a run over generations, to the same bits as if it had never stopped.

    Options that change what comes out are refused. More --generations, another --patience or --log, other --actors,
    another --device, and new places of the same parent and data are not. What is not given stays as it was.
    """
    from smd_evo.early import check_resumed

    settings = _settings(given, None)
    check_resumed(Path(run), settings, trust)
    _evolve(lambda bar: _runs().resume(Path(run), settings, bar, trust), Path(run), dry_run)


def _chosen(out: str | None, kind: str) -> AbstractContextManager[Path]:
    from smd_evo.experiments.folders.take import chosen

    return chosen(out, kind)


@contextmanager
def _interrupts_tell(what: Callable[[], str] = str) -> Iterator[None]:
    """An interrupt in this block tells what it says itself, or what is found then, if anything."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if told := str(stop) or what():
            raise _Interrupted(told) from None
        raise


def _deliver(place: Place, files: Files, tables: Iterable[Table], lines: Iterable[str]) -> None:
    """Write results and show them; where they cannot be written they are shown all the same."""
    with _interrupts_tell():
        try:
            place.write(files)
        except OSError:
            show(tables, lines, None)
            raise
    with _interrupts_tell(lambda: f"the results are in {place.target}"):
        show(tables, lines, place.target)


def _runs() -> Any:
    os.environ.setdefault("EVOTORCH_VERBOSE_LEVEL", "0")
    from smd_evo.experiments.generations import files as evolution

    return evolution


def _evolve(work: Callable[[Bar], Any], target: Path, dry_run: bool) -> None:
    with _interrupts_tell(), Bar(dry_run) as bar:
        result = work(bar)
    with _interrupts_tell(lambda: f"the results are in {target}"):
        from smd_evo.experiments.generations.table import evolution_table, evolution_verdict

        show([evolution_table(result.rows)], evolution_verdict(result.rows), target)


def _finetune(config: FinetuneConfig, target: Path, dry_run: bool) -> None:
    os.environ.setdefault("EVOTORCH_VERBOSE_LEVEL", "0")  # its notes on devices and dtypes
    from smd_evo.experiments.finetune.files import finetune_files
    from smd_evo.experiments.finetune.run import finetune
    from smd_evo.experiments.finetune.table import finetune_table, finetune_verdict
    from smd_evo.experiments.folders.take import new_run

    start = time.perf_counter()
    with new_run(target) as place:
        with Bar(dry_run) as bar:
            result = finetune(config, bar)
        files = finetune_files(result, time.perf_counter() - start)
        _deliver(place, files, [finetune_table(result)], finetune_verdict(result))


def _finetune_all(
    settings: dict[str, Any], models: str | None, protocol: str | None, out: str | None, dry_run: bool
) -> None:
    """Each model in a folder of its own; what is there already is kept if it was made with these settings."""
    from smd_evo.experiments.protocol.results import model_settings

    configs = {name: _read(FinetuneConfig, own) for name, own in model_settings(settings, models, protocol).items()}

    from smd_evo.experiments.finetune.files import is_finished
    from smd_evo.experiments.folders.content import RESULTS
    from smd_evo.experiments.protocol.files import write_summary
    from smd_evo.experiments.protocol.table import protocol_table, protocol_verdict

    def told() -> str:
        done = sum((target / name / RESULTS).is_file() for name in configs)
        return f"{done} of {len(configs)} models are finished; the same command goes on"

    with _chosen(out, "finetune") as target, _interrupts_tell(told):
        done = [name for name, config in configs.items() if is_finished(target / name, config)]
        for name, config in configs.items():
            if name in done:
                continue
            try:
                _finetune(config, target / name, dry_run)
            except DryRun as told_of:
                _say(f"{name}: {told_of}")
        if dry_run:
            return
        summary = write_summary(target, list(configs))
        show([protocol_table(summary)], protocol_verdict(summary), target)


@app.command()
@takes(WindowConfig)
def window(
    *,
    config: Annotated[str | None, _CONFIG] = None,
    out: Annotated[str | None, option("DIR", "New folder for the results [runs/window-TIME].")] = None,
    dry_run: Annotated[bool, _DRY_RUN] = False,
    **given: Any,
) -> None:
    """Measure how strong mutations may be at each density before the network breaks."""
    resolved = _read(WindowConfig, _settings(given, config), out)

    from smd_evo.experiments.folders.take import new_run
    from smd_evo.experiments.window.files import window_files
    from smd_evo.experiments.window.run import window
    from smd_evo.experiments.window.table import window_tables, window_verdict

    start = time.perf_counter()
    with _chosen(out, "window") as target, new_run(target) as place:
        with Bar(dry_run) as bar:
            result, data = window(resolved, bar)
        files = window_files(result, data, time.perf_counter() - start)
        _deliver(place, files, window_tables(result), window_verdict(result))


@app.command()
@takes(CompareConfig)
def compare(
    *,
    jobs: Annotated[str, option("N", "Runs to make side by side, in processes [1].")] = "1",
    config: Annotated[str | None, _CONFIG] = None,
    out: Annotated[str | None, option("DIR", "Folder for the results [runs/compare-TIME].")] = None,
    dry_run: Annotated[bool, _DRY_RUN] = False,
    **given: Any,
) -> None:
    """Compare methods with OpenAI-ES: the same budget, trials, minibatches and seeds for each.

    What is finished in DIR is not done again: the same command goes on, also with more methods or seeds.
    """
    from smd_evo.experiments.compare.place import check_comparison

    os.environ.setdefault("EVOTORCH_VERBOSE_LEVEL", "0")
    workers = whole_number("jobs", jobs, mend="try 1")
    if out is not None:
        check_comparison(Path(out))
    resolved = _read(CompareConfig, _settings(given, config))

    from smd_evo.experiments.compare.files import compare, finished
    from smd_evo.experiments.compare.table import compare_tables, compare_verdict

    def told() -> str:
        return f"{finished(target)} runs are finished; the same command goes on"

    with _chosen(out, "compare") as target, _interrupts_tell(told):
        with Bar(dry_run) as bar:
            result = compare(resolved, target, workers, bar)
        show(compare_tables(result), compare_verdict(result), target)


@app.command()
def report(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Folders that finetune, also with --generations, window or compare wrote."
        ),
    ],
    out: Annotated[str | None, option("FILE", "Where to write [report.html in the first RUN].")] = None,
) -> None:
    """Write one self-contained page: what was run, tables, plots, how to reproduce."""
    from smd_evo.early import check_reported

    for folder in folders:
        check_reported(Path(folder))

    from smd_evo.report.files import write_report

    _say(f"Written to {write_report([Path(folder) for folder in folders], Path(out) if out else None)}")


@app.command()
def verify(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder that finetune wrote.")],
    trust: Annotated[bool, _TRUST] = False,
) -> None:
    """Load a run's children back onto their parent and check that their fitness comes out again, but for rounding.

    Of a run over generations: replay its history from the pre-trained parent and check that the newest
    checkpoint's parent comes out again, to the bit.
    """
    from smd_evo.experiments.folders.content import IDENTITY

    if (Path(run) / IDENTITY).is_file():
        from smd_evo.experiments.generations.verification import verify_history

        with Bar() as bar:
            generations = verify_history(Path(run), bar, trust)
        typer.echo(f"{generations} generations replayed; the parent is that of the checkpoint, to the bit")
        return
    _check_run(run, trust)

    from smd_evo.experiments.finetune.verification import verify_run

    with Bar() as bar:
        found = verify_run(Path(run), bar, trust)
    _say(
        f"{found.children} children loaded; their fitness differs from the stored one by at most {found.worst:.1e}, "
        f"which is rounding: {found.allowed}"
    )


def _check_run(run: str, trust: bool) -> None:
    from smd_evo.early import check_run

    check_run(Path(run), trust)


def _choices(method: str, size: str | None, combine: str) -> int | None:
    """How many choices to make; what is wrong with these options shows before torch is imported."""
    check_choice("method", method, METHODS)
    check_choice("combine", combine, COMBINES)
    return None if size is None else whole_number("size", size, mend="leave it out for the best number on validation")


_METHOD = option("NAME", "top_k, greedy, diverse or all [greedy].")
_SIZE = option("N", "Choices to make [the best number on validation].")
_COMBINE = option("NAME", "probabilities, logits or majority [probabilities].")


@app.command()
def ensemble(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder that finetune wrote.")],
    method: Annotated[str, _METHOD] = "greedy",
    size: Annotated[str | None, _SIZE] = None,
    combine: Annotated[str, _COMBINE] = "probabilities",
    out: Annotated[str | None, option("DIR", "New folder for the results [RUN/ensemble-METHOD-...].")] = None,
    dry_run: Annotated[bool, _DRY_RUN] = False,
    trust: Annotated[bool, _TRUST] = False,
) -> None:
    """Choose an ensemble of a run's children on validation and score it on test, beside its rivals."""
    choices = _choices(method, size, combine)
    _check_run(run, trust)

    from smd_evo.experiments.ensembles.files import ensemble_files, ensemble_name
    from smd_evo.experiments.ensembles.run import score_ensembles
    from smd_evo.experiments.ensembles.table import ensemble_tables, ensemble_verdict
    from smd_evo.experiments.finetune.files import read_config, read_shortlists
    from smd_evo.experiments.folders.take import new_run

    start = time.perf_counter()
    name = ensemble_name(method, choices, combine)
    config, shortlists = read_config(run, trust), read_shortlists(run)
    target = Path(out) if out else Path(run) / name
    with new_run(target) as place:
        with Bar(dry_run) as bar:
            result = score_ensembles(config, shortlists, method=method, size=choices, combine=combine, progress=bar)
        files = ensemble_files(result, time.perf_counter() - start)
        _deliver(place, files, ensemble_tables(result), ensemble_verdict(result))


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder that finetune wrote.")],
    out: Annotated[str, option("FILE", "New file for the weights.")],
    child: Annotated[str, option("NAME", "best, the K of the K-th best, soup or ensemble [best].")] = "best",
    format: Annotated[str, option("NAME", "safetensors or torch [safetensors].")] = "safetensors",
    method: Annotated[str, _METHOD] = "greedy",
    size: Annotated[str | None, _SIZE] = None,
    combine: Annotated[str, _COMBINE] = "probabilities",
    trust: Annotated[bool, _TRUST] = False,
) -> None:
    """Write weights that load with plain load_state_dict, where smd_evo is not installed."""
    from smd_evo.early import check_exported

    check_choice("format", format, FORMATS)
    choices = _choices(method, size, combine)
    check_exported(Path(run), trust)

    from smd_evo.experiments.ensembles.files import export_weights

    how = export_weights(run, Path(out), child, format, method=method, size=choices, combine=combine, trust=trust)
    _say(f"Written to {out}: {how}")


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
        _say(str(told))
        code = 0
    except _Interrupted as stop:
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


def _say(line: str) -> None:
    typer.echo(printable(line))


def _fail(message: str) -> int:
    _tell(" ".join(message.split()))
    return 2


def _tell(line: str) -> None:
    with suppress(OSError):  # a terminal that is closed hears nothing
        print(f"smd-evo: {printable(line)}", file=sys.stderr)


if __name__ == "__main__":
    main()
