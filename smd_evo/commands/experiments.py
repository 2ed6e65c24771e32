"""Commands that run an experiment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smd_evo.bar import Bar
from smd_evo.commands.protocols import finetune_all, finetune_one
from smd_evo.commands.shared import (
    CONFIG,
    DRY_RUN,
    TRUST,
    app,
    calls,
    chosen,
    deliver,
    interrupts_tell,
    merged,
    placed,
    present,
    read,
)
from smd_evo.errors import InvalidValue
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.generations.settings import MAY_CHANGE, EvolutionConfig, check_generations
from smd_evo.experiments.readers import whole_number
from smd_evo.experiments.window.settings import WindowConfig
from smd_evo.terminal import InGroups, option, takes

if TYPE_CHECKING:
    from smd_evo.api.experiments import Made


@app.command(cls=InGroups)
@takes(FinetuneConfig, EvolutionConfig)
def finetune(
    *,
    models: Annotated[
        str | None, option("NAME[,NAME...]", "Several parents, one after the other; names of timm need no prefix.")
    ] = None,
    protocol: Annotated[
        str | None,
        option("NAME", "Parents: imagenet, a dozen of timm's; a YAML file of yours, or module.path:name."),
    ] = None,
    seeds: Annotated[
        str | None, option("N[,N...]", "Beside models or a protocol: each network with each of these seeds.")
    ] = None,
    config: Annotated[str | None, CONFIG] = None,
    out: Annotated[str | None, option("DIR", "New folder for the results [runs/finetune-TIME].")] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
    **given: Any,
) -> None:
    """Fine-tune and ensemble a network by sparse mutations: one generation beside dense controls, or many.

    With --generations, one run over so many, which `smd-evo resume` goes on with after whatever ended it.

    With --models or --protocol, each network in turn: a folder for each in DIR, and one table of all. What is
    finished there already is not done again. There, --checkpoint is a folder of NAME.safetensors or NAME.pth.
    --models beside a file chooses among its parents.
    """
    settings = merged(given, config)
    if models is not None or protocol is not None:
        from smd_evo.experiments.protocol.plan import planned

        finetune_all(planned(settings, models, protocol, seeds), out, dry_run)
        return
    if seeds is not None:
        raise InvalidValue(f"seeds: expected models or a protocol beside them, got {seeds!r} alone; try --seed")
    check_generations(settings)
    if "generations" in settings:
        config_of_many = read(EvolutionConfig, settings, out)
        with chosen(out, "finetune") as target:
            _evolve(lambda bar: calls().evolve(config_of_many, target, bar), target, dry_run)
    else:
        config_of_one = read(FinetuneConfig, settings, out)
        with chosen(out, "finetune") as target:
            finetune_one(config_of_one, target, dry_run)


@app.command(cls=InGroups)
@takes(EvolutionConfig, shown=MAY_CHANGE)
def resume(
    *,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder that finetune --generations wrote.")],
    dry_run: Annotated[bool, DRY_RUN] = False,
    trust: Annotated[bool, TRUST] = False,
    **given: Any,
) -> None:
    """Go on with a run over generations, to the same bits as if it had never stopped.

    Options that change what comes out are refused. More --generations, another --patience or --log, other --actors,
    another --device, and new places of the same parent and data are not. What is not given stays as it was.
    """
    from smd_evo.early import check_resumed

    settings = merged(given, None)
    check_resumed(Path(run), settings, trust)
    _evolve(lambda bar: calls().resume(Path(run), settings, bar, trust), Path(run), dry_run)


def _evolve(work: Callable[[Bar], Made], target: Path, dry_run: bool) -> None:
    with interrupts_tell(), Bar(dry_run) as bar:
        made = work(bar)
    present(made, target)


@app.command(cls=InGroups)
@takes(WindowConfig)
def window(
    *,
    config: Annotated[str | None, CONFIG] = None,
    out: Annotated[str | None, option("DIR", "New folder for the results [runs/window-TIME].")] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
    **given: Any,
) -> None:
    """Measure how strong mutations may be at each density before the network breaks."""
    resolved = read(WindowConfig, merged(given, config), out)
    with chosen(out, "window") as target, placed(target) as place:
        with Bar(dry_run) as bar:
            made = calls().window(resolved, bar)
        deliver(place, made)


@app.command(cls=InGroups)
@takes(CompareConfig)
def compare(
    *,
    jobs: Annotated[str, option("N", "Runs to make side by side, in processes [1].")] = "1",
    config: Annotated[str | None, CONFIG] = None,
    out: Annotated[str | None, option("DIR", "Folder for the results [runs/compare-TIME].")] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
    **given: Any,
) -> None:
    """Compare methods with OpenAI-ES: the same budget, trials, minibatches and seeds for each.

    What is finished in DIR is not done again: the same command goes on, also with more methods or seeds.
    """
    from smd_evo.experiments.compare.place import check_comparison

    workers = whole_number("jobs", jobs, mend="try 1")
    resolved = read(CompareConfig, merged(given, config), out, check_comparison)

    from smd_evo.experiments.compare.files import finished

    def told() -> str:
        return f"{finished(target)} runs are finished; the same command goes on"

    with chosen(out, "compare") as target, interrupts_tell(told):
        with Bar(dry_run) as bar:
            made = calls().compare(resolved, target, workers, bar)
        present(made, target)
