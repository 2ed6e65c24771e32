"""Changes of the parent as plain values, and back: enough to make every parent of a run again from the first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from smd_evo.core.keys import Key, check_key
from smd_evo.core.mutation import SCALES, Lineage
from smd_evo.core.specs import parse_subspace
from smd_evo.documents import parse_json
from smd_evo.errors import InvalidType, InvalidValue, check_choice, check_count, shown
from smd_evo.integrations.evotorch.newton import MixtureStep
from smd_evo.integrations.evotorch.optimizing import OptimizerSpec
from smd_evo.integrations.evotorch.past import Rules
from smd_evo.integrations.evotorch.replica import Change, Fold
from smd_evo.integrations.evotorch.strategies import GradientStep

__all__ = ["History", "decoded", "encoded"]


def encoded(change: Change) -> dict[str, Any]:
    """A change as dicts, lists, numbers and texts.

    Raises:
        InvalidType: it is no fold of a lineage, no gradient step and no mixture.

    Example:
        >>> encoded(Fold(Lineage()))
        {'fold': ''}
    """
    if isinstance(change, Fold) and isinstance(change.child, Lineage):
        return {"fold": change.child.encode()}
    if isinstance(change, GradientStep):
        return {"step": _plain(change) | {"optimizer": asdict(change.optimizer)}}
    if isinstance(change, MixtureStep):
        return {"mixture": _plain(change)}
    raise InvalidType(
        f"change: expected a fold of a lineage, a gradient step or a mixture, got {type(change).__name__}"
    )


def decoded(change: Mapping[str, Any]) -> Change:
    """The change of :func:`encoded` again."""
    if "fold" in change:
        return Fold(Lineage.decode(change["fold"]))
    if "mixture" in change:
        return MixtureStep(**_made(change["mixture"], torch.float64))
    step = _made(change["step"], torch.float32)
    return GradientStep(**step | {"optimizer": OptimizerSpec(**step["optimizer"])})


def _plain(step: GradientStep | MixtureStep) -> dict[str, Any]:
    """Fields of a step; units only where there are some, and whether it carries a rest only if it does."""
    found = {each.name: getattr(step, each.name) for each in fields(step)}
    found |= {"weights": step.weights.tolist(), "subspace": step.subspace.spec}
    if not found.get("carries"):
        found.pop("carries", None)
    units = found.pop("units")
    return found if units is None else {**found, "units": units.tolist()}


def _made(step: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The same fields again."""
    found = {**step, "subspace": parse_subspace(step["subspace"])}
    found["weights"] = torch.tensor(step["weights"], dtype=dtype, device="cpu")
    if "units" in step:
        found["units"] = torch.tensor(step["units"], dtype=torch.int64, device="cpu")
    return found


@dataclass(frozen=True)
class History:
    """What rows of a problem need beside themselves to become networks again: text, which anybody may read.

    Attributes:
        parent: checksum of the parent, of what is selected and of everything, before the first of the changes.
        optimizer: checksum of the gradient searcher's optimizer at that time; None if there was none.
        first: how many changes that parent had gone through.
        key: what the seals of its children follow from.
        rules: subspaces and scales, by their numbers in rows.
        lines: the changes, each as JSON.
    """

    parent: int
    optimizer: int | None
    first: int
    key: Key
    rules: Rules
    lines: Sequence[str]

    @property
    def text(self) -> str:
        """One JSON document."""
        rules = [[subspace.spec, scale] for subspace, scale in self.rules]
        start = {"parent": self.parent, "optimizer": self.optimizer, "first": self.first, "key": self.key}
        return f'{json.dumps({**start, "rules": rules})[:-1]}, "changes": [{", ".join(self.lines)}]}}'

    @classmethod
    def read(cls, stored: Tensor | str) -> History:
        """The history of :attr:`text` or of its tensor, from anybody.

        Raises:
            InvalidValue, InvalidType: it is none.
        """
        if not isinstance(stored, str | Tensor) or (isinstance(stored, Tensor) and stored.dtype != torch.uint8):
            raise InvalidType(f'history: expected what status["history"] held, got {shown(stored)}')
        try:
            text = stored if isinstance(stored, str) else bytes(stored.cpu().flatten().tolist()).decode()
            found = parse_json(text)
            optimizer = found["optimizer"]
            return cls(
                check_count("parent", found["parent"], low=0),
                optimizer if optimizer is None else check_count("optimizer", optimizer, low=0),
                check_count("first", found["first"], low=0),
                check_key(found["key"]),
                [(parse_subspace(spec), check_choice("scale", scale, SCALES)) for spec, scale in found["rules"]],
                [json.dumps(change) for change in found["changes"]],
            )
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise InvalidValue(
                f'history: expected what status["history"] held, got something else ({shown(str(error))})'
            ) from None

    def changes(self, count: int) -> list[Change]:
        """The first of the changes.

        Raises:
            InvalidValue: one of them is none.
        """
        try:
            return [decoded(json.loads(line)) for line in self.lines[:count]]
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
            raise InvalidValue(f"history: expected changes of a parent, got something else ({error})") from None
