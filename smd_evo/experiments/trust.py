"""What a run folder names that would be imported or contacted: only if the user says so.

A folder may come from anybody. Its settings can name functions (``module.path:factory``), servers that log, and a
cluster. None of these is imported or contacted unless the same was given by the user now, or the folder is trusted.
"""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smd_evo.errors import InvalidValue, shown
from smd_evo.experiments.settings import OBJECT, is_object

__all__ = ["check_trust", "going_on", "needs_trust"]

_KNOWN = {
    "model": ("timm", "torchvision", "hf", OBJECT),
    "data": ("imagenet", "imagefolder", OBJECT),
    "also": ("imagenet", "imagefolder"),
    "methods": (),
    "fitness": (OBJECT,),
}
"""Settings that can name a function, and what is before the colon where they do not."""

_SERVERS = ("mlflow", "wandb")


def needs_trust(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings that name what would be imported or contacted, and that.

    Example:
        >>> needs_trust({"model": "mymodule:network", "data": "imagefolder:pictures", "seed": 1})
        {'model': 'mymodule:network'}
        >>> needs_trust({"model": "timm:resnet18", "log": ["csv", "wandb"], "ray_address": "10.0.0.1:6379"})
        {'log': 'wandb', 'ray_address': '10.0.0.1:6379'}
    """
    found = {}
    for name, known in _KNOWN.items():
        for value in _listed(settings.get(name)):
            kind, colon, _ = value.partition(":")
            if colon and kind not in known:
                found[name] = value
    for value in _listed(settings.get("log")):
        if value in _SERVERS:
            found["log"] = value
    if settings.get("ray_address") is not None:
        found["ray_address"] = str(settings["ray_address"])
    return found


def going_on(run: Path, settings: Mapping[str, Any]) -> str:
    """What goes on with a run of these settings: a command to be pasted, or the call on objects once more.

    >>> going_on(Path("my runs"), {"model": "mymodule:network"})
    "smd-evo resume 'my runs' --trust"
    >>> going_on(Path("run"), {"model": "object:Linear"})
    'the same call of smd_evo.evolve with out=run'
    """
    if is_object(settings.get("model")):
        return f"the same call of smd_evo.evolve with out={run}"
    return f"smd-evo resume {shlex.quote(str(run))}{' --trust' if needs_trust(settings) else ''}"


def check_trust(
    run: Path | str, stored: Mapping[str, Any], given: Mapping[str, Any], trust: bool, servers: bool = True
) -> None:
    """Raise InvalidValue if a folder names what would be imported or contacted, and nobody has said that it may.

    Args:
        run: the folder.
        stored: its settings.
        given: settings that the user has given now.
        trust: whether the user trusts the folder.
        servers: whether servers would be contacted; functions are always imported.
    """
    found = {name: value for name, value in needs_trust(stored).items() if name not in given}
    found = found if servers else {name: value for name, value in found.items() if name in _KNOWN}
    if found and not trust:
        named = ", ".join(f"{name} {shown(value)}" for name, value in found.items())
        raise InvalidValue(
            f"run: expected a folder whose settings name no code and no server, got {run} with {named}; if it is "
            "yours, or you have read what that does, add --trust"
        )
    imported = {name: value for name, value in needs_trust({**stored, **given}).items() if name in _KNOWN}
    here, there = Path.cwd(), Path(run).resolve()
    if imported and _is_inside(here, there):
        raise InvalidValue(
            f"run: expected to be called from another folder than the run's, got {run} from {here}; modules are "
            "looked for in the current folder, and those of a run are never imported"
        )
    for name, value in imported.items():
        for place in _places(value):
            if _is_inside(place, there):
                raise InvalidValue(
                    f"{name}: expected a module outside of the run's folder, got {place}; modules of a run are never "
                    "imported, take that folder out of Python's path"
                )


def _is_inside(path: Path, folder: Path) -> bool:
    path = path.resolve()
    return folder in (path, *path.parents)


def _places(name: str) -> list[Path]:
    """Where the package of ``package.module:factory`` would be imported from; looking for it imports nothing."""
    package = name.partition(":")[0].partition(".")[0]
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except ValueError:  # of __main__
        spec = None
    found = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    return [Path(place) for place in found if place is not None]


def _listed(value: Any) -> list[str]:
    items = value if isinstance(value, list | tuple) else [value]
    return [word for item in items if isinstance(item, str) for word in item.split(",")]
