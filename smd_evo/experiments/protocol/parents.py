"""The parents of a protocol: a list of this package's, a YAML file, or an object of the user's own.

The list of architectures is ours; the paper's abstract says "nearly a dozen".

Reference: Whitaker & Whitley, arXiv 2302.05832.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from smd_evo.errors import InvalidValue, check_choice, shown
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.folders.content import PLOT, SUMMARY, TABLE
from smd_evo.experiments.readers import path
from smd_evo.experiments.settings import load_yaml
from smd_evo.zoo.names import user_object

__all__ = ["PROTOCOLS", "Parents", "as_text", "read_parents"]

PROTOCOLS = {
    "imagenet": (
        "resnet18",
        "resnet50",
        "vgg16",
        "densenet121",
        "mobilenetv2_100",
        "mobilenetv3_large_100",
        "efficientnet_b0",
        "tf_efficientnet_lite0",
        "regnety_004",
        "convnext_tiny",
        "vit_small_patch16_224",
        "swin_tiny_patch4_window7_224",
    )
}
"""Names of timm by the protocol's name."""

_OWN = ("name", "model", "checkpoint", "checkpoint_key", "preprocessing")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_TAKEN = (PLOT, SUMMARY, TABLE)
"""What else lies in the folder of the runs."""


@dataclass(frozen=True)
class Parents:
    """What a protocol says.

    Attributes:
        own: settings of each parent's own by its name, its model always among them.
        settings: those of all runs, where nothing else is given.
    """

    own: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_parents(protocol: str) -> Parents:
    """The parents of a protocol.

    Args:
        protocol: a key of :data:`PROTOCOLS`, a YAML file, or ``module.path:name``: a list or a mapping as such a file
            holds it, or a function without arguments that returns one.

    Raises:
        InvalidValue: there is none of that name, or it is none; it says where and of which parent.
    """
    if protocol in PROTOCOLS:
        return Parents({name: {"model": f"timm:{name}"} for name in PROTOCOLS[protocol]})
    if protocol.endswith((".yaml", ".yml")) or Path(protocol).is_file():
        return _parents(load_yaml("protocol", protocol), f"protocol {protocol}", Path(protocol).parent)
    found = user_object("protocol", protocol, [*PROTOCOLS, "FILE.yaml"], (Mapping, list, tuple))
    return _parents(found() if callable(found) else found, f"protocol {protocol}", Path())


def as_text(what: str, value: Any) -> Any:
    """A preprocessing that is written as a mapping, as the setting has it; anything else as it is.

    Args:
        what: for messages.
        value: numbers, words and lists of numbers by name.

    Raises:
        InvalidValue: it holds something else.

    Example:
        >>> as_text("preprocessing", {"size": 224, "crop": 0.875, "mean": [0.5, 0.5, 0.5]})
        'size=224,crop=0.875,mean=0.5/0.5/0.5'
    """
    if not isinstance(value, Mapping):
        return value
    return ",".join(f"{name}={_joined(f'{what} {name}', part)}" for name, part in value.items())


def _joined(what: str, value: Any) -> str:
    parts = value if isinstance(value, list | tuple) and value else [value]
    if not all(isinstance(part, int | float | str) and not isinstance(part, bool) for part in parts):
        raise InvalidValue(f"{what}: expected a number, a word or a list of numbers, got {shown(value)}")
    return "/".join(map(str, parts))


def _parents(content: Any, what: str, folder: Path) -> Parents:
    """What a file or an object holds; paths of weights begin at ``folder``."""
    settings: Any = {}
    if isinstance(content, Mapping):
        for name in content:
            check_choice(what, name, ("parents", "settings"))
        content, settings = content.get("parents", []), content.get("settings") or {}
    if not isinstance(content, list | tuple):
        raise InvalidValue(
            f"{what}: expected a list of parents, or a mapping of parents and settings, got {shown(content)}"
        )
    if not content:
        raise InvalidValue(f"{what}: expected one or more parents, got none; add one such as {{name: resnet18}}")
    return Parents(_each(content, what, folder), _common(settings, f"{what}, settings", folder))


def _common(settings: Any, what: str, folder: Path) -> dict[str, Any]:
    if not isinstance(settings, Mapping):
        raise InvalidValue(f"{what}: expected a mapping such as {{children: 64}}, got {shown(settings)}")
    known = [each.name for each in fields(FinetuneConfig) if each.name != "model"]
    for name in settings:
        check_choice(what, name, known)
    return _settled(settings, what, folder)


def _each(parents: list[Any] | tuple[Any, ...], what: str, folder: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for number, parent in enumerate(parents, 1):
        if not isinstance(parent, Mapping):
            raise InvalidValue(
                f"{what}, parent {number}: expected a mapping such as {{name: resnet18}}, got {shown(parent)}"
            )
        name = _name(parent.get("name"), f"{what}, parent {number}")
        own = f"{what}, parent {name}"
        if name.casefold() in map(str.casefold, found):  # folders of some systems are the same then
            raise InvalidValue(f"{own}: expected a name that no other parent has, got it twice; rename one")
        for setting in parent:
            check_choice(own, setting, _OWN)
        rest = {setting: value for setting, value in parent.items() if setting != "name"}
        found[name] = _settled({"model": f"timm:{name}", **rest}, own, folder)
    return found


def _name(name: Any, what: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _TAKEN:
        raise InvalidValue(
            f"{what}: expected a name of letters, digits, '.', '_' and '-', for its folder, got {shown(name)}"
        )
    return name


def _settled(settings: Mapping[str, Any], what: str, folder: Path) -> dict[str, Any]:
    """The same with paths and preprocessing as settings have them."""
    found = dict(settings)
    if (file := path(f"{what}: checkpoint", found.get("checkpoint"))) is not None:
        found["checkpoint"] = str(folder / Path(file).expanduser())
    if "preprocessing" in found:
        found["preprocessing"] = as_text(f"{what}: preprocessing", found["preprocessing"])
    return found
