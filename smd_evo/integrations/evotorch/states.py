"""States that are loaded: read as a whole before anything changes, and refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from smd_evo.core.blocks import within
from smd_evo.core.checksum import checksum_of
from smd_evo.core.exclusive import Exclusive
from smd_evo.core.own import is_own
from smd_evo.core.parameters import ParameterSpace
from smd_evo.core.wrapped import plain
from smd_evo.errors import InvalidValue, SmdEvoError, shown

__all__ = ["check_kind", "kind_of", "read_state", "unselected"]


def kind_of(thing: object) -> str:
    """The class of this package that something is of, also by a subclass of somebody's own."""
    return next(kind.__name__ for kind in type(thing).__mro__ if not is_own(kind))


def check_kind(thing: object, state: Mapping[str, Any]) -> None:
    """Raise if a state says that it is of another kind; those of 0.1.0 say nothing."""
    expected, found = kind_of(thing), state.get("kind")
    if found not in (None, expected):
        raise InvalidValue(f"state: expected one of {expected}, got one of {shown(found)}; load it into such a one")


def read_state(loading: Callable[[Mapping[str, Any]], Callable[[], None]], state: Mapping[str, Any]) -> None:
    """Become what a state tells.

    Args:
        loading: checks a state, and returns what becomes it.
        state: of anybody.

    Raises:
        InvalidValue: something of it is missing, or of another kind.
        SmdEvoError: what ``loading`` raises.
    """
    try:
        become = loading(state)
    except SmdEvoError:
        raise
    except LookupError as error:
        raise InvalidValue(f"state: expected all that state_dict() gave, got none of {error}") from None
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InvalidValue(
            f"state: expected what state_dict() gave, got something else ({shown(str(error))})"
        ) from None
    become()


def unselected(space: ParameterSpace) -> int:
    """Checksum of what a network stores beside its selected parameters, which no search moves."""
    own = {_storage(tensor) for tensor in space.tensors}
    stored = (tensor for tensor in space.module.state_dict(keep_vars=True).values() if isinstance(tensor, Tensor))
    others = (part for tensor in stored for _, part in plain("", tensor) if _storage(part) not in own)
    return within(Exclusive(space.module), lambda: checksum_of(others))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
