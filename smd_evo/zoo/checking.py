"""What is wrong with a parent that shows before its data is decoded: for whoever is to compute with many, in turn."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from smd_evo.errors import InvalidValue, SmdEvoError
from smd_evo.zoo.checkpoint import weights_of
from smd_evo.zoo.models import build_model, check_name, check_published
from smd_evo.zoo.names import MODELS, is_folder, user_object
from smd_evo.zoo.own import Splits, data_of
from smd_evo.zoo.sources import open_source

__all__ = ["check_buildable", "check_known", "count_classes"]

_DEMO, _DIGITS, _DIGIT_CLASSES = "demo-cnn", "digits", 10


def count_classes(data: str, data_dir: str | Path = "data", download: bool = False) -> int:
    """The number of outputs that data wants of a network; see :func:`smd_evo.zoo.sources.open_source`.

    Example:
        >>> count_classes("digits")
        10
    """
    if data == _DIGITS:
        return _DIGIT_CLASSES
    source = open_source(data, data_dir, download)
    return max(1, len(data_of(source).classes)) if isinstance(source, Splits) else len(source.classes)


def check_known(model: str, data: str) -> None:
    """Raise InvalidValue for a parent that nobody knows, a function that cannot be imported, or data of another's."""
    kind, rest = check_name(model)
    if rest and kind not in ("timm", "torchvision", "hf"):
        user_object("model", model, MODELS)
    if model == _DEMO and data != _DIGITS:
        raise InvalidValue(f"model: expected another one than {_DEMO} for {data}; it knows the digits alone")


def check_buildable(model: str, classes: int, checkpoint: str | Path | None = None, key: str | None = None) -> None:
    """Raise InvalidValue for weights that are not published, and for a network that cannot be built with its own.

    Published weights are not fetched.

    Args:
        model, classes, checkpoint, key: see :func:`smd_evo.zoo.models.build_model`, also "demo-cnn".
    """
    if model == _DEMO:
        return
    if checkpoint is None:
        weights_of(None, key)
        check_published(model, classes)
        kind, place = check_name(model)
        if kind in ("timm", "torchvision") or (kind == "hf" and not is_folder(place)):
            return
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come again when it is loaded
        try:
            build_model(model, classes, checkpoint, key)
        except SmdEvoError:
            raise
        except Exception as error:  # of somebody's code
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InvalidValue(
                f"model: expected a network for {classes} classes from {model}, got an error: {reason}"
            ) from error
