"""Latencies that budgets limit: asking a backend for one, and measuring what the table
``dws_budgets`` is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dwsconv.core.limits import LatencyCheck
from pytest_dwsconv.core.measurement import Measurement
from pytest_dwsconv.core.quantities import Unit, parse_quantity
from pytest_dwsconv.errors import InputError, first_line
from pytest_dwsconv.plugin.isolation import ENDS, aside
from pytest_dwsconv.plugin.reports import MADE, Made, Subject, packed, unnoticed
from pytest_dwsconv.plugin.settings import Rule, rules

if TYPE_CHECKING:
    from torch import nn

    from pytest_dwsconv.core.findings import ReportData
    from pytest_dwsconv.core.measurement import LatencyBackend
    from pytest_dwsconv.plugin.noticing.fingerprint import Architecture


@dataclass(frozen=True)
class Latency:
    """A latency measured on a target, and the conditions it was measured under."""

    target: str
    conditions: str
    measurement: Measurement

    def check(self, limit: float | str) -> LatencyCheck:
        """How it stands to a limit in seconds, or as in "5ms"."""
        return LatencyCheck(self.target, parse_quantity(limit, Unit.SECONDS), self.measurement)


@dataclass(frozen=True)
class Unmeasured:
    """Why a latency on a target is not known, as a sentence.

    ``skipped`` is for want of a device, without which a test is skipped; where the device is
    ``required`` that fails.
    """

    target: str
    sentence: str
    skipped: bool = False
    required: bool = False


def measured(
    hook: Any, config: pytest.Config, subject: Subject, target: str
) -> Latency | Unmeasured:
    """Measure a model on a target.

    Raises:
        InputError: there is no model, not the shape of its one input, nothing that it could
            compute, or the backend has not measured.
    """
    unknown = unknown_latency(subject.report, target)
    try:
        backend: LatencyBackend | None = hook.pytest_dwsconv_latency_backend(
            config=config, target=target
        )
    except pytest.skip.Exception as skip:
        return Unmeasured(target, f"{unknown}: {skip.msg}", skipped=True)
    if backend is None:
        return Unmeasured(target, f"{unknown}: no plugin measures it")
    if not callable(getattr(backend, "measure", None)):
        raise InputError(
            "pytest_dwsconv_latency_backend must return a backend, with a method measure, not "
            f"{backend!r}"
        )
    measurement = _measurement(backend, subject)
    config.stash.setdefault(_ASKED, set()).add((packed(subject.report)[0], target))
    return Latency(target, _conditions(target, measurement), measurement)


_ASKED = pytest.StashKey[set[tuple[str, str]]]()
"""Reports by their digests, with the targets that this process has measured them on, or has tried
to.
"""


def unknown_latency(report: ReportData, target: str) -> str:
    return f"the latency of {report.model} on {target} is unknown"


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
    """What two latencies must have in common to be compared: the hardware, the runtime, torch and
    its threads.
    """
    import torch

    where = f"{target}: {measurement.device} of {measurement.machine}"
    return f"{where}, {measurement.runtime}, torch {torch.__version__}, {torch.get_num_threads()} threads"


# --------------------------------------------------------------------------- the table


class Tabled:
    """Measures the models of this process on the targets that the table limits their latency on,
    once on each.
    """

    def __init__(self, config: pytest.Config, table: Sequence[Rule]) -> None:
        self._config = config
        self._table = table
        self._due: list[tuple[Subject, Architecture | None]] = []

    @classmethod
    def of(cls, config: pytest.Config) -> Tabled | None:
        """Nothing where the table limits no latency."""
        table = [rule for rule in rules(config) if rule.latency is not None]
        return cls(config, table) if table else None

    def targets(self, model: str, *, test: str = "", factory: str = "") -> tuple[str, ...]:
        """What a model of this class is to be measured on, as one that a test or a
        ``module:factory`` has.
        """
        factories, tests = ([name] if name else [] for name in (factory, test))
        limited = (rule.latency for rule in self._table if rule.is_for(model, factories, tests))
        return tuple(sorted({latency.target for latency in limited if latency is not None}))

    def due(self, subject: Subject, test: str) -> None:
        """Measure this model once its test has ended, if it is to be measured."""
        if subject.model is not None and self.targets(subject.report.model, test=test):
            self._due.append((subject, _architecture(subject.model)))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Measure after the test's teardown, whose time is taken by now."""
        if call.when == "teardown":
            due, self._due = self._due, []
            for subject, before in due:
                self.join(item, subject, _change(subject, before))

    def join(self, item: pytest.Item, subject: Subject, change: str = "") -> None:
        """Measure a model of this test, unless a change to it speaks against that."""
        report, made = subject.report, item.stash.setdefault(MADE, Made())
        targets = self.targets(report.model, test=item.nodeid)
        if change:
            made.latencies += [
                (report, Unmeasured(target, f"{unknown_latency(report, target)}: {change}"))
                for target in targets
            ]
            return
        made.latencies += [
            (report, outcome) for outcome in self.outcomes(item.ihook, subject, targets)
        ]

    def outcomes(
        self, hook: Any, subject: Subject, targets: Sequence[str]
    ) -> Iterator[Latency | Unmeasured]:
        """Measure a model on those of the targets that it has not been measured on."""
        asked = self._config.stash.setdefault(_ASKED, set())
        for target in targets:
            key = packed(subject.report)[0], target
            if key not in asked:
                asked.add(key)
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
            with aside(), unnoticed(self._config), as_found(list(subject.model.modules())):
                return measured(hook, self._config, subject, target)
        except pytest.fail.Exception as failed:  # reason: the device that is required is not there
            return Unmeasured(target, str(failed.msg), required=True)
        except pytest.exit.Exception:
            raise
        except (
            ENDS
        ) as error:  # reason: whatever else a stranger's backend does, the run goes on and says so
            return Unmeasured(target, f"{unknown}: {first_line(error)}")


