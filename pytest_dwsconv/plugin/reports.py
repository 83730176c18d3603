"""Reports made by tests: how each is analysed, kept with its test, and sent to the process that prints."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.report import Finding, Report
    from pytest_dwsconv.rules import Judgement

Shapes = Sequence[int] | Sequence[Sequence[int]] | None


@dataclass
class Made:
    """What one test has made so far; ``unsent`` reports and ``sections`` wait for its next phase report."""

    reports: list[Report] = field(default_factory=list)
    unsent: list[Report] = field(default_factory=list)
    sections: list[tuple[str, str]] = field(default_factory=list)

    def add(self, report: Report) -> Report:
        self.reports.append(report)
        self.unsent.append(report)
        return report


ASKED = pytest.StashKey[bool]()
MADE = pytest.StashKey[Made]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let reports travel with the phase they were made in, as plain dicts, so that they cross xdist."""
    phase = yield
    made = item.stash.get(MADE, None)
    if made is not None:
        phase.sections += made.sections
        if item.config.stash[ASKED]:
            phase.__dict__["dwsconv"] = [report.to_dict() for report in made.unsent]
        made.sections, made.unsent = [], []
        if phase.when == "teardown":
            del item.stash[MADE]
    return phase


@pytest.hookimpl(trylast=True)
def pytest_dwsconv_judge(finding: Finding) -> Judgement:
    from pytest_dwsconv.rules import Judgement

    return Judgement(finding.verdict, finding.code, finding.reason)


def analyze_under_hooks(hook: Any, config: pytest.Config, model: nn.Module, shapes: Shapes, **options: Any) -> Report:
    from pytest_dwsconv.analysis import analyze, rejudged

    report = analyze(model, shapes, **options)
    return rejudged(report, lambda finding: _overruled(hook, config, finding))


def _overruled(hook: Any, config: pytest.Config, finding: Finding) -> Judgement:
    from pytest_dwsconv.rules import Judgement

    judgement = hook.pytest_dwsconv_judge(config=config, finding=finding)
    if not isinstance(judgement, Judgement):
        raise pytest.UsageError(f"pytest_dwsconv_judge must return a Judgement or None, not {judgement!r}")
    return judgement
