"""Commands that go on from finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from smd_evo.bar import Bar
from smd_evo.commands.shared import DRY_RUN, TRUST, app, calls, deliver, merged, placed, say
from smd_evo.early import check_exported, check_reported, check_run
from smd_evo.ensemble.choices import COMBINES, METHODS
from smd_evo.errors import check_choice
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.readers import whole_number
from smd_evo.experiments.settings import ELSEWHERE, FORMATS
from smd_evo.terminal import InGroups, option, takes


@app.command(cls=InGroups)
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
    for folder in folders:
        check_reported(Path(folder))

    from smd_evo.report.files import write_report

    say(f"Written to {write_report([Path(folder) for folder in folders], Path(out) if out else None)}")


@app.command(cls=InGroups)
@takes(FinetuneConfig, only=ELSEWHERE)
def verify(
    *,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder that finetune wrote.")],
    trust: Annotated[bool, TRUST] = False,
    **elsewhere: Any,
) -> None:
    """Load a run's children back onto their parent and check that their fitness comes out again, but for rounding.

    Of a run over generations: replay its history from the pre-trained parent and check that the newest
    checkpoint's parent comes out again, to the bit.
    """
    given = merged(elsewhere, None)
    from smd_evo.experiments.folders.content import IDENTITY

    if (Path(run) / IDENTITY).is_file():
        from smd_evo.experiments.generations.verification import verify_history

        with Bar() as bar:
            generations = verify_history(Path(run), bar, trust, given)
        typer.echo(f"{generations} generations replayed; the parent is that of the checkpoint, to the bit")
        return
    check_run(Path(run), trust, given)

    from smd_evo.experiments.finetune.verification import verify_run

    with Bar() as bar:
        found = verify_run(Path(run), bar, trust, given)
    say(
        f"{found.children} children loaded; their fitness differs from the stored one by at most {found.worst:.1e}, "
        f"which is rounding: {found.allowed}"
    )


def _choices(method: str, size: str | None, combine: str) -> int | None:
    """How many choices to make; what is wrong with these options shows before torch is imported."""
    check_choice("method", method, METHODS)
    check_choice("combine", combine, COMBINES)
    return None if size is None else whole_number("size", size, mend="leave it out for the best number on validation")


_METHOD = option("NAME", "top_k, greedy, diverse or all [greedy].")
_SIZE = option("N", "Choices to make [the best number on validation].")
_COMBINE = option("NAME", "probabilities, logits or majority [probabilities].")


@app.command(cls=InGroups)
@takes(FinetuneConfig, only=ELSEWHERE)
def ensemble(
    *,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder that finetune wrote.")],
    method: Annotated[str, _METHOD] = "greedy",
    size: Annotated[str | None, _SIZE] = None,
    combine: Annotated[str, _COMBINE] = "probabilities",
    out: Annotated[str | None, option("DIR", "New folder for the results [RUN/ensemble-METHOD-...].")] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
    trust: Annotated[bool, TRUST] = False,
    **elsewhere: Any,
) -> None:
    """Choose an ensemble of a run's children on validation and score it on test, beside its rivals."""
    choices, given = _choices(method, size, combine), merged(elsewhere, None)
    check_run(Path(run), trust, given)

    from smd_evo.experiments.ensembles.files import ensemble_name

    target = Path(out) if out else Path(run) / ensemble_name(method, choices, combine)
    how = {"method": method, "size": choices, "combine": combine, "trust": trust}
    with placed(target) as place:
        with Bar(dry_run) as bar:
            made = calls().ensemble(Path(run), given, bar, **how)
        deliver(place, made, Path(run))


@app.command(cls=InGroups)
@takes(FinetuneConfig, only=ELSEWHERE)
def export(
    *,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder that finetune wrote.")],
    out: Annotated[str, option("FILE", "New file for the weights.")],
    child: Annotated[str, option("NAME", "best, the K of the K-th best, soup or ensemble [best].")] = "best",
    format: Annotated[str, option("NAME", "safetensors or torch [safetensors].")] = "safetensors",
    method: Annotated[str, _METHOD] = "greedy",
    size: Annotated[str | None, _SIZE] = None,
    combine: Annotated[str, _COMBINE] = "probabilities",
    trust: Annotated[bool, TRUST] = False,
    **elsewhere: Any,
) -> None:
    """Write weights that load with plain load_state_dict, where smd_evo is not installed."""
    check_choice("format", format, FORMATS)
    choices, given = _choices(method, size, combine), merged(elsewhere, None)
    check_exported(Path(run), trust, given)

    from smd_evo.experiments.ensembles.files import export_weights

    choice: dict[str, Any] = {"method": method, "size": choices, "combine": combine}
    how = export_weights(run, Path(out), child, format, **choice, trust=trust, given=given)
    say(f"Written to {out}: {how}")
