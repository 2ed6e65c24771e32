"""Standard streams as they may be: closed, a pipe that nobody reads, of an encoding without dashes.

And text as it may be: paths and names come from users and files, and are shown as text, never as control sequences of
a terminal, also where they are bytes that no encoding knows.
"""

from __future__ import annotations

import codecs
import io
import os
import sys

__all__ = ["open_streams", "printable", "swallow"]

_PLAIN = "smd_evo.plain"
_ASCII = str.maketrans(
    {
        **dict.fromkeys("\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}\N{BOX DRAWINGS LIGHT HORIZONTAL}", "-"),
        **dict.fromkeys(
            "\N{BOX DRAWINGS HEAVY HORIZONTAL}\N{BOX DRAWINGS HEAVY RIGHT}\N{BOX DRAWINGS HEAVY LEFT}", "-"
        ),
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{HORIZONTAL ELLIPSIS}": "...",
        "\N{NO-BREAK SPACE}": " ",
        "\N{BULLET}": "*",
    }
)


def printable(text: str) -> str:
    r"""The same with all that does something to a terminal, or that no encoding has, as escapes.

    Example:
        >>> print(printable("runs/\x1b[31mred \udcff\u202e é\nnext"))
        runs/\x1b[31mred \xff\u202e é
        next
    """
    return "".join(one if one.isprintable() or one == "\n" else _escaped(one) for one in text)


def _escaped(one: str) -> str:
    if "\udc80" <= one <= "\udcff":  # a byte of a path, as Python keeps it
        return f"\\x{ord(one) - 0xDC00:02x}"
    return one.encode("unicode_escape").decode()


def open_streams() -> None:
    """Standard streams that can be written to, whatever text it is.

    A closed one becomes the null device, so that no file gets its number. Characters that the encoding lacks are
    shown as others that look like them, or as escapes.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            _open_null(number)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # for good
    codecs.register_error(_PLAIN, _lookalike)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_PLAIN)


def _open_null(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)


def swallow() -> None:
    """From here on standard output goes nowhere: who read it has gone, and the flush at exit would complain."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):  # no real file
        pass
    finally:
        os.close(null)


def _lookalike(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end].translate(_ASCII)
    shown = "".join(one if one.isascii() else _escaped(one) for one in found)
    return shown, error.end
