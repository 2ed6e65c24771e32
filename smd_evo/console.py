"""A console on which text is text."""

from __future__ import annotations

from typing import IO, Any

from rich.console import Console
from rich.text import Text

from smd_evo.streams import printable

__all__ = ["Plain"]


class Plain(Console):
    """A console on which every string is itself: no markup, no emoji, no colours by pattern, no control sequences."""

    def __init__(self, *, stderr: bool = False, file: IO[str] | None = None, width: int | None = None) -> None:
        super().__init__(
            stderr=stderr,
            file=file,
            width=width,
            markup=False,
            emoji=False,
            highlight=False,
            force_jupyter=False if file else None,  # a notebook would show what is written to a file
        )

    def render_str(self, text: str, *arguments: Any, **options: Any) -> Text:
        """See the base class: where a string of a table or a line becomes something to show."""
        return super().render_str(printable(text), *arguments, **options)

    def on_broken_pipe(self) -> None:
        """As anything else that prints: whoever called knows what to do."""
        raise BrokenPipeError
