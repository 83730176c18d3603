"""What the whole run is held to at its end: the table of budgets, and the baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_dwsconv.core.limits import doubts, slack
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.plugin.latency import Unmeasured
from pytest_dwsconv.plugin.limits.baseline import BaselineCheck
from pytest_dwsconv.plugin.limits.budgets import check_known_limits
from pytest_dwsconv.plugin.limits.latencies import check_latency
from pytest_dwsconv.plugin.limits.results import CheckResult
from pytest_dwsconv.plugin.settings import allowed, budget_rules, is_whole, without_effect

if TYPE_CHECKING:
    from pytest_dwsconv.core.findings import ReportData
    from pytest_dwsconv.core.limits import AnyCheck, LatencyCheck
    from pytest_dwsconv.core.measurement import LatencyLimit
    from pytest_dwsconv.plugin.latency import KnownLatencies
    from pytest_dwsconv.plugin.settings import Allowed
    from pytest_dwsconv.render import Reporters, SuiteRun


class Checks:
    """The budgets and the baseline that a run is held to.

    What is wrong with options and files is found on construction, before any test runs.

    Raises:
        pytest.UsageError: a line of the table, an option or the baseline's file cannot be used.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._table = budget_rules(config)
        self._verbosity = config.get_verbosity()
        self._baseline = BaselineCheck(config, self._table)

    def run(self, run: SuiteRun, latencies: KnownLatencies) -> CheckResult:
        """Check every model of the run; its limits join what is shown of it."""
        from pytest_dwsconv.core.suite.architectures import architectures, in_order

        found = CheckResult()
        held: dict[ReportData, Reporters] = {}
        for report in in_order(run):
            users = run[report]
            limits = self._check_limits(report, users, latencies, found)
            users.checks += [limit for limit in limits if limit not in users.checks]
            held[report] = replace(users, checks=limits)
            found.notices += doubts(limits)
        for model in architectures(held):
            line = model.reporters.line(self._verbosity)
            exceeded = [limit for limit in model.reporters.checks if limit.exceeded]
            found.faults += [f"{limit}\n{line}" for limit in exceeded]
        if run and is_whole(self._config):
            found.notices += without_effect(run, self._table)
            found.notices += slack(users.checks for users in in_order(run).values())
        self._baseline.run(run, latencies.medians(), found)
        return found

    def _check_limits(
        self, report: ReportData, users: Reporters, latencies: KnownLatencies, found: CheckResult
    ) -> list[AnyCheck]:
        """How a model stands to the table; what cannot be told is added to ``found``."""
        own = allowed(report, users, self._table)
        limits: list[AnyCheck] = []
        try:
            if own.budget is not None:
                limits += check_known_limits(self._config, report, own.budget)
        except InputError:  # reason: what cannot be told of one limit says nothing of the others
            limits += self._check_singly(report, own, found)
        for target, limit in own.latencies.items():
            for latency in self._check_latencies(report, target, limit, latencies):
                if isinstance(latency, Unmeasured):
                    sentences = found.faults if latency.required else found.unknown
                    if latency.sentence not in sentences:  # several models may have the same one
                        sentences.append(latency.sentence)
                else:
                    limits.append(latency)
        return limits

    def _check_latencies(
        self, report: ReportData, target: str, limit: LatencyLimit, latencies: KnownLatencies
    ) -> Iterator[LatencyCheck | Unmeasured]:
        known = latencies.on(report, target)
        if isinstance(known, Unmeasured):
            yield known
            return
        for latency in known:
            try:
                yield check_latency(self._config, report, latency, limit)
            except InputError as error:  # reason: it says nothing of the other limits
                yield Unmeasured(target, str(error))

    def _check_singly(
        self, report: ReportData, own: Allowed, found: CheckResult
    ) -> Iterator[AnyCheck]:
        for budget in own.singly():
            try:
                yield from check_known_limits(self._config, report, budget)
            except InputError as error:
                if str(error) not in found.unknown:  # of the model and of its layers it is the same
                    found.unknown.append(str(error))