def _architecture(model: nn.Module) -> Architecture | None:
    """Nothing where what the model holds does not let itself be looked at."""
    from pytest_dwsconv.plugin.noticing.fingerprint import architecture

    try:
        return architecture(model)
    except Exception:  # reason: what this plugin cannot do is not the test's error
        return None


def _change(subject: Subject, before: Architecture | None) -> str:
    """Why the model is not measured, if it is not what it was, or that cannot be told."""
    now = None if subject.model is None else _architecture(subject.model)
    if before is None or now is None:
        return "whether the test has changed the model cannot be told"
    return "" if before.still(now) else "the test changed the model after it was analysed"


# --------------------------------------------------------------------------- on the process that
# prints


class Latencies:
    """What is known of the latencies of a run's models. Of several under the same conditions the
    shortest counts.
    """

    def __init__(self) -> None:
        self._measured: dict[ReportData, dict[str, Latency]] = {}
        self._unmeasured: dict[ReportData, dict[str, Unmeasured]] = {}

    def add(self, report: ReportData, outcome: Latency | Unmeasured) -> None:
        if isinstance(outcome, Unmeasured):
            self._unmeasured.setdefault(report, {}).setdefault(outcome.target, outcome)
            return
        known = self._measured.setdefault(report, {})
        best = known.setdefault(outcome.conditions, outcome)
        if outcome.measurement.median < best.measurement.median:
            known[outcome.conditions] = outcome

    def medians(self) -> Mapping[ReportData, Mapping[str, float]]:
        """Seconds by conditions."""
        return {
            report: {
                conditions: latency.measurement.median for conditions, latency in known.items()
            }
            for report, known in self._measured.items()
        }

    def checks(
        self, report: ReportData, target: str, limit: float | str
    ) -> list[LatencyCheck] | Unmeasured:
        """How a model stands to a limit, or why that is not known."""
        known = self._measured.get(report, {}).values()
        if found := [latency.check(limit) for latency in known if latency.target == target]:
            return found
        unknown = f"{unknown_latency(report, target)}: no test or target had the model at hand to measure it"
        return self._unmeasured.get(report, {}).get(target, Unmeasured(target, unknown))
