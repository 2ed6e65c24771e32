"""Names of models and data: what is meant by an unknown one, and functions of the user's own."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smd_evo.errors import InvalidType, InvalidValue, shown

__all__ = [
    "ABOUT_DATA",
    "ABOUT_MODELS",
    "CIFAR_RESNETS",
    "MODELS",
    "OUTPUTS",
    "SOURCES",
    "TEST_FOLDERS",
    "TORCHVISION_DATA",
    "check_place",
    "check_words",
    "is_folder",
    "unknown",
    "user_object",
]

CIFAR_RESNETS = {f"cifar-resnet{depth}": depth for depth in (20, 32, 44, 56, 110)}
MODELS = ("demo-cnn", "timm:NAME", "torchvision:NAME", "hf:NAME", *CIFAR_RESNETS)
"""Names of parents, beside ``module.path:factory``."""

ABOUT_MODELS = {
    "demo-cnn": "a small CNN that knows clean digits; with --data digits alone",
    "timm:NAME": "any classifier of timm, with its published weights; timm.list_models(pretrained=True) lists them, "
    "hf_hub:OWNER/NAME is one of the Hub",
    "torchvision:NAME": "any classifier of torchvision, with its default weights; torchvision.models.list_models()",
    "hf:NAME": "any image classifier of transformers, on the Hugging Face Hub, or hf:./FOLDER; needs smd-evo[hf]",
    "cifar-resnetN": f"He et al. 2016, N = {', '.join(map(str, CIFAR_RESNETS.values()))}; needs --checkpoint",
    "module.path:factory": "your own: a function of the number of classes, or of nothing, that returns the network",
}

OUTPUTS = ("all", "present")
"""Which of a network's outputs stay: all, or those of the classes that the images have."""

TORCHVISION_DATA = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion-mnist": "FashionMNIST"}
SOURCES = ("digits", "imagenet:PATH", "imagefolder:PATH", *TORCHVISION_DATA)
"""Names of data sets; digits is the demo's own."""

TEST_FOLDERS = ("test", "val", "validation")
"""Of these, beside train, the first that is there holds the images that test."""

ABOUT_DATA = {
    "digits": "scikit-learn's digits through a simulated camera, the demo's",
    "imagenet:PATH": "ImageNet's folders train and val, classes by their WordNet numbers",
    "imagefolder:PATH": "a folder for each class, in train and test (or val), or in PATH itself",
    "cifar10, cifar100": "in --data-dir, or fetched with --download",
    "fashion-mnist": "likewise",
    "module.path:factory": "your own: a function that returns (train, test) map-style data sets; test may be None",
}


def is_folder(place: str) -> bool:
    """Whether what follows ``hf:`` is a folder."""
    return bool(place) and Path(place).expanduser().is_dir()


def check_place(name: str) -> None:
    """Refuse a model of the Hugging Face Hub or of a folder that cannot be one.

    Args:
        name: ``hf:PLACE``, ``timm:hf_hub:PLACE`` or ``timm:local-dir:PLACE``.

    Raises:
        InvalidValue: a folder that is not there, or no name.

    Example:
        >>> check_place("hf:google/vit-base-patch16-224")
        >>> check_place("hf:./nothing")
        Traceback (most recent call last):
        smd_evo.errors.InvalidValue: model: expected a folder of a model, got ./nothing, which is not there
    """
    kind, _, place = name.rpartition(":")
    if is_folder(place):
        return
    if kind.endswith("local-dir") or place.startswith((".", "/", "~")):
        raise InvalidValue(f"model: expected a folder of a model, got {place}, which is not there")
    revision = "" if kind == "hf" else r"(@[\w./-]+)?"
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?" + revision, place):
        raise InvalidValue(
            f"model: expected {kind}:OWNER/NAME, as on the Hugging Face Hub, or a folder, got {name!r}"
        )


def check_words(**words: Any) -> None:
    """Raise InvalidType for a name that is no text.

    >>> check_words(data=["cifar10"])
    Traceback (most recent call last):
    smd_evo.errors.InvalidType: data: expected a name, got ['cifar10']; smd_evo.finetune takes objects, too
    """
    for name, word in words.items():
        if not isinstance(word, str):
            raise InvalidType(f"{name}: expected a name, got {shown(word)}; smd_evo.finetune takes objects, too")


def unknown(what: str, name: str, named: str, known: Sequence[str]) -> InvalidValue:
    """The error for a name that nobody knows.

    Args:
        what: "model" or "data".
        name: as the user gave it.
        named: the known ones in words.
        known: all that may have been meant; what follows a colon there may be another word than in ``name``.
    """
    kinds = {each.partition(":")[0]: each for each in known}
    near = difflib.get_close_matches(name, known, 1)
    near += [kinds[kind] for kind in difflib.get_close_matches(name.partition(":")[0], kinds, 1)]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InvalidValue(f"{what}: expected {named}, got {name!r}{hint}")


def user_object(what: str, name: str, known: Sequence[str], others: tuple[type, ...] = ()) -> Any:
    """The function behind ``module.path:factory``, looked for in the current folder, too.

    Args:
        what: "model", "data", "methods" or "fitness".
        name: as the user gave it.
        known: other names that may have been meant.
        others: what it may be instead of a function.

    Raises:
        InvalidValue: there is no such module, or nothing to call of that name in it. Errors of the module itself
            come through as they are.
    """
    module_name, _, attribute = name.partition(":")
    error = unknown(what, name, f"one of {', '.join(known)} or module.path:factory", known)
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise error
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if f"{module_name}.".startswith(f"{missing.name}."):
            raise InvalidValue(f"{error}; there is no module {missing.name!r}") from None
        raise
    factory = getattr(module, attribute, None)
    if not callable(factory) and not isinstance(factory, others):
        raise InvalidValue(f"{what}: expected a function {attribute!r} in {module_name}, got {factory!r}")
    return factory
