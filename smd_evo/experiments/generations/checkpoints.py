"""Checkpoints: nested state as a safetensors file of its tensors and a JSON file of the rest, never pickle.

The JSON file comes last and holds checksums of both, so a checkpoint is whole or it is none. It also holds one of the
run's identity, so that another run's checkpoint is none of this one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from smd_evo.atomic import write_whole
from smd_evo.documents import parse_json, read_file
from smd_evo.errors import InvalidValue
from smd_evo.experiments.folders.content import IDENTITY

__all__ = ["CHECKPOINTS", "IDENTITY", "newest", "notes_its_run", "write_checkpoint"]

_FIXED = ("fingerprint", "data", "settings")
CHECKPOINTS = "checkpoints"
"""Their folder in a run's."""

_MARK, _LONGEST = "$tensor", 200


def write_checkpoint(run: Path, number: int, state: Mapping[str, Any], keep: int) -> None:
    """Write a checkpoint, and delete all but the newest ones up to it.

    Later ones are damaged, or the run would have gone on with them.

    Args:
        run: the run directory.
        number: of the generation.
        state: dicts and lists of tensors, numbers, texts and None.
        keep: how many to keep.
    """
    folder = run / CHECKPOINTS
    folder.mkdir(exist_ok=True)
    tensors: dict[str, Tensor] = {}
    tree = _without_tensors(state, "", tensors, {})
    content = save(tensors)
    about = {"generation": number, "run": _run(run), "tensors": _digest(content), "state": tree}
    write_whole(_file(folder, number, "safetensors"), content)
    write_whole(_file(folder, number, "json"), _sealed(about))
    kept = [each for each in _numbers(folder, "json") if each <= number][:keep]
    for kind in ("json", "safetensors"):  # in this order: what is left of an interrupted deletion is no checkpoint
        for old in set(_numbers(folder, kind)) - set(kept):
            _file(folder, old, kind).unlink()
    for left in folder.glob(".*.partial"):  # by a process that was killed while it wrote
        left.unlink()


def newest(run: Path) -> tuple[int, dict[str, Any], list[str]]:
    """The newest checkpoint that is whole.

    Returns:
        Its generation, its state, and for each newer one what is wrong with it.

    Raises:
        InvalidValue: there is none.
    """
    folder, damaged = run / CHECKPOINTS, list[str]()
    for number in _numbers(folder, "json"):
        try:
            return number, _read(folder, number, _run(run)), damaged
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:_LONGEST] or type(error).__name__
            damaged.append(f"checkpoint {number} is damaged ({reason})")
    told = f"; {'; '.join(damaged)}" if damaged else ""
    raise InvalidValue(f"run: expected a checkpoint in {folder} that is whole, got none{told}; start a new run")


def notes_its_run(run: Path, number: int) -> bool:
    """Whether a checkpoint says which run it is of, as those of versions before do not."""
    return "run" in parse_json(read_file(_file(run / CHECKPOINTS, number, "json")))


def _run(run: Path) -> str:
    """What tells a run from any other: a digest of its identity, but for the versions that it began with."""
    try:
        identity = parse_json(read_file(run / IDENTITY))
    except FileNotFoundError:
        return ""
    fixed = {name: identity[name] for name in _FIXED if name in identity} if isinstance(identity, dict) else {}
    return _digest(json.dumps(fixed, sort_keys=True).encode())


def _read(folder: Path, number: int, run: str) -> dict[str, Any]:
    sealed = read_file(_file(folder, number, "json"))
    about = parse_json(sealed)
    if not isinstance(about, dict) or _sealed(about) != sealed:
        raise ValueError("its JSON file has another checksum")
    if about.get("run", run) != run:  # versions before wrote none
        raise ValueError("it is another run's")
    content = read_file(_file(folder, number, "safetensors"))
    if _digest(content) != about["tensors"]:
        raise ValueError("its tensors have another checksum")
    state = _with_tensors(about["state"], load(content))
    if not isinstance(state, dict):
        raise ValueError("it holds no state")
    return state


def _sealed(about: Mapping[str, Any]) -> bytes:
    """The content of a JSON file, with its checksum."""
    plain = {name: value for name, value in about.items() if name != "checksum"}
    return (json.dumps({**plain, "checksum": _digest(json.dumps(plain).encode())}) + "\n").encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file(folder: Path, number: int, kind: str) -> Path:
    return folder / f"{number:06d}.{kind}"


def _numbers(folder: Path, kind: str) -> list[int]:
    """Of the checkpoints that have such a file, newest first."""
    found = {int(file.stem): file for file in folder.glob(f"*.{kind}") if file.stem.isdecimal()}
    return sorted((number for number, file in found.items() if file == _file(folder, number, kind)), reverse=True)


def _without_tensors(part: Any, path: str, tensors: dict[str, Tensor], known: dict[int, str]) -> Any:
    """The same with tensors' names in their places; one that comes twice is stored once."""
    if isinstance(part, Tensor):
        name = known.setdefault(id(part), f"{len(known)}{path}")  # two paths may read the same
        tensors[name] = part.contiguous()
        return {_MARK: name}
    if isinstance(part, Mapping):
        return {name: _without_tensors(item, f"{path}/{name}", tensors, known) for name, item in part.items()}
    if isinstance(part, list | tuple):
        return [_without_tensors(item, f"{path}/{place}", tensors, known) for place, item in enumerate(part)]
    return part


def _with_tensors(part: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(part, dict):
        return (
            tensors[part[_MARK]] if _MARK in part else {name: _with_tensors(v, tensors) for name, v in part.items()}
        )
    return [_with_tensors(item, tensors) for item in part] if isinstance(part, list) else part
