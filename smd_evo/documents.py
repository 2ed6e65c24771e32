"""JSON and YAML that anybody may have written: parsed to plain values, or a ValueError of one line."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

import yaml

__all__ = ["parse_json", "parse_yaml"]

_DEEPEST, _LONGEST = 20, 2**20
"""Levels and bytes of a YAML document; settings have two levels and some hundred bytes."""


def parse_json(content: str | bytes) -> Any:
    """The value of a JSON document.

    Raises:
        ValueError: it is none, or nested too deeply.

    Example:
        >>> parse_json('{"a": [1, 2.5, null]}')
        {'a': [1, 2.5, None]}
        >>> parse_json("[" * 100_000)
        Traceback (most recent call last):
        ValueError: nested too deeply
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_yaml(content: str | bytes) -> Any:
    """The value of a YAML document of plain values: no aliases, no tags of Python, each name once.

    Raises:
        ValueError: it is none, or longer or nested deeper than settings are.

    Example:
        >>> parse_yaml("children: 64\\ndensity: [0.1, 0.01]")
        {'children': 64, 'density': [0.1, 0.01]}
        >>> parse_yaml("a: &x [1]\\nb: *x")
        Traceback (most recent call last):
        ValueError: an alias in line 2: values are to be written out
    """
    if len(content) > _LONGEST:
        raise ValueError(f"more than {_LONGEST:,} bytes")
    try:
        return yaml.load(content, _Plain)  # a subclass of SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (TypeError, OverflowError, LookupError, AttributeError) as error:  # a tag and a value that do not fit
        raise ValueError(f"a value that cannot be ({error})") from None


class _Plain(yaml.SafeLoader):
    """SafeLoader without what makes much of little."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise ValueError(f"an alias in line {line}: values are to be written out")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("nested too deeply")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        names = [self.construct_object(name, deep=True) for name, _ in node.value]
        twice = [name for number, name in enumerate(names) if name in names[:number]]
        if twice:
            raise ValueError(f"{twice[0]!r} twice, in line {node.start_mark.line + 1} and below")
        return super().construct_mapping(node, deep)
