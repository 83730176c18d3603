"""The pytest plugin: options, marker, fixtures and summary. The work is done elsewhere, imported on demand."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.budget import Budget
    from pytest_dwsconv.measurement import Measurement
    from pytest_dwsconv.render import Users
    from pytest_dwsconv.report import Finding, Report
    from pytest_dwsconv.rules import Judgement, Policy

pytest_plugins = ("pytest_dwsconv.plugin_edgetpu",)
"""Loaded along with this one."""

TITLE = "dwsconv: depthwise separable candidates"

Shapes = Sequence[int] | Sequence[Sequence[int]] | None


# --------------------------------------------------------------------------- options


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dwsconv", "depthwise separable convolutions")
    group.addoption(
        "--dws-report",
        action="append",
        nargs="?",
        const="text",
        metavar="FORMAT[:PATH]",
        help="report the models of this run: text (the default, in the terminal summary unless a PATH is given) "
        "or json; only the form with = takes a value; may be repeated",
    )
    group.addoption(
        "--dws-model",
        action="append",
        metavar="MODULE:FACTORY",
        help="report this model too: a torch.nn.Module, or what returns one when called; may be repeated",
    )
    group.addoption(
        "--dws-input-size",
        metavar="N,C,H,W",
        help="the input shape of the models named by --dws-model; several inputs are separated by ;",
    )
    parser.addini("dws_report", "as --dws-report, one a line", type="linelist")
    parser.addini("dws_model", "as --dws-model, one a line", type="linelist")
    parser.addini("dws_input_size", "as --dws-input-size")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_dwsconv import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser, args: list[str]) -> None:
    """Give a bare ``--dws-report`` its value, or argparse takes the test path after it for one."""
    end = args.index("--") if "--" in args else len(args)
    bare = [index for index, argument in enumerate(args[:end]) if argument == "--dws-report"]
    for index in bare:
        args[index] = "--dws-report=text"
    if bare:
        early_config.known_args_namespace.file_or_dir = parser.parse_known_args(args).file_or_dir


class _Output(NamedTuple):
    """Where a report goes: its form, and a file, or None for the terminal."""

    form: str
    path: Path | None


def _wanted(config: pytest.Config) -> tuple[list[str], Path]:
    """What is asked for on the command line, or else in the ini file, and the folder its paths start from.

    Naming a model on the command line asks for text.
    """
    given, configured = config.getoption("dws_report"), config.getini("dws_report")
    if given is None and configured:
        return configured, config.rootpath
    if given is None:
        given = ["text"] if config.getoption("dws_model") else []
    return given, config.invocation_params.dir


def _output(value: str, folder: Path) -> _Output:
    from pytest_dwsconv.render import FORMS

    form, colon, name = value.partition(":")
    if form not in FORMS or (colon and not name):
        raise pytest.UsageError(f"dws-report {value!r} is not {' or '.join(FORMS)}, with :PATH after it if wanted")
    path = folder / name if name else None
    if path is not None and not _writable(path):
        raise pytest.UsageError(f"dws-report {value!r}: {path} cannot be written, name a file in an existing folder")
    return _Output(form, path)


def _writable(path: Path) -> bool:
    place = path if path.exists() else path.parent
    return not path.is_dir() and path.parent.is_dir() and os.access(place, os.W_OK)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _marker_help(dws_budget))
    wanted, folder = _wanted(config)
    config.stash[_ASKED] = bool(wanted)
    if wanted and not hasattr(config, "workerinput"):
        outputs = [_output(value, folder) for value in wanted]
        config.pluginmanager.register(_Summary(config, outputs), "dwsconv-summary")


def _marker_help(function: Callable[..., object]) -> str:
    arguments = ", ".join(f"{name}=" for name in signature(function).parameters)
    return f"{function.__name__}({arguments}): {(function.__doc__ or '').splitlines()[0]}"


# --------------------------------------------------------------------------- reports of a test


@dataclass
class _Made:
    """What one test has made so far; ``unsent`` reports and ``sections`` wait for its next phase report."""

    reports: list[Report] = field(default_factory=list)
    unsent: list[Report] = field(default_factory=list)
    sections: list[tuple[str, str]] = field(default_factory=list)

    def add(self, report: Report) -> Report:
        self.reports.append(report)
        self.unsent.append(report)
        return report


_ASKED = pytest.StashKey[bool]()
_MADE = pytest.StashKey[_Made]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let reports travel with the phase they were made in, as plain dicts, so that they cross xdist."""
    phase = yield
    made = item.stash.get(_MADE, None)
    if made is not None:
        phase.sections += made.sections
        if item.config.stash[_ASKED]:
            phase.__dict__["dwsconv"] = [report.to_dict() for report in made.unsent]
        made.sections, made.unsent = [], []
        if phase.when == "teardown":
            del item.stash[_MADE]
    return phase


