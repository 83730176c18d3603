"""A report as the text people read in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import fill

from pytest_dwsconv.render.run import Run, Style, Users, users_line
from pytest_dwsconv.render.table import COLUMNS, TOTAL_LABELS, Column, label, totals
from pytest_dwsconv.render.words import (
    NO_MODEL,
    brief,
    budget_line,
    heading,
    memory_rows,
    no_convolutions,
    not_counted,
    reasons,
    remarks,
)
from pytest_dwsconv.report import Finding, Report
from pytest_dwsconv.rules import Verdict

WIDTH = 100
"""Columns that sentences are wrapped at, also where the terminal is wider."""

_PLAIN = Style()
_BOLD, _DIM, _GREEN, _YELLOW, _RED = "1", "2", "32", "33", "31"
_COLOURS = {Verdict.CANDIDATE: _GREEN, Verdict.CANNOT_TELL: _YELLOW, Verdict.INELIGIBLE: _DIM}


def render_run(run: Run, style: Style = _PLAIN) -> str:
    """All reports: one line each below verbosity 0."""
    if not run:
        return _wrapped(NO_MODEL, style)
    if style.verbosity < 0:
        return "\n".join(brief(report) for report in run)
    return "\n\n\n".join(_with_users(report, users, style) for report, users in run.items())


def _with_users(report: Report, users: Users, style: Style) -> str:
    limits = [
        style.paint(_wrapped(budget_line(limit), style), _RED if limit.violation else _GREEN) for limit in users.held
    ]
    blocks = [render(report, style), "\n".join(limits), users_line(users, style.verbosity)]
    return "\n\n".join(block for block in blocks if block)


def render(report: Report, style: Style = _PLAIN) -> str:
    """The whole report: its layers, totals, reasons, memory, and what was not counted."""
    shown = _fitting(report.findings, style)
    blocks = [
        style.paint(heading(report), _BOLD),
        _layers(report.findings, shown, style) if report.findings else _wrapped(no_convolutions(report), style),
        _left_out(shown, style),
        _table(TOTAL_LABELS, [row.texts() for row in totals(report)], "lrrrrr") if report.findings else "",
        _lines([str(reason) for reason in reasons(report.findings)], style),
        _lines(remarks(report), style),
        "\n".join(f"{name}: {size}" for name, size in memory_rows(report.memory)) if report.memory else "",
        _wrapped(not_counted(report), style),
    ]
    return "\n\n".join(block for block in blocks if block)


def layers(findings: Iterable[Finding]) -> str:
    """The table of these convolutions, in the order given."""
    return _layers(list(findings), COLUMNS, _PLAIN)


def largest(report: Report, count: int = 5) -> str:
    """The table of the ``count`` convolutions with the most parameters."""
    return layers(sorted(report.findings, key=lambda finding: finding.params or 0, reverse=True)[:count])


def _layers(findings: Sequence[Finding], columns: Sequence[Column], style: Style) -> str:
    rows = [[_cell(column, finding, style) for column in columns] for finding in findings]
    return _table([column.label for column in columns], rows, "".join("r" if c.numeric else "l" for c in columns))


def _cell(column: Column, finding: Finding, style: Style) -> str:
    text = column.text(finding)
    return style.paint(text, _COLOURS[finding.verdict]) if column.value is label else text


def _fitting(findings: Sequence[Finding], style: Style) -> Sequence[Column]:
    """The columns there is room for: all of them with -v, and where the width is not that of a terminal."""
    columns = list(COLUMNS)
    widths = {
        column.key: max([*map(len, column.label.split()), *(len(column.text(finding)) for finding in findings)])
        for column in columns
    }
    while style.width is not None and style.verbosity < 1 and _width(columns, widths) > style.width:
        last = max(columns, key=lambda column: column.dispensable)
        if not last.dispensable:
            break
        columns.remove(last)
    return columns


def _width(columns: Sequence[Column], widths: dict[str, int]) -> int:
    return sum(widths[column.key] for column in columns) + 2 * (len(columns) - 1)


def _left_out(shown: Sequence[Column], style: Style) -> str:
    missing = [column.label for column in COLUMNS if column not in shown]
    return _wrapped(f"Left out for want of width: {', '.join(missing)} (-v shows all)", style) if missing else ""


def _table(labels: Sequence[str], rows: list[list[str]], align: str) -> str:
    from tabulate import SEPARATING_LINE, tabulate

    header = [label.replace(" ", "\n") for label in labels]
    # reason: given as headers, tabulate pads every column by two and the table would not fit 120 columns
    body = [header, SEPARATING_LINE, *rows]
    sides = ["right" if side == "r" else "left" for side in align]
    return tabulate(body, tablefmt="simple", disable_numparse=True, colalign=sides)


def _lines(texts: Iterable[str], style: Style) -> str:
    return "\n".join(_wrapped(text, style) for text in texts)


def _wrapped(text: str, style: Style) -> str:
    width = min(WIDTH, style.width or WIDTH)
    return fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
