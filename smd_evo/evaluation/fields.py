"""Fields: which of a network's several outputs counts, where they have names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from smd_evo.errors import InvalidType, InvalidValue, SmdEvoError, check_count

__all__ = ["TakeOutput", "fields_of", "scored"]

_Score = TypeVar("_Score")


class TakeOutput:
    """A forward hook that makes one of a network's outputs its only one.

    Everything that takes a network then takes that output for its logits. Its parameters keep their names, copies of
    the network have the hook, too, and the handle that ``register_forward_hook`` returns takes it away.

    Args:
        field: its name, or its number in a tuple.

    Raises:
        InvalidValue: when the network is called, it has no such output.

    Example:
        >>> class Twice(nn.Module):
        ...     def forward(self, x):
        ...         return {"start": x, "end": 2 * x}
        >>> network = Twice()
        >>> handle = network.register_forward_hook(TakeOutput("end"))
        >>> network(3)
        6
    """

    def __init__(self, field: str | int) -> None:
        self.field = field if isinstance(field, str) else check_count("field", field, low=0, mend="or give a name")

    def __call__(self, module: nn.Module, inputs: Any, outputs: Any) -> Any:
        """That output."""
        if isinstance(self.field, int):
            if isinstance(outputs, tuple | list) and self.field < len(outputs):
                return outputs[self.field]
        elif isinstance(outputs, Mapping):
            if outputs.get(self.field) is not None:
                return outputs[self.field]
        elif getattr(outputs, self.field, None) is not None:
            return getattr(outputs, self.field)
        several = len(outputs) if isinstance(outputs, tuple | list) else ", ".join(fields_of(outputs))
        raise InvalidValue(
            f"outputs: expected {self.field!r} among those of {type(module).__name__}, got {type(outputs).__name__} "
            f"of {several or 'none with names'}"
        )


def fields_of(outputs: Any) -> list[str]:
    """Names of a network's outputs; none where they have none."""
    if isinstance(outputs, Mapping):
        return [str(name) for name in outputs]
    if isinstance(outputs, Tensor | list) or type(outputs) is tuple:
        return []
    named = getattr(outputs, "_fields", None) or getattr(outputs, "__dict__", {})
    return [str(name) for name in named if not str(name).startswith("_")]


def scored(name: str, score: Callable[[Any, Any], _Score], outputs: Any, targets: Any) -> _Score:
    """What a user's function makes of a network's outputs: of the logits where some have that name, or of all.

    Args:
        name: of the fitness.
        score: the function.
        outputs, targets: of a batch.

    Raises:
        InvalidType: the function does not take them, and they are no plain tensor.
    """
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    found = logits if isinstance(logits, Tensor) else outputs
    try:
        return score(found, targets)
    except (AttributeError, TypeError) as error:
        if found is logits and isinstance(error, SmdEvoError):  # of the targets, for one
            raise
        fields, kind, reason = fields_of(outputs), type(outputs).__name__, " ".join(str(error).split())
        if not fields:
            raise
        got = f"the logits of {kind}, a tensor" if found is logits else f"{kind} of {', '.join(fields)}"
        mend = "register_forward_hook(TakeOutput(NAME)) makes one of them the only one"
        raise InvalidType(f"{name}: expected a score that takes {got}, got an error ({reason}); {mend}") from error
