"""Weights from files that hold nothing but weights: what is no tensor is refused, never unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
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
        file: its path. State dicts inside a dict (``state_dict``, ``model_state_dict``, ``model``) are found, and
            the prefixes of DataParallel and torch.compile dropped.

    Raises:
        InvalidValue: the file is not there, is damaged, or holds other things than weights.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise InvalidValue(f"checkpoint: expected a file of weights, got {path}, which is not there")
    content = _read(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InvalidValue(
            f"checkpoint: expected a state dict, tensors by name, in {path}, got {_kind(content)}; "
            "save network.state_dict()"
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
    return dict(content)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Load all of a network's tensors, by name.

    Args:
        network: changed in place, unless something does not fit.
        weights: what :func:`read_checkpoint` returned; batch normalisation's counts may be missing.
        source: where they come from, for the error.

    Raises:
        InvalidValue: a tensor is missing, unknown, or of another shape; the first of them are named.
    """
    expected = network.state_dict()
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
            f"{'; '.join(problems[:_NAMED])}{more}; is it of another architecture?"
        )
    network.load_state_dict(weights, strict=False)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        reason = "one with other objects in it, which are never unpickled"
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = f"one that cannot be read ({' '.join(str(error).split())[:80]})"
    raise InvalidValue(
        f"checkpoint: expected a file of weights alone in {path}, got {reason}; "
        "save network.state_dict() with safetensors or torch.save"
    )


def _kind(content: Any) -> str:
    if not isinstance(content, Mapping):
        return type(content).__name__
    other = next((name for name, value in content.items() if not isinstance(value, Tensor)), None)
    return "none" if other is None else f"{type(content[other]).__name__} as {other!r}"
