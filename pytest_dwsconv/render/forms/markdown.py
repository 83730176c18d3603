"""The reports of a run as GitHub-flavoured Markdown, for a job's summary or a comment."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.suite.architectures import Architecture, Reporters
from pytest_dwsconv.core.suite.changes import Changes
from pytest_dwsconv.render import Results
from pytest_dwsconv.render.changes import CHANGE_COLUMNS, LAYER_COLUMNS, layer_rows
from pytest_dwsconv.render.changes import rows as change_rows
from pytest_dwsconv.render.latencies import LatencyTable, tables
from pytest_dwsconv.render.overview import OVERVIEW_COLUMNS, Overview
from pytest_dwsconv.render.sentences import (
    MOST_INPUTS,
    NO_MODEL,
    budget_line,
    circumstances,
    evidence,
    listed,
    memory_rows,
    no_convolutions,
    not_counted,
    other_inputs,
    reasons,
    remarks,
)
from pytest_dwsconv.render.table import (
    COLUMNS,
    TOTAL_COLUMNS,
    Column,
    count,
    evidence_columns,
    totals,
    written,
)
from pytest_dwsconv.render.view import Style

_SPECIAL = re.compile(r"[\\`*_\[\]<>~|$&#]|^[-+=](?=.)|:(?=\S)|(?<=www)\.", re.IGNORECASE)
"""What Markdown, or GitHub's additions to it, may read as markup.

A minus, plus or equals sign only at the start: a list or a heading. A colon makes links and emoji;
GitHub links what starts with ``www.`` too.
"""


COMMENT, SUMMARY = 65_536, 1024**2
"""How much GitHub takes for a comment, in characters, and for a step's summary, in bytes."""


def render_run(results: Results, style: Style) -> str:
    """The report, in at most 1 MiB; a comparison by itself in what a comment may have."""
    changes = results.outcome.changes
    sections = []
    if changes is not None:
        sections += _changes(changes)
    if results.outcome.unknown:
        # reason: behind the mark nothing can be read as the sign of another list
        one_line = [sentence.replace("\n", ". ") for sentence in results.outcome.unknown]
        unknown = [f"⚠️ {escape(sentence)}" for sentence in one_line]
        sections.append(f"### Not known\n\n{_list(unknown)}\n")
    if results.reports or results.is_empty:
        sections.append("## Depthwise separable candidates\n")
    if results.architectures:
        sections += _models(results.architectures, style)
    elif results.is_empty:
        sections.append(f"{escape(NO_MODEL)}\n")
    sections += map(_latencies, tables(results.measured))
    return _bounded(sections, SUMMARY if results.reports else COMMENT)


def _bounded(sections: Sequence[str], most: int) -> str:
    """The sections that there is room for; a table that is too long ends early."""
    room = most - 4096  # for the sentences about what is left out
    kept: list[str] = []
    left_out: list[str] = []
    for section in sections:
        fitting = section
        # reason: what is folded cannot be cut, or its end is lost
        if _bytes(section) > room and "<details>" not in section:
            fitting = _cut(section, room)
        if _bytes(fitting) > room:
            left_out.append(section.strip().split("\n")[0])
            continue
        kept.append(fitting)
        room -= _bytes(fitting) + 1
    if left_out:
        titles = [re.sub(r"#+ |</?\w+>", "", title)[:100] for title in left_out]
        named = f"{listed(titles, 20)}: the forms html and json have all"
        kept.append(f"Left out for want of room: {named}\n")
    return "\n".join(kept)


def _bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def _cut(section: str, room: int) -> str:
    lines = section.rstrip("\n").split("\n")
    shown = 0
    for line in lines:
        room -= _bytes(line) + 1
        if room < 200:  # the sentence below needs some
            break
        shown += 1
    said = f"{count(len(lines) - shown, 'more row')}, left out for want of room"
    return "\n".join([*lines[:shown], "", said, ""])


