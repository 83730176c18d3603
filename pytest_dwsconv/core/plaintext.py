"""Names and sentences made safe to print, whoever chose them."""

from __future__ import annotations

import re

_RUNNER_COMMAND = re.compile(r"(?<!\S):(?=:)|(?<=#)#(?=\[|vso\[)")
"""The runners of GitHub and Azure take ``::error::`` at the start of a line, after spaces too, and
``##[error]`` or ``##vso[...]`` anywhere in it, for commands. Any word may start a line once the
text is wrapped.
"""


def plain(text: str) -> str:
    r"""The text on one line, with everything spelt out that a terminal, a line's direction or a
    continuous integration log would obey.

    A character that is not printable is written as in Python: ``\x1b``. The first of two colons
    that start a word is written ``\x3a``, and so is the second # of a ``##[``.
    """
    printable = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
    return _RUNNER_COMMAND.sub(lambda match: f"\\x{ord(match[0]):02x}", printable)
