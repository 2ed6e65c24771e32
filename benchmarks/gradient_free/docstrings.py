"""Pairs of queries and answers from the standard library's docstrings: the first line, and what follows it."""

import ast
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from random import Random

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "lib2to3", "__pycache__"}
"""Folders of code that documents nothing, or the same as other code."""


@dataclass(frozen=True)
class Pair:
    """A docstring in two."""

    query: str
    answer: str
    module: str
    """Top-level, so that no module is in two splits."""


def parts_of(docstring: str, name: str) -> tuple[str, str]:
    """Its first line and the rest, on one line each, without the name of what it documents, which would tell.

    >>> parts_of("Close it.\\n\\n    close() does nothing\\n    the second time.", "close")
    ('Close it.', '() does nothing the second time.')
    """
    first, _, rest = docstring.strip().partition("\n")
    if not rest.strip():  # of one line: its first sentence
        first, _, rest = re.sub(r"(?<=[a-z)]{2}[.:]) +(?=[A-Z])", "\n", first, count=1).partition("\n")
    own = re.compile(rf"(?<![\w]){re.escape(name)}(?![\w])") if name else re.compile(r"(?!)")
    query, answer = (" ".join(own.sub(" ", text).split()) for text in (first, rest))
    return query, answer


def docstrings(path: Path):
    """Of a file's module, classes and functions, each with the name of what it documents."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring, getattr(node, "name", path.stem)


def pairs() -> list[Pair]:
    """All of them that are pairs, each query and each answer once, in the order of modules and lines."""
    library, found = Path(sysconfig.get_path("stdlib")), []
    queries, answers = set(), set()
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if LEFT_OUT & set(parts):
            continue
        for docstring, name in docstrings(path):
            query, answer = parts_of(docstring, name)
            keys = [" ".join(re.findall("[a-z]+", text.lower())) for text in (query, answer)]
            enough = len(keys[0].split()) >= 3 and len(keys[1].split()) >= 6
            if enough and keys[0] not in queries and keys[1] not in answers and keys[0] not in keys[1]:
                queries.add(keys[0])
                answers.add(keys[1])
                found.append(Pair(query, answer, parts[0].removesuffix(".py")))
    return found


def splits(shares=(0.6, 0.2, 0.2), seed=0) -> tuple[list[Pair], ...]:
    """The pairs for three roles, of modules that are in one role each.

    Modules are dealt in a random order, each to the role that lacks most of its share.
    """
    everything = pairs()
    modules = sorted({pair.module for pair in everything})
    Random(seed).shuffle(modules)
    dealt: list[list[Pair]] = [[] for _ in shares]
    for module in modules:
        lacks = [share * len(everything) - len(role) for share, role in zip(shares, dealt, strict=True)]
        dealt[lacks.index(max(lacks))] += [pair for pair in everything if pair.module == module]
    return tuple(dealt)
