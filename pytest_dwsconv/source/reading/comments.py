"""Comments that speak to the command: ``# dws: skip`` and ``# noqa: DWS001``."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from pytest_dwsconv.source.reading.syntax import Parsed

_SKIP = re.compile(r"#\s*dws:\s*skip\b")
_NOQA = re.compile(r"#\s*noqa\b(\s*:\s*[A-Z]+[0-9]+(?:[\s,]+[A-Z]+[0-9]+)*)?", re.IGNORECASE)
_CODE = re.compile(r"[A-Z]+[0-9]+")

_EVERY_CODE = ("DWS",)


def skipped_lines(parsed: Parsed) -> set[int]:
    return {line for line, _ in _comments(parsed, _SKIP)}


def noqa_codes(parsed: Parsed) -> dict[int, tuple[str, ...]]:
    """The codes, or beginnings of codes, that a comment silences, by its line.

    As in other linters, ``# noqa`` without a code silences all.
    """
    found: dict[int, tuple[str, ...]] = {}
    for line, match in _comments(parsed, _NOQA):
        codes = _EVERY_CODE
        if match[1] is not None:
            codes = tuple(_CODE.findall(match[1].upper()))
        found[line] = codes
    return found


def _comments(parsed: Parsed, pattern: re.Pattern[str]) -> Iterator[tuple[int, re.Match[str]]]:
    """Where the text has such a comment; the same words in a string are not one."""
    matches = list(pattern.finditer(parsed.text))
    if not matches:
        return
    strings = [parsed.span(node) for node in parsed.nodes(cst.SimpleString)]
    strings += [parsed.span(node) for node in parsed.nodes(cst.FormattedString)]
    for match in matches:
        if not any(start < match.start() < end for start, end in strings):
            yield parsed.place(match.start())[0], match