def _changes(changes: Changes) -> list[str]:
    """What models cost before and after, with their layers folded."""
    blocks = ["## Model costs before and after", escape(changes.summary())]
    if rows := change_rows(changes):
        blocks.append(_table(CHANGE_COLUMNS, rows))
    sections = ["\n\n".join(blocks) + "\n"]
    for model in changes.shown:
        if model.layers:
            table = _table(LAYER_COLUMNS, layer_rows(model))
            sections.append(_folded(f"Layers of {escape(model.name)}", table) + "\n")
    return sections


def _models(architectures: Sequence[Architecture], style: Style) -> list[str]:
    """A table of all if there are several, and each of the first by itself."""
    overview = Overview.of(architectures, style.view.top)
    sections = []
    if len(overview.rows) > 1:
        table = _table(OVERVIEW_COLUMNS, written(OVERVIEW_COLUMNS, overview.rows))
        sections.append(f"{table}\n")
    if overview.bare:
        sections.append(f"{escape(overview.without_convolutions())}\n")
    sections += [_model(found) for found in overview.detailed]
    if overview.without_details:
        sections.append(f"{escape(overview.without_details)}\n")
    return sections


def _latencies(table: LatencyTable) -> str:
    cells = [[escape(cell) for cell in row] for row in (table.headers, *table.rows)]
    lines = [cells[0], ["---"] * len(table.headers), *cells[1:]]
    return f"### {table.title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def escape(text: str) -> str:
    """The text on one line, read by Markdown as it is written, also in the cell of a table."""
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", plain(text))


def code(text: str) -> str:
    """The text as code."""
    text = plain(text)
    # reason: a code span has no escapes, drops outer spaces, and in a table a | ends the cell
    if not text or re.search(r"[`|\\]|^ | $", text):
        return f"<code>{escape(text)}</code>"
    return f"`{text}`"


def _model(found: Architecture) -> str:
    report, reporters = found.report, found.reporters
    blocks = [f"### {escape(found.name)}", escape(circumstances(report)), _limits(reporters)]
    blocks.append(_list(map(escape, evidence(report))))
    if report.findings:
        columns = (*COLUMNS, *evidence_columns(report.findings))
        blocks.append(_table(TOTAL_COLUMNS, [row.texts() for row in totals(report)]))
        table = _table(columns, written(columns, report.findings), code)
        blocks.append(_folded(count(len(report.findings), "convolution"), table))
    else:
        blocks.append(escape(no_convolutions(report)))
    blocks += [_notes(found), _reporters(reporters.names)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _limits(reporters: Reporters) -> str:
    lines = []
    for check in reporters.checks:
        mark = "❌" if check.exceeded else "✅"
        lines.append(f"- {mark} {escape(budget_line(check))}")
    return "\n".join(lines)


def _table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    first: Callable[[str], str] = escape,
) -> str:
    """The table of these rows; ``first`` is how the cells of the first column are written."""
    rules = ["---:" if column.numeric else "---" for column in columns]
    lines = [[escape(column.label) for column in columns], rules]
    for cell, *others in rows:
        lines.append([first(cell), *map(escape, others)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _notes(found: Architecture) -> str:
    report = found.report
    lines = [*map(str, reasons(report.findings)), *remarks(report)]
    if report.memory:
        lines += [f"{name}: {size}" for name, size in memory_rows(report.memory)]
    if report.not_counted:
        lines.append(not_counted(report))
    if others := other_inputs(found, MOST_INPUTS):
        lines.append(others)
    return _folded("Notes", _list(map(escape, lines))) if lines else ""


def _reporters(names: Sequence[str]) -> str:
    """A few in sight, many folded."""
    if not names:
        return ""
    listed = _list(map(code, names))
    if len(names) <= 3:
        return f"Reported by\n\n{listed}"
    return _folded(f"Reported by {len(names):,}", listed)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _folded(summary: str, body: str) -> str:
    # reason: GitHub reads Markdown inside HTML only after an empty line
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"
