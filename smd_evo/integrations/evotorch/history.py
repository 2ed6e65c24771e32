"""Changes of the parent as plain values, and back: enough to make every parent of a run again from the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch

from smd_evo.core.mutation import Lineage
from smd_evo.core.specs import parse_subspace
from smd_evo.errors import InvalidType
from smd_evo.integrations.evotorch.newton import MixtureStep
from smd_evo.integrations.evotorch.replica import Change, Fold
from smd_evo.integrations.evotorch.strategies import GradientStep, OptimizerSpec

__all__ = ["decoded", "encoded"]


def encoded(change: Change) -> dict[str, Any]:
    """A change as dicts, lists, numbers and texts.

    Raises:
        InvalidType: it is no fold of a lineage, gradient step or mixture.

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
        units = {"units": change.units.tolist()} if change.units is not None else {}
        return {"step": {name: value for name, value in (step | own).items() if name != "units"} | units}
    if isinstance(change, MixtureStep):
        step = {each.name: getattr(change, each.name) for each in fields(change)}
        return {"mixture": step | {"weights": change.weights.tolist(), "subspace": change.subspace.spec}}
    raise InvalidType(f"change: expected a fold, a gradient step or a mixture, got {type(change).__name__}")


def decoded(change: Mapping[str, Any]) -> Change:
    """The change of :func:`encoded` again."""
    if "fold" in change:
        return Fold(Lineage.decode(change["fold"]))
    if "mixture" in change:
        step = change["mixture"]
        weights = torch.tensor(step["weights"], dtype=torch.float64, device="cpu")
        return MixtureStep(**{**step, "weights": weights, "subspace": parse_subspace(step["subspace"])})
    step = change["step"]
    own: dict[str, Any] = {
        "weights": torch.tensor(step["weights"], dtype=torch.float32, device="cpu"),
        "subspace": parse_subspace(step["subspace"]),
        "optimizer": OptimizerSpec(**step["optimizer"]),
    }
    if "units" in step:
        own["units"] = torch.tensor(step["units"], dtype=torch.int64, device="cpu")
    return GradientStep(**{**step, **own})
