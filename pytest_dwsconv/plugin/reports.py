"""Reports made by tests: how each is analysed, kept with its test, and sent to the process that
prints.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.core.findings import Finding
    from pytest_dwsconv.core.limits import AnyCheck
    from pytest_dwsconv.core.rules import Judgement
    from pytest_dwsconv.plugin.latencies import Latency, Tabled, Unmeasured
    from pytest_dwsconv.plugin.noticing.noticer import Noticer
    from pytest_dwsconv.report import Report

    Shapes = Sequence[int] | Sequence[Sequence[int]] | None
    Packed = tuple[str, dict[str, Any]]


class Subject:
    """A report, and the model it is of where somebody has it."""

    def __init__(self, report: Report, model: nn.Module | None) -> None:
        self.report = report
        self.model = model


class Made:
    """What one test has made so far; all but ``subjects`` waits for the test's next phase report."""

    def __init__(self, subjects: Sequence[Subject] = ()) -> None:
        self.subjects = list(subjects)
        self.unsent: list[Report] = []
        self.noticed: list[Packed] = []
        self.failures: list[str] = []
        self.notices: list[str] = []
        self.ignored: list[str] = []
        """Patterns of convolutions to leave alone."""
        self.held: list[tuple[Report, Sequence[AnyCheck]]] = []
        self.latencies: list[tuple[Report, Latency | Unmeasured]] = []
        self.sections: list[tuple[str, str]] = []

    def add(self, subject: Subject) -> None:
        self.subjects.append(subject)
        self.unsent.append(subject.report)

    def message(self) -> dict[str, Any]:
        """What goes to the process that prints, as lists, dictionaries and text.

        A report that was held to a budget may be one that this test did not make.
        """
        from pytest_dwsconv.core.jsonio import to_plain

        made = [subject.report for subject in self.subjects]
        others = [report for report, _ in self.held if report not in made]
        return {
            "reports": [*map(packed, self.unsent + others), *self.noticed],
            "failures": self.failures,
            "notices": self.notices,
            "ignored": self.ignored,
            "held": [
                (packed(report)[0], [to_plain(limit) for limit in limits])
                for report, limits in self.held
            ],
            "latencies": [
                (packed(report)[0], to_plain(outcome)) for report, outcome in self.latencies
            ],
        }


@lru_cache(maxsize=64)
def packed(report: Report) -> Packed:
    """The report as plain data, after a digest by which the receiver knows one that it has had
    already.
    """
    from hashlib import sha256

    data = report.to_dict()
    return sha256(json.dumps(data).encode()).hexdigest(), data


ASKED = pytest.StashKey[bool]()
MADE = pytest.StashKey[Made]()
NOTICER: pytest.StashKey[Noticer] = pytest.StashKey()
LATENCIES: pytest.StashKey[Tabled] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let reports travel with the phase they were made in, as plain data, so that they cross xdist.

    A JUnit file takes the properties that a test has in its last phase.
    """
    made = item.stash.get(MADE, None)
    if made is not None and call.when == "teardown" and item.config.getoption("xmlpath", None):
        from pytest_dwsconv.render.junit import properties

        item.user_properties += properties([subject.report for subject in made.subjects])
    phase = yield
    made = item.stash.get(MADE, None)
    if made is not None:
        phase.sections += made.sections
        if item.config.stash[ASKED]:
            phase.__dict__["dwsconv"] = made.message()
        item.stash[MADE] = Made(made.subjects)
        if phase.when == "teardown":
            del item.stash[MADE]
    return phase


@pytest.hookimpl(trylast=True)
def pytest_dwsconv_judge(finding: Finding) -> Judgement:
    from pytest_dwsconv.core.rules import Judgement

    return Judgement(finding.verdict, finding.code, finding.reason)


def analyze_under_hooks(
    hook: Any, config: pytest.Config, model: nn.Module, shapes: Shapes, **options: Any
) -> Report:
    """The report of a model, with what the hook ``pytest_dwsconv_judge`` makes of its verdicts."""
    from pytest_dwsconv.analysis.analyze import analyze
    from pytest_dwsconv.analysis.verdicts import rejudged
    from pytest_dwsconv.plugin.isolation import uncovered

    with unnoticed(config), uncovered():
        report = analyze(model, shapes, **options)
    return rejudged(report, lambda finding: _overruled(hook, config, finding))


def _overruled(hook: Any, config: pytest.Config, finding: Finding) -> Judgement:
    from pytest_dwsconv.core.rules import Judgement

    judgement = hook.pytest_dwsconv_judge(config=config, finding=finding)
    if not isinstance(judgement, Judgement):
        raise pytest.UsageError(
            f"pytest_dwsconv_judge must return a Judgement or None, not {judgement!r}"
        )
    return judgement


@contextmanager
def unnoticed(config: pytest.Config) -> Iterator[None]:
    """A block whose calls are this plugin's, not the test's."""
    noticer = config.stash.get(NOTICER, None)
    if noticer is None:
        yield
        return
    with noticer.outermost():
        yield
