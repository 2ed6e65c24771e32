"""What a file that is no weights looks like, by its first bytes: for errors that tell their reader what happened."""

from __future__ import annotations

import json
import pickletools
import zipfile
from pathlib import Path

__all__ = ["looks_like", "pickled_globals"]

_HEAD = 1024
_SHOWN = 3

_MAGIC = {
    b"version https://git-lfs": "a pointer of Git LFS instead of the file; `git lfs pull` fetches it",
    b"/annex/objects/": "a pointer of git-annex instead of the file; `git annex get` fetches it",
    b"\x89HDF\r\n\x1a\n": "HDF5, as Keras writes it",
    b"\x93NUMPY": "an array of NumPy",
    b"GGUF": "GGUF, of llama.cpp",
    b"\x1f\x8b": "gzip; unpack it first",
    b"BZh": "bzip2; unpack it first",
    b"\xfd7zXZ\x00": "xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "zstd; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "7-zip; unpack it first",
    b"\x89PNG\r\n\x1a\n": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF-": "PDF",
    b"\x7fELF": "a program",
}


def looks_like(path: Path) -> str:
    """A few words for a file that could not be read as weights.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "resnet50.pth"
        >>> _ = file.write_text("<!DOCTYPE html><html>Sign in to download</html>")
        >>> looks_like(file)
        'an HTML page, as servers send instead of a file'
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head.strip(b"\x00"):
        return f"a file of {path.stat().st_size} zero bytes" if head else "an empty file"
    found = next((what for start, what in _MAGIC.items() if head.startswith(start)), None)
    if found is not None:
        return found
    if head.startswith(b"PK\x03\x04"):
        return _zipped(path)
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return "safetensors, damaged or cut short"
    return _text(path, head) or "bytes of no format that is known here"


def _zipped(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "a file of torch.save (or another zip archive) that is damaged or cut short"
    inner = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in inner:
        return "a TorchScript program"
    if "data.pkl" in inner:
        return "a file of torch.save that is damaged"
    if names and all(name.endswith(".npy") for name in names):
        return "arrays of NumPy (.npz)"
    if "model.weights.h5" in inner:
        return "a model of Keras"
    return f"a zip archive of {', '.join(map(repr, names[:_SHOWN])) or 'nothing'}; unpack it first"


def _text(path: Path, head: bytes) -> str | None:
    """What kind of text a file begins with, or None if it is none."""
    try:
        # A character may be cut in two at the end of what was read.
        text = head.decode("utf-8-sig", errors="ignore" if len(head) == _HEAD else "strict").strip()
    except UnicodeDecodeError:
        return None
    if not text or not all(each.isprintable() or each in "\r\n\t" for each in text):
        return None
    start = text[:200].lower()
    if start.startswith(("<!doctype html", "<html")) or "<html" in start:
        return "an HTML page, as servers send instead of a file"
    if start.startswith("<"):
        return f"XML: {text.splitlines()[0][:60]!r}"
    if start.startswith(("{", "[")):
        return _json(path)
    return f"a text: {text.splitlines()[0][:60]!r}"


def _json(path: Path) -> str:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig")) if path.stat().st_size < 2**26 else None
    except (OSError, ValueError, RecursionError):
        return "a text with braces, like JSON"
    if isinstance(content, dict) and isinstance(content.get("weight_map"), dict):
        parts = sorted({str(part) for part in content["weight_map"].values()})
        return f"an index in JSON of weights in {len(parts)} files ({', '.join(parts[:_SHOWN])}); join them first"
    return "JSON"


def pickled_globals(path: Path) -> list[str]:
    """Functions and classes that a pickle would import, without importing them; of other files none."""
    found: dict[str, None] = {}
    strings: list[str] = []
    try:
        for code, argument, _ in pickletools.genops(_pickle_in(path)):
            if code.name == "GLOBAL":
                found[str(argument).replace(" ", ".")] = None
            elif code.name == "STACK_GLOBAL" and len(strings) > 1:
                found[".".join(strings[-2:])] = None
            elif isinstance(argument, str):
                strings.append(argument)
    except Exception:  # damaged pickles meet no check, but whatever they lead to
        pass
    return list(found)


def _pickle_in(path: Path) -> bytes:
    """The pickle of a file of torch.save, new or old, or of a plain one."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
            return archive.read(name)
    return _without_old_header(path.read_bytes())


def _without_old_header(content: bytes) -> bytes:
    """Old files of torch.save begin with three pickles: a magic number, a version, facts of the machine."""
    if b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." not in content[:32]:
        return content
    for _ in range(3):
        end = next(
            place for code, _, place in pickletools.genops(content) if code.name == "STOP" and place is not None
        )
        content = content[end + 1 :]
    return content
