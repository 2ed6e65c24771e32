"""The fitness of children as a picture."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["histogram", "picture"]


def histogram(fitness: Tensor, sense: str, parent: float | None = None) -> Figure:
    """How many children have which fitness, and where their parent is, if that is known."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(fitness.tolist(), bins="auto")
    if parent is not None:
        axes.axvline(parent, color="0.3", linestyle="--", label="parent")
        axes.legend(frameon=False)
    axes.set_xlabel(f"fitness ({'lower' if sense == 'min' else 'higher'} is better)")
    axes.set_ylabel("children")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def picture(figure: Figure) -> str:
    """A figure as HTML."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return f'<img src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'
