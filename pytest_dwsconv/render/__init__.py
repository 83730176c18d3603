"""The forms a report can take, one module per form, and the reports of a test run in each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.core.forms import FILES_ONLY, FORMS
from pytest_dwsconv.core.suite.architectures import (
    Architecture,
    Place,
    Reporters,
    SuiteRun,
    architectures,
    in_order,
)
from pytest_dwsconv.core.suite.changes import ModelChange, Outcome
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.render.latencies import NO_MEASUREMENTS, Measurements
from pytest_dwsconv.render.view import Style, View
from pytest_dwsconv.writing import replace_content

__all__ = [
    "FILES_ONLY",
    "FORMS",
    "Form",
    "Measurements",
    "Outcome",
    "Reporters",
    "Results",
    "Style",
    "SuiteRun",
    "Users",
    "View",
    "render_report",
    "render_run",
    "write_run",
]

Users = Reporters
"""The name under which version 0.1 documented it."""


class Results(NamedTuple):
    """What a form has to show.

    ``reports`` are all there are, ``architectures`` the same with one entry per network: forms for
    people show these.
    """

    reports: SuiteRun
    architectures: Sequence[Architecture]
    measured: Measurements
    outcome: Outcome = Outcome()

    def place(self, model: ModelChange) -> Place | None:
        """Where the first test that reported a model stands."""
        reporters = Reporters(tests={name for name in model.reported_by if "::" in name})
        for others in self.reports.values():
            reporters.places |= others.places
        return reporters.place

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.reports or self.measured or self.outcome.changes or self.outcome.unknown)


class Form(Protocol):
    """What the module of each form provides."""

    def render_run(self, results: Results, style: Style) -> str:
        """What a run reported and measured, in the order given."""


def render_run(
    form: str,
    run: SuiteRun,
    verbosity: int = 0,
    *,
    width: int | None = None,
    colour: bool = False,
    measured: Measurements = NO_MEASUREMENTS,
    view: View = View(),
    outcome: Outcome = Outcome(),
) -> str:
    """All reports of a run and what it measured, in one of ``FORMS``.

    The order does not depend on which report came first.

    Args:
        form: one of ``FORMS``.
        run: the reports, with what reported them.
        verbosity: below 0 one line per model, above 0 every test that reported it.
        width: columns of the terminal that text is for; None for a file, where lines may be as long
            as they are.
        colour: whether text may have colours.
        measured: the latencies measured, with the tests that measured them.
        view: which convolutions text shows, and how; the other forms have all of them.
        outcome: what the checks of the run found.

    Raises:
        InputError: there is no such form, or a package that it needs is not installed.
    """
    results = Results(in_order(run), architectures(run), measured, outcome)
    return load_form(form).render_run(results, Style(verbosity, width, colour, view))


def load_form(form: str) -> Form:
    """The module of a form, imported on first use: one needs a template engine.

    Raises:
        InputError: there is no such form, or a package that it needs is not installed.
    """
    if form not in FORMS:
        raise InputError(f"there is no form {form!r} of a report: it is {', '.join(FORMS)}")
    try:
        return cast("Form", import_module(f"{__name__}.forms.{form}"))
    except ModuleNotFoundError as error:
        raise InputError(
            f"the form {form} needs the package {error.name}: pip install {error.name}"
        ) from error


def render_report(form: str, report: ReportData) -> str:
    """One report by itself in one of ``FORMS``, with everything there is to show.

    Raises:
        InputError: there is no such form.
    """
    return render_run(form, {report: Reporters()}, verbosity=1)


def write_run(
    form: str,
    run: SuiteRun,
    path: Path,
    measured: Measurements = NO_MEASUREMENTS,
    view: View = View(),
    outcome: Outcome = Outcome(),
) -> None:
    """Write a run to a file in place of what it holds, all or nothing.

    Markdown is appended to a job's summary on GitHub, the file which the environment variable
    ``GITHUB_STEP_SUMMARY`` names: other steps have written there.

    Raises:
        InputError: there is no such form.
        OSError: the file cannot be written.
    """
    text = render_run(form, run, 1, measured=measured, view=view, outcome=outcome)
    data = f"{text}\n".encode()
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if form == "markdown" and summary is not None and path.resolve() == Path(summary).resolve():
        with path.open("ab") as file:
            file.write(data)
    else:
        replace_content(path, data)
