"""What a report is in a notebook: a table, a data frame, and a tree of the model's parts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from operator import attrgetter
from typing import TYPE_CHECKING

from pytest_dwsconv.core.findings import Finding, Layer, ReportData
from pytest_dwsconv.core.plaintext import plain, quoted
from pytest_dwsconv.core.quantities import whole_number
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.render.sentences import evidence, heading, not_counted, reasons, remarks
from pytest_dwsconv.render.table import (
    COLUMNS,
    TOTAL_COLUMNS,
    Column,
    Total,
    evidence_columns,
    integer,
    quantity,
    tabulated,
    totals,
    written,
)
from pytest_dwsconv.render.view import ALL_COLUMNS

if TYPE_CHECKING:
    from pandas import DataFrame


def table(report: ReportData) -> str:
    """One report as a table by itself, which brings no style or script but its alignment."""
    numeric = ' style="text-align: right"'
    lines = ['<div style="max-height: 40em; overflow: auto">', "<table>"]
    lines.append(f"<caption>{escape(heading(report))}</caption>")
    lines.append("<thead><tr>")
    columns = (*COLUMNS, *evidence_columns(report.findings))
    styles = [numeric if column.numeric else "" for column in columns]
    for style, column in zip(styles, columns, strict=True):
        lines.append(f"<th{style}>{escape(column.label)}</th>")
    lines.append("</tr></thead><tbody>")
    for row in written(columns, report.findings):
        lines.append("<tr>")
        lines += [
            f"<td{style}>{escape(text)}</td>" for style, text in zip(styles, row, strict=True)
        ]
        lines.append("</tr>")
    lines.append("</tbody><tfoot>")
    for total in totals(report):
        cells = total.written()
        lines.append(f"<tr><th>{escape(total.label)}</th>")
        for column in columns[1:]:
            lines.append(f"<td{numeric}>{escape(cells.get(column.key, ''))}</td>")
        lines.append("</tr>")
    lines.append("</tfoot></table></div>")
    notes = [
        *evidence(report),
        *map(str, reasons(report.findings)),
        *remarks(report),
        not_counted(report),
    ]
    lines += [f"<p>{escape(note)}</p>" for note in notes if note]
    return "\n".join(lines)


def to_dataframe(report: ReportData, layers: str) -> DataFrame:
    """What ``Report.to_dataframe`` says."""
    columns: tuple[Column, ...]
    rows: Sequence[Finding | Layer]
    if layers == "convolutions":
        columns = (*ALL_COLUMNS, Column("reason", "", attrgetter("reason")))
        rows = report.findings
    elif layers == "all":
        columns, rows = _LAYER_COLUMNS, _layers(report)
    else:
        raise InputError(f"layers is 'convolutions' or 'all', not {quoted(layers)}")
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise InputError(
            "to_dataframe needs pandas, which is not installed: pip install pandas, or take the "
            "rows of report.findings"
        ) from error
    values = [{column.key: column.value(row) for column in columns} for row in rows]
    # reason: with a row in which a number is missing, pandas would make floats of whole numbers
    whole = [column.key for column in columns if column.show is integer]
    found = DataFrame(values, columns=[column.key for column in columns])
    return found.astype(dict.fromkeys(whole, "Int64"))


_LAYER_COLUMNS = (
    Column("name", "", attrgetter("name")),
    Column("type", "", attrgetter("type_name")),
    Column("output", "", attrgetter("output_shape")),
    quantity("params"),
    quantity("macs"),
    quantity("calls"),
)


def _layers(report: ReportData) -> tuple[Layer, ...]:
    if not report.all_layers:
        raise InputError(
            f"this report of {plain(report.model)} has its convolutions alone, as those of a test "
            "run do: make one with analyze"
        )
    return report.all_layers


def tree(report: ReportData, depth: int | None) -> str:
    """What ``Report.tree`` says."""
    if depth is not None:
        depth = whole_number("depth", depth)
    parts: dict[tuple[str, ...], Total] = {}
    for layer in _layers(report):
        path = _path(layer.name)
        for length in range(len(path[:depth]) + 1):
            part = path[:length]
            label = _label(report, part, layer.type_name if length == len(path) else "")
            before = parts.get(part, Total("", label, 0, None, 0, None))
            parts[part] = _plus(before, layer.params, layer.macs)
    for finding in report.candidates:
        path = _path(finding.name)
        for length in range(len(path) + 1):
            # reason: a convolution called as a function is no layer, and a part of some layers
            if path[:length] in parts:
                parts[path[:length]] = _replaced(parts[path[:length]], finding)
    rows = [part.texts() for part in parts.values()]
    return tabulated(TOTAL_COLUMNS, rows, TOTAL_COLUMNS)


def _path(name: str) -> tuple[str, ...]:
    return tuple(name.split(".")) if name else ()


def _label(report: ReportData, part: tuple[str, ...], type_name: str) -> str:
    if not part:
        return plain(report.model)
    kind = f" ({type_name})" if type_name else ""
    return "| " * (len(part) - 1) + f"|- {plain(part[-1] + kind)}"


def _plus(part: Total, params: int, macs: int | None) -> Total:
    total = None if macs is None else (part.macs or 0) + macs
    return part._replace(
        params=part.params + params,
        macs=total,
        separable_params=part.separable_params + params,
        separable_macs=total,
    )


def _replaced(part: Total, finding: Finding) -> Total:
    saved_params = (finding.params or 0) - (finding.separable_params or 0)
    saved_macs = (finding.macs or 0) - (finding.separable_macs or 0)
    return part._replace(
        separable_params=part.separable_params - saved_params,
        separable_macs=None if part.separable_macs is None else part.separable_macs - saved_macs,
    )
