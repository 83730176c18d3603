"""Names and sentences made safe to print, whoever chose them."""

from __future__ import annotations

import re
import reprlib

_RUNNER_COMMAND = re.compile(r"(?<![^\s\"]):(?=:)|(?<=#)#(?=\[|vso\[)")
"""The runners of GitHub and Azure take ``::error::`` at the start of a line, after spaces too, and
``##[error]`` or ``##vso[...]`` anywhere in it, for commands. Any word may start a line once the
text is wrapped. In JSON a quote stands before the first one.
"""


def plain(text: str) -> str:
    r"""The text on one line, with nothing in it that a terminal or a job's log would obey.

    A character that is not printable is written as in Python: ``\x1b``. The first of two colons
    that start a word is written ``\x3a``, and so is the second # of a ``##[``.
    """
    printable = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
    return _RUNNER_COMMAND.sub(lambda match: f"\\x{ord(match[0]):02x}", printable)


def plain_json(text: str) -> str:
    r"""The JSON with nothing in it that a job's log would obey; it says the same.

    Colons in a row and number signs stand only in its strings, where they are written ``\u003a``
    and ``\u0023``.
    """
    return _RUNNER_COMMAND.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 300, 120

    def repr_int(self, x: int, level: int) -> str:
        # reason: Python refuses to write out an int of more than 4,300 digits
        return super().repr_int(x, level) if abs(x) < 10**40 else "a number of over 40 digits"


def quoted(value: object) -> str:
    """A value in a message, as Python writes it, shortened where it is long."""
    return _Short().repr(value)
