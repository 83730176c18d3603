"""What the whole run is held to at its end: the table of budgets, and the baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from pytest_dwsconv.core.limits import doubts, slack
from pytest_dwsconv.errors import InputError
from pytest_dwsconv.plugin.latency import Unmeasured
from pytest_dwsconv.plugin.limits.baseline import BaselineCheck
from pytest_dwsconv.plugin.limits.budgets import check_known_limits, check_latency
from pytest_dwsconv.plugin.settings import allowed, budget_rules, is_whole, without_effect

if TYPE_CHECKING:
    from pytest_dwsconv.core.findings import ReportData
    from pytest_dwsconv.core.limits import AnyCheck
    from pytest_dwsconv.core.suite.changes import Changes
    from pytest_dwsconv.plugin.latency import KnownLatencies
    from pytest_dwsconv.render import Reporters, SuiteRun


@dataclass
class CheckResult:
    """What the checks say at the end of a run.

    ``faults`` fail it, ``unknown`` does if it is strict, and ``notices`` are only shown.
    ``unwritten`` ends it with the exit code of a usage error, once its tests are reported.
    ``changes`` are what the models cost beside the baseline, if there is one.
    """

    faults: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)
    changes: Changes | None = None


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

    def run(self, run: SuiteRun, latencies: KnownLatencies, found: CheckResult) -> None:
        """Check every model of the run; its limits join what is shown of it."""
        from pytest_dwsconv.core.suite.architectures import architectures, in_order

        held: dict[ReportData, Reporters] = {}
        for report in in_order(run):
            users = run[report]
            limits = list(self._check_limits(report, users, latencies, found))
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

    def _check_limits(
        self, report: ReportData, users: Reporters, latencies: KnownLatencies, found: CheckResult
    ) -> Iterator[AnyCheck]:
        """How a model stands to the table; what cannot be told is added to ``found``.

        Each limit is checked by itself: what cannot be told of one says nothing of the others.
        """
        budgets, limited = allowed(report, users, self._table)
        for budget in budgets:
            try:
                yield from check_known_limits(self._config, report, budget)
            except InputError as error:
                _add(found.unknown, str(error))
        for target, limit in limited.items():
            for latency in latencies.on(report, target):
                try:
                    check = check_latency(self._config, report, latency, limit)
                except InputError as error:
                    check = Unmeasured(target, str(error))
                if isinstance(check, Unmeasured):
                    _add(found.faults if check.required else found.unknown, check.sentence)
                else:
                    yield check


def _add(sentences: list[str], sentence: str) -> None:
    """Several models, or a model and its layers, may have the same one."""
    if sentence not in sentences:
        sentences.append(sentence)
