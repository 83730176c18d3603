"""The fixtures, and what the markers take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dwsconv.plugin.record import Subject, record_of

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.core.budget import Budget, LayerLimits
    from pytest_dwsconv.core.limits import AgreementLimits
    from pytest_dwsconv.core.policy import Policy
    from pytest_dwsconv.errors import DwsconvError
    from pytest_dwsconv.plugin.settings import Shapes
    from pytest_dwsconv.report import Report
    from pytest_dwsconv.rewriting.agreement import Agreement


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
        target: str | Sequence[str] | None = None,
    ) -> Report:
        __tracebackhide__ = True
        from pytest_dwsconv.errors import DwsconvError
        from pytest_dwsconv.plugin.reports import analyze_under_hooks
        from pytest_dwsconv.plugin.targets.backends import LATENCIES

        item = self._item
        options: dict[str, Any] = {"example_inputs": example_inputs, "target": target}
        if policy is not None:
            options["policy"] = policy
        try:
            report = analyze_under_hooks(item.ihook, item.config, model, input_size, **options)
        except DwsconvError as error:
            raise _users_error(error) from None
        subject, record = Subject(report, model), record_of(item)
        record.add(subject)
        if policy is not None:
            record.unsent.ignored += policy.ignore
        if (latencies := item.config.stash.get(LATENCIES, None)) is not None:
            latencies.due(subject, item.nodeid)
        return report


class BudgetFixture:
    """The fixture ``dws_budget``: call it with a model and its input shapes, or a report."""

    def __init__(self, item: pytest.Item, analyze: ReportFixture) -> None:
        self._item = item
        self._analyze = analyze

    def __call__(
        self,
        model: nn.Module | Report,
        input_size: Shapes = None,
        *,
        example_inputs: Any = None,
        **limits: float | str | LayerLimits | None,
    ) -> Report:
        __tracebackhide__ = True
        from pytest_dwsconv.core.budget import Budget
        from pytest_dwsconv.errors import DwsconvError, InputError
        from pytest_dwsconv.plugin.limits.budgets import assert_budget
        from pytest_dwsconv.report import Report

        try:
            budget = Budget.of(limits)
            if not isinstance(model, Report):
                report = self._analyze(model, input_size, example_inputs=example_inputs)
                subject = Subject(report, model)
            elif input_size is None and example_inputs is None:
                subject = Subject(model, None)
            else:
                raise InputError(
                    "dws_budget takes inputs for a model only: a report has those it was made with"
                )
            assert_budget(self._item, [subject], budget, pytrace=True)
        except DwsconvError as error:
            raise _users_error(error) from None
        return subject.report


class AgreementFixture:
    """The fixture ``dws_agreement``: call it with two networks and batches of inputs."""

    def __call__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        batches: Iterable[Any],
        *,
        min_top1: float | str | None = None,
        max_error: float | str | None = None,
    ) -> Agreement:
        __tracebackhide__ = True
        from pytest_dwsconv.core.limits import AgreementLimits
        from pytest_dwsconv.errors import DwsconvError
        from pytest_dwsconv.plugin.isolation import inner_calls

        try:
            from pytest_dwsconv.rewriting.agreement import measure_agreement, shortfall

            limits = AgreementLimits.of(min_top1, max_error)
            with inner_calls():
                found = measure_agreement(student, teacher, batches)
            missed = shortfall(found, limits)
        except DwsconvError as error:
            raise _users_error(error) from None
        if missed:
            pytest.fail(missed)
        return found


def _users_error(error: DwsconvError) -> DwsconvError:
    """The user's to mend: one printable sentence, without frames of this plugin."""
    from pytest_dwsconv.core.plaintext import plain

    if len(error.args) == 1:  # others make their sentence of several
        error.args = (plain(str(error)),)
    return error.with_traceback(None)


@pytest.fixture
def dws_report(request: pytest.FixtureRequest) -> ReportFixture:
    """Analyse a model: dws_report(model, (1, 3, 224, 224)) returns its report.

    The report joins those that --dws-report shows.
    """
    return ReportFixture(request.node)


@pytest.fixture(name="dws_budget")
def budget_fixture(request: pytest.FixtureRequest, dws_report: ReportFixture) -> BudgetFixture:
    """Hold a model to a budget: dws_budget(model, (1, 3, 224, 224), params="5M", macs="600M").

    The test fails if a limit is exceeded; otherwise the model's report is returned.
    """
    return BudgetFixture(request.node, dws_report)


@pytest.fixture(name="dws_agreement")
def agreement_fixture() -> AgreementFixture:
    """Hold a rewritten model to its original: dws_agreement(student, teacher, batches,
    min_top1="98%", max_error=0.05).

    Batches are inputs without labels. The test fails if too few predictions are the same, or the
    relative error of the outputs is too large; otherwise the agreement is returned.
    """
    return AgreementFixture()


def dws_budget(  # noqa: PLR0913  # one argument per limit
    *,
    params: float | str | None = None,
    macs: float | str | None = None,
    size: float | str | None = None,
    size_fp16: float | str | None = None,
    size_int8: float | str | None = None,
    activations: float | str | None = None,
    candidates: float | str | None = None,
    latency: float | str | None = None,
    target: str | None = None,
    latency_predicted: float | str | None = None,
    layers: LayerLimits | None = None,
    percentile: float | str | None = None,
    tolerance: float | str | None = None,
    input_size: str | Shapes = None,  # of models that the test takes or returns
) -> tuple[Budget, Shapes]:
    """Fail the test if a model it reports, or else takes, returns or calls, is over this budget."""
    from pytest_dwsconv.core.budget import Budget
    from pytest_dwsconv.targets import parse_input_size

    shapes = parse_input_size(input_size) if isinstance(input_size, str) else input_size
    limits = (params, macs, size, size_fp16, size_int8, activations, candidates)
    latencies = (latency, target, latency_predicted)
    return Budget(*limits, *latencies, layers, percentile, tolerance), shapes


def dws_agreement(
    *,
    min_top1: float | str | None = None,
    max_error: float | str | None = None,
    student: str = "student",  # arguments of the test
    teacher: str = "teacher",
    batches: str = "batches",
) -> tuple[AgreementLimits, tuple[str, str, str]]:
    """Fail the test if of its arguments the student does not do what the teacher does."""
    from pytest_dwsconv.core.limits import AgreementLimits

    return AgreementLimits.of(min_top1, max_error), (student, teacher, batches)
