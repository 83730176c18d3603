"""The reports of a run, gathered on the process that prints, and where they go."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dwsconv.core.forms import VIEW_OPTIONS
from pytest_dwsconv.core.limits import doubts
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.policy import matches
from pytest_dwsconv.core.suite.architectures import Place, architectures
from pytest_dwsconv.core.suite.changes import Outcome
from pytest_dwsconv.errors import DwsconvError, MissingDependencyError, first_line, require_torch
from pytest_dwsconv.plugin.isolation import TEST_ENDINGS
from pytest_dwsconv.plugin.latency import KnownLatencies, Latency, Unmeasured, unknown_latency
from pytest_dwsconv.plugin.limits.budgets import check_budget
from pytest_dwsconv.plugin.limits.checks import CheckResult, Checks
from pytest_dwsconv.plugin.outputs import Output
from pytest_dwsconv.plugin.record import Subject
from pytest_dwsconv.plugin.reports import analyze_under_hooks
from pytest_dwsconv.plugin.settings import (
    NamedModel,
    named_models,
    strict,
    targets,
    usage_errors,
    view,
)
from pytest_dwsconv.plugin.targets.backends import LATENCIES

if TYPE_CHECKING:
    from pytest_dwsconv.core.budget import Budget
    from pytest_dwsconv.core.findings import ReportData
    from pytest_dwsconv.core.limits import AnyCheck
    from pytest_dwsconv.core.measurement import Measurement, NotMeasured
    from pytest_dwsconv.render import Reporters
    from pytest_dwsconv.report import Report

TITLE = "dwsconv: depthwise separable candidates"

_COMPLETE = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
"""How a run ends that has done what it was to do."""

_MOST_TESTS = 3
"""So many tests are named with a sentence unless the run is verbose."""


class Summary:
    """Gathers the reports of a run on the process that prints, and puts them where they go."""

    def __init__(self, config: pytest.Config, outputs: list[Output]) -> None:
        self._config = config
        self._outputs = outputs
        self._view = view(config)
        self._written: list[Output] = []
        self._run: dict[ReportData, Reporters] = {}
        self._measured: dict[Measurement | NotMeasured, set[str]] = {}
        self._received: dict[str, Report] = {}
        self._failures: dict[str, set[str]] = {}
        self._notices: dict[str, set[str]] = {}
        self._ignored: set[str] = set()
        self._latencies = KnownLatencies()
        self._strict = strict(config)
        self._models = named_models(config)
        self._targets = targets(config)
        self._folder = _folder_in_repository(config.rootpath)
        self._checks = Checks(config)
        self._result = CheckResult()

    @property
    def run(self) -> Mapping[ReportData, Reporters]:
        """What the run has reported so far."""
        return self._run

    def pytest_sessionstart(self) -> None:
        with usage_errors():
            for named in self._models:
                self._add_named(named)

    def _add_named(self, named: NamedModel) -> None:
        from pytest_dwsconv.targets import load_target

        config = self._config
        model = load_target(named.target, (config.rootpath, config.invocation_params.dir))
        subject = Subject(analyze_under_hooks(config.hook, config, model, named.shapes), model)
        self._add(subject.report, target=named.target)
        if named.budget is not None:
            with usage_errors(f"dws_models {named.target!r}: "):
                self._check_named(subject, named.budget, named.target)
        if (table := config.stash.get(LATENCIES, None)) is not None:
            targets = table.targets(subject.report.model, factory=named.target)
            for outcome in table.outcomes(config.hook, subject, targets):
                self._latencies.add(subject.report, outcome)

    def _check_named(self, subject: Subject, budget: Budget, target: str) -> None:
        try:
            found = check_budget(self._config.hook, self._config, subject, budget)
        except pytest.fail.Exception as failed:  # the device that is required is not there
            self._result.faults.append(str(failed.msg))
            return
        except (DwsconvError, pytest.exit.Exception):
            raise
        except TEST_ENDINGS as error:  # a foreign backend
            unknown = unknown_latency(subject.report, str(budget.target))
            raise pytest.UsageError(f"{unknown}: {first_line(error)}") from error
        self._add_checks(subject.report, found.limits)
        self._result.notices += doubts(found.limits)
        self._result.faults += [f"{sentence}\nReported by {target}" for sentence in found.exceeded]
        if isinstance(found.latency, Unmeasured):
            self._result.unknown.append(found.latency.sentence)
        elif found.latency is not None:
            self._latencies.add(subject.report, found.latency)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        message = report.__dict__.pop("dwsconv", None)
        if message is not None:
            self._receive_reports(message, report)
            self._receive_sentences(message, report.nodeid)

    def _receive_reports(self, message: dict[str, Any], phase: pytest.TestReport) -> None:
        """Take in the reports that ``TestRecord.message`` sent, and what is known of them."""
        from pytest_dwsconv.core.jsonio import from_plain
        from pytest_dwsconv.core.limits import AnyCheck
        from pytest_dwsconv.core.measurement import Measurement, NotMeasured
        from pytest_dwsconv.report import Report

        nodeid, (file, line, _) = phase.nodeid, phase.location
        place = Place((self._folder / file).as_posix(), None if line is None else line + 1)
        for digest, data in message["reports"]:
            if digest not in self._received:
                self._received[digest] = Report.from_dict(data)
            self._add(self._received[digest], nodeid=nodeid)
            self._run[self._received[digest]].places[nodeid] = place
        for digest, limits in message["checks"]:
            if digest in self._received:  # another plugin may have dropped the phase that sent it
                checks = [from_plain(AnyCheck, limit, "limit") for limit in limits]
                self._add_checks(self._received[digest], checks)
        for digest, outcome in message["latencies"]:
            if digest in self._received:
                latency = from_plain(Latency | Unmeasured, outcome, "latency")
                self._latencies.add(self._received[digest], latency)
        for data in message["measurements"]:
            measurement = from_plain(Measurement | NotMeasured, data, "measurement")
            self._measured.setdefault(measurement, set()).add(nodeid)

    def _receive_sentences(self, message: dict[str, Any], nodeid: str) -> None:
        self._ignored.update(message["ignored"])
        for kind, received in (("failures", self._failures), ("notices", self._notices)):
            for sentence in message[kind]:
                received.setdefault(sentence, set()).add(nodeid)

    def _add(self, report: Report, *, target: str = "", nodeid: str = "") -> None:
        from pytest_dwsconv.render import Reporters

        if report.evidence and report in self._run:
            # reason: the report that equals it may have come without evidence
            self._run[report] = self._run.pop(report)
        users = self._run.setdefault(report, Reporters())
        if target:
            users.targets.add(target)
        else:
            users.tests.add(nodeid)
        self._config.hook.pytest_dwsconv_report(config=self._config, nodeid=nodeid, report=report)

    def _add_checks(self, report: Report, limits: Sequence[AnyCheck]) -> None:
        held = self._run[report].checks
        held += [limit for limit in limits if limit not in held]

    @pytest.hookimpl(tryfirst=True)  # before a JUnit file is written
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.USAGE_ERROR:
            return
        try:
            self._finish(exitstatus)
        except KeyboardInterrupt:
            # reason: pytest expects none so late, and shows all of its own frames
            sentence = "dwsconv: interrupted while writing; each file is whole, old or new"
            pytest.exit(sentence, pytest.ExitCode.INTERRUPTED)
        session.exitstatus = self._outcome(exitstatus)
        self._join_last_line()

    def _join_last_line(self) -> None:
        """Have what fails the run counted in pytest's last line, beside the tests that passed."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        failing = {"over budget": self._result.faults, "not written": self._result.unwritten}
        if self._strict:
            failing["not known"] = [*self._failures, *self._result.unknown]
        for title, entries in failing.items():
            if entries and reporter is not None:
                # reason: other plugins take whatever is counted there for a report of a test
                reporter.stats[title] = [SimpleNamespace(nodeid="", sections=[]) for _ in entries]

    def _finish(self, exitstatus: int) -> None:
        """Check the run if it has done what it was to do, and write its reports in any case."""
        if exitstatus in _COMPLETE:
            self._add_evidence()
            self._checks.run(self._run, self._latencies, self._result)
            self._result.notices += self._without_effect()
            if not self._run and not self._measured:
                self._result.notices += _without_torch()
        for output in self._outputs:
            if output.path is not None:
                self._write(output.form, output.path)
        self._add_properties()

    def _add_evidence(self) -> None:
        """Tell of the reports that are shown what replacements gain on the targets."""
        if not (self._targets and self._outputs and self._run):
            return
        try:
            from pytest_dwsconv.analysis.targets import with_target
        except MissingDependencyError as error:  # reason: stored reports are shown without PyTorch
            self._result.notices.append(f"What replacements gain on a target is unknown: {error}")
            return
        config = self._config
        shown = [found.report for found in architectures(self._run)]
        for target in self._targets:
            shown = with_target(
                shown,
                target,
                host=config.getini("dws_prediction_host"),
                remeasure=bool(config.getoption("dws_remeasure")),
            )
        # reason: evidence plays no part in whether two reports are equal
        for report in shown:
            self._run[report] = self._run.pop(report)

    def _add_properties(self) -> None:
        """Join a JUnit file with what the whole run found."""
        from pytest_dwsconv.render.forms.junit import run_properties

        for plugin in self._config.pluginmanager.get_plugins():
            if hasattr(plugin, "add_global_property"):
                for name, value in run_properties(self._found):
                    plugin.add_global_property(name, value)

    @property
    def _found(self) -> Outcome:
        """What the checks found, for the reports."""
        unknown = [*_with_tests(self._failures, "Called by"), *self._result.unknown]
        return Outcome(self._result.changes, tuple(unknown))

    def _without_effect(self) -> list[str]:
        """Patterns that no convolution of the run is called by: most likely mistyped."""
        findings = [finding for report in self._run for finding in report.findings]
        if not findings:
            return []
        patterns = [("dws-match", pattern) for pattern in self._view.match]
        patterns += [("ignore", pattern) for pattern in sorted(self._ignored)]
        unused = []
        for option, pattern in patterns:
            if not any(matches((one.name, *one.aliases), (pattern,)) for one in findings):
                unused.append(f"{option} {pattern!r} is the name of no convolution of this run")
        return unused

    def _write(self, form: str, path: Path) -> None:
        from pytest_dwsconv.render import write_run

        try:
            write_run(form, self._run, path, self._measured, self._view, self._found)
        except OSError as error:
            self._result.unwritten.append(f"dws-report: {path} cannot be written: {error.strerror}")
        else:
            self._written.append(Output(form, path))

    def _outcome(self, exitstatus: int) -> int:
        """The exit status of the run.

        Checks may fail it. A run that reported a named model has done something without any test.
        """
        if self._result.unwritten and exitstatus in _COMPLETE:
            return pytest.ExitCode.USAGE_ERROR
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return exitstatus
        unknown = bool(self._failures or self._result.unknown)
        if self._result.faults or (unknown and self._strict):
            return pytest.ExitCode.TESTS_FAILED
        if any(users.targets for users in self._run.values()):
            return pytest.ExitCode.OK
        return exitstatus

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for form, path in self._outputs:
            if path is None:
                terminalreporter.write_sep("=", TITLE)
                terminalreporter.write_line(self._text(form, bool(terminalreporter.isatty)))
        for form, path in self._written:
            terminalreporter.write_sep("-", f"dwsconv {form} report: {plain(str(path))}")
        most = None if self._config.get_verbosity() > 0 else _MOST_TESTS
        severity = {"red" if self._strict else "yellow": True}
        notices = _with_tests(self._notices, "In", most) + self._result.notices
        unknown = _with_tests(self._failures, "Called by", most) + self._result.unknown
        _section(terminalreporter, "notices", notices)
        _section(terminalreporter, "not known", unknown, **severity)
        _section(terminalreporter, "over budget", self._result.faults, red=True)
        _section(terminalreporter, "not written", self._result.unwritten, red=True)

    def _text(self, form: str, on_terminal: bool) -> str:
        from pytest_dwsconv.render import View, render_run

        writer = self._config.get_terminal_writer()
        verbosity, view = self._config.get_verbosity(), self._view
        if verbosity < 0 and not any(map(self._config.getoption, VIEW_OPTIONS)):
            view = View(top=view.top)  # a configuration file chooses for the tables that -q drops
        return render_run(
            form,
            self._run,
            verbosity,
            # reason: where there is no terminal, its width is made up
            width=writer.fullwidth if on_terminal else None,
            colour=writer.hasmarkup,
            measured=self._measured,
            # reason: on the terminal what is not known has a section of its own
            outcome=self._found._replace(unknown=()) if form == "text" else self._found,
            view=view,
        )


