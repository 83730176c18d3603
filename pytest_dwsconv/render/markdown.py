"""The reports of a run as GitHub-flavoured Markdown, for a job's summary or a comment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pytest_dwsconv.core.findings import Finding, ReportData
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.render.latencies import HEADERS, Measured, rows
from pytest_dwsconv.render.run import Run, Style, Users
from pytest_dwsconv.render.sentences import (
    NO_MODEL,
    budget_line,
    circumstances,
    memory_rows,
    no_convolutions,
    not_counted,
    reasons,
    remarks,
)
from pytest_dwsconv.render.table import COLUMNS, TOTAL_COLUMNS, Column, count, totals

_SPECIAL = re.compile(r"[\\`*_\[\]<>~|$&#]|^[-+=](?=.)|:(?=\S)|(?<=www)\.", re.IGNORECASE)
"""What Markdown, or GitHub's additions to it, may read as more than the character; a colon makes
links and emoji.
"""


def render_run(run: Run, measured: Measured, style: Style) -> str:
    models = [_model(*row, style) for row in run.items()]
    latencies = [_latencies(measured)] if measured else []
    return "\n".join(
        ["## Depthwise separable candidates\n", *(models + latencies or [f"{escape(NO_MODEL)}\n"])]
    )


def _latencies(measured: Measured) -> str:
    cells = [[escape(cell) for cell in row] for row in (HEADERS, *rows(measured))]
    lines = [cells[0], ["---"] * len(HEADERS), *cells[1:]]
    return "### Measured latency\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def escape(text: str) -> str:
    """The text as it is, on one line, whatever Markdown would make of it; fit for a cell of a
    table.
    """
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", plain(text))


def code(text: str) -> str:
    """The text as code; where a code span could not hold it, as HTML."""
    text = plain(text)
    if text and not re.search(r"[`|\\]|^ | $", text):
        return f"`{text}`"
    return f"<code>{escape(text)}</code>"


def _model(report: ReportData, users: Users, style: Style) -> str:
    blocks = [f"### {escape(report.model)}", escape(circumstances(report))]
    blocks.append(
        "\n".join(
            f"- {'❌' if held.violation else '✅'} {escape(budget_line(held))}"
            for held in users.held
        )
    )
    if report.findings:
        blocks += [
            _totals(report),
            _folded(count(len(report.findings), "convolution"), _layers(report.findings)),
        ]
    else:
        blocks.append(escape(no_convolutions(report)))
    blocks += [_list(_notes(report)), _users(users.names)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _totals(report: ReportData) -> str:
    return _table(TOTAL_COLUMNS, ([escape(text) for text in row.texts()] for row in totals(report)))


def _layers(findings: Sequence[Finding]) -> str:
    rows = (
        [
            code(column.text(finding)) if column.key == "name" else escape(column.text(finding))
            for column in COLUMNS
        ]
        for finding in findings
    )
    return _table(COLUMNS, rows)


def _table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    labels = [column.label for column in columns]
    rules = ["---:" if column.numeric else "---" for column in columns]
    return "\n".join(f"| {' | '.join(row)} |" for row in [labels, rules, *rows])


def _notes(report: ReportData) -> list[str]:
    memory = (
        [f"{name}: {size}" for name, size in memory_rows(report.memory)] if report.memory else []
    )
    lines = [*map(str, reasons(report.findings)), *remarks(report), *memory, not_counted(report)]
    return [line for line in lines if line]


def _list(lines: Sequence[str]) -> str:
    return _folded("Notes", "\n".join(f"- {escape(line)}" for line in lines)) if lines else ""


def _users(names: Sequence[str]) -> str:
    """A few users in sight, many folded."""
    if not names:
        return ""
    listed = "\n".join(f"- {code(name)}" for name in names)
    return (
        f"Reported by\n\n{listed}"
        if len(names) <= 3
        else _folded(f"Reported by {len(names):,}", listed)
    )


def _folded(summary: str, body: str) -> str:
    # reason: GitHub reads Markdown inside HTML only after an empty line
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"
