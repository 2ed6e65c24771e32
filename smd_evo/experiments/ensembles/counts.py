"""What ensembles are about to evaluate: they are chosen from stored predictions."""

from __future__ import annotations

from collections.abc import Sequence

from smd_evo.experiments.workload import Part, Sizes, Workload, workload

__all__ = ["ensemble_workload"]


def ensemble_workload(members: Sequence[int], views: int, sizes: Sizes) -> Workload:
    """Ensembles that are chosen from stored predictions, and are about to be scored beside their rivals.

    Args:
        members: of each arm's.
        views: of each image, plain or mirrored as validation says, for which the parent votes; 0: none.
        sizes: of the splits.
    """
    # The parent and its views; of each arm the best child, the members and their soup.
    test = 1 + views + sum(2 + count for count in members)
    return workload([Part("validation", 2 * views, sizes["validation"]), Part("test", test, sizes["test"])])
