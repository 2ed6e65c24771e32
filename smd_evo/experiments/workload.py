"""How much an experiment is about to evaluate, in words.

Where it decides on the way (a calibration, a mutation window, an ensemble's size), its most is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Part", "Sizes", "Workload", "duration", "workload"]


Sizes = Mapping[str, int]
"""Samples of the fitness, the validation and the test split."""


@dataclass(frozen=True)
class Part:
    """Evaluations of one kind.

    Attributes:
        name: what for.
        count: networks, or runs of a comparison.
        images: of each.
        bound: whether there may be fewer.
    """

    name: str
    count: int
    images: int
    bound: bool = False

    def __str__(self) -> str:
        return f"{self.name} {'at most ' if self.bound else ''}{self.count:,} x {self.images:,}"


@dataclass(frozen=True)
class Workload:
    """All that an experiment is about to evaluate; as text, one line.

    Attributes:
        parts: what it consists of.
        seconds: that it takes here, roughly; None where that was not measured.
        note: what else there is to know of the time.

    Example:
        >>> print(Workload((Part("children", 1536, 300), Part("test", 89, 500, bound=True)), seconds=32.4))
        image evaluations to come: children 1,536 x 300, test at most 89 x 500; in all at most 505,300, about 32 s
    """

    parts: tuple[Part, ...]
    seconds: float | None = None
    note: str = ""

    @property
    def evaluations(self) -> int:
        """Images that networks are evaluated on, in all."""
        return sum(part.count * part.images for part in self.parts)

    @property
    def bound(self) -> bool:
        """Whether there may be fewer."""
        return any(part.bound for part in self.parts)

    def __str__(self) -> str:
        if not self.parts:
            return "image evaluations to come: none, all of it is there"
        most = "at most " if self.bound else ""
        line = f"image evaluations to come: {', '.join(map(str, self.parts))}; in all {most}{self.evaluations:,}"
        if self.seconds is not None:
            line += f", {duration(self.seconds)}"
        return f"{line} {self.note}" if self.note else line


def workload(parts: Iterable[Part]) -> Workload:
    """Those parts in which there is anything to do."""
    return Workload(tuple(part for part in parts if part.count * part.images))


def duration(seconds: float) -> str:
    """A rough time in words.

    Example:
        >>> [duration(seconds) for seconds in (0.2, 42, 180, 7200, 200_000)]
        ['about 1 s', 'about 42 s', 'about 3 min', 'about 2.0 h', 'about 2.3 days']
    """
    for limit, size, unit, digits in ((120, 1, "s", 0), (7_000, 60, "min", 0), (172_000, 3_600, "h", 1)):
        if seconds < limit:
            return f"about {max(seconds / size, 1):.{digits}f} {unit}"
    return f"about {seconds / 86_400:,.1f} days"
