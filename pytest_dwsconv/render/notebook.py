"""What a report is in a notebook: a table, a data frame, and a tree of the model's parts."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from pytest_dwsconv.core.findings import Finding, Layer, ReportData
from pytest_dwsconv.core.plaintext import plain, quoted
from pytest_dwsconv.core.quantities import whole_number
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.render.sentences import evidence, heading, not_counted, reasons, remarks
from pytest_dwsconv.render.table import (
    COLUMNS,
    TOTAL_COLUMNS,
    Total,
    evidence_columns,
    integer,
    tabulated,
    totals,
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
    for column in columns:
        lines.append(f"<th{numeric if column.numeric else ''}>{escape(column.label)}</th>")
    lines.append("</tr></thead><tbody>")
    for finding in report.findings:
        lines.append("<tr>")
        for column in columns:
            cell = escape(column.text(finding))
            lines.append(f"<td{numeric if column.numeric else ''}>{cell}</td>")
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
    rows: list[dict[str, object]]
    if layers == "convolutions":
        rows = list(map(_convolution, report.findings))
        columns = [*(column.key for column in ALL_COLUMNS), "reason"]
        whole = [column.key for column in ALL_COLUMNS if column.show is integer]
    elif layers == "all":
        rows = list(map(_layer, _layers(report)))
        columns = ["name", "type", "output", "params", "macs", "calls"]
        whole = ["params", "macs", "calls"]
    else:
        raise InputError(f"layers is 'convolutions' or 'all', not {quoted(layers)}")
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise InputError(
            "to_dataframe needs pandas, which is not installed: pip install pandas, or take the "
            "rows of report.findings"
        ) from error
    # reason: with a row in which a number is missing, pandas would make floats of whole numbers
    return DataFrame(rows, columns=columns).astype(dict.fromkeys(whole, "Int64"))


def _convolution(finding: Finding) -> dict[str, object]:
    values: dict[str, object] = {column.key: column.value(finding) for column in ALL_COLUMNS}
    return {**values, "reason": finding.reason}


def _layer(layer: Layer) -> dict[str, object]:
    return {
        "name": layer.name,
        "type": layer.type_name,
        "output": layer.output_shape,
        "params": layer.params,
        "macs": layer.macs,
        "calls": layer.calls,
    }


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
