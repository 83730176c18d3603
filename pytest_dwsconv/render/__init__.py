"""The forms a report can take, one per file, and the reports of a whole test run in each form."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

from pytest_dwsconv.core.findings import ReportData
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.render.latencies import NOTHING, Measured
from pytest_dwsconv.render.run import Run, Style, Users, in_order
from pytest_dwsconv.render.view import View
from pytest_dwsconv.writing import replace_content

__all__ = [
    "FILES_ONLY",
    "FORMS",
    "Measured",
    "Run",
    "Style",
    "Users",
    "View",
    "render_report",
    "render_run",
    "write_run",
]


Form = Callable[[Run, Measured, Style], str]


def _form(module: str) -> Form:
    """The form in this file, which is imported once it is wanted: some need a template engine or a
    table.
    """

    def render(run: Run, measured: Measured, style: Style) -> str:
        found = import_module(f"{__name__}.{module}")
        return cast("str", found.render_run(run, measured, style))

    return render


FORMS: dict[str, Form] = {
    form: _form(form) for form in ("text", "json", "markdown", "github", "sarif", "html")
}

FILES_ONLY = ("html",)
"""Forms that are no use in a terminal."""


def render_run(
    form: str,
    run: Run,
    verbosity: int = 0,
    *,
    width: int | None = None,
    colour: bool = False,
    measured: Measured = NOTHING,
    view: View = View(),
) -> str:
    """All reports of a run and what it measured, in an order that does not depend on which came
    first.

    Args:
        form: one of ``FORMS``.
        run: the reports with those who made them.
        verbosity: below 0 one line per model, above 0 every test that reported it.
        width: columns of the terminal that text is for; None for a file, where lines may be as long
            as they are.
        colour: whether text may have colours.
        measured: the latencies measured, with the tests that took them.
        view: which convolutions text shows, and how; the other forms have all of them.
    """
    return FORMS[form](in_order(run), measured, Style(verbosity, width, colour, view))


def render_report(form: str, report: ReportData) -> str:
    """One report by itself in one of ``FORMS``, with everything there is to show.

    Raises:
        InputError: there is no such form.
    """
    if form not in FORMS:
        raise InputError(f"there is no form {form!r} of a report: it is {', '.join(FORMS)}")
    return render_run(form, {report: Users()}, verbosity=1)


def write_run(
    form: str, run: Run, path: Path, measured: Measured = NOTHING, view: View = View()
) -> None:
    """Write a run to a file, all or nothing, in place of what it holds.

    Markdown joins what a job's summary on GitHub holds already. That is the file which the
    environment variable ``GITHUB_STEP_SUMMARY`` names.

    Raises:
        OSError: the file cannot be written.
    """
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    joins = form == "markdown" and summary is not None and path.resolve() == Path(summary).resolve()
    data = (render_run(form, run, verbosity=1, measured=measured, view=view) + "\n").encode()
    if joins:
        with path.open("ab") as file:
            file.write(data)
    else:
        replace_content(path, data)
