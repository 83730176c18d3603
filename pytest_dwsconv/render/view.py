"""The table of one report as somebody asked for it in Python."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.render.arranging import View, column
from pytest_dwsconv.render.table import COLUMNS, TOTAL_COLUMNS, Column
from pytest_dwsconv.render.text import tabulated


def view(
    report: ReportData,
    *,
    sort: str | None = None,
    match: Sequence[str] = (),
    depth: int | None = None,
    columns: Sequence[str] | None = None,
) -> str:
    """The table of ``Report.table``."""
    shown = COLUMNS if columns is None else _columns(columns)
    wanted = View(sort, match, depth)
    if depth is None:
        rows = [[column.text(finding) for column in shown] for finding in wanted.rows(report.findings)]
        return tabulated(shown, rows, shown)
    if columns is not None:
        raise InputError("a table by depth has columns of its own; leave columns out")
    return tabulated(TOTAL_COLUMNS, [row.texts() for row in wanted.parts(report.findings)], TOTAL_COLUMNS)


def _columns(keys: object) -> tuple[Column, ...]:
    if isinstance(keys, str) or not isinstance(keys, Sequence) or not keys:
        raise InputError(f"columns takes a list of at least one column such as ['name', 'macs'], not {keys!r}")
    return tuple(column(key, "columns") for key in keys)
