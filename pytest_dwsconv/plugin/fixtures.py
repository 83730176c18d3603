"""The fixtures ``dws_report`` and ``dws_budget``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_dwsconv.plugin.reports import MADE, Made, Shapes, analyze_under_hooks

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.budget import Budget
    from pytest_dwsconv.report import Report
    from pytest_dwsconv.rules import Policy


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
        report = analyze_under_hooks(item.ihook, item.config, model, input_size, **options)
        return item.stash.setdefault(MADE, Made()).add(report)


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
        hold(self._item, [report], budget, pytrace=True)
        return report


@pytest.fixture
def dws_report(request: pytest.FixtureRequest) -> ReportFixture:
    """Analyse a model: dws_report(model, (1, 3, 224, 224)) returns the Report, which joins the summary."""
    return ReportFixture(request.node)


@pytest.fixture(name="dws_budget")
def budget_fixture(request: pytest.FixtureRequest, dws_report: ReportFixture) -> BudgetFixture:
    """Hold a model to a budget: dws_budget(model, (1, 3, 224, 224), params="5M", macs="600M")."""
    return BudgetFixture(request.node, dws_report)


def hold(item: pytest.Item, reports: list[Report], budget: Budget, *, pytrace: bool) -> None:
    """Fail with every violation in a sentence of its own, the largest convolutions in a section."""
    __tracebackhide__ = True
    from pytest_dwsconv.budget import violations
    from pytest_dwsconv.render.text import largest

    over = {report: violations(report, budget) for report in reports}
    sentences = [str(violation) for report in over for violation in over[report]]
    if sentences:
        item.stash.setdefault(MADE, Made()).sections += [
            (f"dwsconv: largest convolutions of {report.model}", largest(report))
            for report in over
            if over[report] and report.findings
        ]
        pytest.fail("\n".join(sentences), pytrace=pytrace)
