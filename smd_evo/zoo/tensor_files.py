"""Reading files of tensors without running anything in them, whatever their names say."""

from __future__ import annotations

import argparse
import contextlib
import json
import pickle
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from smd_evo.errors import InvalidValue
from smd_evo.zoo.file_kinds import looks_like, pickled_globals

__all__ = ["read_tensors"]

_NAMED, _LONGEST = 4, 80
_SAVE = "save network.state_dict() with safetensors or torch.save"


def read_tensors(path: Path) -> Any:
    """What a file of safetensors or of torch.save holds, on the CPU.

    Names that ``safetensors.torch.save_model`` left out, because they share another one's tensor, are there again.

    Raises:
        InvalidValue: it is damaged, or holds other things than tensors, numbers, texts and an
            ``argparse.Namespace`` of them, which training scripts put beside their weights.
    """
    try:
        if _is_safetensors(path):
            return _safetensors(path)
        with warnings.catch_warnings(), _namespaces():
            warnings.simplefilter("ignore")  # about formats that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except InvalidValue:
        raise
    except pickle.UnpicklingError:
        foreign = [name for name in pickled_globals(path) if not _is_usual(name)]
        reason = _never(foreign) if foreign else f"what cannot be read: {looks_like(path)}"
    except Exception as error:  # damaged files meet no check of torch's, but whatever they lead to
        told = " ".join(str(error).split())[:_LONGEST]
        reason = f"what cannot be read: {looks_like(path)} ({type(error).__name__}: {told})"
    raise InvalidValue(f"checkpoint: expected a file of weights alone, got {reason}, in {path}; {_SAVE}")


def _is_safetensors(path: Path) -> bool:
    """By its content: some carry another suffix."""
    with path.open("rb") as file:
        start = file.read(9)
    # The length of a header in JSON, and its first character.
    return path.suffix == ".safetensors" or (start[8:] == b"{" and int.from_bytes(start[:8], "little") < 2**40)


def _safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        _refuse_ours(metadata, path)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    shared = {name: tensors[kept] for name, kept in metadata.items() if name not in tensors and kept in tensors}
    return tensors | shared


def _refuse_ours(metadata: Mapping[str, str], path: Path) -> None:
    """Our files of children and of ensembles hold what is new in a parent."""
    about = None
    with contextlib.suppress(ValueError, RecursionError):
        about = json.loads(metadata.get("smd_evo", ""))
    if isinstance(about, dict) and "format" in about:
        raise InvalidValue(
            f"checkpoint: expected weights of one network, got {path}, which is {str(about['format'])[:_LONGEST]!r}; "
            "take network.safetensors of a run over generations, or what `smd-evo export` writes"
        )


def _namespaces() -> AbstractContextManager[object]:
    """A block in which torch reads an ``argparse.Namespace``: a bag of attributes, which runs nothing."""
    if hasattr(torch.serialization, "safe_globals"):  # PyTorch 2.5
        return torch.serialization.safe_globals([argparse.Namespace])
    return contextlib.nullcontext()


def _is_usual(name: str) -> bool:
    """Whether files of plain state dicts have this in their pickles."""
    return name.startswith(("torch._utils.", "collections.OrderedDict", "argparse.Namespace")) or (
        name.startswith("torch.") and name.endswith("Storage")
    )


def _never(foreign: list[str]) -> str:
    more = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
    return f"something else, which is never unpickled: {', '.join(foreign[:_NAMED])}{more}"
