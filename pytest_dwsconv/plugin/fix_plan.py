"""``--dws-fix-plan``: the replacements that would bring models within their budgets, as files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_dwsconv.core.limits import LatencyCheck, LimitCheck
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.core.plan import enough, plan_of
from pytest_dwsconv.core.suite.architectures import architectures
from pytest_dwsconv.plugin.outputs import is_writable
from pytest_dwsconv.writing import replace_content

if TYPE_CHECKING:
    from pytest_dwsconv.core.findings import Finding, ReportData
    from pytest_dwsconv.core.plan import Plan
    from pytest_dwsconv.core.suite.architectures import Architecture
    from pytest_dwsconv.render import Reporters

_TITLE = "dwsconv: fix plan"


class FixPlans:
    """Writes a plan for each model over its budget, once all tests have run.

    Raises:
        pytest.UsageError: the file cannot be written.
    """

    def __init__(self, config: pytest.Config, run: Mapping[ReportData, Reporters]) -> None:
        self._path = Path(config.getoption("dws_fix_plan"))
        self._folder = config.invocation_params.dir
        self._run = run
        self._failed: dict[str, pytest.TestReport] = {}
        self._sentences: list[str] = []
        if not is_writable(self._folder / self._path):
            advice = "name a file in a folder that is there"
            raise pytest.UsageError(
                plain(f"dws-fix-plan: {self._path} cannot be written, {advice}")
            )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what is shown of a failed test, to which its plan is added."""
        if report.failed and report.__dict__.get("dwsconv", {}).get("checks"):
            self._failed[report.nodeid] = report

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        plans = {}
        for model in architectures(self._run):
            if exceeded := _exceeded(model):
                plans[model.name] = model, plan_of(model.report, _replaced(model.report, exceeded))
        files = self._files({name: model for name, (model, plan) in plans.items() if plan.entries})
        for name, (model, plan) in plans.items():
            if name not in files:
                self._tell(model, "replacements alone do not keep its budget, so there is no plan.")
                continue
            try:
                replace_content(self._folder / files[name], f"{plan.to_json()}\n".encode())
            except OSError as error:
                self._tell(model, f"{files[name]} cannot be written: {error.strerror}")
                session.exitstatus = pytest.ExitCode.USAGE_ERROR
            else:
                self._tell(model, _carried_out(files[name], plan, _exceeded(model)))

    def _files(self, models: Mapping[str, Architecture]) -> dict[str, Path]:
        """The file itself for a single model; for several one beside it for each, by its class."""
        if len(models) < 2:
            return dict.fromkeys(models, self._path)
        files: dict[str, Path] = {}
        for name, model in models.items():
            stem = f"{self._path.stem}-{re.sub(r'[^A-Za-z0-9_]+', '_', model.report.model)[:80]}"
            file, number = self._path.with_name(f"{stem}{self._path.suffix}"), 1
            while file in files.values():
                number += 1
                file = self._path.with_name(f"{stem}-{number}{self._path.suffix}")
            files[name] = file
        return files

    def _tell(self, model: Architecture, sentence: str) -> None:
        told = plain(f"{model.name}: {sentence}")
        self._sentences.append(told)
        for test in model.reporters.tests & self._failed.keys():
            self._failed[test].sections.append((_TITLE, told))

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._sentences:
            terminalreporter.write_sep("=", _TITLE)
        for sentence in self._sentences:
            terminalreporter.write_line(sentence)


Remediable = LimitCheck | LatencyCheck


def _exceeded(model: Architecture) -> list[Remediable]:
    """The limits that replacements may bring it under: latencies where replacements were timed."""
    found: list[Remediable] = []
    for check in model.reporters.checks:
        if isinstance(check, LimitCheck) and check.exceeded:
            found.append(check)
        if isinstance(check, LatencyCheck) and check.exceeded and check.remedy is not None:
            found.append(check)
    return found


def _replaced(report: ReportData, exceeded: Sequence[Remediable]) -> list[Finding]:
    """Candidates whose replacement keeps all these limits; none where they cannot all be kept."""
    counted = [check for check in exceeded if isinstance(check, LimitCheck)]
    names = {finding.name for finding in enough(report, counted)}
    if counted and not names:
        return []
    for check in exceeded:
        if isinstance(check, LatencyCheck) and check.remedy is not None:
            if check.remedy.attainable > check.limit:
                return []
            names |= set(check.remedy.replacements)
    return [finding for finding in report.candidates if finding.name in names]


def _carried_out(file: Path, plan: Plan, exceeded: Sequence[Remediable]) -> str:
    limits = ", ".join(dict.fromkeys(check.name for check in exceeded))
    names = [entry.name or "the model itself" for entry in plan.entries]
    replaced = names[0] if len(names) == 1 else f"{len(names)} convolutions"
    return (
        f"{file} makes {replaced} separable, which keeps its budget of {limits}: "
        f"rewrite(model, plan=Plan.from_json(Path({str(file)!r}).read_text()))"
    )
