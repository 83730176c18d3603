"""``dwsconv-rewrite explain DWS203``: what a code means and what to do."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Sequence

from pytest_dwsconv.core.rules import RULEBOOK
from pytest_dwsconv.errors import InputError

_CODE = re.compile(r"(?i)[a-z]+\d+")


def codes_to_explain(arguments: Sequence[str]) -> list[str]:
    """The codes of ``explain CODE ...``; none if these are paths or options.

    A file or folder of that name, as in ``dwsconv-rewrite explain``, is rewritten like any other:
    what tells the two apart is that codes follow, and no files have their names.
    """
    if not arguments or arguments[0] != "explain":
        return []
    codes = list(arguments[1:])
    if not codes and not os.path.lexists("explain"):
        raise InputError(f"explain takes a code: {', '.join(RULEBOOK)}")
    if all(_CODE.fullmatch(code) and not os.path.lexists(code) for code in codes):
        return codes
    return []


def explanation(code: str) -> str:
    """All that there is to know about a code, for a terminal.

    Raises:
        InputError: there is no such code.
    """
    entry = RULEBOOK.get(code.upper())
    if entry is None:
        raise InputError(f"there is no code {code}; there are {', '.join(RULEBOOK)}")
    return "\n".join(
        [
            f"{entry.code}: {entry.title} ({entry.verdict.value})",
            "",
            *textwrap.wrap(f"{entry.reason}.", 88),
            "",
            textwrap.indent(entry.example, "    "),
            "",
            *textwrap.wrap(entry.advice, 88),
        ]
    )
