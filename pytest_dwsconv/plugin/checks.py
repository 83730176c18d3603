"""What the whole run is held to at its end: the table of budgets, and the baseline."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_dwsconv.core.baseline import Baseline, current
from pytest_dwsconv.core.limits import doubts, slack
from pytest_dwsconv.errors import FormatError, InputError
from pytest_dwsconv.plugin.budgets import check_known_limits
from pytest_dwsconv.plugin.latency import Unmeasured
from pytest_dwsconv.plugin.settings import allowed, budget_rules, is_whole, without_effect
from pytest_dwsconv.writing import replace_content

if TYPE_CHECKING:
    from pytest_dwsconv.core.findings import ReportData
    from pytest_dwsconv.core.limits import AnyCheck
    from pytest_dwsconv.plugin.latency import KnownLatencies
    from pytest_dwsconv.plugin.settings import Allowed
    from pytest_dwsconv.render import Reporters, SuiteRun

PLACE = Path(".dwsconv") / "baseline.json"


@dataclass
class CheckResult:
    """What the checks say at the end of a run.

    ``faults`` fail it, ``unknown`` does if it is strict, and ``notices`` are only shown.
    ``unwritten`` ends it with the exit code of a usage error, once its tests are reported.
    """

    faults: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)


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
        self._percent = _percent(config)
        self._update = _update(config)
        self._path = config.rootpath / PLACE
        self._baseline = Baseline()
        if self._percent is not None or self._update:
            self._baseline = self._read()

    def run(self, run: SuiteRun, latencies: KnownLatencies) -> CheckResult:
        """Check every model of the run; its limits join what is shown of it."""
        from pytest_dwsconv.core.architectures import in_order

        found = CheckResult()
        for report in in_order(run):
            users = run[report]
            limits = self._check_limits(report, users, latencies, found)
            users.checks += [limit for limit in limits if limit not in users.checks]
            line = users.line(self._verbosity)
            found.faults += [f"{limit}\n{line}" for limit in limits if limit.exceeded]
            found.notices += doubts(limits)
        if run and is_whole(self._config):
            found.notices += without_effect(run, self._table)
            found.notices += slack(users.checks for users in in_order(run).values())
        self._compare(run, latencies.medians(), found)
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
            latency = latencies.checks(report, target, limit)
            if not isinstance(latency, Unmeasured):
                limits += latency
                continue
            sentences = found.faults if latency.required else found.unknown
            if latency.sentence not in sentences:  # several models may have the same one
                sentences.append(latency.sentence)
        return limits

    def _check_singly(
        self, report: ReportData, own: Allowed, found: CheckResult
    ) -> Iterator[AnyCheck]:
        for budget in own.singly():
            try:
                yield from check_known_limits(self._config, report, budget)
            except InputError as error:
                found.unknown.append(str(error))

    def _compare(
        self, run: SuiteRun, latencies: Mapping[ReportData, Mapping[str, float]], found: CheckResult
    ) -> None:
        models = current(
            {report: [*sorted(u.targets), *sorted(u.tests)] for report, u in run.items()}, latencies
        )
        if self._update:
            baseline, changes = self._baseline.updated(models)
            if not changes:
                found.notices.append(f"{PLACE} is up to date.")
                return
            try:
                write_baseline(self._path, baseline)
            except OSError as error:
                kept = f"the baseline {self._path} is as it was"
                found.unwritten.append(f"{kept}, it cannot be written: {error.strerror}")
            else:
                found.notices += [f"{PLACE} is updated:", *changes]
        elif self._percent is not None:
            compared = self._baseline.compared(models, self._percent)
            accept = "If that is meant, take it over with --dws-update."
            found.faults += [f"{increase} {accept}" for increase in compared.increases]
            tighten = "It is smaller than the baseline: tighten that with --dws-update."
            found.notices += [f"{decrease} {tighten}" for decrease in compared.decreases]
            found.notices += [
                f"{missing}: add it with --dws-update." for missing in compared.missing
            ]

    def _read(self) -> Baseline:
        try:
            return Baseline.from_json(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            if self._update and _can_be_made(self._path):
                return Baseline()
            advice = "make it with --dws-update and commit it"
            if self._update:
                advice = "name a folder that can be written"
            raise pytest.UsageError(f"there is no baseline {self._path}: {advice}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise pytest.UsageError(f"the baseline {self._path} cannot be read: {error}") from error
        except FormatError as error:
            raise pytest.UsageError(
                f"the baseline {self._path} cannot be used ({error}): restore it, or delete it and "
                "use --dws-update"
            ) from error


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Replace the file at one stroke, whatever interrupts that.

    Raises:
        OSError: it cannot be written, and is as it was.
    """
    path.parent.mkdir(exist_ok=True)
    replace_content(path, baseline.to_json().encode())


def _percent(config: pytest.Config) -> Decimal | None:
    """The growth that is tolerated; None where nothing is compared."""
    given = config.getoption("dws_fail_on_increase")
    if given == "":
        raise pytest.UsageError(
            "dws-fail-on-increase is empty: write a number from 0, as in 2.5, or leave it out"
        )
    text = (
        str(config.getini("dws_fail_on_increase") if given is None else given)
        .strip()
        .removesuffix("%")
    )
    try:
        percent = Decimal(text) if text else None
    except InvalidOperation:
        percent = Decimal(-1)
    if percent is not None and not (percent.is_finite() and percent >= 0):
        raise pytest.UsageError(
            f"dws-fail-on-increase {text!r} is not a percentage: write a number from 0, as in 2.5"
        )
    return percent


def _update(config: pytest.Config) -> bool:
    given = config.getoption("dws_update")
    if given not in (None, "yes", "force"):
        raise pytest.UsageError(
            f"dws-update {given!r} is not force: write --dws-update, or --dws-update=force under CI"
        )
    if given == "yes" and os.environ.get("CI", "").lower() not in ("", "0", "false"):
        raise pytest.UsageError(
            "--dws-update is refused where CI is set: update the baseline on your machine and "
            "commit it, or force it with --dws-update=force"
        )
    return given is not None


def _can_be_made(path: Path) -> bool:
    folder = path.parent if path.parent.exists() else path.parent.parent
    return folder.is_dir() and os.access(folder, os.W_OK)
