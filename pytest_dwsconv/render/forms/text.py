"""A report as the text people read in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from shutil import get_terminal_size
from textwrap import fill

from pytest_dwsconv.core.findings import Finding, ReportData
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.rules import Verdict
from pytest_dwsconv.core.suite.architectures import Architecture
from pytest_dwsconv.core.suite.changes import Changes
from pytest_dwsconv.render import Results
from pytest_dwsconv.render.changes import CHANGE_COLUMNS, LAYER_COLUMNS, layer_rows
from pytest_dwsconv.render.changes import rows as change_rows
from pytest_dwsconv.render.latencies import Measurements, by_kind, tables
from pytest_dwsconv.render.overview import MOST_NAMES, OVERVIEW_COLUMNS, Overview
from pytest_dwsconv.render.sentences import (
    MOST_INPUTS,
    NO_MODEL,
    budget_line,
    evidence,
    heading,
    memory_rows,
    no_convolutions,
    not_counted,
    one_line,
    other_inputs,
    reasons,
    remarks,
)
from pytest_dwsconv.render.table import (
    TOTAL_COLUMNS,
    Column,
    count,
    evidence_columns,
    label,
    tabulated,
    totals,
    written,
)
from pytest_dwsconv.render.view import Style

WIDTH = 100
"""Sentences are wrapped at this many columns, even if the terminal is wider."""


LEAST_NAME = 30
"""Columns that a model's name has in the overview even if the terminal is very narrow."""


def terminal_width() -> int | None:
    """The columns of the terminal that standard output is; None where it is something else."""
    try:
        on_terminal = sys.stdout.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return None
    return get_terminal_size().columns if on_terminal else None


_PLAIN = Style()
_BOLD, _DIM, _GREEN, _YELLOW, _RED = "1", "2", "32", "33", "31"
_COLOURS = {Verdict.CANDIDATE: _GREEN, Verdict.CANNOT_TELL: _YELLOW, Verdict.INELIGIBLE: _DIM}


def render_run(results: Results, style: Style) -> str:
    """The models, one line each below verbosity 0, and the latencies measured."""
    sections = []
    if results.outcome.changes is not None:
        sections.append(_changes(results.outcome.changes, style))
    if results.architectures:
        sections += _models(results.architectures, style)
    elif results.is_empty:
        sections.append(_wrapped(NO_MODEL, style))
    sections += _latencies(results.measured, style)
    if results.outcome.unknown:
        lines = [line for sentence in results.outcome.unknown for line in sentence.split("\n")]
        sections.append("\n".join(["Not known", *map(plain, lines)]))
    return "\n\n\n".join(sections)


def _latencies(latencies: Measurements, style: Style) -> Iterator[str]:
    """A table of those measured; in sentences those predicted, which have long reasons."""
    measured, predicted = by_kind(latencies)
    if measured:
        from tabulate import tabulate

        table = tables(latencies)[0]
        yield tabulate(table.rows, table.headers, disable_numparse=True)
    if predicted:
        yield _lines(map(str, predicted), style)


def _changes(changes: Changes, style: Style) -> str:
    """What models cost before and after, with -v each layer too."""
    blocks = [_wrapped(plain(changes.summary()), style)]
    if rows := change_rows(changes):
        blocks.append(_table(CHANGE_COLUMNS, rows, style))
    for model in changes.shown:
        if model.layers and style.verbosity > 0:
            table = _table(LAYER_COLUMNS, layer_rows(model), style)
            blocks.append(f"Layers of {plain(model.name)}\n\n{table}")
    return "\n\n".join(blocks)


def _models(architectures: Sequence[Architecture], style: Style) -> list[str]:
    """A table of all if there are several, and each of the first by itself."""
    overview = Overview.of(architectures, style.view.top)
    most = None if style.verbosity > 0 else MOST_NAMES
    without = _wrapped(overview.without_convolutions(most), style)
    if style.verbosity < 0:
        return ["\n".join([*_quiet(overview, style), without]).rstrip()]
    head = [_overview(overview.rows, style)] if len(overview.rows) > 1 else []
    if without:
        head.append(without)
    sections = ["\n\n".join(head)] if head else []
    sections += [_model(found, style) for found in overview.detailed]
    if overview.without_details:
        sections.append(_wrapped(overview.without_details, style))
    return sections


def _quiet(overview: Overview, style: Style) -> Iterator[str]:
    """One line per model, and the table of its layers if somebody has chosen among them."""
    for place, found in enumerate(overview.rows):
        yield one_line(found)
        if style.view.is_chosen and place < len(overview.detailed):
            yield f"\n{_convolutions(found.report, style)}\n"