@pytest.hookimpl(trylast=True)
def pytest_dwsconv_judge(finding: Finding) -> Judgement:
    from pytest_dwsconv.rules import Judgement

    return Judgement(finding.verdict, finding.code, finding.reason)


def _analyze(hook: Any, config: pytest.Config, model: nn.Module, shapes: Shapes, **options: Any) -> Report:
    from pytest_dwsconv.analysis import analyze, rejudged

    report = analyze(model, shapes, **options)
    return rejudged(report, lambda finding: _overruled(hook, config, finding))


def _overruled(hook: Any, config: pytest.Config, finding: Finding) -> Judgement:
    from pytest_dwsconv.rules import Judgement

    judgement = hook.pytest_dwsconv_judge(config=config, finding=finding)
    if not isinstance(judgement, Judgement):
        raise pytest.UsageError(f"pytest_dwsconv_judge must return a Judgement or None, not {judgement!r}")
    return judgement


class ReportFixture:
    """The fixture ``dws_report``: call it with a model and its input shapes."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def __call__(
        self,
        model: nn.Module,
        input_size: Shapes = None,
        *,
        example_inputs: Any = None,
        policy: Policy | None = None,
    ) -> Report:
        item = self._item
        options = {"example_inputs": example_inputs} | ({} if policy is None else {"policy": policy})
        report = _analyze(item.ihook, item.config, model, input_size, **options)
        return item.stash.setdefault(_MADE, _Made()).add(report)


class BudgetFixture:
    """The fixture ``dws_budget``: call it with a model and its input shapes, or a report, and limits."""

    def __init__(self, item: pytest.Item, analyze: ReportFixture) -> None:
        self._item = item
        self._analyze = analyze

    def __call__(
        self,
        model: nn.Module | Report,
        input_size: Shapes = None,
        *,
        example_inputs: Any = None,
        **limits: float | str | None,
    ) -> Report:
        __tracebackhide__ = True
        from pytest_dwsconv.budget import Budget
        from pytest_dwsconv.report import Report

        budget = Budget.of(limits)
        analyze = self._analyze
        report = model if isinstance(model, Report) else analyze(model, input_size, example_inputs=example_inputs)
        _hold(self._item, [report], budget, pytrace=True)
        return report


@pytest.fixture
def dws_report(request: pytest.FixtureRequest) -> ReportFixture:
    """Analyse a model: dws_report(model, (1, 3, 224, 224)) returns the Report, which joins the summary."""
    return ReportFixture(request.node)


@pytest.fixture(name="dws_budget")
def _budget_fixture(request: pytest.FixtureRequest, dws_report: ReportFixture) -> BudgetFixture:
    """Hold a model to a budget: dws_budget(model, (1, 3, 224, 224), params="5M", macs="600M")."""
    return BudgetFixture(request.node, dws_report)


# --------------------------------------------------------------------------- the marker


def dws_budget(
    *,
    params: float | str | None = None,
    macs: float | str | None = None,
    size: float | str | None = None,
    candidates: float | str | None = None,
    input_size: str | Shapes = None,
) -> tuple[Budget, Shapes]:
    """Fail the test if a model it reports, or else takes as an argument, is over this budget.

    ``input_size`` is for the models among the test's arguments, which have no MACs without it.
    """
    from pytest_dwsconv.budget import Budget
    from pytest_dwsconv.targets import parse_input_size

    shapes = parse_input_size(input_size) if isinstance(input_size, str) else input_size
    return Budget(params, macs, size, candidates), shapes


def _marked(item: pytest.Item) -> tuple[Budget, Shapes]:
    """What the markers of a test say together; of two that set the same argument the closest wins."""
    arguments: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers("dws_budget"))):
        if mark.args:
            raise pytest.UsageError(f"dws_budget takes keyword arguments only, not {mark.args[0]!r}")
        arguments |= mark.kwargs
    accepted = signature(dws_budget).parameters
    unknown = [name for name in arguments if name not in accepted]
    if unknown:
        raise pytest.UsageError(f"dws_budget has no argument {unknown[0]!r}: it takes {', '.join(accepted)}")
    return dws_budget(**arguments)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("dws_budget"):
        with _in_one_sentence():
            _marked(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    if item.get_closest_marker("dws_budget"):
        with _in_one_sentence():
            budget, shapes = _marked(item)
            _hold(item, _reports(item, shapes), budget, pytrace=False)
    return result


@contextmanager
def _in_one_sentence() -> Iterator[None]:
    """Turn an error that is the user's to mend into a failure without a traceback."""
    from pytest_dwsconv.errors import DwsconvError

    try:
        yield
    except (DwsconvError, pytest.UsageError) as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def _reports(item: pytest.Item, shapes: Shapes) -> list[Report]:
    """The reports the test made, or else those of the models among its arguments."""
    made = item.stash.get(_MADE, None)
    if made is not None:
        return made.reports
    analyze = ReportFixture(item)
    reports = [analyze(model, shapes) for model in _models(item)]
    if not reports:
        raise pytest.UsageError(
            "dws_budget found no model: report one with the fixture dws_report, or make one an argument of the test"
        )
    return reports


