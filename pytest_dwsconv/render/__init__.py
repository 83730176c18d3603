"""The forms a report can take, one per file, and the reports of a whole test run in each form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain

from pytest_dwsconv.budget import Held
from pytest_dwsconv.report import Report

SCHEMA_VERSION = 1
"""Of the JSON that describes a whole run; each report in it has its own."""


@dataclass
class Users:
    """Who reported a model: ``module:factory`` targets, and tests by node id; and the limits it was held to."""

    targets: set[str] = field(default_factory=set)
    tests: set[str] = field(default_factory=set)
    held: list[Held] = field(default_factory=list)


Run = Mapping[Report, Users]


def render_run(form: str, run: Run, verbosity: int = 0) -> str:
    """All reports of a run, in an order that does not depend on which came first.

    Args:
        form: one of ``FORMS``.
        run: the reports with those who made them.
        verbosity: below 0 one line per model, above 0 every test that reported it.
    """
    rows = sorted(run.items(), key=lambda row: (not row[1].targets, sorted(chain(row[1].targets, row[1].tests))))
    return FORMS[form](dict(rows), verbosity)


def _text(run: Run, verbosity: int) -> str:
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


def _json(run: Run, verbosity: int) -> str:
    models = [
        {"targets": sorted(users.targets), "tests": sorted(users.tests), "report": report.to_dict()}
        for report, users in run.items()
    ]
    return json.dumps({"schema_version": SCHEMA_VERSION, "models": models}, indent=2)


FORMS: dict[str, Callable[[Run, int], str]] = {"text": _text, "json": _json}