def _overview(rows: Sequence[Architecture], style: Style) -> str:
    cells = written(OVERVIEW_COLUMNS, rows)
    if style.width is not None:
        for row in cells:
            row[0] = _shortened(row[0], max(style.width // 2, LEAST_NAME))
    return _table(OVERVIEW_COLUMNS, cells, style)


def _shortened(name: str, width: int) -> str:
    """The name without its middle if it is longer: a test's id tells most at its end."""
    if len(name) <= width:
        return name
    tail = width * 2 // 3
    return f"{name[: width - tail - 3]}...{name[-tail:]}"


def _model(found: Architecture, style: Style) -> str:
    limits = []
    for check in found.reporters.checks:
        colour = _RED if check.exceeded else _GREEN
        limits.append(style.paint(_wrapped(budget_line(check), style), colour))
    others = other_inputs(found, None if style.verbosity > 0 else MOST_INPUTS)
    blocks = [
        render(found.report, style, found.name),
        "\n".join(limits),
        _wrapped(others, style),
        found.reporters.line(style.verbosity),
    ]
    return "\n\n".join(block for block in blocks if block)


def render(report: ReportData, style: Style = _PLAIN, name: str = "") -> str:
    """The whole report: its layers, totals, reasons, memory, and what was not counted."""
    blocks = [style.paint(heading(report, name), _BOLD), _convolutions(report, style)]
    if report.findings:
        blocks.append(_table(TOTAL_COLUMNS, [row.texts() for row in totals(report)], style))
    blocks.append(_lines(evidence(report), style))
    blocks.append(_lines(map(str, reasons(report.findings)), style))
    blocks.append(_lines(remarks(report), style))
    if report.memory:
        blocks.append("\n".join(f"{name}: {size}" for name, size in memory_rows(report.memory)))
    blocks.append(_wrapped(not_counted(report), style))
    return "\n\n".join(block for block in blocks if block)


def _convolutions(report: ReportData, style: Style) -> str:
    """The convolutions that are to be shown, or their sums by parts of the model."""
    view, findings = style.view, report.findings
    if not findings:
        return _wrapped(no_convolutions(report), style)
    convolutions = count(len(findings), "convolution")
    patterns = " or ".join(map(plain, view.match))
    shown = view.rows(findings)
    if not shown:
        return _wrapped(f"None of its {convolutions} is called {patterns}", style)
    if view.depth is None:
        found = _layers(shown, style)
    else:
        found = _table(TOTAL_COLUMNS, [part.texts() for part in view.parts(findings)], style)
    if len(shown) == len(findings):
        return found
    some = f"{len(shown)} of {convolutions}: those called {patterns}"
    return f"{found}\n\n{_wrapped(some, style)}"


def layers(findings: Iterable[Finding]) -> str:
    """The table of these convolutions, in the order given."""
    return _layers(list(findings), _PLAIN)


def largest(report: ReportData, count: int = 5) -> str:
    """The table of the ``count`` convolutions with the most parameters."""
    ordered = sorted(report.findings, key=lambda finding: finding.params or 0, reverse=True)
    return layers(ordered[:count])


def _layers(findings: Sequence[Finding], style: Style) -> str:
    columns = (*style.view.columns, *evidence_columns(findings))
    rows = written(columns, findings)
    shown = _fitting(columns, rows, style)
    verdict = next(index for index, column in enumerate(columns) if column.value is label)
    for row, finding in zip(rows, findings, strict=True):
        row[verdict] = style.paint(row[verdict], _COLOURS[finding.verdict])
    found = tabulated(columns, rows, shown)
    left_out = ", ".join(column.label for column in columns if column not in shown)
    if not left_out:
        return found
    said = f"Left out for want of width: {left_out} (a wider terminal shows all)"
    return f"{found}\n\n{_wrapped(said, style)}"


def _table(columns: Sequence[Column], rows: Sequence[Sequence[str]], style: Style) -> str:
    return tabulated(columns, rows, _fitting(columns, rows, style))


def _fitting(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], style: Style
) -> list[Column]:
    """The columns there is room for; all of them in a file."""
    shown = list(columns)
    if style.width is None:
        return shown
    cells = dict(zip(columns, zip(*rows, strict=True), strict=True))
    widths = {column: max(map(len, (*column.label.split(), *cells[column]))) for column in columns}
    while sum(widths[column] + 2 for column in shown) - 2 > style.width:
        last = max(shown, key=lambda column: column.dispensable)
        if not last.dispensable:
            break
        shown.remove(last)
    return shown


def _lines(texts: Iterable[str], style: Style) -> str:
    return "\n".join(_wrapped(text, style) for text in texts)


def _wrapped(text: str, style: Style) -> str:
    width = min(WIDTH, style.width or WIDTH)
    return fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
