"""How experiments tell what they are doing."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    """Told what is going on."""

    def start(self, description: str, total: int | None) -> None:
        """A new phase begins, of ``total`` steps, or of nobody knows how many."""

    def advance(self) -> None:
        """One more step is done."""

    def reached(self, done: int, text: str) -> None:
        """So many steps of this phase are done, and how things stand."""


class Silent:
    """A progress that shows nothing."""

    def start(self, description: str, total: int | None) -> None:
        """Nothing."""

    def advance(self) -> None:
        """Nothing."""

    def reached(self, done: int, text: str) -> None:
        """Nothing."""
