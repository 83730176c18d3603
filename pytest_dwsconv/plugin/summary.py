"""The reports of a run, gathered on the process that prints, and where they go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pytest_dwsconv.plugin.configured import NamedModel, named_models, strict
from pytest_dwsconv.plugin.reports import analyze_under_hooks

if TYPE_CHECKING:
    from pytest_dwsconv.render import Users
    from pytest_dwsconv.report import Report

TITLE = "dwsconv: depthwise separable candidates"


class Output(NamedTuple):
    """Where a report goes: its form, and a file, or None for the terminal."""

    form: str
    path: Path | None


def output(value: str, folder: Path) -> Output:
    from pytest_dwsconv.render import FORMS

    form, colon, name = value.partition(":")
    if form not in FORMS or (colon and not name):
        raise pytest.UsageError(f"dws-report {value!r} is not {' or '.join(FORMS)}, with :PATH after it if wanted")
    path = folder / name if name else None
    if path is not None and not _writable(path):
        raise pytest.UsageError(f"dws-report {value!r}: {path} cannot be written, name a file in an existing folder")
    return Output(form, path)


def _writable(path: Path) -> bool:
    place = path if path.exists() else path.parent
    return not path.is_dir() and path.parent.is_dir() and os.access(place, os.W_OK)


class Summary:
    """Gathers every report of the run on the process that prints, and puts them where they were asked for."""

    def __init__(self, config: pytest.Config, outputs: list[Output]) -> None:
        self._config = config
        self._outputs = outputs
        self._run: dict[Report, Users] = {}
        self._received: dict[str, Report] = {}
        self._failures: dict[str, set[str]] = {}

    def pytest_sessionstart(self) -> None:
        from pytest_dwsconv.errors import DwsconvError

        try:
            for named in named_models(self._config):
                self._add(_analyze_named(self._config, named), target=named.target)
        except DwsconvError as error:
            raise pytest.UsageError(str(error)) from error

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        from pytest_dwsconv.report import Report

        message = report.__dict__.pop("dwsconv", {})
        for digest, data in message.get("reports", ()):
            if digest not in self._received:
                self._received[digest] = Report.from_dict(data)
            self._add(self._received[digest], nodeid=report.nodeid)
        for failure in message.get("failures", ()):
            self._failures.setdefault(failure, set()).add(report.nodeid)

    def _add(self, report: Report, *, target: str = "", nodeid: str = "") -> None:
        from pytest_dwsconv.render import Users

        users = self._run.setdefault(report, Users(set(), set()))
        if target:
            users.targets.add(target)
        else:
            users.tests.add(nodeid)
        self._config.hook.pytest_dwsconv_report(config=self._config, nodeid=nodeid, report=report)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        from pytest_dwsconv.render import render_run

        if exitstatus == pytest.ExitCode.USAGE_ERROR:
            return
        for output in self._outputs:
            if output.path is not None:
                _write(output.path, render_run(output.form, self._run, verbosity=1))
        session.exitstatus = self._outcome(exitstatus)

    def _outcome(self, exitstatus: int) -> int:
        """A run that reported a named model has done something, with or without tests; a strict one may have failed."""
        done = exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and any(users.targets for users in self._run.values())
        status = pytest.ExitCode.OK if done else exitstatus
        if (
            self._failures
            and strict(self._config)
            and status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        ):
            return pytest.ExitCode.TESTS_FAILED
        return status

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        from pytest_dwsconv.render import render_run

        for form, path in self._outputs:
            if path is not None:
                terminalreporter.write_sep("-", f"dwsconv {form} report: {path}")
            else:
                terminalreporter.section(TITLE)
                terminalreporter.write_line(render_run(form, self._run, self._config.get_verbosity()))
        if self._failures:
            terminalreporter.section("dwsconv: not analysed", red=strict(self._config), yellow=not strict(self._config))
            for failure, tests in sorted(self._failures.items()):
                terminalreporter.write_line(f"{failure}\nCalled by {', '.join(sorted(tests))}")


def _analyze_named(config: pytest.Config, named: NamedModel) -> Report:
    from pytest_dwsconv.targets import load_target

    model = load_target(named.target, (config.rootpath, config.invocation_params.dir))
    return analyze_under_hooks(config.hook, config, model, named.shapes)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise pytest.UsageError(f"dws-report: {path} cannot be written: {error.strerror}") from error
