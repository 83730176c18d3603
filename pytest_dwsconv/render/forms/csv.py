"""The convolutions of a run as comma-separated values: a line per layer, for a spreadsheet."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from io import StringIO
from typing import Any

from pytest_dwsconv.core.findings import Finding, ReportData
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.render import Results
from pytest_dwsconv.render.table import Column, evidence_columns, sides
from pytest_dwsconv.render.view import ALL_COLUMNS, Style


def render_run(results: Results, style: Style) -> str:
    """A header of keys, then plain numbers and words; an empty cell is not known.

    What is known of latencies comes last, in columns that are there only where something is known.
    """
    known = evidence_columns(found for report in results.reports for found in report.findings)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [*(column.key for column in ALL_COLUMNS), "reason", *(column.key for column in known)]
    writer.writerow(map(_cell, ["model", "input", *keys]))
    for report in results.reports:
        for finding in report.findings:
            writer.writerow(map(_cell, _values(report, finding, known)))
    return text.getvalue().rstrip("\n")


def _values(report: ReportData, finding: Finding, known: Sequence[Column]) -> Iterator[Any]:
    yield report.model
    yield " and ".join(map(sides, report.input_shapes))
    for column in ALL_COLUMNS:
        yield column.value(finding)
    yield finding.reason
    for column in known:
        yield column.value(finding)


def _cell(value: Any) -> object:
    if isinstance(value, tuple):
        return sides(value)
    if not isinstance(value, str):
        return value
    text = plain(value)
    # reason: a spreadsheet takes text that begins so for a formula, and runs it
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
