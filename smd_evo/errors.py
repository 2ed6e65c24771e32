"""Errors of the package: one family, each also the built-in exception that it refines.

Every message says what was expected, what was got and what to do, on one line, so that a program can
show it to its user as it is.

>>> try:
...     raise InvalidValue("density: expected a number in (0, 1], got 2; try 0.01")
... except ValueError as error:
...     print(error)
density: expected a number in (0, 1], got 2; try 0.01
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

__all__ = [
    "ActorsDiverged",
    "ActorsLost",
    "ChildrenFileError",
    "ClusterLost",
    "InvalidType",
    "InvalidValue",
    "NotReproduced",
    "OutOfMemory",
    "OutputExists",
    "SmdEvoError",
    "UnsupportedParameter",
    "WrongParent",
]


class SmdEvoError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidValue(SmdEvoError, ValueError):
    """An argument has the right type and a value that cannot be used."""


class InvalidType(SmdEvoError, TypeError):
    """An argument is of a kind that cannot be used."""


class UnsupportedParameter(SmdEvoError, TypeError):
    """A network holds a parameter that cannot be mutated (quantized, meta, lazy, ...)."""


class WrongParent(SmdEvoError, ValueError):
    """A child or a delta was made from another parent than the one it is applied to."""


class ChildrenFileError(SmdEvoError, ValueError):
    """A file of children is unreadable, truncated or inconsistent."""


class NotReproduced(SmdEvoError, ValueError):
    """What a run says of itself does not come out again."""


class OutOfMemory(SmdEvoError, MemoryError):
    """A device has no memory for a network and a single sample."""


class OutputExists(SmdEvoError, FileExistsError):
    """The place to write to already holds something."""


class ActorsDiverged(SmdEvoError, RuntimeError):
    """The parent in an actor is not the same, bit for bit, as in the main process."""


class ActorsLost(SmdEvoError, RuntimeError):
    """Actors died again and again, or new ones did not start."""


class ClusterLost(SmdEvoError, ConnectionError):
    """The Ray cluster does not answer any more."""


def check_number(
    name: str, value: object, *, low: float, high: float = math.inf, mend: str = "give such a number"
) -> float:
    """Return ``value`` as a float, or raise if it is no finite number in (low, high]."""
    interval = f"> {low:g}" if math.isinf(high) else f"in ({low:g}, {high:g}]"
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:  # of a whole number beyond all floats
        number = math.nan
    except (TypeError, ValueError):
        raise InvalidType(f"{name}: expected a number {interval}, got {shown(value)}; {mend}") from None
    if not low < number <= high or math.isinf(number):  # NaN fails the comparison
        raise InvalidValue(f"{name}: expected a finite number {interval}, got {shown(value)}; {mend}")
    return number


def check_keep(value: object) -> float:
    """Return the share of a parent's score that calibration is to keep, or raise if it is not in (0, 1)."""
    keep = check_number("keep", value, low=0, high=1, mend="try 0.9 or 0.99")
    if keep == 1:
        raise InvalidValue("keep: expected a number in (0, 1), got 1; any mutation costs something, try 0.99")
    return keep


def check_count(name: str, value: object, *, low: int = 1, mend: str = "give such a number") -> int:
    """Return ``value`` as an int, or raise if it is no whole number of at least ``low``."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidType(f"{name}: expected a whole number >= {low}, got {shown(value)}; {mend}")
    number = int(value)
    if number < low:
        raise InvalidValue(f"{name}: expected a whole number >= {low}, got {shown(number)}; {mend}")
    return number


def shown(value: object) -> str:
    """A value as it may stand in a message: one line, not long, whatever it is."""
    if getattr(value, "shape", ()) != ():
        return f"{type(value).__name__} of shape {list(value.shape)}"  # type: ignore[attr-defined]
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a whole number of more digits than Python prints, anyone's own class
        return f"some {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."


def check_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``, or raise, naming the nearest one."""
    known = list(choices)
    if isinstance(value, str) and value in known:
        return value
    near = difflib.get_close_matches(shown(value).strip("'"), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InvalidValue(f"{name}: expected one of {', '.join(known)}, got {shown(value)}{hint}")
