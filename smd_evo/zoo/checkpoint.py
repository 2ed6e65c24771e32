"""A state dict from a file of weights: of several in one file, the averaged one or the one that is asked for."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor

from smd_evo.errors import InvalidValue
from smd_evo.zoo.tensor_files import read_tensors

__all__ = ["is_averaged", "read_checkpoint", "under", "weights_of", "with_metadata"]

_AVERAGED = re.compile(r"(?:^|[^a-z])ema(?:[^a-z]|$)|(?<=[a-z])(?:Ema|EMA)|[Tt]eacher")
_FIRST = ("state_dict_ema", "model_ema")  # timm's order
_RAW = (
    *("state_dict", "model", "model_state_dict", "model_state", "module", "net", "net_state_dict", "network"),
    *("network_state_dict", "weights", "params", "state", "student"),
)
_DEPTH, _SHOWN = 3, 6


def read_checkpoint(file: str | Path, key: str | None = None) -> OrderedDict[str, Tensor]:
    """The state dict in a safetensors file, or in a file that ``torch.save`` wrote.

    Args:
        file: its path. State dicts inside dicts are found under their usual names (``state_dict``, ``model``, ...);
            of several the averaged ones are taken, as timm does (``state_dict_ema``, ``model_ema``, ``ema``,
            ``teacher``, ...), and a warning says so.
        key: which to take instead: a name in the file, ``.`` between nested ones, or what the names of the wanted
            tensors begin with.

    Returns:
        Tensors on the CPU by name, with torch's ``_metadata`` if the file has it.

    Raises:
        InvalidValue: the file is not there, is damaged, holds other things than weights, or nothing of that key.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise InvalidValue(f"checkpoint: expected a file of weights, got {path}, which is {_no_file(path)}")
    content = read_tensors(path)
    if key is not None:
        return _asked(content, key, path)
    way = _way(content)
    found = _at(content, way)
    if not _is_state(found):
        states = [name for name, _ in _states(content)]
        mend = f"name one by checkpoint_key: {_listed(states)}" if states else "save network.state_dict()"
        raise InvalidValue(
            f"checkpoint: expected a state dict, tensors by name, in {path}, got {_kind(content)}; {mend}"
        )
    _tell(content, way, path)
    return _ordered(found)


def weights_of(file: str | Path | None, key: str | None) -> tuple[OrderedDict[str, Tensor], str | Path] | None:
    """The state dict and its file, or None if there is no file.

    Raises:
        InvalidValue: see :func:`read_checkpoint`; or there is a key and no file.
    """
    if file is not None:
        return read_checkpoint(file, key), file
    if key is not None:
        raise InvalidValue(f"checkpoint_key: expected none without a checkpoint, got {key!r}; name its file, too")
    return None


def under(weights: Mapping[str, Tensor], prefix: str) -> OrderedDict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, by the rest of their names; their modules' metadata likewise."""
    found = OrderedDict((name[len(prefix) :], weights[name]) for name in weights if name.startswith(prefix))
    metadata = {
        place[len(prefix) :]: about
        for place, about in getattr(weights, "_metadata", {}).items()
        if f"{place}.".startswith(prefix)
    }
    return with_metadata(found, metadata)


def with_metadata(weights: OrderedDict[str, Tensor], metadata: Mapping[str, Any]) -> OrderedDict[str, Tensor]:
    """The same, with the modules' versions as ``load_state_dict`` looks for them, if there are any."""
    if metadata:
        vars(weights)["_metadata"] = OrderedDict(metadata)
    return weights


def is_averaged(name: str) -> bool:
    """Whether a name is one of averaged weights.

    Example:
        >>> [is_averaged(name) for name in ("state_dict_ema", "ema.module", "modelEMA", "teacher", "schema", "model")]
        [True, True, True, True, False, False]
    """
    return _AVERAGED.search(name) is not None


def _no_file(path: Path) -> str:
    if not path.is_dir():
        return "not there"
    files = sorted(each.name for each in path.iterdir() if each.suffix in (".safetensors", ".pt", ".pth", ".bin"))
    return f"a folder; name a file in it: {_listed(files)}" if files else "a folder"


