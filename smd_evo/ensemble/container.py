"""The outside of our safetensors files: tensors, and one entry of JSON that says what they are.

Reading one executes nothing, and trusts nothing that it says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from smd_evo import __version__
from smd_evo.atomic import in_text, write_whole
from smd_evo.documents import check_size, parse_json
from smd_evo.errors import ChildrenFileError, InvalidType, InvalidValue, SmdEvoError
from smd_evo.errors import shown as brief

__all__ = ["entry", "failure", "inconsistent", "read", "shown", "write"]

_ENTRY, _CHECKSUM, _LONGEST = "smd_evo", "checksum", 500
_FOREIGN = (OSError, SafetensorError, RuntimeError, ValueError, TypeError, AttributeError, LookupError)

_Error = TypeVar("_Error", bound=SmdEvoError)
_Type = TypeVar("_Type")


def write(path: Path | str, kind: str, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a file; it appears whole or not at all.

    Args:
        path: where to.
        kind: the format's name and version.
        about: what JSON can hold.
        tensors: any; tied ones become independent.

    Raises:
        InvalidType: the file cannot hold one of these.
    """
    try:
        text = json.dumps({"format": kind, "version": __version__, **about})
        told = parse_json(text)  # as read() will, which takes no more than so many levels
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidType(f"notes: expected what JSON can hold, got something else ({error})") from None
    try:
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        # One entry: several would be written in an order that changes.
        content = save(whole, {_ENTRY: json.dumps({**told, _CHECKSUM: _checksum(told, whole)})})
    except _FOREIGN as error:
        raise failure(InvalidType, path, f"expected tensors that safetensors can hold, got {_told(error)}") from None
    write_whole(Path(path), content)


def read(
    path: Path | str,
    kind: str,
    expected: Callable[[set[str]], set[str]],
    check: Callable[[dict[str, Any], dict[str, list[int]]], object] = lambda about, shapes: None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file says of itself, and its tensors, independent of the file.

    Args:
        path: the file.
        kind: the format's name and version.
        expected: gives the names of the tensors that there must be, of those that there are.
        check: raises if what the file says of itself is wrong, or does not go with these shapes of its tensors;
            they are read afterwards.

    Raises:
        ChildrenFileError: it is missing, truncated, of another format or version, or has other tensors.
    """
    try:
        check_size(Path(path))
        with _named_in_text(path) as name, safe_open(name, "pt") as file:
            about = _about(file.metadata())
            found = about.get("format")
            if found != kind:
                raise failure(
                    ChildrenFileError,
                    path,
                    f"expected the format {kind!r}, got {shown(found)} of smd_evo {shown(about.get('version'))}; "
                    f"it is another kind of file, or of another version than {__version__}",
                )
            present = set(file.keys())
            needed = expected(present)
            if present != needed:
                differing = ", ".join(shown(name) for name in sorted(present ^ needed)[:3])
                raise failure(
                    ChildrenFileError,
                    path,
                    f"expected the tensors of {kind!r}, got too many or too few: {differing}; write it again",
                )
            check(about, {name: file.get_slice(name).get_shape() for name in present})
            tensors = {name: file.get_tensor(name).clone() for name in present}  # not the file's own memory
            stored = about.pop(_CHECKSUM, None)  # versions before wrote none
            if stored is not None and stored != _checksum(about, tensors):
                raise failure(
                    ChildrenFileError,
                    path,
                    "expected what was written, got another checksum; it was changed or damaged",
                )
            return about, tensors
    except SmdEvoError:
        raise
    except _FOREIGN as error:
        text = f"expected a whole safetensors file, got {_told(error)}; write it again"
        raise failure(ChildrenFileError, path, text) from None


def _checksum(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Of everything that a file says, whatever its order."""
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def entry(about: Mapping[str, Any], name: str, kind: type[_Type]) -> _Type:
    """What a file says of itself under a name, if it is of that kind."""
    value = about.get(name)
    if not isinstance(value, kind):
        raise InvalidValue(f"its {name!r} is {shown(value)}")
    return value


def failure(kind: type[_Error], path: Path | str, text: str) -> _Error:
    """An error about a file: one line, however long and strange what the file says."""
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    return kind(" ".join(f"{path}: {text}".splitlines()))


def inconsistent(path: Path | str, error: Exception) -> ChildrenFileError:
    """The error for a file whose parts do not fit each other."""
    return failure(ChildrenFileError, path, f"expected a consistent file, but {error}; write it again")


@contextmanager
def _named_in_text(path: Path | str) -> Iterator[Path | str]:
    """A name of the file that is UTF-8, which is all that safetensors knows."""
    if in_text(path):
        yield path
    else:
        with open(path, "rb") as file:
            yield f"/dev/fd/{file.fileno()}"


def _about(entries: dict[str, str] | None) -> dict[str, Any]:
    """What the file says of itself, or nothing."""
    try:
        about = parse_json((entries or {}).get(_ENTRY, "{}"))
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def shown(value: object) -> str:
    """Something that a file says, as it may stand in a message."""
    if value is None:
        return "none"
    return brief(value)[:80] if isinstance(value, str | int | float) else f"some {type(value).__name__}"


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
