"""The forms a report can take, one per file, and the reports of a whole test run in each form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

from pytest_dwsconv.render.measured import Measured, json_rows, table
from pytest_dwsconv.report import Report

SCHEMA_VERSION = 1
"""Of the JSON that describes a whole run; each report in it has its own."""


class Users(NamedTuple):
    """Who reported a model: ``module:factory`` targets, and tests by node id."""

    targets: set[str]
    tests: set[str]


Run = Mapping[Report, Users]


def render_run(form: str, run: Run, verbosity: int = 0, measured: Measured = MappingProxyType({})) -> str:
    """All reports of a run and what it measured, in an order that does not depend on which came first.

    Args:
        form: one of ``FORMS``.
        run: the reports with those who made them.
        verbosity: below 0 one line per model, above 0 every test that reported it.
        measured: the latencies measured, with the tests that took them.
    """
    rows = sorted(run.items(), key=lambda row: (not row[1].targets, sorted(chain(*row[1]))))
    return FORMS[form](dict(rows), measured, verbosity)


def _text(run: Run, measured: Measured, verbosity: int) -> str:
    if not measured:
        return _reports(run, verbosity)
    latencies = table(measured)
    return f"{_reports(run, verbosity)}\n\n\n{latencies}" if run else latencies


def _reports(run: Run, verbosity: int) -> str:
    from pytest_dwsconv.render.text import brief, render

    if not run:
        return "No model was reported: name one with --dws-model, or use the fixture dws_report in a test."
    if verbosity < 0:
        return "\n".join(brief(report) for report in run)
    return "\n\n\n".join(f"{render(report)}\n\n{_reported_by(run[report], verbosity)}" for report in run)


def _reported_by(users: Users, verbosity: int) -> str:
    names = [*sorted(users.targets), *sorted(users.tests)]
    shown = names if verbosity > 0 else names[:3]
    more = f" and {len(names) - len(shown)} more (-v shows all)" if len(names) > len(shown) else ""
    return f"Reported by {', '.join(shown)}{more}"


def _json(run: Run, measured: Measured, verbosity: int) -> str:
    models = [
        {"targets": sorted(users.targets), "tests": sorted(users.tests), "report": report.to_dict()}
        for report, users in run.items()
    ]
    document = {"schema_version": SCHEMA_VERSION, "models": models, "measured": json_rows(measured)}
    return json.dumps(document, indent=2)


FORMS: dict[str, Callable[[Run, Measured, int], str]] = {"text": _text, "json": _json}
