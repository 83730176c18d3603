"""Holding models to a budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dwsconv.plugin.latencies import Latency, Unmeasured, measured
from pytest_dwsconv.plugin.reports import MADE, Made, Subject
from pytest_dwsconv.plugin.settings import strict

if TYPE_CHECKING:
    from pytest_dwsconv.core.budget import Budget
    from pytest_dwsconv.core.limits import AnyCheck
    from pytest_dwsconv.report import Report


@dataclass(frozen=True)
class Standing:
    """How a model stands to a budget; ``unknown`` says in a sentence what could not be found out.

    ``skipped`` says that it is unknown for want of a device, without which a test is skipped.
    """

    limits: tuple[AnyCheck, ...]
    latency: Latency | None = None
    unknown: str = ""
    skipped: bool = False

    @property
    def violations(self) -> list[str]:
        return [str(limit) for limit in self.limits if limit.exceeded]


def hold(item: pytest.Item, subjects: Sequence[Subject], budget: Budget, *, pytrace: bool) -> None:
    """Fail with a sentence for each limit exceeded; the layers that matter are in sections of the
    failure.

    Where none is, and a latency is limited for which there is no device, the test is skipped.

    Raises:
        InputError: a limit is on what the report does not tell, for want of an input size.
    """
    __tracebackhide__ = True
    made = item.stash.setdefault(MADE, Made())
    standings = [standing(item.ihook, item.config, subject, budget) for subject in subjects]
    for subject, found in zip(subjects, standings, strict=True):
        made.held.append((subject.report, found.limits))
        if found.latency is not None:
            made.latencies.append((subject.report, found.latency))
        if found.violations:
            made.sections += sections(subject.report, budget)
        if found.unknown and not found.skipped:
            made.failures.append(found.unknown)
            item.warn(pytest.PytestWarning(found.unknown))
    sentences = [sentence for found in standings for sentence in found.violations]
    if strict(item.config):
        sentences += [found.unknown for found in standings if found.unknown and not found.skipped]
    skipped = [found.unknown for found in standings if found.skipped]
    if sentences:
        pytest.fail("\n".join([*sentences, *skipped]), pytrace=pytrace)
    if skipped:
        pytest.skip("\n".join(skipped))


def standing(hook: Any, config: pytest.Config, subject: Subject, budget: Budget) -> Standing:
    """Compare a model with a budget, measuring its latency if that is limited.

    Raises:
        InputError: a limit is on what the report does not tell, for want of an input size or of the
            model.
    """
    from pytest_dwsconv.core.budget import check_limits

    limits = check_limits(subject.report, budget)
    if budget.latency is None:
        return Standing(limits)
    outcome = measured(hook, config, subject, str(budget.target))
    if isinstance(outcome, Unmeasured):
        return Standing(limits, unknown=outcome.sentence, skipped=outcome.skipped)
    return Standing((*limits, outcome.check(budget.latency)), outcome)


def sections(report: Report, budget: Budget) -> Iterator[tuple[str, str]]:
    """The largest convolutions of a model over its budget, and the replacements that would bring it
    within.
    """
    from pytest_dwsconv.core.budget import enough
    from pytest_dwsconv.render.text import largest, layers

    if report.findings:
        yield f"dwsconv: largest convolutions of {report.model}", largest(report)
    if replaced := enough(report, budget):
        yield (
            f"dwsconv: replacements that would bring {report.model} within its budget",
            layers(replaced),
        )