def _models(item: pytest.Item) -> list[nn.Module]:
    from torch import nn

    if not isinstance(item, pytest.Function):
        return []
    values = [item.funcargs.get(name) for name in signature(item.function).parameters]
    return [value for value in values if isinstance(value, nn.Module)]


def _hold(item: pytest.Item, reports: list[Report], budget: Budget, *, pytrace: bool) -> None:
    """Fail with every violation in a sentence of its own, the largest convolutions in a section."""
    __tracebackhide__ = True
    from pytest_dwsconv.budget import violations
    from pytest_dwsconv.render.text import largest

    over = {report: violations(report, budget) for report in reports}
    sentences = [str(violation) for report in over for violation in over[report]]
    if sentences:
        item.stash.setdefault(_MADE, _Made()).sections += [
            (f"dwsconv: largest convolutions of {report.model}", largest(report))
            for report in over
            if over[report] and report.findings
        ]
        pytest.fail("\n".join(sentences), pytrace=pytrace)


# --------------------------------------------------------------------------- the summary


class _Summary:
    """Gathers every report of the run on the process that prints, and puts them where they were asked for."""

    def __init__(self, config: pytest.Config, outputs: list[_Output]) -> None:
        self._config = config
        self._outputs = outputs
        self._run: dict[Report, Users] = {}
        self._measured: dict[Measurement, set[str]] = {}

    def pytest_sessionstart(self) -> None:
        from pytest_dwsconv.errors import DwsconvError

        config = self._config
        try:
            for target in config.getoption("dws_model") or config.getini("dws_model"):
                self._add(_analyze_target(config, target), target=target)
        except DwsconvError as error:
            raise pytest.UsageError(str(error)) from error

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        from pytest_dwsconv.measurement import Measurement
        from pytest_dwsconv.report import Report

        for made in report.__dict__.get("dwsconv", ()):
            self._add(Report.from_dict(made), nodeid=report.nodeid)
        for made in report.__dict__.get("dwsconv_measured", ()):
            self._measured.setdefault(Measurement.from_dict(made), set()).add(report.nodeid)

    def _add(self, report: Report, *, target: str = "", nodeid: str = "") -> None:
        from pytest_dwsconv.render import Users

        users = self._run.setdefault(report, Users(set(), set()))
        if target:
            users.targets.add(target)
        else:
            users.tests.add(nodeid)
        self._config.hook.pytest_dwsconv_report(config=self._config, nodeid=nodeid, report=report)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        from pytest_dwsconv.render import render_run

        for output in self._outputs:
            if output.path is not None and exitstatus != pytest.ExitCode.USAGE_ERROR:
                _write(output.path, render_run(output.form, self._run, 1, self._measured))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        from pytest_dwsconv.render import render_run

        for form, path in self._outputs:
            if path is not None:
                terminalreporter.write_sep("-", f"dwsconv {form} report: {path}")
            else:
                terminalreporter.section(TITLE)
                text = render_run(form, self._run, self._config.get_verbosity(), self._measured)
                terminalreporter.write_line(text)


def _analyze_target(config: pytest.Config, target: str) -> Report:
    from pytest_dwsconv.targets import load_target, parse_input_size

    size = config.getoption("dws_input_size") or config.getini("dws_input_size")
    shapes = parse_input_size(size) if size else None
    model = load_target(target, (config.rootpath, config.invocation_params.dir))
    return _analyze(config.hook, config, model, shapes)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise pytest.UsageError(f"dws-report: {path} cannot be written: {error.strerror}") from error
