"""Weights from files that hold nothing but weights: what is no tensor is refused, never unpickled."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from smd_evo.errors import InvalidValue

__all__ = ["load_weights", "read_checkpoint"]

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_NAMED = 3


def read_checkpoint(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a file that ``torch.save`` wrote of a state dict.

    Args:
        file: its path. State dicts inside a dict (``state_dict``, ``model_state_dict``, ``model``) are found.

    Raises:
        InvalidValue: the file is not there, is damaged, or holds other things than weights.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise InvalidValue(f"checkpoint: expected a file of weights, got {path}, which is {what}")
    content = _read(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not _is_state(content):
        raise InvalidValue(
            f"checkpoint: expected a state dict, tensors by name, in {path}, got {_kind(content)}; "
            "save network.state_dict()"
        )
    return dict(content)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Load all of a network's tensors, by name.

    Args:
        network: changed in place, unless something does not fit.
        weights: what :func:`read_checkpoint` returned; batch normalisation's counts may be missing, and all names
            may have the prefixes of DataParallel and torch.compile.
        source: where they come from, for the error.

    Raises:
        InvalidValue: a tensor is missing, unknown, or of another shape; the first of them are named.
    """
    expected = network.state_dict()
    weights = _unwrapped(weights, expected)
    counts = {name for name in expected if name.endswith("num_batches_tracked")}
    problems = [f"{name} is missing" for name in expected if name not in weights and name not in counts]
    problems += [
        f"{name} is {list(weights[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    problems += [f"{name} is unknown" for name in weights if name not in expected]
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise InvalidValue(
            f"checkpoint: expected the {len(expected)} tensors of the model in {source}, got differences: "
            f"{'; '.join(problems[:_NAMED])}{more}; is it of another architecture, or for other classes?"
        )
    network.load_state_dict(weights, strict=False)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        reason = "something else, which is never unpickled"
    except Exception as error:  # damaged files meet no check of torch's, but whatever they lead to
        reason = f"what cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:80]})"
    raise InvalidValue(
        f"checkpoint: expected a file of weights alone, got {reason}, in {path}; "
        "save network.state_dict() with safetensors or torch.save"
    )


def _unwrapped(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The same without prefixes that all names have, but not all of the network's own."""
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in weights) and not all(name.startswith(prefix) for name in expected):
            shorter = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
            return _unwrapped(shorter, expected)
    return weights


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())
    )


def _kind(content: Any) -> str:
    if not isinstance(content, Mapping):
        return type(content).__name__
    others = (f"{type(v).__name__} as {name!r}" for name, v in content.items() if not _is_state({name: v}))
    return next(others, "none")
