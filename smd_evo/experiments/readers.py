"""Settings as users write them, in a file or on the command line: read and checked, one reader for each kind.

A reader takes the setting's name and its value, and returns the value or raises InvalidValue or InvalidType.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smd_evo.errors import (
    InvalidType,
    InvalidValue,
    check_choice,
    check_count,
    check_flag,
    check_keep,
    check_key,
    check_number,
    nearest,
    shown,
)
from smd_evo.zoo.wanted import read_wanted

__all__ = [
    "Reader",
    "batch_size",
    "device",
    "device_name",
    "flag",
    "items",
    "keep",
    "memory",
    "names",
    "number",
    "numbers",
    "one_of",
    "path",
    "precision",
    "preprocessing",
    "samples",
    "schedule",
    "seed",
    "seeds",
    "several_of",
    "sigma",
    "terms",
    "text",
    "whole",
    "whole_number",
]

Reader = Callable[[str, Any], Any]


def whole_number(name: str, value: object, *, low: int = 1, mend: str = "give such a number") -> int:
    """A whole number as a user writes it.

    Raises:
        InvalidValue, InvalidType: it is none, or below ``low``.
    """
    return check_count(name, _counted(value), low=low, mend=mend)


def _counted(value: object) -> object:
    """The whole number that a text says; anything else as it is."""
    try:
        return int(value) if isinstance(value, str) else value
    except ValueError:
        return value


def number(name: str, value: object, *, low: float, high: float = math.inf, mend: str) -> float:
    """A number as a user writes it.

    Raises:
        InvalidValue, InvalidType: it is none, or not in (low, high].
    """
    return check_number(name, _spoken(value), low=low, high=high, mend=mend)


def _spoken(value: object) -> object:
    """The number that a text says; anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def keep(name: str, value: Any) -> float:
    """The share of the parent's score that calibration keeps."""
    return check_keep(_spoken(value))


def memory(name: str, value: Any) -> float:
    """GiB."""
    return number(name, value, low=0, mend="try 4")


def whole(mend: str, low: int = 1, high: int = 10**12) -> Reader:
    """A whole number from ``low`` to ``high``, beyond which it would ask for more memory than there is anywhere."""

    def read(name: str, value: Any) -> int:
        number = whole_number(name, value, low=low, mend=mend)
        if number > high:
            raise InvalidValue(f"{name}: expected at most {high:,}, got {shown(number)}; {mend}")
        return number

    return read


def samples(name: str, value: Any) -> int | None:
    """How many samples, or None."""
    return None if value is None else whole_number(name, value, mend="leave it out for the default")


def seed(name: str, value: Any) -> int:
    """A key."""
    return check_key(_counted(value), name)


def seeds(name: str, value: Any) -> tuple[int, ...]:
    """Different keys, with commas between them."""
    found = tuple(seed(name, item) for item in items(name, value))
    if not found or len(set(found)) < len(found):
        raise InvalidValue(f"{name}: expected one or more different whole numbers, got {shown(value)}; try 0,1,2")
    return found


def schedule(name: str, value: str, separator: str, mend: str) -> list[tuple[int, str]]:
    """Parts of a text that say from which generation on they hold, and that generation; the first holds from 1 on.

    Raises:
        InvalidValue, InvalidType: a generation is no whole number, or not later than the one before.

    >>> schedule("images", "300,1000@50", ",", "try 300,1000@50")
    [(1, '300'), (50, '1000')]
    """
    found: list[tuple[int, str]] = []
    for part in value.split(separator):
        what, at, start = part.partition("@")
        begin = whole_number(name, start, mend=mend) if found or at else 1
        if begin <= found[-1][0] if found else begin > 1:
            raise InvalidValue(f"{name}: expected later and later generations from 1 on, got {shown(value)}; {mend}")
        found.append((begin, what))
    return found


def numbers(mend: str, high: float) -> Reader:
    """Different numbers in (0, high], with commas between them."""

    def read(name: str, value: Any) -> tuple[float, ...]:
        items = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        found = tuple(number(name, item, low=0, high=high, mend=mend) for item in items)
        if not found or len(set(found)) < len(found):
            interval = "> 0" if high == float("inf") else f"in (0, {high:g}]"
            raise InvalidValue(f"{name}: expected one or more different numbers {interval}, got {shown(value)}")
        return found

    return read


def sigma(name: str, value: Any) -> float | None:
    """A strength; None: to be calibrated."""
    if value is None or (isinstance(value, str) and value == "auto"):
        return None
    return number(name, value, low=0, mend="leave it out to have it calibrated")


