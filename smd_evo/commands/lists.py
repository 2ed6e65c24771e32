"""Commands that tell what can be asked for."""

from __future__ import annotations

import typer

from smd_evo.commands.shared import app, say
from smd_evo.experiments.settings import FITNESSES
from smd_evo.experiments.subspaces import STAGES, SUBSPACES, UNIT, WITHIN
from smd_evo.terminal import InGroups
from smd_evo.zoo.names import ABOUT_DATA, ABOUT_MODELS


@app.command(cls=InGroups)
def methods() -> None:
    """List the methods of `smd-evo compare`."""
    from smd_evo.experiments.compare.methods.registry import METHODS, find_method

    for name in METHODS:
        say(f"{name:<22}{find_method(name).about}")


@app.command(cls=InGroups)
def models() -> None:
    """List what --model, --data, --fitness and --subspace can name."""
    for option, lines in (("--model", ABOUT_MODELS), ("--data", ABOUT_DATA)):
        typer.echo(option)
        for name, about in lines.items():
            say(f"  {name:<22}{about}")
    typer.echo(f"--fitness\n  {', '.join(FITNESSES)} or module.path:name")
    typer.echo(f"--subspace\n  {', '.join(SUBSPACES)}, {WITHIN} or {UNIT}; with --generations {STAGES}, too")
