"""What a mutation window is about to evaluate, from its settings and the sizes of its splits alone."""

from __future__ import annotations

from smd_evo.experiments.window.sampling import MOST_CELLS
from smd_evo.experiments.window.settings import WindowConfig
from smd_evo.experiments.workload import Part, Sizes, Workload, workload

__all__ = ["window_workload"]


def window_workload(config: WindowConfig, rules: int, sizes: Sizes) -> Workload:
    """A mutation window of so many different rules."""
    cells = rules * (MOST_CELLS if config.sigma is None else len(config.sigma))
    return workload(
        [
            Part("parent", 1, sizes["fitness"]),
            Part("children", cells * config.children, sizes["fitness"], bound=True),
            Part("validation", 1 + cells, sizes["validation"], bound=True),
        ]
    )
