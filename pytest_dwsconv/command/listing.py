"""What is printed of each convolution and at the end: the forms of ``--output-format``."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pytest_dwsconv.command.examination import Examination
from pytest_dwsconv.command.inputs import Input
from pytest_dwsconv.core.plaintext import plain, plain_json
from pytest_dwsconv.core.rules import RULEBOOK
from pytest_dwsconv.render.forms.github import command
from pytest_dwsconv.render.table import count
from pytest_dwsconv.source.sites import SourceSite

_LINE_END = re.compile(r"\r\n?|\n")

_MANY = "DWS104"
"""Of most networks half the convolutions are pointwise: these are listed only when asked for."""


@dataclass(frozen=True)
class Line:
    """One convolution that is listed, and what becomes of it; ``replacement`` is a class or None.

    ``code_line`` is the first line of the call, as it stands in the file.
    """

    name: str
    site: SourceSite
    replacement: str | None
    code_line: str

    @property
    def place(self) -> str:
        return f"{self.name}:{self.site.place.line}:{self.site.place.column}"

    @property
    def message(self) -> str:
        judgement = self.site.judgement
        if self.replacement is None:
            return f"left alone, {judgement.code}: {judgement.reason}"
        text = f"-> {self.replacement}, {judgement.reason}"
        if self.site.saving is None:
            return text
        saving, exact = self.site.saving
        amount = f"{saving:.1f}x" if exact else f"at most {saving:.1f}x"
        return f"{text}, saves {amount}"


def _concise(line: Line) -> str:
    return plain(f"{line.place}: {line.site.place.code} {line.message}")


def _full(line: Line) -> str:
    """The message, the line of code with the call marked, and where to read on."""
    place = line.site.place
    margin = " " * len(str(place.line))
    code = line.code_line
    start = place.column - 1
    # the mark stands below the call, whatever tabs and control characters are before it
    before = plain(code[:start].expandtabs(4))
    shown = plain(code.rstrip().expandtabs(4))
    # a call over several lines is marked to the end of its first one
    length = len(place.code) if code.startswith(place.code, start) else len(shown) - len(before)
    marks = "^" * max(1, length)
    return "\n".join(
        [
            _concise(line),
            f"{margin} |",
            f"{place.line} | {shown}",
            f"{margin} | {' ' * len(before)}{marks}",
            f"{margin} = {RULEBOOK[line.site.judgement.code].command}",
            "",
        ]
    )


def _github(line: Line) -> str:
    place, code = line.site.place, line.site.judgement.code
    kind = "notice" if line.replacement is None else "warning"
    message = plain(f"{place.code} {line.message} ({RULEBOOK[code].command})")
    where = {"file": plain(line.name), "line": str(place.line), "col": str(place.column)}
    return command(kind, message, **where, title=code)


def _record(line: Line) -> dict[str, object]:
    """One object of ``json``; its keys stay as they are."""
    judgement, place = line.site.judgement, line.site.place
    known = line.site.saving if line.replacement is not None else None
    saving, exact = known or (None, None)
    return {
        "filename": line.name,
        "line": place.line,
        "column": place.column,
        "code": judgement.code,
        "verdict": judgement.verdict.value,
        "reason": judgement.reason,
        "call": place.code,
        "replacement": line.replacement,
        "saving": saving,
        "saving_is_exact": exact,
        "explain": RULEBOOK[judgement.code].command,
    }


_FORMS: Mapping[str, Callable[[Line], str]] = {
    "concise": _concise,
    "full": _full,
    "github": _github,
}
"""Without ``json``, which is one document at the end."""


class Listing:
    """Prints what is found and counts it; ``say`` is given lines that are fit to print."""

    def __init__(self, form: str, verbose: bool, say: Callable[[str], None]) -> None:
        self._form = form
        self._verbose = verbose
        self._say = say
        self._lines: list[Line] = []  # for json, which is one document
        self._codes: Counter[str] = Counter()
        self._hidden = 0
        self.changed = self.changed_files = self.read_files = 0

    def add(self, source: Input, examination: Examination) -> None:
        """List the convolutions of one file."""
        selection = source.selection
        # as Python counts lines: splitlines() ends one at a form feed, too
        lines = _LINE_END.split(examination.old.text)
        self.read_files += 1
        changed = 0
        for site in examination.rewrite.sites:
            code = site.judgement.code
            if code not in selection or (site.is_silenced and not self._verbose):
                continue
            self._codes[code] += 1
            if code == _MANY and not self._verbose and code not in selection.select:
                self._hidden += 1
                continue
            changed += site.is_candidate
            replacement = examination.rewrite.replacement(site)
            self._list(Line(source.name, site, replacement, lines[site.place.line - 1]))
        if examination.rewrite.configured is not None and self._form != "json":
            line, call = examination.rewrite.configured
            message = (
                f"{source.name}:{line}: {call}() makes layers from a configuration, so no call "
                "here says what they are: rewrite them in the live model, with "
                "pytest_dwsconv.rewrite"
            )
            self._say(plain(message))
        if examination.rewrite.takes_all is not None and self._form != "json":
            line, what = examination.rewrite.takes_all
            message = (
                f"{source.name}:{line}: {what}: check what it does to those of other files, of "
                "which it misses depthwise.weight"
            )
            self._say(plain(message))
        self.changed += changed
        self.changed_files += bool(changed)

    def _list(self, line: Line) -> None:
        if self._form == "json":
            self._lines.append(line)
        else:
            self._say(_FORMS[self._form](line))

    def document(self) -> str:
        """All lines of ``json``."""
        return plain_json(json.dumps([_record(line) for line in self._lines], indent=2))

    def statistics(self) -> list[str]:
        """How many convolutions have each code, the most frequent first."""
        ordered = sorted(self._codes.items(), key=lambda item: (-item[1], item[0]))
        width = max((len(f"{number:,}") for _, number in ordered), default=0)
        return [f"{number:>{width},}  {code}  {RULEBOOK[code].title}" for code, number in ordered]

    def summary(self, would: bool) -> str:
        alone = sum(self._codes.values()) - self.changed
        rest = f"{alone} left alone"
        if self._hidden:
            rest += f", {self._hidden} of them pointwise (listed with --verbose)"
        if not self.changed:
            return f"nothing to rewrite, {rest}" if alone else "no convolutions found"
        verb = "would be rewritten" if would else "rewritten"
        changed = f"{count(self.changed, 'convolution')} {verb}"
        return f"{changed} in {count(self.changed_files, 'file')}, {rest}"
