"""What one test has reported, measured and called, sent to the process that prints."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.core.latency.evidence import Evidence
    from pytest_dwsconv.core.limits import AnyCheck
    from pytest_dwsconv.core.measurement import Measurement, NotMeasured
    from pytest_dwsconv.plugin.latency import Latency, Unmeasured
    from pytest_dwsconv.report import Report

    WithDigest = tuple[str, dict[str, Any]]


class Subject:
    """A report, and the model it is of where somebody has it."""

    def __init__(self, report: Report, model: nn.Module | None) -> None:
        self.report = report
        self.model = model


class TestRecord:
    """What one test has reported and measured, and what no phase report has carried yet."""

    __test__ = False  # pytest would collect it for its name

    def __init__(self) -> None:
        self.subjects: list[Subject] = []
        self.measurements: list[Measurement | NotMeasured] = []
        self.unsent = Unsent()

    def add(self, subject: Subject) -> None:
        self.subjects.append(subject)
        self.unsent.reports.append(subject.report)

    def add_measurement(self, measurement: Measurement | NotMeasured) -> None:
        self.measurements.append(measurement)
        self.unsent.measurements.append(measurement)

    def message(self) -> dict[str, Any]:
        """What the process that prints is sent: lists, dictionaries and text, which cross xdist.

        A report that was held to a budget may be one that this test has not made.
        """
        from pytest_dwsconv.core.jsonio import to_plain

        unsent = self.unsent
        made = [subject.report for subject in self.subjects]
        others = [report for report, _ in unsent.checks if report not in made]
        return {
            "reports": [*map(with_digest, unsent.reports + others), *unsent.noticed],
            "measurements": to_plain(unsent.measurements),
            "failures": unsent.failures,
            "notices": unsent.notices,
            "ignored": unsent.ignored,
            "checks": [(with_digest(report)[0], to_plain(own)) for report, own in unsent.checks],
            "latencies": [
                (with_digest(report)[0], to_plain(one)) for report, one in unsent.latencies
            ],
        }


class Unsent:
    """What waits for the next phase report of a test."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.measurements: list[Measurement | NotMeasured] = []
        self.noticed: list[WithDigest] = []
        self.failures: list[str] = []
        self.notices: list[str] = []
        self.ignored: list[str] = []
        """Patterns of convolutions to leave alone."""
        self.checks: list[tuple[Report, Sequence[AnyCheck]]] = []
        self.latencies: list[tuple[Report, Latency | Unmeasured]] = []
        self.sections: list[tuple[str, str]] = []


RECORD = pytest.StashKey[TestRecord]()
REPORTING = pytest.StashKey[bool]()
"""Whether anything is shown or checked at the end of the run, by the process that prints."""


def record_of(item: pytest.Item) -> TestRecord:
    return item.stash.setdefault(RECORD, TestRecord())


def with_digest(report: Report) -> WithDigest:
    """The report as plain data, after a digest by which its receiver knows it again.

    Its layers are left behind: no form of a run shows them.
    """
    # reason: reports that differ in their evidence alone are equal
    return _with_digest(report, report.evidence)


@lru_cache(maxsize=64)
def _with_digest(report: Report, evidence: tuple[Evidence, ...]) -> WithDigest:
    from hashlib import sha256

    data = replace(report, all_layers=()).to_dict()
    return sha256(json.dumps(data).encode()).hexdigest(), data


def _properties(record: TestRecord) -> list[tuple[str, object]]:
    """Of the latencies that a test measured, the models it reported, and those it called."""
    from pytest_dwsconv.render.forms.junit import latency_properties, properties
    from pytest_dwsconv.report import Report

    reports = [subject.report for subject in record.subjects]
    reports += [Report.from_dict(data) for _, data in record.unsent.noticed]
    return [*latency_properties(record.measurements), *properties(reports)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test's record travel with the report of the phase it was made in.

    A JUnit file takes the properties that a test has in its last phase.
    """
    phase = yield
    record = item.stash.get(RECORD, None)
    if record is not None:
        if phase.when == "teardown" and item.config.getoption("xmlpath", None):
            phase.user_properties += _properties(record)
        phase.sections += record.unsent.sections
        if item.config.stash[REPORTING]:
            phase.__dict__["dwsconv"] = record.message()
        record.unsent = Unsent()
        if phase.when == "teardown":
            del item.stash[RECORD]
    return phase
