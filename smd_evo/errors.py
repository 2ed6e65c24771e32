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

import contextlib
import decimal
import difflib
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "ActorsDiverged",
    "ActorsLost",
    "ChildrenFileError",
    "ClusterLost",
    "InvalidType",
    "InvalidValue",
    "NetworkInUse",
    "NotReproduced",
    "NotThere",
    "OutOfMemory",
    "OutputExists",
    "SmdEvoError",
    "Stopped",
    "UnsupportedParameter",
    "WrongParent",
]


class SmdEvoError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidValue(SmdEvoError, ValueError):
    """An argument has the right type and a value that cannot be used."""


class NotThere(InvalidValue, AttributeError):
    """An attribute that this kind of thing has none of: ``hasattr`` says so, too."""


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


class NetworkInUse(SmdEvoError, RuntimeError):
    """Another thread has the network and will not leave it."""


class OutputExists(SmdEvoError, FileExistsError):
    """The place to write to already holds something."""


class Stopped(SmdEvoError, RuntimeError):
    """A callback ended an experiment."""


class ActorsDiverged(SmdEvoError, RuntimeError):
    """The parent in an actor is not the same, bit for bit, as in the main process."""


class ActorsLost(SmdEvoError, RuntimeError):
    """Actors died again and again, or new ones did not start."""


class ClusterLost(SmdEvoError, ConnectionError):
    """The Ray cluster does not answer any more."""


def check_number(
    name: str,
    value: object,
    *,
    low: float,
    high: float = math.inf,
    closed: bool = False,
    mend: str = "give such a number",
) -> float:
    """Return ``value`` as a plain float, or raise if it is no finite number in (low, high], or [low, high] if closed.

    Numbers of numpy and torch, of no dimensions, are numbers like Python's own, of which what is returned keeps no
    trace; texts and truth values are none.

    >>> import fractions
    >>> check_number("sigma", fractions.Fraction(1, 4), low=0)
    0.25
    """
    if type(value) is float and low < value <= high and value < math.inf:
        return value
    sign, bracket = (">=", "[") if closed else (">", "(")
    interval = f" {sign} {low:g}" if math.isinf(high) else f" in {bracket}{low:g}, {high:g}]"
    interval = "" if math.isinf(low) and math.isinf(high) else interval
    plain = value if type(value) is float else _held(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real | decimal.Decimal):
        raise InvalidType(f"{name}: expected a number{interval}, got {shown(value)}; {mend}")
    try:
        number = float(plain)
    except (OverflowError, ValueError):  # a whole number beyond all floats, a signalling NaN
        number = math.nan
    if not (low < number <= high or (closed and number == low)) or math.isinf(number):  # NaN fails the comparison
        raise InvalidValue(f"{name}: expected a finite number{interval}, got {shown(value)}; {mend}")
    return number


def check_keep(value: object) -> float:
    """Return the share of a parent's score that calibration is to keep, or raise if it is not in (0, 1)."""
    keep = check_number("keep", value, low=0, high=1, mend="try 0.9 or 0.99")
    if keep == 1:
        raise InvalidValue("keep: expected a number in (0, 1), got 1; any mutation costs something, try 0.99")
    return keep


def check_count(name: str, value: object, *, low: int = 1, mend: str = "give such a number") -> int:
    """Return ``value`` as a plain int, or raise if it is no whole number of at least ``low`` that int64 holds.

    >>> check_count("children", 64.0)
    Traceback (most recent call last):
    smd_evo.errors.InvalidType: children: expected a whole number >= 1, got 64.0; give such a number
    """
    number = whole(value)
    if number is None:
        raise InvalidType(f"{name}: expected a whole number >= {low}, got {shown(value)}; {mend}")
    if not low <= number < 2**63:
        most = "" if number < low else " and below 2**63"
        raise InvalidValue(f"{name}: expected a whole number >= {low}{most}, got {shown(value)}; {mend}")
    return number


def check_pairs(name: str, value: int) -> None:
    """Raise if a number of children is odd where they are antithetic pairs.

    >>> check_pairs("popsize", 7)
    Traceback (most recent call last):
    smd_evo.errors.InvalidValue: popsize: expected an even number for antithetic pairs, got 7; give 8
    """
    if value % 2:
        raise InvalidValue(f"{name}: expected an even number for antithetic pairs, got {value}; give {value + 1}")


def check_key(key: object, name: str = "key") -> int:
    """Return ``key``, or a seed, as a plain int, or raise if it is no whole number in [0, 2**64).

    Nothing is folded: two seeds that a user tells apart never are one run.
    """
    number = whole(key)
    if number is None:
        raise InvalidType(f"{name}: expected an int in [0, 2**64), got {shown(key)}")
    if not 0 <= number < 2**64:
        raise InvalidValue(f"{name}: expected an int in [0, 2**64), got {shown(key)}; take it modulo 2**64")
    return number


def check_flag(name: str, value: object) -> bool:
    """Return ``value`` as a plain bool, or raise if it is none: neither a number nor a text says yes or no."""
    plain = value if type(value) is bool else _held(value)
    if not isinstance(plain, bool):
        raise InvalidType(f"{name}: expected true or false, got {shown(value)}")
    return plain


def whole(value: object) -> int | None:
    """``value`` as a plain int if it is a whole number of Python's, numpy's or torch's; else None, as for 3.0."""
    if type(value) is int:
        return value
    plain = _held(value)
    return None if isinstance(plain, bool) or not isinstance(plain, numbers.Integral) else int(plain)


def _held(value: object) -> object:
    """What an array or tensor of no dimensions holds; anything else as it is."""
    if getattr(value, "shape", None) != ():
        return value
    if getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M"):
        return None  # numpy takes spans and moments of time for whole numbers
    try:
        return value.item()  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # of the meta device, which holds nothing
        return value


def plain(value: object) -> Any:
    """Settings for somebody else's code, of plain numbers, truth values, lists and dicts where they are such.

    >>> import fractions
    >>> plain({"betas": (fractions.Fraction(9, 10), 1)})
    {'betas': (0.9, 1)}
    """
    value = _held(value)
    if isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real | decimal.Decimal):
        with contextlib.suppress(OverflowError, ValueError):  # beyond all floats, a signalling NaN
            return float(value)
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)  # type: ignore[call-arg,attr-defined]
    return value


def shown(value: object) -> str:
    """A value as it may stand in a message: one line, not long, whatever it is."""
    if getattr(value, "shape", ()) != ():
        return f"{type(value).__name__} of shape {list(value.shape)}"  # type: ignore[attr-defined]
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a whole number of more digits than Python prints, anyone's own class
        return f"some {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."


def kept(instance: object, **values: object) -> None:
    """Set fields of a frozen dataclass: what they were checked to be, instead of what was given."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def check_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``, or raise, naming the nearest one."""
    known = list(choices)
    if isinstance(value, str) and value in known:
        return known[known.index(value)]  # numpy and enumerations have texts of their own
    raise InvalidValue(f"{name}: expected one of {', '.join(known)}, got {shown(value)}{nearest(value, known)}")


def nearest(value: object, known: Iterable[str]) -> str:
    """The end of a message that names the likeliest of what is known, if any is likely.

    >>> nearest("Greddy", ["greedy", "all"]), nearest("best", ["greedy", "all"])
    ("; did you mean 'greedy'?", '')
    """
    by_small_letters = {name.lower(): name for name in known}
    text = value if isinstance(value, str) else shown(value)
    near = difflib.get_close_matches(text.lower(), by_small_letters, n=1)
    return f"; did you mean {by_small_letters[near[0]]!r}?" if near else ""
