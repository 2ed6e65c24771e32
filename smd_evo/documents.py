"""Files, JSON and YAML from anybody: read within bounds to plain values, or a ValueError of one line."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from smd_evo.errors import shown

__all__ = ["check_size", "parse_json", "parse_yaml", "read_file"]

_LEVELS = 64
"""Of lists and objects in JSON; what this package writes has less than 20."""

YAML_BYTES, _YAML_VALUES, _YAML_LEVELS, _DIGITS = 2**18, 10_000, 8, 400
"""Bounds of a YAML document; settings have two levels and some hundred bytes."""

_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")


def read_file(path: Path, most: int | None = None) -> bytes:
    """A file's content.

    Args:
        path: of an ordinary file.
        most: bytes that it may have; None: as many as this machine has memory for.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is no ordinary file, or a bigger one; nothing is read then.
    """
    check_size(path, most)
    return path.read_bytes()


def check_size(path: Path, most: int | None = None) -> None:
    """Raise what :func:`read_file` does, without reading."""
    size, limit = path.stat().st_size, _memory() if most is None else most
    if not path.is_file():  # a pipe would be waited for without end
        raise ValueError("no ordinary file")
    if size > limit:  # also of a file with holes, whose size costs nobody anything
        raise ValueError(f"{size:,} bytes where at most {limit:,} are read")


def parse_json(content: str | bytes) -> Any:
    """The value of a JSON document.

    Raises:
        ValueError: it is none, or nested deeper than anything that this package writes.

    Example:
        >>> parse_json('{"a": [1, 2.5, null]}')
        {'a': [1, 2.5, None]}
        >>> parse_json("[" * 100_000)
        Traceback (most recent call last):
        ValueError: nested too deeply
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level: list[Any] = [value]
    for _ in range(_LEVELS + 1):
        if not level:
            return value
        inner = (part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list))
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
    raise ValueError("nested too deeply")


def parse_yaml(content: str) -> Any:
    """The value of a YAML document of plain values: no aliases, no other tags, names that are texts, each once.

    A date is a text.

    Raises:
        ValueError: it is none, or longer or nested deeper than settings are.

    Example:
        >>> parse_yaml("children: 64\\ndensity: [0.1, 0.01]")
        {'children': 64, 'density': [0.1, 0.01]}
        >>> parse_yaml("a: &x [1]\\nb: *x")
        Traceback (most recent call last):
        ValueError: an alias in line 2: values are to be written out
    """
    if len(content) > YAML_BYTES:
        raise ValueError(f"more than {YAML_BYTES:,} bytes")
    try:
        return yaml.load(content, _Plain)  # a subclass of SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None
    except (TypeError, ArithmeticError, LookupError, AttributeError) as error:  # a tag and a value that do not fit
        raise ValueError(f"a value that cannot be ({error})") from None


class _Plain(yaml.SafeLoader):
    """SafeLoader without what makes much of little."""

    _levels = _values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise ValueError(f"an alias in line {line}: values are to be written out")
        self._levels, self._values = self._levels + 1, self._values + 1
        if self._levels > _YAML_LEVELS or self._values > _YAML_VALUES:
            raise ValueError(f"more than {_YAML_VALUES:,} values or {_YAML_LEVELS} levels at line {line}")
        node = super().compose_node(parent, index)
        self._levels -= 1
        if isinstance(node, yaml.ScalarNode) and not node.tag.endswith(":str") and len(node.value) > _DIGITS:
            raise ValueError(f"a number of {len(node.value):,} digits in line {line}")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        known = set[str]()
        for name in (self.construct_object(key, deep=True) for key, _ in node.value):
            if not isinstance(name, str) or name in known:
                what = "twice" if isinstance(name, str) else "as a name"
                raise ValueError(f"{shown(name)} {what}, in line {node.start_mark.line + 1} or below")
            known.add(name)
        return super().construct_mapping(node, deep)


def _plain(tag: str | None) -> bool:
    return tag is None or tag.rpartition(":")[2] in _TAGS


_Plain.yaml_constructors = {tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if _plain(tag)}
_Plain.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if _plain(tag)]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _memory() -> int:
    """Bytes of this machine's memory; where nobody can tell, more than there are anywhere."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 2**48
