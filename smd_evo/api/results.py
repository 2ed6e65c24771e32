"""What the functions return: a run to look at, with the networks that it found."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from smd_evo.atomic import write_whole
from smd_evo.core.blocks import within
from smd_evo.core.exclusive import Exclusive
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.ensemble.module import SparseEnsemble
from smd_evo.errors import InvalidValue, NotThere
from smd_evo.experiments.free import Free
from smd_evo.experiments.record import RunRecord
from smd_evo.experiments.sections import Section, rich_table
from smd_evo.report.page import render_page, section_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from rich.table import Table

__all__ = ["Networks", "RunResult", "read_files"]

_HEIGHT = 640

Content = bytes | Callable[[], bytes]
"""Of a file: as it is, or made when it is wanted."""


class Networks:
    """The networks of a run, as recipes of their parent; whole ones are made when they are asked for.

    Args:
        parent: gives the parent, and the selection of its parameters.
        best: the best child on validation.
        members: of the ensemble.
        combine: how their outputs become one.
        free: the best on validation of what is nearly free; None: there is none.
    """

    def __init__(
        self,
        parent: Callable[[], ParameterSpace],
        best: Child,
        members: list[Child],
        combine: str,
        free: Free | None = None,
    ) -> None:
        self._parent, self._best, self._members, self._free = parent, best, members, free
        self._combine = combine

    def best(self) -> nn.Module:
        """A network of its own."""
        return self._parent().make_child(self._best)

    @cached_property
    def _ensemble(self) -> SparseEnsemble | None:
        if not self._members:
            return None
        return SparseEnsemble(copy.deepcopy(self._parent()), self._members, combine=self._combine)

    def ensemble(self) -> SparseEnsemble | None:
        """All members in the memory of one network, which is theirs alone."""
        return self._ensemble

    def free(self) -> nn.Module | None:
        """A network of its own, if there is such a control."""
        if self._free is None:
            return None
        module, control = self._parent().module, self._free
        return within(Exclusive(module), lambda: control.network(module)).eval()


class RunResult:
    """A finished run of an experiment: its numbers, tables, plot and networks.

    In a notebook it shows itself as a page, on a terminal as its first table.

    Attributes:
        kind: "finetune", "evolution", "window" or "compare".
        config: its settings, as plain values.
        numbers: all that it found, as plain values.
        folder: where it is stored; None if it is not.
    """

    def __init__(
        self,
        record: RunRecord,
        folder: Path | None,
        networks: Any = None,
        stored: Mapping[str, Content] | None = None,
    ) -> None:
        self._record, self.folder, self._networks, self._stored = record, folder, networks, stored
        self.kind, self.config, self.numbers = record.kind, dict(record.config), dict(record.results)

    def __repr__(self) -> str:
        from smd_evo.console import Plain

        section, console = self._section(), Plain(file=io.StringIO(), width=100)
        console.print(section.title)
        console.print(rich_table(section.tables[0]))
        for line in section.verdict:
            console.print(line)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().rstrip()

    def _repr_html_(self) -> str:
        """The page of a report, in a frame of its own: its styles stay there."""
        page = escape(render_page([self._record]), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: {_HEIGHT}px; border: 0"></iframe>'

    def table(self, number: int = 0) -> Table:
        """One of the report's tables, for rich.

        Args:
            number: of it, from 0.

        Raises:
            InvalidValue: there are fewer.
        """
        tables = self._section().tables
        if not 0 <= number < len(tables):
            titles = ", ".join(f"{place}: {table.title}" for place, table in enumerate(tables))
            raise InvalidValue(f"number: expected one of {titles}; got {number}")
        return rich_table(tables[number])

    def plot(self) -> Figure:
        """The run's plot.

        Raises:
            InvalidValue: there is none, as it could not be drawn.
        """
        from matplotlib.image import imread

        from smd_evo.api.pictures import Picture

        if self._record.plot is None:
            raise InvalidValue("plot: expected one in this run, got none; its numbers are there")
        picture = imread(io.BytesIO(self._record.plot), format="png")
        height, width = picture.shape[:2]
        figure = Picture(figsize=(width / 120, height / 120), dpi=120)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(picture)
        axes.set_axis_off()
        return figure

    def to_pandas(self) -> DataFrame:
        """The run's lines: classifiers on the test split, generations, cells or methods."""
        import pandas

        return pandas.json_normalize(_lines(self._record))

    @property
    def best(self) -> nn.Module:
        """The best network on validation, independent of all others.

        Raises:
            InvalidValue: this kind of run hands over none.
        """
        return self._known("best").best()  # type: ignore[no-any-return]

    @property
    def ensemble(self) -> SparseEnsemble | None:
        """The networks that were chosen to vote; None where they could not be.

        Raises:
            InvalidValue: this kind of run hands over none.
        """
        return self._known("ensemble").ensemble()  # type: ignore[no-any-return]

    @property
    def free(self) -> nn.Module | None:
        """A network of its own: the parent with what is nearly free and best on validation; None: nothing is.

        Its parameters are the parent's, but for what was fitted: a module around the network (temperature, biases,
        views), its last layer, or the statistics of its normalisations. It returns logits.

        Raises:
            InvalidValue: this kind of run hands over none, or it was read from a folder, which holds none.
        """
        if self.kind != "finetune" or not hasattr(self._networks, "free"):
            got = "a stored run" if self.kind == "finetune" else f"one of {self.kind}"
            raise NotThere(f"free: expected what finetune has just returned, got {got}; run finetune")
        return self._networks.free()  # type: ignore[no-any-return]

    def save(self, folder: Path | str) -> None:
        """Write the run directory that the commands write and read.

        Args:
            folder: new or empty.

        Raises:
            OutputExists, InvalidValue: it is something else, or this run has no files any more.
        """
        from smd_evo.experiments.folders.take import new_run

        files = self._files()
        with new_run(folder) as place:
            place.write({name: partial(_write, content) for name, content in files.items()})
        self.folder = Path(folder)

    def _files(self) -> Mapping[str, Content]:
        if self._stored is not None:
            return self._stored
        assert self.folder is not None
        return read_files(self.folder)

    def _known(self, what: str) -> Any:
        if self._networks is None:
            raise InvalidValue(
                f"{what}: expected a run of finetune or evolve, got one of {self.kind}, which has none"
            )
        return self._networks

    def _section(self) -> Section:
        return section_of(self._record)


def read_files(folder: Path) -> dict[str, bytes]:
    """All files of a folder, by their paths in it."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def _write(content: Content, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, content() if callable(content) else content)


def _lines(record: RunRecord) -> list[dict[str, Any]]:
    if record.kind == "evolution":
        return [dict(line) for line in record.metrics]
    if record.kind == "window":
        return [
            {"rule": profile["rule"], "density": profile["density"], **cell}
            for profile in record.results["profiles"]
            for cell in profile["cells"]
        ]
    return [dict(line) for line in record.results["methods" if record.kind == "compare" else "rows"]]
