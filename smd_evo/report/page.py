"""One self-contained HTML page of one or several runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from smd_evo import __version__
from smd_evo.errors import InvalidValue
from smd_evo.experiments.compare.page import compare_section
from smd_evo.experiments.ensembles.page import ensemble_section
from smd_evo.experiments.finetune.page import compare_finetunes, finetune_section
from smd_evo.experiments.generations.page import evolution_section
from smd_evo.experiments.protocol.page import protocol_section
from smd_evo.experiments.record import RunRecord
from smd_evo.experiments.sections import Section, Table
from smd_evo.experiments.settings import OBJECT
from smd_evo.experiments.window.page import compare_windows, window_section
from smd_evo.report.commands import repeat

__all__ = ["render_page", "section_of"]

_From = TypeVar("_From")
_To = TypeVar("_To")
_Compared = Sequence[tuple[int, RunRecord]]
_SECTIONS: dict[str, Callable[[RunRecord], Section]] = {
    "finetune": finetune_section,
    "evolution": evolution_section,
    "window": window_section,
    "protocol": protocol_section,
    "compare": compare_section,
}
_COMPARED: dict[str, Callable[[_Compared], Table]] = {"finetune": compare_finetunes, "window": compare_windows}


def render_page(runs: Sequence[RunRecord]) -> str:
    """A page of HTML that needs nothing else: no network, no scripts, plots inside.

    Args:
        runs: at least one; several get a table of contents and, where they are of one kind, are compared.

    Raises:
        InvalidValue: no runs, or one whose numbers are not those that this version writes.

    Example:
        >>> render_page([RunRecord("run", "finetune", {}, {})])
        Traceback (most recent call last):
        smd_evo.errors.InvalidValue: run: expected results as smd-evo ... writes them, got run (KeyError: 'rows'); ...
    """
    if not runs:
        raise InvalidValue("runs: expected at least one, got none; give the folder of a run")
    sections = [_checked(section_of, run, run.name) for run in runs]
    sections = _told_apart(sections)
    compared = []
    for kind, compare in _COMPARED.items():
        same = [(number, run) for number, run in enumerate(runs, start=1) if run.kind == kind]
        if len(same) > 1:
            compared.append(_checked(compare, same, f"{len(same)} runs"))
    several = len(sections) > 1
    title = f"{len(sections)} runs of smd-evo" if several else sections[0].title
    page = _template().render(title=title, several=several, sections=sections, compared=compared, version=__version__)
    return page.encode(errors="replace").decode()  # names of files need not be text


def section_of(run: RunRecord) -> Section:
    """A run's section with those of its parts in it: of ensembles, or of runs."""
    section = _SECTIONS[run.kind](run)
    parts = [ensemble_section(part, run) if part.kind == "ensemble" else section_of(part) for part in run.parts]
    if run.kind == "protocol":
        parts = _told_apart(parts)
    return replace(
        section,
        title=_named(section.title),
        facts={name: _named(value) for name, value in section.facts.items()},
        tables=[replace(table, title=_named(table.title)) for table in section.tables],
        parts=parts,
        commands=repeat(run),
    )


def _told_apart(sections: Sequence[Section]) -> list[Section]:
    """The same, each title with its folder where another section has it, too."""
    titles = [section.title for section in sections]
    return [
        replace(each, title=f"{each.title} ({each.folder})") if titles.count(each.title) > 1 else each
        for each in sections
    ]


def _named(text: str) -> str:
    """Objects of a program by what they are, without the mark that nobody can look for them."""
    return text.replace(f"{OBJECT}:", "")


def _checked(build: Callable[[_From], _To], what: _From, name: str) -> _To:
    """What ``build`` makes of files that anyone may have changed."""
    try:
        return build(what)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InvalidValue(
            f"run: expected results as smd-evo {__version__} writes them, got {name} ({reason}); run it again"
        ) from error


def _minus(text: object) -> str:
    r"""Numbers with the minus sign, at which no line is broken, for the hyphen.

    >>> _minus("-0.2 [-2.2, +1.8], 2e-23, cifar-10").replace("\N{MINUS SIGN}", "~")
    '~0.2 [~2.2, +1.8], 2e~23, cifar-10'
    """
    return re.sub(r"(?:(?<![^\s\[])|(?<=\de))-(?=\d)", "\N{MINUS SIGN}", str(text))


@cache
def _template() -> Template:
    loader = PackageLoader("smd_evo", "report")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["minus"] = _minus
    return environment.get_template("page.html.j2")
