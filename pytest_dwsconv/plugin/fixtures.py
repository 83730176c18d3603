"""The fixtures ``dws_report`` and ``dws_budget``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_dwsconv.plugin.reports import LATENCIES, MADE, Made, Subject, analyze_under_hooks

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.core.rules import Policy
    from pytest_dwsconv.plugin.reports import Shapes
    from pytest_dwsconv.report import Report


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
        __tracebackhide__ = True
        from pytest_dwsconv.errors import DwsconvError

        item = self._item
        options = {"example_inputs": example_inputs} | (
            {} if policy is None else {"policy": policy}
        )
        try:
            report = analyze_under_hooks(item.ihook, item.config, model, input_size, **options)
        except (
            DwsconvError
        ) as error:  # the user's to mend: one sentence, without the way it took through here
            raise error.with_traceback(None) from None
        subject = Subject(report, model)
        made = item.stash.setdefault(MADE, Made())
        made.add(subject)
        made.ignored += () if policy is None else policy.ignore
        if (latencies := item.config.stash.get(LATENCIES, None)) is not None:
            latencies.due(subject, item.nodeid)
        return report


class BudgetFixture:
    """The fixture ``dws_budget``: call it with a model and its input shapes, or a report, and
    limits.
    """

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
        from pytest_dwsconv.core.budget import Budget
        from pytest_dwsconv.errors import DwsconvError, InputError
        from pytest_dwsconv.plugin.budgets import hold
        from pytest_dwsconv.report import Report

        try:
            budget = Budget.of(limits)
        except DwsconvError as error:
            raise error.with_traceback(None) from None
        if isinstance(model, Report) and (input_size is not None or example_inputs is not None):
            raise InputError(
                "dws_budget takes inputs for a model only: a report has those it was made with"
            )
        if isinstance(model, Report):
            subject = Subject(model, None)
        else:
            subject = Subject(
                self._analyze(model, input_size, example_inputs=example_inputs), model
            )
        hold(self._item, [subject], budget, pytrace=True)
        return subject.report


@pytest.fixture
def dws_report(request: pytest.FixtureRequest) -> ReportFixture:
    """Analyse a model: dws_report(model, (1, 3, 224, 224)) returns the Report, which joins the
    summary.
    """
    return ReportFixture(request.node)


@pytest.fixture(name="dws_budget")
def budget_fixture(request: pytest.FixtureRequest, dws_report: ReportFixture) -> BudgetFixture:
    """Hold a model to a budget: dws_budget(model, (1, 3, 224, 224), params="5M", macs="600M")."""
    return BudgetFixture(request.node, dws_report)
