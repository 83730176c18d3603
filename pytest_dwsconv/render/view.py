"""A table as somebody asked for it: some columns, sorted by one, of layers by name, or one row a part of the model."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_dwsconv.errors import InputError
from pytest_dwsconv.render.table import (
    COLUMNS,
    TOTAL_COLUMNS,
    Column,
    Total,
    count,
    integer,
    plain,
    sums,
)
from pytest_dwsconv.render.text import tabulated
from pytest_dwsconv.report import Finding, Report
from pytest_dwsconv.rules import checked_patterns, matches


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _per_byte(intensity: float) -> str:
    return f"{intensity:.1f}"


ALL_COLUMNS: tuple[Column, ...] = (
    *COLUMNS,
    Column("code", "code", lambda finding: finding.code),
    Column("calls", "calls", lambda finding: finding.calls, integer, numeric=True),
    Column("params_share", "params share", lambda finding: finding.params_share, _percent, numeric=True),
    Column("macs_share", "MACs share", lambda finding: finding.macs_share, _percent, numeric=True),
    Column("input_bytes", "input bytes", lambda finding: finding.input_bytes, integer, numeric=True),
    Column("output_bytes", "output bytes", lambda finding: finding.output_bytes, integer, numeric=True),
    Column("intensity", "MACs/byte", lambda finding: finding.arithmetic_intensity, _per_byte, numeric=True),
    Column(
        "separable_intensity",
        "separable MACs/byte",
        lambda finding: finding.separable_intensity,
        _per_byte,
        numeric=True,
    ),
    Column("followed_by", "followed by", lambda finding: ", ".join(finding.followed_by) or None),
)


def view(
    report: Report,
    *,
    sort: str | None = None,
    match: Sequence[str] = (),
    depth: int | None = None,
    columns: Sequence[str] | None = None,
) -> str:
    """The table of ``Report.table``."""
    shown = COLUMNS if columns is None else _columns(columns)
    wanted = checked_patterns(match, "match")
    found = [f for f in report.findings if not wanted or matches((f.name, *f.aliases), wanted)]
    if depth is not None:
        if columns is not None:
            raise InputError("a table by depth has columns of its own; leave columns out")
        return _by_depth(found, depth, sort)
    if sort is not None:
        found = _sorted(found, _column(sort, "sort"))
    return tabulated(shown, [[column.text(finding) for column in shown] for finding in found], shown)


def _columns(keys: object) -> tuple[Column, ...]:
    if isinstance(keys, str) or not isinstance(keys, Sequence) or not keys:
        raise InputError(f"columns takes a list of at least one column such as ['name', 'macs'], not {keys!r}")
    return tuple(_column(key, "columns") for key in keys)


def _column(key: str, asked_by: str) -> Column:
    for column in ALL_COLUMNS:
        if column.key == key:
            return column
    raise InputError(f"{asked_by}: there is no column {key!r}; take {', '.join(c.key for c in ALL_COLUMNS)}")


def _sorted(findings: list[Finding], column: Column) -> list[Finding]:
    """By a column: numbers from the largest, words from a to z, what is not known last; ties as they ran."""
    known = [finding for finding in findings if column.value(finding) is not None]
    rest = [finding for finding in findings if column.value(finding) is None]
    return [*sorted(known, key=column.value, reverse=column.numeric), *rest]


def _by_depth(findings: list[Finding], depth: int, sort: str | None) -> str:
    """A row for each part of the model that many names deep, with the sums of its convolutions."""
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise InputError(f"depth is a whole number from 1, not {depth!r}")
    parts: dict[str, list[Finding]] = {}
    for finding in findings:
        parts.setdefault(".".join(finding.name.split(".")[:depth]), []).append(finding)
    rows = [Total(name, f"{plain(name)} ({count(len(p), 'convolution')})", *sums(p)) for name, p in parts.items()]
    if sort is not None:
        keys = [column.key for column in TOTAL_COLUMNS]
        if sort not in keys:
            raise InputError(f"sort: a table by depth has no column {sort!r}; take {', '.join(keys)}")
        number = {row.key: row.key if sort == "name" else -(getattr(row, sort) or 0) for row in rows}
        rows.sort(key=lambda row: number[row.key])
    return tabulated(TOTAL_COLUMNS, [row.texts() for row in rows], TOTAL_COLUMNS)
