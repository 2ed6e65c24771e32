"""The Pareto front: what nothing else is better than in one objective without being worse in another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from smd_evo.errors import InvalidValue, check_choice
from smd_evo.evaluation.fitness import WORST
from smd_evo.evaluation.histogram import picture
from smd_evo.markup import html_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ParetoFront", "nondominated"]


def nondominated(values: Tensor, senses: Sequence[str]) -> list[int]:
    """Numbers of the rows that no row dominates: none is better in one objective and in no other worse.

    Args:
        values: [N, m], without NaN.
        senses: m times "min" or "max".

    Returns:
        In ascending order; of equal rows all or none.

    Raises:
        InvalidValue: other shapes, other senses, or NaN.

    Example:
        >>> nondominated(torch.tensor([[0.9, 3.0], [0.8, 1.0], [0.7, 2.0], [0.9, 3.0]]), ["max", "min"])
        [0, 1, 3]

    Reference: Kung, Luccio, Preparata, "On finding the maxima of a set of vectors", JACM 22, 1975.
    """
    for sense in senses:
        check_choice("sense", sense, ("min", "max"))
    if values.dim() != 2 or values.shape[1] != len(senses) or not senses:
        raise InvalidValue(f"values: expected [N, {len(senses)}], a column a sense, got {list(values.shape)}")
    if bool(values.isnan().any()):
        raise InvalidValue("values: expected numbers, got NaN; are all of them evaluated?")
    signs = torch.tensor([-1.0 if sense == "max" else 1.0 for sense in senses], dtype=torch.float64, device="cpu")
    costs, numbers = (values.detach().as_subclass(Tensor).to("cpu", torch.float64) * signs).unique(
        dim=0, return_inverse=True
    )
    front = torch.zeros(len(costs), dtype=torch.bool, device="cpu")
    for row, cost in enumerate(costs):  # in lexicographic order: none is dominated by one behind it
        front[row] = not bool((costs[:row][front[:row]] <= cost).all(1).any())
    return front[numbers].nonzero().flatten().tolist()


class ParetoFront:
    """The nondominated ones among some children, as a table and as a picture.

    Args:
        values: [N, m] of all, without NaN.
        names: of the m objectives.
        senses: "min" or "max", of each.
        parent: the parent's own values.

    Attributes:
        values: float64 [N, m] of all, on the CPU.

    Example:
        >>> values = torch.tensor([[0.75, 2.0], [0.5, 0.0], [0.5, 1.0]])
        >>> front = ParetoFront(values, ["accuracy", "norm"], ["max", "min"])
        >>> print(front.table())
          number  accuracy  norm
               0      0.75     2
               1       0.5     0
    """

    def __init__(
        self, values: Tensor, names: Sequence[str], senses: Sequence[str], parent: Sequence[float] | None = None
    ) -> None:
        self.values = values.detach().as_subclass(Tensor).to("cpu", torch.float64, copy=True)
        self.names, self.senses = tuple(names), tuple(senses)
        self.parent = None if parent is None else tuple(parent)
        if len(self.names) != len(self.senses) or (self.parent is not None and len(self.parent) != len(self.names)):
            raise InvalidValue(
                f"names: expected one of each objective, got {len(self.names)} names, {len(self.senses)} senses and "
                f"{'no' if self.parent is None else len(self.parent)} values of the parent"
            )
        _ = self.numbers  # which looks at the values

    @cached_property
    def numbers(self) -> list[int]:
        """Of the nondominated ones: the best in the first objective first, of equal ones all."""
        found = nondominated(self.values, self.senses)
        signs = [-1 if sense == "max" else 1 for sense in self.senses]
        rows = self.values.tolist()
        return sorted(found, key=lambda n: [sign * value for sign, value in zip(signs, rows[n], strict=True)])

    def __len__(self) -> int:
        """How many are on the front."""
        return len(self.numbers)

    def _rows(self) -> list[list[str]]:
        """A line of text for each point of the front, and one for the parent."""
        points: dict[tuple[float, ...], list[int]] = {}
        for number in self.numbers:
            points.setdefault(tuple(self.values[number].tolist()), []).append(number)
        lines = [
            [
                f"{equal[0]}" + (f" ({len(equal)} equal)" if len(equal) > 1 else ""),
                *(f"{value:.6g}" for value in point),
            ]
            for point, equal in points.items()
        ]
        return lines if self.parent is None else [*lines, ["parent", *(f"{value:.6g}" for value in self.parent)]]

    def table(self) -> str:
        """Numbers of the nondominated ones and their values, as text."""
        lines = [["number", *self.names], *self._rows()]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        return "\n".join(
            "".join(f"  {cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines
        )

    def plot(self) -> Figure:
        """All of them, the front and the parent, for each two objectives."""
        from matplotlib.figure import Figure

        if len(self.names) < 2:
            raise InvalidValue(f"front: expected two objectives to draw, got {len(self.names)}")
        pairs = list(combinations(range(len(self.names)), 2))
        figure = Figure(figsize=(max(5.5, 4.5 * len(pairs)), 4), layout="constrained")
        for axes, (first, second) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
            self._draw(axes, first, second)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        return figure

    def _draw(self, axes: Axes, first: int, second: int) -> None:
        others = sorted({*range(len(self.values))} - {*self.numbers})
        rest, own = (rows[(rows.abs() < WORST).all(1)] for rows in (self.values[others], self.values[self.numbers]))
        if len(rest):
            axes.plot(rest[:, first], rest[:, second], ".", color="0.75", label="dominated", zorder=1)
        if len(self.names) == 2:  # a staircase: what is attained
            step = "steps-post" if self.senses[first] == "min" else "steps-pre"
            order = own[:, first].argsort(stable=True)
            axes.plot(own[order, first], own[order, second], color="C0", linewidth=1, drawstyle=step, zorder=2)
        axes.plot(own[:, first], own[:, second], "o", color="C0", markersize=5, label="front", zorder=3)
        if self.parent is not None:
            axes.plot([self.parent[first]], [self.parent[second]], "k*", markersize=11, label="parent", zorder=4)
        for axis, number in ((axes.xaxis, first), (axes.yaxis, second)):
            better = "lower" if self.senses[number] == "min" else "higher"
            axis.set_label_text(f"{self.names[number]} ({better} is better)")
        axes.spines[["top", "right"]].set_visible(False)

    def _repr_html_(self) -> str:
        shown = html_table("Pareto front", ["number", *self.names], self._rows())
        return shown + (picture(self.plot()) if len(self.names) > 1 else "")