def _without_torch() -> list[str]:
    """Why no model can have been reported, where PyTorch is not installed."""
    try:
        require_torch()
    except MissingDependencyError as error:
        return [str(error)]
    return []


def _folder_in_repository(root: Path) -> Path:
    """The root folder of the run from where a job of GitHub or GitLab has the repository."""
    for variable in ("GITHUB_WORKSPACE", "CI_PROJECT_DIR"):
        repository = os.environ.get(variable)
        if repository and root.resolve().is_relative_to(Path(repository).resolve()):
            return root.resolve().relative_to(Path(repository).resolve())
    return Path()


def _section(
    reporter: pytest.TerminalReporter, title: str, entries: Sequence[str], **markup: Any
) -> None:
    """Entries of one line or two, in which others have chosen names and reasons."""
    if not entries:
        return
    reporter.write_sep("=", f"dwsconv: {title}", **markup)
    for entry in entries:
        for line in entry.split("\n"):
            reporter.write_line(plain(line))


def _with_tests(
    sentences: Mapping[str, Collection[str]], where: str, most: int | None = _MOST_TESTS
) -> list[str]:
    """Each sentence with the first of the tests that it is about in the line below."""
    from pytest_dwsconv.render.sentences import listed

    return [
        f"{sentence}\n{where} {listed(sorted(tests), most)}"
        for sentence, tests in sorted(sentences.items())
    ]
