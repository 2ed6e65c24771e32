"""What a user wants done to pictures instead of what a network says: a text like ``size=224,mean=0.5,std=0.5``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smd_evo.errors import InvalidType, InvalidValue, check_choice, check_count, check_number, shown

__all__ = ["OWN", "Wanted", "check_pictures", "read_wanted"]

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
LARGEST = 4096
"""Pixels of a side, beyond which a picture of ordinary size would only be blown up."""

_KEYS = ("size", "crop", "interpolation", "mean", "std")
_EXAMPLE = "try size=224,crop=0.875,interpolation=bicubic,mean=0.5,std=0.5 or some of these"


@dataclass(frozen=True)
class Wanted:
    """What is done to a picture; None: what the network itself says.

    Attributes:
        size: pixels of each side.
        crop: share of the resized picture's shorter side that is kept, from its middle, in (0, 1].
        interpolation: of the resizing.
        mean, std: on a scale from 0 to 1, one number or one for each of three channels.
    """

    size: int | None = None
    crop: float | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def over(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """A network's own configuration, in timm's words, with what is wanted instead.

        Raises:
            InvalidValue: three numbers are given for pictures of one channel.

        Example:
            >>> own = {"input_size": (3, 96, 96), "crop_pct": 1.0, "mean": (0.0, 0.0, 0.0)}
            >>> Wanted(size=64, mean=(0.5,)).over(own)
            {'input_size': (3, 64, 64), 'crop_pct': 1.0, 'mean': (0.5, 0.5, 0.5)}
        """
        channels = own["input_size"][0]
        found = {
            "input_size": None if self.size is None else (channels, self.size, self.size),
            "crop_pct": self.crop,
            "interpolation": self.interpolation,
            "mean": self._spread("mean", self.mean, channels),
            "std": self._spread("std", self.std, channels),
        }
        return {**own, **{name: value for name, value in found.items() if value is not None}}

    def _spread(self, name: str, values: tuple[float, ...] | None, channels: int) -> tuple[float, ...] | None:
        """The same number for each channel, or one for each."""
        if values is None or len(values) == channels:
            return values
        if len(values) == 1:
            return values * channels
        raise InvalidValue(
            f"preprocessing {name}: expected one number for pictures of {channels} channels, got {len(values)}"
        )


OWN = Wanted()
"""All as the network itself says."""


def read_wanted(text: str | None, name: str = "preprocessing") -> Wanted:
    """What a text asks for.

    Args:
        text: some of ``size=N,crop=SHARE,interpolation=NAME,mean=NUMBERS,std=NUMBERS``, ``/`` between three numbers;
            None for nothing.
        name: of the setting.

    Raises:
        InvalidValue, InvalidType: it says something else.

    Example:
        >>> read_wanted("size=96,std=0.2/0.3/0.25")
        Wanted(size=96, crop=None, interpolation=None, mean=None, std=(0.2, 0.3, 0.25))
    """
    if text is None:
        return OWN
    if not isinstance(text, str):
        raise InvalidType(f"{name}: expected a text, got {shown(text)}; {_EXAMPLE}")
    found: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = (each.strip() for each in part.partition("="))
        if not equals:
            raise InvalidValue(f"{name}: expected parts like size=224, got {shown(part)}; {_EXAMPLE}")
        check_choice(name, key, _KEYS)
        if key in found:
            raise InvalidValue(f"{name}: expected {key} once, got {shown(text)}; give one of them")
        found[key] = _read(f"{name} {key}", key, value)
    return Wanted(**found)


def check_pictures(data: str, outputs: str, also: str | None, preprocessing: str | None) -> None:
    """Refuse what sets of pictures alone allow.

    Args:
        data: name of data that are none.
        outputs, also, preprocessing: see :func:`smd_evo.zoo.loading.load`.

    Raises:
        InvalidValue: one of them is not its default.
    """
    settings = {"outputs": ("all", outputs), "also": (None, also), "preprocessing": (None, preprocessing)}
    for name, (usual, value) in settings.items():
        if value != usual:
            raise InvalidValue(
                f"{name}: expected {usual or 'none'} for {data}, got {shown(value)}; that is for sets of pictures, "
                "leave it out"
            )


def _read(name: str, key: str, value: str) -> Any:
    """One value as it is used."""
    if key == "interpolation":
        return check_choice(name, value, INTERPOLATIONS)
    if key == "size":
        size = check_count(name, int(value) if value.isdecimal() else value, mend="give pixels such as 224")
        if size > LARGEST:
            raise InvalidValue(f"{name}: expected at most {LARGEST} pixels, got {shown(value)}")
        return size
    if key == "crop":
        return _number(name, value, mend="give the share that is kept, such as 0.875")
    numbers = tuple(
        _number(name, each, closed=key == "mean", mend="it is on a scale from 0 to 1, such as 0.5")
        for each in value.split("/")
    )
    if len(numbers) not in (1, 3):
        raise InvalidValue(f"{name}: expected one number or three with / between, got {shown(value)}")
    return numbers


def _number(name: str, value: str, *, closed: bool = False, mend: str) -> float:
    """A number in (0, 1], or in [0, 1] if closed."""
    try:
        given: object = float(value)
    except ValueError:
        given = value
    return check_number(name, given, low=0, high=1, closed=closed, mend=mend)
