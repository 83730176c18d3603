"""Which convolutions of a report are shown, in which order, and by which parts of the model.

``View`` is the choice, ``view`` the table of it that ``Report.table`` returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from pytest_dwsconv.core.findings import Finding, ReportData
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.policy import checked_patterns, matches
from pytest_dwsconv.core.quantities import whole_number
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.render.table import (
    COLUMNS,
    TOTAL_COLUMNS,
    Column,
    Total,
    count,
    evidence_columns,
    possible_evidence_columns,
    quantity,
    sums,
    tabulated,
    written,
)

TOP = 10
"""How many models of a run are shown in detail unless somebody chooses another number."""


ALL_COLUMNS: tuple[Column, ...] = (
    *COLUMNS,
    Column("code", "code", attrgetter("code")),
    quantity("calls"),
    quantity("params_share", show="{:.1%}".format),
    quantity("macs_share", "MACs share", show="{:.1%}".format),
    quantity("input_bytes"),
    quantity("output_bytes"),
    quantity("intensity", "MACs/byte", attrgetter("arithmetic_intensity"), "{:.1f}".format),
    quantity("separable_intensity", "separable MACs/byte", show="{:.1f}".format),
    Column("followed_by", "followed by", lambda finding: ", ".join(finding.followed_by) or None),
)


def column(key: str, asked_by: str, evidence: Sequence[Column] = ()) -> Column:
    """The column with this key; those of evidence are a report's own.

    Raises:
        InputError: there is none.
    """
    possible = (*ALL_COLUMNS, *evidence)
    for found in possible:
        if found.key == key:
            return found
    raise InputError(
        f"{asked_by}: there is no column {key!r}; take {', '.join(c.key for c in possible)}"
    )


@dataclass(frozen=True)
class View:
    """What ``Report.table`` describes: a column to sort by, patterns of names, and a depth.

    ``top`` is how many models of a run are shown in detail.

    Raises:
        InputError: there is no such column, ``match`` is not a list of strings, ``depth`` is not a
            whole number from 1, or ``top`` not one from 0.
    """

    sort: str | None = None
    match: Sequence[str] = ()
    depth: int | None = None
    top: int = TOP

    def __post_init__(self) -> None:
        checked_patterns(self.match, "match")
        whole_number("top", self.top, least=0)
        if self.depth is None:
            self._sorted_by  # noqa: B018  # looking it up is the test
            return
        whole_number("depth", self.depth)
        keys = [found.key for found in TOTAL_COLUMNS]
        if self.sort is not None and self.sort not in keys:
            raise InputError(
                f"sort: a table by depth has no column {self.sort!r}; take {', '.join(keys)}"
            )

    @property
    def is_chosen(self) -> bool:
        """Whether convolutions are to be shown otherwise than all in the order of execution."""
        return bool(self.sort or self.match or self.depth)

    @property
    def _sorted_by(self) -> Column | None:
        return None if self.sort is None else column(self.sort, "sort")

    @property
    def columns(self) -> tuple[Column, ...]:
        """The usual ones, and the one that it is sorted by."""
        sorted_by = self._sorted_by
        if sorted_by is None or sorted_by in COLUMNS:
            return COLUMNS
        return (*COLUMNS, sorted_by)

    def shows(self, finding: Finding) -> bool:
        return not self.match or matches((finding.name, *finding.aliases), tuple(self.match))

    def rows(self, findings: Sequence[Finding]) -> list[Finding]:
        """Those shown: numbers from the largest, words from a to z, then what is not known.

        Ties stay in the order of execution.
        """
        shown = [finding for finding in findings if self.shows(finding)]
        by = self._sorted_by
        if by is None:
            return shown
        known = [finding for finding in shown if by.value(finding) is not None]
        unknown = [finding for finding in shown if by.value(finding) is None]
        return [*sorted(known, key=by.value, reverse=by.numeric), *unknown]

    def parts(self, findings: Sequence[Finding]) -> list[Total]:
        """One row per part of the model, ``depth`` names deep: sums of the convolutions shown."""
        parts: dict[str, list[Finding]] = {}
        for finding in findings:
            if self.shows(finding):
                part = ".".join(finding.name.split(".")[: self.depth])
                parts.setdefault(part, []).append(finding)
        rows = []
        for name, within in parts.items():
            label = f"{plain(name)} ({count(len(within), 'convolution')})"
            rows.append(Total(name, label, *sums(within)))
        if self.sort is not None:
            key = self.sort
            rows.sort(key=lambda row: row.key if key == "name" else -(getattr(row, key) or 0))
        return rows


class Style(NamedTuple):
    """How much text shows, and on what.

    Below verbosity 0 that is one line per model, above 0 everything. ``width`` is that of a
    terminal, None for a file. ``view`` is which convolutions are shown.
    """

    verbosity: int = 0
    width: int | None = None
    colour: bool = False
    view: View = View()

    def paint(self, text: str, code: str) -> str:
        """The text in this colour, by its number in ECMA-48."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text else text


def view(
    report: ReportData,
    *,
    sort: str | None = None,
    match: Sequence[str] = (),
    depth: int | None = None,
    columns: Sequence[str] | None = None,
) -> str:
    """The table of ``Report.table``."""
    if columns is None:
        shown = (*COLUMNS, *evidence_columns(report.findings))
    else:
        shown = _columns(columns, possible_evidence_columns(report))
    wanted = View(sort, match, depth)
    if depth is None:
        return tabulated(shown, written(shown, wanted.rows(report.findings)), shown)
    if columns is not None:
        raise InputError("a table by depth has columns of its own; leave columns out")
    parts = [row.texts() for row in wanted.parts(report.findings)]
    return tabulated(TOTAL_COLUMNS, parts, TOTAL_COLUMNS)


def _columns(keys: object, evidence: Sequence[Column]) -> tuple[Column, ...]:
    if isinstance(keys, str) or not isinstance(keys, Sequence) or not keys:
        raise InputError(
            f"columns takes a list of at least one column such as ['name', 'macs'], not {keys!r}"
        )
    return tuple(column(key, "columns", evidence) for key in keys)
