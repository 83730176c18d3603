"""Latencies that budgets limit: asking the backend of a target, and the table ``dws_budgets``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dwsconv.core.latency.comparison import RUNTIMES
from pytest_dwsconv.errors import InputError, first_line
from pytest_dwsconv.plugin.isolation import (
    TEST_ENDINGS,
    ChangedError,
    Snapshot,
    inner_calls,
    isolated,
)
from pytest_dwsconv.plugin.latency import Latency, Unmeasured, predicted_figures, unknown_latency
from pytest_dwsconv.plugin.record import Subject, record_of, with_digest
from pytest_dwsconv.plugin.settings import BudgetRule, budget_rules

if TYPE_CHECKING:
    from pytest_dwsconv.core.measurement import LatencyBackend, Measurement

_TRIED = pytest.StashKey[set[tuple[str, str]]]()
"""Reports by their digests, with the targets that this process has tried to measure them on."""


def measure_latency(
    hook: Any, config: pytest.Config, subject: Subject, target: str
) -> Latency | Unmeasured:
    """Measure a model on a target.

    Raises:
        InputError: there is no model, its one input has no known shape, nothing in it computes, or
            the backend has not measured.
    """
    unknown = unknown_latency(subject.report, target)
    try:
        backend: LatencyBackend | None = hook.pytest_dwsconv_latency_backend(
            config=config, target=target
        )
    except pytest.skip.Exception as skip:
        why = f"{unknown}: {skip.msg}{predicted_figures(config, subject.report, target)}"
        return Unmeasured(target, why, skipped=True)
    if backend is None:
        return Unmeasured(
            target,
            f"{unknown}: no plugin measures it; write {', '.join(RUNTIMES)} or edgetpu, or measure "
            "it yourself by the hook pytest_dwsconv_latency_backend",
        )
    if not callable(getattr(backend, "measure", None)):
        raise InputError(
            "pytest_dwsconv_latency_backend must return a backend, with a method measure, not "
            f"{backend!r}"
        )
    measurement = _measurement(backend, subject)
    config.stash.setdefault(_TRIED, set()).add((with_digest(subject.report)[0], target))
    return Latency(target, _conditions(target, measurement), measurement)


def _measurement(backend: LatencyBackend, subject: Subject) -> Measurement:
    from pytest_dwsconv.core.measurement import measured_by

    report, model = subject.report, subject.model
    if model is None:
        raise InputError(
            f"the latency of {report.model} cannot be measured on a report: give the budget the "
            "model"
        )
    if len(report.input_shapes) != 1:
        raise InputError(
            f"the latency of {report.model} needs the shape of one input, as in (1, 3, 224, 224)"
        )
    return measured_by(backend, model, report.input_shapes[0], report.model)


def _conditions(target: str, measurement: Measurement) -> str:
    """What two latencies must have in common to be compared: hardware, runtime, torch, threads."""
    import torch

    where = f"{target}: {measurement.device} of {measurement.machine}"
    threads = measurement.conditions or f"{torch.get_num_threads()} threads"
    return f"{where}, {measurement.runtime}, torch {torch.__version__}, {threads}"


class TableLatencies:
    """Measures the models of this process once on each target that limits their latency."""

    def __init__(self, config: pytest.Config, table: Sequence[BudgetRule]) -> None:
        self._config = config
        self._table = table
        self._due: list[tuple[Subject, Snapshot]] = []

    @classmethod
    def of(cls, config: pytest.Config) -> TableLatencies | None:
        """None if no line of ``dws_budgets`` limits a latency."""
        table = [rule for rule in budget_rules(config) if rule.latency is not None]
        return cls(config, table) if table else None

    def targets(self, model: str, *, test: str = "", factory: str = "") -> tuple[str, ...]:
        """The targets to measure a model of this class on, when a test or a factory has made it."""
        factories = [factory] if factory else []
        tests = [test] if test else []
        found = set()
        for rule in self._table:
            if rule.latency is not None and rule.is_for(model, factories, tests):
                found.add(rule.latency.target)
        return tuple(sorted(found))

    def due(self, subject: Subject, test: str) -> None:
        """Measure this model once its test has ended, if a latency of it is limited."""
        if subject.model is not None and self.targets(subject.report.model, test=test):
            self._due.append((subject, Snapshot(subject.model)))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Measure after the test's teardown, whose time has been taken by now."""
        if call.when == "teardown":
            due, self._due = self._due, []
            for subject, snapshot in due:
                self._join_as_it_was(item, subject, snapshot)

    def _join_as_it_was(self, item: pytest.Item, subject: Subject, snapshot: Snapshot) -> None:
        try:
            with snapshot.restored():
                self.join(item, subject)
        except ChangedError as error:
            report = subject.report
            record_of(item).unsent.latencies += [
                (report, Unmeasured(target, f"{unknown_latency(report, target)}: {error}"))
                for target in self.targets(report.model, test=item.nodeid)
            ]

    def join(self, item: pytest.Item, subject: Subject) -> None:
        """Measure a model of this test."""
        report, latencies = subject.report, record_of(item).unsent.latencies
        targets = self.targets(report.model, test=item.nodeid)
        for outcome in self.outcomes(item.ihook, subject, targets):
            latencies.append((report, outcome))

    def outcomes(
        self, hook: Any, subject: Subject, targets: Sequence[str]
    ) -> Iterator[Latency | Unmeasured]:
        """Measure a model on those of the targets that it has not been measured on."""
        tried = self._config.stash.setdefault(_TRIED, set())
        for target in targets:
            key = with_digest(subject.report)[0], target
            if key not in tried:
                tried.add(key)
                yield self._outcome(hook, subject, target)

    def _outcome(self, hook: Any, subject: Subject, target: str) -> Latency | Unmeasured:
        """Measure a model in evaluation mode, and leave it as found."""
        from pytest_dwsconv.tracing.preserving import as_found

        unknown = unknown_latency(subject.report, target)
        if subject.model is None or len(subject.report.input_shapes) != 1:
            return Unmeasured(
                target, f"{unknown}: it takes a model with one input, whose shape is known"
            )
        try:
            with isolated(), inner_calls(), as_found(list(subject.model.modules())):
                return measure_latency(hook, self._config, subject, target)
        except pytest.fail.Exception as failed:  # reason: the device that is required is not there
            return Unmeasured(target, str(failed.msg), required=True)
        except pytest.exit.Exception:
            raise
        except TEST_ENDINGS as error:
            # reason: whatever else a foreign backend does, the run goes on and says so
            return Unmeasured(target, f"{unknown}: {first_line(error)}")


LATENCIES = pytest.StashKey[TableLatencies]()