def _is_state(content: Any) -> TypeGuard[Mapping[str, Tensor]]:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) for name in content)
        # What modules return from get_extra_state need not be a tensor.
        and all(isinstance(value, Tensor) or name.endswith("_extra_state") for name, value in content.items())
        and any(isinstance(value, Tensor) for value in content.values())
    )


def _ordered(state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """A state dict of our own with what is sound in a file's metadata."""
    metadata = getattr(state, "_metadata", None)
    kept = {
        place: {name: value for name, value in about.items() if name != "assign_to_params_buffers"}
        for place, about in (metadata.items() if isinstance(metadata, Mapping) else ())
        if isinstance(place, str) and isinstance(about, Mapping)
    }
    return with_metadata(OrderedDict(state), kept)


def _usual(content: Mapping[Any, Any]) -> list[str]:
    """Keys under which weights are usually found, the one to take first."""
    names = [name for name in content if isinstance(name, str) and "optim" not in name.lower()]
    order = [*_FIRST, *filter(is_averaged, names), *_RAW]
    return [name for name in dict.fromkeys(order) if name in names]


def _way(content: Any, depth: int = _DEPTH) -> tuple[str, ...]:
    """Keys that lead to the state dict to take; () where there is none, or where ``content`` is one."""
    if _is_state(content) or not isinstance(content, Mapping) or not depth:
        return ()
    for name in _usual(content):
        way = (name, *_way(content[name], depth - 1))
        if _is_state(_at(content, way)):
            return way
    return ()


def _at(content: Any, way: tuple[str, ...]) -> Any:
    for name in way:
        content = content[name]
    return content


def _states(content: Any, depth: int = _DEPTH) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """All state dicts in it, by their keys."""
    for name, value in content.items() if isinstance(content, Mapping) and depth else ():
        if isinstance(name, str) and "optim" not in name.lower():
            if _is_state(value):
                yield name, value
            else:
                yield from ((f"{name}.{inner}", state) for inner, state in _states(value, depth - 1))


def _tell(content: Any, way: tuple[str, ...], path: Path) -> None:
    """Say which was taken where that is a choice."""
    for place, taken in enumerate(way):
        level = _at(content, way[:place])
        others = [name for name in _usual(level) if name != taken and _is_rival(name, level[name])]
        if others:
            warnings.warn(
                f"checkpoint: took {taken!r} of {path}, which also holds {_listed(others)}; "
                "checkpoint_key chooses another",
                UserWarning,
                stacklevel=4,
            )


def _is_rival(name: str, value: Any) -> bool:
    """Whether these are weights, or averaged ones in a form that cannot be taken."""
    if is_averaged(name):
        return isinstance(value, Mapping | list)
    return _is_state(value) or any(_states(value))


def _asked(content: Any, key: str, path: Path) -> OrderedDict[str, Tensor]:
    """What is in it under a key."""
    states = dict(_states(content))
    if _is_state(content):
        usual = content
    else:
        usual = _at(content, _way(content))
        place: Any = content
        for part in (key,) if isinstance(content, Mapping) and key in content else key.split("."):
            place = place.get(part) if isinstance(place, Mapping) else None
        inner = _at(place, _way(place))
        if _is_state(inner):
            return _ordered(inner)
    if _is_state(usual) and (found := under(_ordered(usual), f"{key}.")):
        return found
    begins = dict.fromkeys(name.partition(".")[0] for name in usual) if _is_state(usual) else ()
    raise InvalidValue(
        f"checkpoint_key: expected one of {_listed([*states, *begins]) or 'none'} in {path}, got {key!r}; "
        "name one, or leave it out"
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _kind(content: Any) -> str:
    if not isinstance(content, Mapping):
        return type(content).__name__
    inner = next((content[name] for name in _usual(content) if isinstance(content[name], Mapping)), None)
    if inner is not None and not _is_state(inner):
        return _kind(inner)
    others = (f"{type(v).__name__} as {name!r}" for name, v in content.items() if not _is_state({name: v}))
    return next(others, "none")