def batch_size(name: str, value: Any) -> int | str:
    """A whole number, or "auto"."""
    return "auto" if isinstance(value, str) and value == "auto" else whole_number(name, value, mend="try auto")


def device_name(name: str, value: Any) -> str:
    """The name of a device, whether or not it is there."""
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu(:0)?|cuda(:[0-9]{1,3})?", value):
        hint = nearest(value, ("auto", "cpu", "cuda"))
        raise InvalidValue(f"{name}: expected auto, cpu, cuda or cuda:N, got {shown(value)}{hint}")
    return value


def device(name: str, value: Any) -> str:
    """A device that is there; "auto" becomes the best of them."""
    if device_name(name, value).startswith("cpu"):  # there is one
        return "cpu"
    import torch

    if value == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(value)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidValue(
            f"{name}: expected one of {torch.cuda.device_count()} CUDA devices, got {shown(value)}; try cpu"
        )
    return str(device)


def precision(value: str, device: str) -> str:
    """A precision; "auto" is bfloat16 where the device computes in it, by its units and not by a stopwatch.

    So the same machine makes the same run each time.
    """
    if value != "auto":
        return value
    import torch

    units: list[Callable[[], bool]]
    if device.startswith("cuda"):
        units = [lambda: torch.cuda.is_bf16_supported(including_emulation=False)]
    else:  # names that PyTorch keeps to itself, and not in every version
        names = "_is_avx512_bf16_supported", "_is_amx_tile_supported"
        units = [getattr(torch.cpu, name) for name in names if hasattr(torch.cpu, name)]
    return "bfloat16" if any(unit() for unit in units) else "float32"


def text(name: str, value: Any) -> str:
    """A word that may be a file's name, also one that is no UTF-8."""
    if not isinstance(value, str) or not value:
        there = f"; its name is {value.__module__}:{value.__qualname__}" if isinstance(value, type) else ""
        raise InvalidType(f"{name}: expected a word, got {shown(value)}{there}")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise InvalidValue(f"{name}: expected a word, got {shown(value)}, which is no text") from None
    if "\0" in value:
        raise InvalidValue(f"{name}: expected a word, got {shown(value)} with a NUL in it")
    return value


def terms(name: str, value: Any) -> str:
    """Terms with commas between them, or a list of them, as one text.

    >>> terms("select", ["norm", "head"])
    'norm,head'
    """
    if callable(value):
        raise InvalidType(
            f"{name}: expected terms with commas between them, got {shown(value)}; FinetuneProblem and Evaluator "
            "take a function, too"
        )
    return ",".join(text(name, item) for item in value) if isinstance(value, list | tuple) else text(name, value)


def path(name: str, value: Any) -> str | None:
    """A path as text, or None."""
    return None if value is None else text(name, str(value) if isinstance(value, Path) else value)


def preprocessing(name: str, value: Any) -> str | None:
    """What is wanted done to pictures, as text, or None."""
    read_wanted(value, name)
    return None if value is None else str(value)


def flag(name: str, value: Any) -> bool:
    """True or false."""
    return check_flag(name, value)


def one_of(choices: tuple[str, ...]) -> Reader:
    """One of the choices."""
    return lambda name, value: check_choice(name, value, choices)


def one_or_own(choices: tuple[str, ...]) -> Reader:
    """One of the choices, of which those with @10 may have another number there, or ``module.path:name``."""

    def read(name: str, value: Any) -> str:
        if isinstance(value, str) and ":" in value:
            return text(name, value)
        if isinstance(value, str) and re.sub(r"@[1-9]\d*$", "@10", value) in choices:
            return str(value)
        return check_choice(name, value, choices)

    return read


def names(name: str, value: Any) -> tuple[str, ...]:
    """Different names, with commas between them."""
    found = tuple(text(name, item).strip() for item in items(name, value))
    if not found or len(set(found)) < len(found):
        raise InvalidValue(f"{name}: expected one or more different names, got {shown(value)}")
    return found


def several_of(choices: tuple[str, ...]) -> Reader:
    """Different ones of the choices, with commas between them."""

    def read(name: str, value: Any) -> tuple[str, ...]:
        found = tuple(check_choice(name, item, choices) for item in items(name, value))
        if not found or len(set(found)) < len(found):
            raise InvalidValue(
                f"{name}: expected one or more different ones of {', '.join(choices)}, got {shown(value)}"
            )
        return found

    return read


def items(name: str, value: Any) -> list[Any]:
    """What stands between commas, or in a list."""
    if not isinstance(value, str | list | tuple):
        raise InvalidType(f"{name}: expected names with commas between them, got {shown(value)}")
    return value.split(",") if isinstance(value, str) else list(value)
