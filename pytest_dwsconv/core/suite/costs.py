"""What the models of a run cost: the numbers that are compared, and the names they go by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pytest_dwsconv.core.findings import ReportData, inputs_of
from pytest_dwsconv.core.jsonio import OMITTED, Seconds
from pytest_dwsconv.core.suite.architectures import Architecture


@dataclass(frozen=True)
class Layer:
    """The cost of one convolution, ``None`` where it is not known."""

    params: int | None
    macs: int | None


@dataclass(frozen=True)
class Entry:
    """The cost of one model.

    ``macs`` are for ``input``, one of those that it was reported for, as in ``1 x 3 x 8 x 8``.
    ``latency`` is median seconds by the conditions that they were measured under. ``reported_by``
    is a test or target that reported the model, empty where that is not known. It tells models of
    one class apart. ``commit`` is what was checked out when the entry was last changed. ``layers``
    are of a report that is compared, and not written to a baseline.
    """

    params: int
    macs: int | None
    latency: Mapping[str, Seconds] = field(default_factory=dict, metadata=OMITTED)
    reported_by: str = field(default="", metadata=OMITTED)
    candidates: int | None = field(default=None, metadata=OMITTED)
    input: str = field(default="", metadata=OMITTED)
    commit: str = field(default="", metadata=OMITTED)
    layers: Mapping[str, Layer] = field(default_factory=dict, metadata=OMITTED)

    @property
    def cost(self) -> tuple[int, int]:
        return self.params, self.macs or 0


class Current(NamedTuple):
    """A model of this run.

    ``kind`` is its class, ``name`` what messages call it, ``users`` who reported it, in order.
    ``macs`` are by the inputs that it was reported for.
    """

    kind: str
    name: str
    users: tuple[str, ...]
    entry: Entry
    macs: Mapping[str, int | None]


def current(
    models: Sequence[Architecture], latencies: Mapping[ReportData, Mapping[str, float]]
) -> list[Current]:
    """The models of a run, named by class, and where that is not enough by reporter.

    Args:
        models: the architectures of the run.
        latencies: median seconds by conditions, of reports that have any.
    """
    of_class: dict[str, list[Current]] = defaultdict(list)
    for model in models:
        found = _current(model, latencies)
        of_class[found.kind].append(found)
    named: list[Current] = []
    for kind, alike in of_class.items():
        if len(alike) == 1:
            named += alike
            continue
        taken: set[str] = set()
        for found in sorted(alike, key=_size):
            name = unused_name(f"{kind}, in {found.entry.reported_by}", taken)
            taken.add(name)
            named.append(found._replace(name=name))
    return named


def _size(found: Current) -> tuple[int, int, str]:
    return (*found.entry.cost, repr((found.entry, found.users)))


def _current(model: Architecture, latencies: Mapping[ReportData, Mapping[str, float]]) -> Current:
    report = _smallest(model.reports)
    latency: dict[str, float] = {}
    for one in model.reports:
        latency |= latencies.get(one, {})
    users = tuple(sorted(model.reporters.names))
    entry = Entry(
        report.params,
        report.macs,
        latency,
        users[0] if users else "",
        len(report.candidates),
        inputs_of(report),
        layers={finding.name: Layer(finding.params, finding.macs) for finding in report.findings},
    )
    macs = {inputs_of(one): one.macs for one in model.reports}
    return Current(report.model, report.model, users, entry, macs)


def _smallest(reports: Sequence[ReportData]) -> ReportData:
    """The report whose MACs stand for the model.

    Of inputs that Hypothesis makes up, the smallest is the one that every run has.
    """
    return min(
        reports, key=lambda one: (one.macs is None, one.macs or 0, one.input_shapes, repr(one))
    )


def unused_name(name: str, taken: Collection[str]) -> str:
    """The name, numbered where one test reports several models of a class."""
    count = sum(1 for other in taken if other == name or other.startswith(f"{name} ("))
    return f"{name} ({count + 1})" if count else name
