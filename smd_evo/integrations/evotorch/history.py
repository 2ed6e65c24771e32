"""Changes of the parent as plain values, and back: enough to make every parent of a run again from the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch

from smd_evo.core.mutation import Lineage
from smd_evo.core.specs import parse_subspace
from smd_evo.errors import InvalidType
from smd_evo.integrations.evotorch.replica import Change, Fold
from smd_evo.integrations.evotorch.strategies import GradientStep, OptimizerSpec

__all__ = ["decoded", "encoded"]


def encoded(change: Change) -> dict[str, Any]:
    """A change as dicts, lists, numbers and texts.

    Raises:
        InvalidType: it is no fold of a lineage and no gradient step.

    Example:
        >>> encoded(Fold(Lineage()))
        {'fold': ''}
    """
    if isinstance(change, Fold) and isinstance(change.child, Lineage):
        return {"fold": change.child.encode()}
    if isinstance(change, GradientStep):
        step = {each.name: getattr(change, each.name) for each in fields(change)}
        own = {
            "weights": change.weights.tolist(),
            "subspace": change.subspace.spec,
            "optimizer": asdict(change.optimizer),
        }
        return {"step": step | own}
    raise InvalidType(f"change: expected a fold of a lineage or a gradient step, got {type(change).__name__}")


def decoded(change: Mapping[str, Any]) -> Change:
    """The change of :func:`encoded` again."""
    if "fold" in change:
        return Fold(Lineage.decode(change["fold"]))
    step = change["step"]
    own = {
        "weights": torch.tensor(step["weights"], dtype=torch.float32, device="cpu"),
        "subspace": parse_subspace(step["subspace"]),
        "optimizer": OptimizerSpec(**step["optimizer"]),
    }
    return GradientStep(**{**step, **own})
