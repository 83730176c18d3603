"""Holding models to a budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dwsconv.core.limits import LatencyCheck, LimitCheck, doubts
from pytest_dwsconv.core.plaintext import plain
from pytest_dwsconv.plugin.latency import Latency, Unmeasured, predict, unknown_latency
from pytest_dwsconv.plugin.record import Subject, record_of
from pytest_dwsconv.plugin.settings import strict
from pytest_dwsconv.plugin.targets.backends import measure_latency

if TYPE_CHECKING:
    from pytest_dwsconv.core.budget import Budget
    from pytest_dwsconv.core.findings import ReportData
    from pytest_dwsconv.core.limits import AnyCheck
    from pytest_dwsconv.core.measurement import LatencyLimit
    from pytest_dwsconv.report import Report


@dataclass(frozen=True)
class BudgetCheck:
    """What a model has of each limit, and the outcome of measuring it if its latency is limited."""

    limits: tuple[AnyCheck, ...]
    latency: Latency | Unmeasured | None = None

    @property
    def exceeded(self) -> list[str]:
        return [str(limit) for limit in self.limits if limit.exceeded]


def assert_budget(
    item: pytest.Item, subjects: Sequence[Subject], budget: Budget, *, pytrace: bool
) -> None:
    """Fail with a sentence for each limit exceeded, and the layers that matter in sections.

    Where none is exceeded, and there is no device to measure a limited latency on, skip the test.

    Raises:
        InputError: a limit is on what the report does not tell, for want of an input size.
    """
    __tracebackhide__ = True
    unsent = record_of(item).unsent
    checks = [check_budget(item.ihook, item.config, subject, budget) for subject in subjects]
    for subject, check in zip(subjects, checks, strict=True):
        unsent.checks.append((subject.report, check.limits))
        unsent.notices += doubts(check.limits)
        if isinstance(check.latency, Latency):
            unsent.latencies.append((subject.report, check.latency))
        if check.exceeded:
            unsent.sections += sections(subject.report, check.limits)
    # a model that was called with several inputs exceeds some limits in the same words
    exceeded = list(dict.fromkeys(sentence for check in checks for sentence in check.exceeded))
    unmeasured = [check.latency for check in checks if isinstance(check.latency, Unmeasured)]
    unknown = [latency.sentence for latency in unmeasured if not latency.skipped]
    skipped = [latency.sentence for latency in unmeasured if latency.skipped]
    unsent.failures += unknown
    for sentence in unknown:
        item.warn(pytest.PytestWarning(plain(sentence)))
    if strict(item.config):
        exceeded += unknown
    if exceeded:
        pytest.fail("\n".join(map(plain, exceeded + skipped)), pytrace=pytrace)
    if skipped:
        # reason: no frame of the test is there when its marker is checked
        reason = "\n".join(map(plain, skipped))
        raise pytest.skip.Exception(reason, _use_item_location=not pytrace)


def check_budget(hook: Any, config: pytest.Config, subject: Subject, budget: Budget) -> BudgetCheck:
    """Compare a model with a budget, measuring its latency if that is limited.

    Raises:
        InputError: a limit is on what the report does not tell, for want of an input size or of the
            model.
    """
    limits = check_known_limits(config, subject.report, budget)
    if budget.latency_limit is None:
        return BudgetCheck(limits)
    outcome = measure_latency(hook, config, subject, str(budget.target))
    judged = check_latency(config, subject.report, outcome, budget.latency_limit)
    if isinstance(judged, Unmeasured):
        return BudgetCheck(limits, judged)
    return BudgetCheck((*limits, judged), outcome)


def check_latency(
    config: pytest.Config, report: ReportData, latency: Latency | Unmeasured, limit: LatencyLimit
) -> LatencyCheck | Unmeasured:
    """How a model stands to a limit; over it, with the replacements that would bring it under.

    What kept a limit on a busy machine keeps it on an idle one. What did not is not known.

    Raises:
        InputError: the limit is relative, and the target has nothing that it could be relative to.
    """
    if isinstance(latency, Unmeasured):
        return latency
    check = LatencyCheck(latency.target, limit, latency.measurement)
    measurement = latency.measurement
    if not check.exceeded or not measurement.reference:
        return check
    if measurement.is_busy:
        spread = (
            f"the reference convolution's times spread by {measurement.reference_spread:.0%}, and "
            f"for {measurement.waited:.0%} of them it had no core"
        )
        why = f"this machine was too busy to measure it ({spread}), run the test on an idle one"
        return Unmeasured(latency.target, f"{unknown_latency(report, latency.target)}: {why}", True)
    if measurement.conditions is None:  # what replacements save there is not what they save here
        return check
    from pytest_dwsconv.errors import ExportError
    from pytest_dwsconv.latency.remedy import remedy

    again = bool(config.getoption("dws_remeasure"))
    try:
        found = remedy(report, check.actual, check.limit, measurement.conditions, remeasure=again)
    except ExportError:  # reason: that the limit is exceeded is known, and is what was asked
        return check
    return replace(check, remedy=found)


def check_known_limits(
    config: pytest.Config, report: ReportData, budget: Budget
) -> tuple[AnyCheck, ...]:
    """How a model stands to all limits of a budget that need no measurement.

    Raises:
        InputError: a limit is on what the report does not tell, for want of an input size.
    """
    from pytest_dwsconv.core.budget import check_limits
    from pytest_dwsconv.core.limits import PredictionCheck
    from pytest_dwsconv.core.quantities import Unit, parse_quantity

    limits = check_limits(report, budget)
    if budget.latency_predicted is None:
        return limits
    allowed = parse_quantity(budget.latency_predicted, Unit.SECONDS)
    return *limits, PredictionCheck(report.model, allowed, predict(config, report))


def sections(report: Report, limits: Sequence[AnyCheck]) -> Iterator[tuple[str, str]]:
    """The largest convolutions of a model, and the replacements that bring it within its budget."""
    from pytest_dwsconv.core.plan import enough
    from pytest_dwsconv.render.forms.text import largest, layers

    model = plain(report.model)
    if report.findings:
        yield f"dwsconv: largest convolutions of {model}", largest(report)
    exceeded = [check for check in limits if isinstance(check, LimitCheck) and check.exceeded]
    if replaced := enough(report, exceeded):
        title = f"dwsconv: replacements that would bring {model} within its budget"
        yield title, layers(replaced)
