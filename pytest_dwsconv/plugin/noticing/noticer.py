"""Models that nobody named: each outermost module that a test calls, analysed after the test."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pytest_dwsconv.plugin.isolation import TEST_ENDINGS, ChangedError, isolated
from pytest_dwsconv.plugin.noticing.watch import Watch
from pytest_dwsconv.plugin.record import Subject, record_of, with_digest
from pytest_dwsconv.plugin.reports import analyze_under_hooks
from pytest_dwsconv.plugin.targets.backends import LATENCIES

if TYPE_CHECKING:
    from pytest_dwsconv.plugin.noticing.calls import CallLog, FirstCall
    from pytest_dwsconv.plugin.noticing.seen import Kind
    from pytest_dwsconv.plugin.record import WithDigest
    from pytest_dwsconv.report import Report

_SUPERSEDED = "{failure}; the model as it was called afterwards is reported"
_SHORTENED = (
    "{model} was changed and called again more often than is kept: its first {count} states and "
    "its last one are reported, those between are not."
)


class CalledReport(NamedTuple):
    """A report with the call that it is of."""

    report: Report
    call: FirstCall


_NOTICER = pytest.StashKey["Noticer"]()


class Noticer:
    """Analyses what tests call: each architecture with each input shape once.

    During a test no tensor is made, and of a module that it calls the attributes are kept until it
    has ended.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._known: dict[object, WithDigest | str] = {}
        self._watch: Watch | None = None

    @classmethod
    def of(cls, config: pytest.Config) -> Noticer:
        """The one of a run, which need not watch all of it."""
        return config.stash.setdefault(_NOTICER, cls(config))

    def start(self) -> None:
        """Watch the whole run, as a plugin."""
        self._watch = Watch()
        self._config.pluginmanager.register(self, "dwsconv-noticer")

    def pytest_unconfigure(self) -> None:
        if self._watch is not None:
            self._watch.stop()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self._watch is not None:
            self._watch.begin(lambda: _new_log(item, self._known))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Analyse what the test called: after its teardown, whose time has been taken by now."""
        if call.when != "teardown" or self._watch is None:
            return
        log = self._watch.end()
        if log is None:
            return
        unsent = record_of(item).unsent
        unsent.failures += log.failures
        unsent.notices += log.notices
        outcomes = {}
        for kind, first in log.firsts.items():
            outcomes[kind] = outcome = self._outcome(item, kind, first)
            if not isinstance(outcome, str):
                unsent.noticed.append(outcome)
                self._measure(item, outcome, first)
            elif first is not None and first.is_superseded:
                unsent.notices.append(_SUPERSEDED.format(failure=outcome))
            else:
                unsent.failures.append(outcome)
        unsent.notices += _shortened(log, outcomes)

    @contextmanager
    def watching(self, item: pytest.Item) -> Iterator[list[CallLog]]:
        """A block whose calls are in the log that the list holds afterwards, if there are any."""
        watch = self._watch or Watch()
        try:
            with watch.apart(lambda: _new_log(item, ())) as logs:
                yield logs
        finally:
            if watch is not self._watch:
                watch.stop()

    def reports(self, item: pytest.Item, log: CallLog) -> tuple[list[CalledReport], list[str]]:
        """The reports of what a test has called, and why others are not known."""
        from pytest_dwsconv.report import Report

        found, unknown = [], list(log.failures)
        for kind, first in log.firsts.items():
            outcome = self._outcome(item, kind, first)
            if isinstance(outcome, str):
                unknown.append(outcome)
            elif first is not None:  # as none is known to the log
                found.append(CalledReport(Report.from_dict(outcome[1]), first))
        return found, unknown

    def _outcome(self, item: pytest.Item, kind: Kind, first: FirstCall | None) -> WithDigest | str:
        """What is known of a kind of call, or is found out now and known from now on."""
        from pytest_dwsconv.plugin.noticing.calls import failure

        if first is None or kind in self._known:
            return self._known[kind]
        try:
            with first.snapshot.restored() as module, isolated():
                report = analyze_under_hooks(
                    item.ihook, item.config, module, None, example_inputs=first.inputs()
                )
            self._known[kind] = with_digest(report)
        except ChangedError as error:
            return failure(first.type, error)  # another test may leave such a model as it was
        except pytest.exit.Exception:
            raise
        except TEST_ENDINGS as error:
            # reason: whatever else a foreign module does, the run goes on and says so
            self._known[kind] = failure(first.type, error)
        return self._known[kind]

    def _measure(self, item: pytest.Item, outcome: WithDigest, first: FirstCall | None) -> None:
        """Measure a model on the targets on which ``dws_budgets`` limits its latency."""
        from pytest_dwsconv.plugin.noticing.calls import failure
        from pytest_dwsconv.report import Report

        latencies = self._config.stash.get(LATENCIES, None)
        if first is None or latencies is None or not first.targets:
            return
        try:
            with first.snapshot.restored() as module:
                latencies.join(item, Subject(Report.from_dict(outcome[1]), module))
        except ChangedError as error:  # since its budget was checked
            record_of(item).unsent.failures.append(failure(first.type, error))


def _new_log(item: pytest.Item, known: Container[object]) -> CallLog:
    from pytest_dwsconv.plugin.noticing.calls import CallLog

    latencies = item.config.stash.get(LATENCIES, None)
    if latencies is None:
        return CallLog(known)
    return CallLog(known, partial(latencies.targets, test=item.nodeid))


def _shortened(log: CallLog, outcomes: Mapping[Kind, WithDigest | str]) -> Iterator[str]:
    """A sentence for each model of which states are missing that make a difference."""
    for seen in log.shortened:
        reports: dict[object, set[str]] = {}
        for kind in set().union(*seen.kinds) & outcomes.keys():
            outcome = outcomes[kind]
            digest = outcome if isinstance(outcome, str) else outcome[0]
            reports.setdefault(kind.arguments, set()).add(digest)
        if any(len(digests) > 1 for digests in reports.values()):
            yield _SHORTENED.format(model=seen.name, count=len(seen.kinds) - 1)
