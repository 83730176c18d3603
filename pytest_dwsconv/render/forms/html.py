"""The reports of a run as one page that needs no network, no other file and no script.

The template, its style and its script are in ``page/`` beside this file. The script sorts and
filters a table that is whole without it. A content security policy in the page lets no other style
or script run, so an untrusted name cannot bring its own.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from pytest_dwsconv._version import __version__
from pytest_dwsconv.core.findings import Finding, ReportData
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.quantities import humanize
from pytest_dwsconv.core.rules import Verdict
from pytest_dwsconv.core.suite.architectures import Architecture
from pytest_dwsconv.core.suite.changes import Changes
from pytest_dwsconv.render import Results
from pytest_dwsconv.render.changes import CHANGE_COLUMNS, layer_rows
from pytest_dwsconv.render.changes import rows as change_rows
from pytest_dwsconv.render.latencies import tables
from pytest_dwsconv.render.overview import OVERVIEW_COLUMNS, Overview
from pytest_dwsconv.render.sentences import (
    NO_MODEL,
    circumstances,
    memory_rows,
    no_convolutions,
    not_counted,
    other_inputs,
    reasons,
    remarks,
)
from pytest_dwsconv.render.table import (
    COLUMNS,
    MEASURES,
    Column,
    count,
    evidence_columns,
    label,
    ratio,
    totals,
)
from pytest_dwsconv.render.view import Style

if TYPE_CHECKING:
    from markupsafe import Markup


def render_run(results: Results, style: Style) -> str:
    environment = Environment(
        loader=PackageLoader("pytest_dwsconv.render.forms", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css, script = _text("page.css"), _text("page.js")
    # reason: a page has room for the details of every model, and an index to find them by
    overview = Overview.of(results.architectures, None)
    environment.filters |= {"breakable": _breakable, "plain": plain, "humanize": humanize}
    return environment.get_template("page.html").render(
        version=__version__,
        latencies=tables(results.measured),
        css=css,
        script=script,
        policy=f"default-src 'none'; style-src '{_digest(css)}'; script-src '{_digest(script)}'",
        changes=_changes(results.outcome.changes),
        unknown=[plain(sentence.replace("\n", ". ")) for sentence in results.outcome.unknown],
        models=[_model(number, found) for number, found in enumerate(overview.rows, 1)],
        bare=overview.without_convolutions(None),
        index_columns=OVERVIEW_COLUMNS,
        nothing=NO_MODEL,
    )


def _changes(changes: Changes | None) -> dict[str, Any] | None:
    """What the template shows of what models cost before and after."""
    if changes is None:
        return None
    layers = []
    for model in changes.shown:
        if model.layers:
            layers.append((plain(model.name), layer_rows(model)))
    return {
        "summary": plain(changes.summary()),
        "columns": CHANGE_COLUMNS,
        "rows": change_rows(changes),
        "layers": layers,
    }


def _breakable(name: str) -> Markup:
    """A qualified name that a line may end in after each dot."""
    from markupsafe import Markup

    return Markup(".<wbr>").join(name.split("."))


def _text(name: str) -> str:
    return (files("pytest_dwsconv.render.forms") / "page" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """How the page's content security policy names a style or script."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _model(number: int, found: Architecture) -> dict[str, Any]:
    """What the template shows of one model."""
    report, reporters = found.report, found.reporters
    others = other_inputs(found, None)
    occurring = {finding.verdict for finding in report.findings}
    columns = (*COLUMNS, *evidence_columns(report.findings))
    largest = {
        key: max((getattr(finding, key) or 0 for finding in report.findings), default=0)
        for key in MEASURES
    }
    return {
        "id": f"model-{number}",
        "name": plain(found.name),
        "class": plain(report.model),
        "told_by": plain(found.name.removeprefix(report.model).removeprefix(", ")),
        "index": [_cell(column, found) for column in OVERVIEW_COLUMNS],
        "circumstances": circumstances(report),
        "figures": _figures(report),
        "limits": [(one, max(one.actual, one.limit) or 1) for one in reporters.checks],
        "columns": columns,
        "rows": [_row(finding, columns, largest) for finding in report.findings],
        "convolutions": count(len(report.findings), "convolution"),
        "verdicts": [verdict.value for verdict in Verdict if verdict in occurring],
        "totals": [(total.label, total.written()) for total in totals(report)],
        "empty": no_convolutions(report),
        "reasons": reasons(report.findings),
        "remarks": [*remarks(report), *filter(None, [others])],
        "memory": memory_rows(report.memory) if report.memory else [],
        "not_counted": not_counted(report),
        "reporters": [plain(name) for name in reporters.names],
        "measures": {key: noun for key, noun in MEASURES.items() if largest[key]},
    }


class Figure(NamedTuple):
    """A total of the model, now and with every candidate replaced.

    ``share`` is the length of its bar in percent.
    """

    noun: str
    before: str
    exact: str
    after: str = ""
    share: float | None = None
    saving: str = ""


def _figures(report: ReportData) -> list[Figure]:
    figures = [_figure("Parameters", report.params, report.separable_params)]
    if report.macs is None or report.separable_macs is None:
        figures.append(Figure("MACs", "not known", "give an input size to count them"))
    else:
        figures.append(_figure("MACs", report.macs, report.separable_macs))
    share = 100 * len(report.candidates) / len(report.findings) if report.findings else 0.0
    of_all = f"of {count(len(report.findings), 'convolution')}"
    figures.append(Figure("Candidates", f"{len(report.candidates):,}", of_all, share=share))
    for one in report.evidence:
        figures.append(Figure(plain(f"Latency, {one.target}"), one.claim, str(one)))
    return figures


def _figure(noun: str, before: int, after: int) -> Figure:
    share = 100 * after / before if before else 100.0
    saving = ratio(before / after) if after and after != before else ""
    return Figure(
        noun,
        humanize(before),
        f"{before:,} now, {after:,} separable",
        humanize(after),
        share,
        saving,
    )


def _row(finding: Finding, columns: Sequence[Column], largest: Mapping[str, int]) -> dict[str, Any]:
    """``largest`` are the values that have a bar of full length."""
    bars = []
    for key, scale in largest.items():
        before = getattr(finding, key) or 0
        after = getattr(finding, f"separable_{key}")
        both = before, before if after is None else after
        bars.append((key, *(f"{100 * value / (scale or 1):.2f}%" for value in both)))
    return {
        "verdict": finding.verdict.value,
        "label": plain(label(finding)),
        "replaced": finding.verdict is Verdict.CANDIDATE,
        "searched": " ".join(
            map(plain, (finding.name, *finding.aliases, finding.type_name, finding.reason))
        ),
        "cells": [_cell(column, finding) for column in columns],
        "bars": bars,
    }


class Cell(NamedTuple):
    """What a cell shows, and what it is sorted by; None if that is not known."""

    column: Column
    text: str
    sorted_by: float | str | None


def _cell(column: Column, row: Finding | Architecture) -> Cell:
    value = (column.order or column.value)(row)
    if isinstance(value, tuple):
        value = prod(value)
    elif isinstance(value, str):
        value = plain(value)
    return Cell(column, column.text(row), value)
