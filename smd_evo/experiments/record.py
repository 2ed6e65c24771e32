"""A run as its directory holds it: what a page is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["RunRecord"]


@dataclass(frozen=True)
class RunRecord:
    """A run directory as it was found; anyone may have changed its files.

    Attributes:
        name: of the folder.
        kind: "finetune", "evolution", "window", "compare", "protocol" or, within a run, "ensemble".
        config: settings of the run; an ensemble and a protocol have none of their own.
        results: its numbers.
        plot: a PNG file's content, if there is one.
        parts: ensembles of a run, runs of a protocol.
        metrics: a line for each generation of an evolution.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    plot: bytes | None = None
    parts: tuple[RunRecord, ...] = ()
    metrics: Sequence[Mapping[str, Any]] = ()
